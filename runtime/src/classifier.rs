//! From a bundle and an image to a ranking.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pinhole_bundle::{Bundle, Manifest};
use pinhole_model::Precision;
use pinhole_preprocessing::{ImageView, Pixels, preprocess};
use pinhole_prompts::conditional::Reuse;

use crate::Error;
use crate::classification::{Classification, Embedding, Latency, Ranked};
use crate::conditional::{ConditionalHead, ConditionalMode};
use crate::network::{ImageEncoder, NetworkOperator};

/// A bundle opened for inference: checked, its network loaded, its threads started.
///
/// It can be shared: any number of threads may call it at the same time.
///
/// ```
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/demo");
/// let classifier = pinhole::Classifier::open(folder)?;
/// println!("{} classes", classifier.manifest().classes.len());
/// # Ok::<(), pinhole::Error>(())
/// ```
pub struct Classifier {
    bundle: Bundle,
    encoder: ImageEncoder,
    conditional: Option<ConditionalHead>,
    /// Of the manifest, so that rankings share them.
    classes: Vec<Arc<str>>,
    f16_arithmetic: bool,
    unknown: UnknownThresholds,
    threads: rayon::ThreadPool,
}

/// When an answer counts as "unknown".
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UnknownThresholds {
    /// Cosine similarity, -1 to 1, below which the best class is unknown; `None` for no check.
    pub min_similarity: Option<f32>,
    /// Difference in cosine similarity between the best and the second class, 0 to 2, below which the best class is
    /// unknown; `None` for no check.
    pub min_margin: Option<f32>,
}

/// Options for opening a [`Classifier`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassifierBuilder {
    threads: Option<usize>,
    mode: ConditionalMode,
    f16_arithmetic: Option<bool>,
    min_similarity: Option<f32>,
    min_margin: Option<f32>,
}

impl ClassifierBuilder {
    /// Number of threads, from 1 to the number of processors. Default: all processors.
    pub fn threads(self, threads: usize) -> Self {
        Self {
            threads: Some(threads),
            ..self
        }
    }

    /// How a conditional head (CoCoOp) computes. Default: [`ConditionalMode::Exact`]. Static heads ignore it.
    pub fn conditional(self, mode: ConditionalMode) -> Self {
        Self { mode, ..self }
    }

    /// Whether f16 weights are multiplied in f16; otherwise they are widened to f32 at load. Default: if the export
    /// measured that the answers hold ([`Manifest::f16_arithmetic`]) and the processor has the instructions
    /// (ARMv8.2 FP16). Without them `true` emulates f16 bit for bit, which is slow.
    pub fn f16_arithmetic(self, f16_arithmetic: bool) -> Self {
        Self {
            f16_arithmetic: Some(f16_arithmetic),
            ..self
        }
    }

    /// Cosine similarity, -1 to 1, below which the best class counts as "unknown". Default: the bundle's
    /// ([`Manifest::unknown`]). -1 turns the check off.
    pub fn min_similarity(self, min_similarity: f32) -> Self {
        Self {
            min_similarity: Some(min_similarity),
            ..self
        }
    }

    /// Difference in cosine similarity between the best and the second class, 0 to 2, below which the answer counts
    /// as "unknown". Default: the bundle's ([`Manifest::unknown`]). 0 turns the check off.
    pub fn min_margin(self, min_margin: f32) -> Self {
        Self {
            min_margin: Some(min_margin),
            ..self
        }
    }

    /// Opens the bundle in `folder`.
    ///
    /// # Errors
    /// [`Error::Bundle`], [`Error::Network`], [`Error::Head`] and [`Error::TextEncoder`] for a bundle that is damaged
    /// or that this version cannot run; [`Error::Threads`], [`Error::ThreadPool`], [`Error::Kernels`].
    pub fn open(self, folder: impl AsRef<Path>) -> Result<Classifier, Error> {
        let threads = thread_pool(self.threads)?;
        let load = |bundle: &Bundle| -> Result<_, Error> {
            let manifest = bundle.manifest();
            let f16_arithmetic = manifest.precision == Precision::F16
                && (self.f16_arithmetic).unwrap_or_else(|| {
                    manifest.f16_arithmetic.is_some() && pinhole_kernels::f16_arithmetic()
                });
            let encoder = ImageEncoder::load(bundle, f16_arithmetic)?;
            let conditional = ConditionalHead::load(bundle, self.mode)?;
            Ok((encoder, conditional, f16_arithmetic))
        };
        let folder = folder.as_ref();
        let (bundle, loaded) = threads.install(|| Bundle::open_with(folder, load))?;
        let (encoder, conditional, f16_arithmetic) = loaded?;
        let manifest = bundle.manifest();
        Ok(Classifier {
            unknown: UnknownThresholds {
                min_similarity: self.min_similarity.or(manifest.unknown.min_similarity),
                min_margin: self.min_margin.or(manifest.unknown.min_margin),
            },
            classes: manifest
                .classes
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            bundle,
            encoder,
            conditional,
            f16_arithmetic,
            threads,
        })
    }
}

/// A pool of `threads` threads, 1 to the number of processors; `None` for all processors.
///
/// # Errors
/// [`Error::Threads`], [`Error::ThreadPool`]; [`Error::Kernels`] if `PINHOLE_KERNELS` names a kernel variant that this
/// machine does not have.
pub(crate) fn thread_pool(threads: Option<usize>) -> Result<rayon::ThreadPool, Error> {
    let available = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = threads.unwrap_or(available);
    if !(1..=available).contains(&threads) {
        return Err(Error::Threads {
            available,
            found: threads,
        });
    }
    pinhole_kernels::check().map_err(|e| Error::Kernels(e.to_string()))?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("pinhole-{i}"))
        .build()
        .map_err(|e| Error::ThreadPool {
            threads,
            reason: e.to_string(),
        })
}

impl Classifier {
    /// Opens the bundle in `folder` with all processors.
    ///
    /// # Errors
    /// As [`ClassifierBuilder::open`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        Self::builder().open(folder)
    }

    /// Options for opening.
    pub fn builder() -> ClassifierBuilder {
        ClassifierBuilder::default()
    }

    /// Ranks the bundle's classes for `image`: an [`&Image`](pinhole_preprocessing::Image), an
    /// [`&RgbImage`](pinhole_preprocessing::RgbImage), or an [`RgbView`](pinhole_preprocessing::RgbView) of the caller's
    /// memory.
    ///
    /// # Errors
    /// [`Error::Image`] if the image cannot be preprocessed; [`Error::Run`] if the network fails.
    pub fn classify<'a>(&self, image: impl Into<ImageView<'a>>) -> Result<Classification, Error> {
        self.classify_next(image.into(), self.unknown, None)
    }

    /// For consecutive images of one camera: see [`Stream`].
    ///
    /// # Errors
    /// As [`Stream::new`].
    pub fn stream(&self) -> Result<Stream<&Self>, Error> {
        Stream::new(self)
    }

    /// The embedding of `image`, as [`Classifier::classify`] takes it.
    ///
    /// # Errors
    /// As [`Classifier::classify`].
    pub fn embed<'a>(&self, image: impl Into<ImageView<'a>>) -> Result<Embedding, Error> {
        let start = Instant::now();
        let pixels = self.preprocess(image)?;
        let preprocess = start.elapsed();
        let start = Instant::now();
        let values = self.embed_pixels(&pixels.data)?;
        let latency = Latency {
            preprocess,
            encode: start.elapsed(),
            head: Duration::ZERO,
        };
        Ok(Embedding { values, latency })
    }

    /// The first stage of [`Classifier::embed`] alone: resizes and crops `image` to what the encoder sees,
    /// u8 `[S, S, 3]`. A program that overlaps stages calls it in another thread than [`Classifier::embed_pixels`].
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn preprocess<'a>(&self, image: impl Into<ImageView<'a>>) -> Result<Pixels, Error> {
        Ok(preprocess(&self.manifest().preprocessing, image)?)
    }

    /// The second stage of [`Classifier::embed`] alone: the embedding `[D]`, L2-normalised, of the data of
    /// [`Classifier::preprocess`].
    ///
    /// # Errors
    /// [`Error::Run`] if the network fails or the length is not S * S * 3.
    pub fn embed_pixels(&self, pixels: &[u8]) -> Result<Vec<f32>, Error> {
        self.check_pixels(pixels)?;
        self.threads.install(|| self.encoder.embed(pixels))
    }

    /// Similarity `[C]` of an L2-normalised `embedding` `[D]` with every class: the cosine with class embeddings, and for
    /// learned heads what [`Head::similarities`](pinhole_bundle::Head::similarities) says. For embeddings that were
    /// stored or compared otherwise.
    ///
    /// # Errors
    /// [`Error::Run`] if the length is not D.
    pub fn similarities(&self, embedding: &[f32]) -> Result<Vec<f32>, Error> {
        self.similarities_next(embedding, None)
    }

    fn check_pixels(&self, pixels: &[u8]) -> Result<(), Error> {
        let side = self.manifest().model.image_size as usize;
        match pixels.len() == side * side * 3 {
            true => Ok(()),
            false => Err(Error::Run(format!(
                "pixels: expected {side} x {side} x 3 bytes, found {}",
                pixels.len()
            ))),
        }
    }

    /// The network's operators in execution order.
    pub(crate) fn operators(&self) -> Vec<NetworkOperator> {
        self.encoder.operators()
    }

    /// The bundle's manifest: model, classes, thresholds, measured fidelity.
    pub fn manifest(&self) -> &Manifest {
        self.bundle.manifest()
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// When an answer counts as "unknown": the bundle's thresholds, or those of the [`ClassifierBuilder`].
    pub fn unknown_thresholds(&self) -> UnknownThresholds {
        self.unknown
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// The kernel variant in use, such as "avx512".
    pub fn kernels(&self) -> &'static str {
        pinhole_kernels::chosen()
    }

    /// Whether the image encoder multiplies in f16; see [`ClassifierBuilder::f16_arithmetic`].
    pub fn f16_arithmetic(&self) -> bool {
        self.f16_arithmetic
    }

    /// Classifies an image on its own, or the next one of a stream that has `reuse`.
    fn classify_next(
        &self,
        image: ImageView,
        thresholds: UnknownThresholds,
        reuse: Option<&mut Reuse>,
    ) -> Result<Classification, Error> {
        let Embedding {
            values,
            mut latency,
        } = self.embed(image)?;
        let start = Instant::now();
        let similarities = self.similarities_next(&values, reuse)?;
        let (ranking, unknown) = self.rank(&values, &similarities, thresholds);
        latency.head = start.elapsed();
        Ok(Classification {
            ranking,
            score: self.manifest().score,
            unknown,
            latency,
        })
    }

    fn similarities_next(
        &self,
        embedding: &[f32],
        reuse: Option<&mut Reuse>,
    ) -> Result<Vec<f32>, Error> {
        let head = self.bundle.head();
        if embedding.len() != head.embedding_size {
            return Err(Error::Run(format!(
                "embedding: expected {} values, found {}",
                head.embedding_size,
                embedding.len()
            )));
        }
        match (&self.conditional, reuse) {
            (None, _) => Ok(head.similarities(embedding)),
            (Some(head), None) => self.threads.install(|| head.similarities(embedding)),
            (Some(head), Some(reuse)) => self.threads.install(|| head.next(reuse, embedding)),
        }
    }

    /// All classes by falling similarity, and whether the image counts as unknown.
    fn rank(
        &self,
        embedding: &[f32],
        similarities: &[f32],
        thresholds: UnknownThresholds,
    ) -> (Vec<Ranked>, bool) {
        let manifest = self.manifest();
        let probabilities =
            manifest
                .score
                .probabilities(similarities, manifest.logit_scale, manifest.temperature);
        let best = similarities
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        let mut ranking: Vec<Ranked> = self
            .classes
            .iter()
            .zip(similarities.iter().zip(&probabilities))
            .enumerate()
            .map(|(index, (name, (&similarity, &probability)))| Ranked {
                index,
                name: name.clone(),
                probability,
                similarity,
            })
            .collect();
        // Stable, so that equal classes keep the bundle's order.
        ranking.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        let margin = ranking
            .get(1)
            .map_or(f32::INFINITY, |second| best - second.similarity);
        let negative = self.bundle.head().negative_similarity(embedding);
        let is_none = |class: usize| ranking.first().is_some_and(|best| best.index == class);
        let unknown = manifest.unknown.class.is_some_and(is_none)
            || thresholds.min_similarity.is_some_and(|least| best < least)
            || thresholds.min_margin.is_some_and(|least| margin < least)
            || negative.is_some_and(|negative| negative > best);
        (ranking, unknown)
    }
}

/// Classifies consecutive images of one camera. With a conditional head in mode [`ConditionalMode::Exact`] it keeps
/// the class embeddings while the images change too little to change the best class, which saves most runs of the
/// text encoder; otherwise it is the same as [`Classifier::classify`].
///
/// `C` is `&Classifier`, or an `Arc<Classifier>` for a stream that moves to another thread.
pub struct Stream<C> {
    classifier: C,
    unknown: UnknownThresholds,
    reuse: Option<Reuse>,
}

impl<C: Deref<Target = Classifier>> Stream<C> {
    /// A stream of `classifier`.
    ///
    /// # Errors
    /// [`Error::Text`] if the bundle's bound on the change of class embeddings is not finite.
    pub fn new(classifier: C) -> Result<Self, Error> {
        let scale = classifier.manifest().logit_scale;
        let reuse = match &classifier.conditional {
            Some(head) => head.reuse(scale)?,
            None => None,
        };
        Ok(Self {
            unknown: classifier.unknown,
            classifier,
            reuse,
        })
    }

    /// The classifier.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// Uses other thresholds than the classifier's from the next image on.
    pub fn set_unknown_thresholds(&mut self, thresholds: UnknownThresholds) {
        self.unknown = thresholds;
    }

    /// Ranks the bundle's classes for the next image.
    ///
    /// # Errors
    /// As [`Classifier::classify`].
    pub fn classify<'a>(
        &mut self,
        image: impl Into<ImageView<'a>>,
    ) -> Result<Classification, Error> {
        self.classifier
            .classify_next(image.into(), self.unknown, self.reuse.as_mut())
    }
}
