//! From a bundle and an image to a ranking.

use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, Instant};

use pinhole_bundle::{Bundle, Manifest};
use pinhole_model::Precision;
use pinhole_preprocessing::{Pixels, RgbImage, preprocess};
use pinhole_prompts::conditional::Reuse;

use crate::Error;
use crate::conditional::{ConditionalHead, Mode};
use crate::network::{ImageEncoder, NetworkOperator};

/// A bundle made ready: checked, its network loaded, its threads started.
///
/// ```no_run
/// let classifier = pinhole::Classifier::open("assets/demo")?;
/// println!("{} classes", classifier.manifest().classes.len());
/// # Ok::<(), pinhole::Error>(())
/// ```
pub struct Classifier {
    bundle: Bundle,
    encoder: ImageEncoder,
    conditional: Option<ConditionalHead>,
    f16_arithmetic: bool,
    min_similarity: Option<f32>,
    min_margin: Option<f32>,
    threads: rayon::ThreadPool,
}

/// How to open a [`Classifier`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Builder {
    threads: Option<usize>,
    mode: Mode,
    f16_arithmetic: Option<bool>,
    min_similarity: Option<f32>,
    min_margin: Option<f32>,
}

impl Builder {
    /// Threads to compute with, 1 to the machine's processors; all of them when not given.
    pub fn threads(self, threads: usize) -> Self {
        Self {
            threads: Some(threads),
            ..self
        }
    }

    /// How a conditional head (CoCoOp) computes; [`Mode::Exact`] when not given. Without meaning for
    /// static heads.
    pub fn conditional(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Whether the weights of a bundle in f16 are multiplied in f16. When not given: where the bundle says that
    /// its fidelity holds so ([`Manifest::f16_arithmetic`]) and the processor has the instructions. Where it
    /// lacks them, `true` gives the same bits slowly, to measure the fidelity with.
    pub fn f16_arithmetic(self, f16_arithmetic: bool) -> Self {
        Self {
            f16_arithmetic: Some(f16_arithmetic),
            ..self
        }
    }

    /// Least cosine similarity of the best class, -1 to 1, for the answer not to be "unknown"; in place of the
    /// bundle's ([`Manifest::unknown`]). -1 asks for nothing.
    pub fn min_similarity(self, min_similarity: f32) -> Self {
        Self {
            min_similarity: Some(min_similarity),
            ..self
        }
    }

    /// Least difference of cosine similarity between the best class and the second, 0 to 2, for the answer not to
    /// be "unknown"; in place of the bundle's ([`Manifest::unknown`]). 0 asks for nothing.
    pub fn min_margin(self, min_margin: f32) -> Self {
        Self {
            min_margin: Some(min_margin),
            ..self
        }
    }

    /// Opens the bundle in `folder`.
    ///
    /// # Errors
    /// [`Error::Bundle`] and [`Error::Network`] name the file and the field; [`Error::Threads`].
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
        let policy = &bundle.manifest().unknown;
        Ok(Classifier {
            min_similarity: self.min_similarity.or(policy.min_similarity),
            min_margin: self.min_margin.or(policy.min_margin),
            bundle,
            encoder,
            conditional,
            f16_arithmetic,
            threads,
        })
    }
}

/// Threads to compute with, 1 to the machine's processors; all of them when not given.
///
/// # Errors
/// [`Error::Threads`], [`Error::Pool`]; [`Error::Kernels`] where `PINHOLE_KERNELS` asks for what this
/// machine lacks.
pub fn thread_pool(threads: Option<usize>) -> Result<rayon::ThreadPool, Error> {
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
        .map_err(|e| Error::Pool {
            threads,
            reason: e.to_string(),
        })
}

/// The classes of a bundle ranked for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    /// Every class, the best first.
    pub ranking: Vec<Ranked>,
    /// Whether the bundle's policy, or the [`Builder`]'s in its place, says that the image shows none of the
    /// classes.
    pub unknown: bool,
    /// Where the time went; decoding is the caller's.
    pub latency: Latency,
}

/// One class of a ranking.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// The class's place in the bundle's list, from 0.
    pub index: usize,
    /// The class's name as in the bundle.
    pub name: String,
    /// softmax(logit_scale * similarity / temperature) over all classes, 0..1.
    pub probability: f32,
    /// Cosine similarity of image and class, -1..1.
    pub similarity: f32,
}

/// An image's embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `[D]`, L2-normalised.
    pub values: Vec<f32>,
    /// Where the time went; `head` is zero.
    pub latency: Latency,
}

/// Time spent on one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Resizing and cropping.
    pub preprocess: Duration,
    /// The image encoder.
    pub encode: Duration,
    /// Similarities, softmax and ranking.
    pub head: Duration,
}

impl Classification {
    /// The `n` best classes.
    pub fn top(&self, n: usize) -> &[Ranked] {
        &self.ranking[..n.min(self.ranking.len())]
    }
}

impl Classifier {
    /// Opens the bundle in `folder` with all the machine's processors.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        Self::builder().open(folder)
    }

    /// Options for opening.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Ranks the bundle's classes for `image`.
    ///
    /// # Errors
    /// [`Error::Image`] where the preprocessing rule does not fit the image's size; [`Error::Run`].
    pub fn classify(&self, image: &RgbImage) -> Result<Classification, Error> {
        let Embedding {
            values,
            mut latency,
        } = self.embed(image)?;
        let start = Instant::now();
        let (ranking, unknown) = self.rank(&values, self.similarities(&values)?);
        latency.head = start.elapsed();
        Ok(Classification {
            ranking,
            unknown,
            latency,
        })
    }

    /// For the images of one camera, one after the other: see [`Stream`].
    ///
    /// # Errors
    /// As [`Stream::new`].
    pub fn stream(&self) -> Result<Stream<&Self>, Error> {
        Stream::new(self)
    }

    /// The embedding of `image`, `[D]`, L2-normalised.
    ///
    /// # Errors
    /// As [`Classifier::classify`].
    pub fn embed(&self, image: &RgbImage) -> Result<Embedding, Error> {
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

    /// Cosine similarity of a unit `embedding` `[D]` with every class, `[C]`.
    ///
    /// # Errors
    /// [`Error::Run`] where the length is not D.
    pub fn similarities(&self, embedding: &[f32]) -> Result<Vec<f32>, Error> {
        let head = self.bundle.head();
        if embedding.len() != head.embedding_size {
            return Err(Error::Run(format!(
                "embedding: expected {} values, found {}",
                head.embedding_size,
                embedding.len()
            )));
        }
        match &self.conditional {
            Some(head) => self.threads.install(|| head.similarities(embedding)),
            None => Ok(head.similarities(embedding)),
        }
    }

    /// The square of pixels that the encoder sees of `image`.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn preprocess(&self, image: &RgbImage) -> Result<Pixels, Error> {
        Ok(preprocess(&self.manifest().preprocessing, image)?)
    }

    /// The embedding of pixels that are already resized and cropped, u8 `[S, S, 3]`.
    ///
    /// # Errors
    /// [`Error::Run`], also where the length is not S * S * 3.
    pub fn embed_pixels(&self, pixels: &[u8]) -> Result<Vec<f32>, Error> {
        self.check_pixels(pixels)?;
        self.threads.install(|| self.encoder.embed(pixels))
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

    /// What the bundle is.
    pub fn manifest(&self) -> &Manifest {
        self.bundle.manifest()
    }

    /// The bundle that the classifier was opened from.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Number of threads that the classifier computes with.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Names of the kernels that this processor runs, such as "avx512".
    pub fn kernels(&self) -> String {
        pinhole_kernels::chosen().to_string()
    }

    /// Whether the image encoder multiplies in f16; see [`Builder::f16_arithmetic`].
    pub fn f16_arithmetic(&self) -> bool {
        self.f16_arithmetic
    }

    /// The network's operators in the order of execution, with what each runs on.
    pub fn operators(&self) -> Vec<NetworkOperator> {
        self.encoder.operators()
    }

    /// All classes by falling probability, and whether the policy says "unknown".
    fn rank(&self, embedding: &[f32], similarities: Vec<f32>) -> (Vec<Ranked>, bool) {
        let manifest = self.manifest();
        let factor = manifest.logit_scale / manifest.temperature;
        let best = similarities
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        let exponentials: Vec<f32> = similarities
            .iter()
            .map(|s| ((s - best) * factor).exp())
            .collect();
        let sum: f32 = exponentials.iter().sum();
        let mut ranking: Vec<Ranked> = manifest
            .classes
            .iter()
            .zip(similarities.iter().zip(&exponentials))
            .enumerate()
            .map(|(index, (name, (&similarity, e)))| Ranked {
                index,
                name: name.clone(),
                probability: e / sum,
                similarity,
            })
            .collect();
        // Stable, so that equal classes keep the bundle's order.
        ranking.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        let margin = ranking
            .get(1)
            .map_or(f32::INFINITY, |second| best - second.similarity);
        let negative = self.bundle.head().negative_similarity(embedding);
        let unknown = self.min_similarity.is_some_and(|least| best < least)
            || self.min_margin.is_some_and(|least| margin < least)
            || negative.is_some_and(|negative| negative > best);
        (ranking, unknown)
    }
}

/// Classifies a camera's images, one after the other: a conditional head in mode `exact` keeps its class embeddings
/// while the images move too little to change the best class. `C` is `&Classifier`, or an `Arc<Classifier>` where
/// the stream is to be moved elsewhere.
pub struct Stream<C> {
    classifier: C,
    reuse: Option<Reuse>,
}

impl<C: Deref<Target = Classifier>> Stream<C> {
    /// A stream of `classifier`.
    ///
    /// # Errors
    /// [`Error::Text`] where the bundle's figures for what moves too little are no numbers.
    pub fn new(classifier: C) -> Result<Self, Error> {
        let scale = classifier.manifest().logit_scale;
        let reuse = match &classifier.conditional {
            Some(head) => head.reuse(scale)?,
            None => None,
        };
        Ok(Self { classifier, reuse })
    }

    /// The classifier.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// Ranks the bundle's classes for the next image.
    ///
    /// # Errors
    /// As [`Classifier::classify`].
    pub fn classify(&mut self, image: &RgbImage) -> Result<Classification, Error> {
        let classifier = &*self.classifier;
        let (Some(reuse), Some(head)) = (&mut self.reuse, &classifier.conditional) else {
            return classifier.classify(image);
        };
        let Embedding {
            values,
            mut latency,
        } = classifier.embed(image)?;
        let start = Instant::now();
        let similarities = (classifier.threads).install(|| head.next(reuse, &values))?;
        let (ranking, unknown) = classifier.rank(&values, similarities);
        latency.head = start.elapsed();
        Ok(Classification {
            ranking,
            unknown,
            latency,
        })
    }
}
