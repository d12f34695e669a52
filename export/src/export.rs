//! The stages of an export, one after the other.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use pinhole::internal::Logits;
use pinhole_bundle::{
    BundleWriter, FORMAT, Golden, GoldenImage, HeadForm, HeadKind, Manifest, ModelInfo,
    UnknownPolicy, VERSION,
};
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{Precision, PreprocessConfig, Score, TextEncoderConfig, TextForm};

use crate::cache;
use crate::calibrate::{CalibrationOptions, fit_to_images, labelled_answers};
use crate::class_embeddings::{ClassPrompts, TextOptions, TextStage, text_checkpoint};
use crate::encoder_source::EncoderSource;
use crate::golden;
use crate::head::{ConditionalParts, HeadStage};
use crate::image_encoder::{EncoderOptions, ImageStage};
use crate::progress::ExportProgress;
use crate::text_encoder::TextEncoderStage;

/// What to export, by stage.
pub struct ExportOptions<'a> {
    /// The CLIP model whose text encoder embeds the classes; `None` if their embeddings are given.
    pub checkpoint: Option<&'a Checkpoint>,
    /// What the image encoder takes.
    pub preprocessing: PreprocessConfig,
    /// Factor from cosine similarity to logit.
    pub logit_scale: f32,
    /// Classes and prompts.
    pub text: TextOptions<'a>,
    /// The image encoder.
    pub encoder: EncoderOptions<'a>,
    /// The learned method that the prompts come from, such as "KgCoOp".
    pub method: Option<&'static str>,
    /// What the probabilities of the bundle are.
    pub score: Score,
    /// Calibration images.
    pub calibration: CalibrationOptions<'a>,
    /// Origin, intended use and limits, in prose.
    pub model_card: String,
    /// The bundle's folder, which must not exist.
    pub out: &'a Path,
}

/// The result of an export.
pub struct Exported {
    /// The bundle's manifest.
    pub manifest: Manifest,
    /// How each layer was quantised and its effect, in Markdown, if the options asked for it.
    pub report: Option<String>,
    /// What the user should know about the image encoder.
    pub warning: Option<String>,
    /// Why temperature and thresholds were not fitted, although there are calibration images.
    pub not_calibrated: Option<String>,
}

/// Writes the bundle.
///
/// # Errors
/// The output folder exists or cannot be written to; a class or a template does not fit; a weight is not
/// finite; the fidelity is below the gate. Nothing is left at the destination then.
pub fn export(options: &ExportOptions, progress: &mut ExportProgress) -> Result<Exported> {
    let ExportOptions {
        checkpoint,
        text,
        encoder,
        calibration,
        preprocessing,
        logit_scale,
        ..
    } = options;
    check_sizes(options)?;
    encoder.check_images(calibration.images)?;
    if let Some(checkpoint) = checkpoint
        && text.include_text_encoder
    {
        check_text_encoder(&checkpoint.config().text)?;
    }
    // First, so that a wrong output folder is reported before the long steps.
    let writer = BundleWriter::create(options.out)?;
    let folder = writer.folder();
    let images = calibration.images;

    let cache = match text.prompts {
        ClassPrompts::Cache(cache, _) => Some(cache),
        _ => None,
    };
    if let Some(cache) = cache {
        cache::check(cache, images)?;
    }
    let mut embedded = TextStage::run(*checkpoint, text, !images.is_empty(), progress)?;
    let logit_scale = embedded.logit_scale.unwrap_or(*logit_scale);
    let mut cache_info = cache.map(cache::initial);
    if let (Some(cache), Some(info)) = (cache, cache_info) {
        cache::set(&mut embedded.head, cache, info, logit_scale);
    }
    let mut image = ImageStage::run(
        encoder,
        preprocessing,
        &embedded.head,
        images,
        folder,
        progress,
    )?;
    if let (Some(cache), Some(labels)) = (cache, images.labels())
        && (cache.alpha.is_none() || cache.beta.is_none())
    {
        let embeddings = image.calibration_embeddings(images, progress)?;
        let found = cache::search(&embedded.head, cache, embeddings, labels, logit_scale)?;
        cache::set(&mut embedded.head, cache, found, logit_scale);
        cache_info = Some(found);
    }
    let learner = text.prompts.conditional();
    let mut text_encoder = None;
    if text.include_text_encoder || learner.is_some() {
        let tokens = if text.include_text_encoder {
            vec![]
        } else {
            embedded.prompt_tokens
        };
        let quality = (encoder.graph.precision, encoder.gate.min_cosine);
        text_encoder = Some(TextEncoderStage::run(
            text_checkpoint(*checkpoint)?,
            text,
            quality,
            &embedded.head,
            tokens,
            folder,
            progress,
        )?);
    }
    let (text_encoder, text_info) = text_encoder.map(|s| (s.encoder, s.info)).unzip();
    let head = match (learner, text_encoder) {
        (Some(learner), Some(text_encoder)) => {
            let parts = ConditionalParts {
                classes: text.classes,
                learner,
                text_encoder,
                logit_scale,
                keep_embeddings: text.include_text_encoder,
            };
            let embeddings = image.calibration_embeddings(images, progress)?;
            HeadStage::conditional(parts, &embedded.head, embeddings, progress)?
        }
        _ => HeadStage::fixed(embedded.head),
    };
    let fit = match images.labels() {
        Some(labels) => {
            let embeddings = image.calibration_embeddings(images, progress)?;
            let similarities = |embedding: &[f32]| {
                let negative = head.head.negative_similarity(embedding);
                Ok((head.similarities(embedding)?, negative))
            };
            let answers = labelled_answers(embeddings, labels, &similarities, progress)?;
            let logits = Logits {
                scale: logit_scale,
                score: options.score,
            };
            fit_to_images(&answers, None, logits, calibration.keep)
        }
        None => Err(images.unlabelled()),
    };

    writer.add_head(&head.head)?;
    write_golden(&writer, &image)?;
    let (templates, prompt_learner) = text.prompts.recorded();
    let mut manifest = Manifest {
        format: FORMAT.into(),
        version: VERSION,
        created_by: format!("pinhole-export {}", env!("CARGO_PKG_VERSION")),
        model: ModelInfo {
            name: encoder.source.name(),
            image_size: preprocessing.size,
            embedding_size: head.head.embedding_size,
        },
        preprocessing: preprocessing.clone(),
        precision: image.precision,
        logit_scale,
        temperature: 1.0,
        score: options.score,
        classes: text.classes.names().to_vec(),
        templates,
        method: options.method.map(str::to_owned),
        prompt_learner,
        text_encoder: text_info,
        unknown: UnknownPolicy {
            negatives: text.negatives.to_vec(),
            ..UnknownPolicy::default()
        },
        head: match (head.info, &head.head.form) {
            (Some(_), _) => HeadKind::Conditional,
            (None, HeadForm::ClassEmbeddings) => HeadKind::Static,
            (None, HeadForm::Linear { .. }) => HeadKind::Linear,
            (None, HeadForm::Cache(_)) => HeadKind::Cache,
        },
        cache: cache_info,
        conditional: head.info,
        fidelity: image.fidelity,
        f16_arithmetic: image.f16_arithmetic,
        calibration: None,
        model_card: options.model_card.clone(),
        files: vec![],
    };
    let not_calibrated = match fit {
        Ok(calibrated) => {
            calibrated.record(&mut manifest);
            None
        }
        Err(reason) => (!images.is_empty()).then_some(reason),
    };
    writer.finish(&mut manifest)?;
    Ok(Exported {
        manifest,
        report: image.report,
        warning: image.warning,
        not_calibrated,
    })
}

/// Checks that a bundle can include the text encoder.
fn check_text_encoder(text: &TextEncoderConfig) -> Result<()> {
    match text.form {
        TextForm::Clip => Ok(()),
        TextForm::ClipUnmasked => bail!(
            "--with-text: expected a text encoder with a causal mask, found one without (MobileCLIP's), which bundles do not \
             have; omit --with-text, and export again to change the classes"
        ),
        TextForm::SigLip { .. } => bail!(
            "--with-text: expected a CLIP model, found a SigLIP, whose tokenizer and vocabulary of {} tokens are too large \
             for a board; omit --with-text, and export again to change the classes",
            text.vocabulary
        ),
    }
}

/// Checks that the embeddings of images and classes have one length, before anything is computed.
fn check_sizes(options: &ExportOptions) -> Result<()> {
    let (given, origin) = match options.text.prompts {
        ClassPrompts::Given(given) => (Some(given.size), given.origin),
        ClassPrompts::Linear(classifier) => (classifier.weight.shape.last().copied(), "--learned"),
        _ => (None, ""),
    };
    let of_checkpoint = options.checkpoint.map(|c| c.config().embedding);
    let Some(size) = given.or(of_checkpoint) else {
        return Ok(());
    };
    match options.encoder.source {
        EncoderSource::Onnx { file, .. } => file.check(&options.preprocessing, size),
        EncoderSource::Checkpoint(checkpoint) => {
            let found = checkpoint.config().embedding;
            ensure!(
                found == size,
                "{origin}: expected rows of {found} values as from the image encoder, found {size}"
            );
            Ok(())
        }
    }
}

/// Writes the images of the self-test and their embeddings.
fn write_golden(writer: &BundleWriter, image: &ImageStage) -> Result<()> {
    let mut images = vec![];
    for (file, pixels) in golden::images()? {
        writer.add(file, &golden::to_png(&pixels)?)?;
        images.push(GoldenImage {
            file: file.into(),
            embedding: image.encoder.embed(&pixels)?,
        });
    }
    writer.add_golden(&Golden {
        min_cosine: self_test_cosine(image),
        images,
    })?;
    Ok(())
}

/// Least cosine of the self-test. Kernels differ in the order of f32 sums alone, which leaves about 1e-6.
const SELF_TEST_COSINE: f32 = 0.9999;
/// [`SELF_TEST_COSINE`] for 8-bit integers whose fidelity was not measured.
const FOREIGN_SELF_TEST_COSINE: f32 = 0.999;

/// Least cosine between the board's embedding and the exporter's for the self-test to pass. In int8, another order of
/// f32 sums rounds values near a rounding boundary to the other side, and later layers amplify that: it is
/// quantisation noise, so a board may be as far from the exporter's machine as the bundle is from f32. The same holds
/// for f16 products on one machine and f32 products on the other.
fn self_test_cosine(image: &ImageStage) -> f32 {
    let fidelity = match image.precision {
        Precision::F32 => None,
        Precision::F16 => image.f16_arithmetic,
        Precision::Int8 => match image.fidelity {
            // Quantised by another program: one scale per tensor makes the noise larger.
            None => return FOREIGN_SELF_TEST_COSINE,
            found => found,
        },
    };
    fidelity.map_or(SELF_TEST_COSINE, |f| f.worst_cosine.min(SELF_TEST_COSINE))
}
