//! Stage 5: temperature and thresholds for "unknown", fitted to labelled images.

use std::path::Path;

use anyhow::{Context, Result, bail};
use pinhole::Classifier;
use pinhole::internal::{
    CalibratedValues, CalibrationFit, CalibrationLabel, HeldOutComparison, LabelledAnswer, Logits,
    NoFit, compare_held_out, fit_calibration,
};
use pinhole_bundle::{BundleWriter, LockedBundle, Manifest};

use crate::images::CalibrationImages;
use crate::progress::{ExportProgress, ExportStep};

/// The calibration images and what is fitted to them.
pub struct CalibrationOptions<'a> {
    /// Images to measure the fidelity on (the golden images if there are none), and, if labelled, to fit the
    /// temperature and the thresholds to.
    pub images: &'a CalibrationImages,
    /// Share of the correctly classified images that the thresholds keep, 0..1.
    pub keep: f32,
}

/// Similarities of an embedding with every class, and with the most similar negative text.
pub(crate) type Similarities<'a> = &'a dyn Fn(&[f32]) -> Result<(Vec<f32>, Option<f32>)>;

/// What the bundle answers for the `embeddings` of images with these `labels`.
///
/// # Errors
/// Similarities that cannot be computed.
pub(crate) fn labelled_answers(
    embeddings: &[Vec<f32>],
    labels: &[CalibrationLabel],
    similarities: Similarities,
    progress: &mut ExportProgress,
) -> Result<Vec<LabelledAnswer>> {
    let total = labels.len() as u64;
    let mut answers = vec![];
    for (embedding, &label) in embeddings.iter().zip(labels) {
        let (similarities, negative) = similarities(embedding)?;
        answers.push(LabelledAnswer {
            similarities,
            negative,
            label,
        });
        progress(ExportStep::Calibration, answers.len() as u64, total);
    }
    Ok(answers)
}

/// As [`fit_calibration`]; the error speaks of folders.
///
/// # Errors
/// Why the images are no basis for a fit.
pub(crate) fn fit_to_images(
    answers: &[LabelledAnswer],
    none: Option<usize>,
    logits: Logits,
    keep: f32,
) -> std::result::Result<CalibrationFit, String> {
    fit_calibration(answers, none, logits, keep).map_err(|reason| match reason {
        NoFit::TooFew { least, found } => format!(
            "expected at least {least} images in folders named after a class, better 20 of each class, found {found}"
        ),
        NoFit::Guess {
            right,
            images,
            classes,
        } => format!(
            "expected a classifier that is better than a guess among {classes} classes, found {right} of {images} images \
             correct; do the folders have the names of what they show, and the images what the classes say?"
        ),
    })
}

/// What [`calibrate`] has written.
pub struct Recalibrated {
    /// The new manifest.
    pub manifest: Manifest,
    /// The new calibration beside the bundle's former one; `None` if they are equal.
    pub comparison: Option<HeldOutComparison>,
}

/// Fits temperature and thresholds of the bundle in `folder` to labelled images, and replaces the bundle atomically.
/// `model_card` replaces the bundle's if given. While another process changes the bundle, this
/// waits as [`LockedBundle::open`] does, and calls `waiting`; while this runs, others wait.
///
/// # Errors
/// A bundle or an image that cannot be read; images that are not labelled, too few, or classified no better than by a
/// guess; a bundle that cannot be replaced. The bundle is then unchanged.
pub fn calibrate(
    folder: &Path,
    options: &CalibrationOptions,
    model_card: Option<String>,
    waiting: &mut dyn FnMut(&str),
    progress: &mut ExportProgress,
) -> Result<Recalibrated> {
    let labels = options.images.labels();
    let labels = labels
        .with_context(|| options.images.unlabelled())
        .context("--calibration")?;
    let locked = LockedBundle::open(folder, waiting)?;
    let classifier = Classifier::open(folder)?;
    let bundle = classifier.bundle();
    // First, so that a folder that cannot be replaced is reported before the long steps.
    let writer = BundleWriter::succeed(&locked)?;
    let mut embeddings = vec![];
    options.images.for_each(1, &mut |image| {
        embeddings.push(classifier.embed(image)?.values);
        let (done, total) = (embeddings.len(), labels.len());
        progress(ExportStep::Embeddings, done as u64, total as u64);
        Ok(())
    })?;
    let similarities = |embedding: &[f32]| {
        let negative = bundle.head().negative_similarity(embedding);
        Ok((classifier.similarities(embedding)?, negative))
    };
    let mut manifest = bundle.manifest().clone();
    let logits = Logits {
        scale: manifest.logit_scale,
        score: manifest.score.uncalibrated(),
    };
    let answers = labelled_answers(&embeddings, labels, &similarities, progress)?;
    let (none, keep) = (manifest.unknown.class, options.keep);
    let fitted = match fit_to_images(&answers, none, logits, keep) {
        Ok(fitted) => fitted,
        Err(reason) => bail!("--calibration: {reason}; the bundle is unchanged"),
    };
    let before = CalibratedValues::of(&manifest);
    let comparison =
        (fitted.values != before).then(|| compare_held_out(&answers, none, logits, keep, before));
    fitted.record(&mut manifest);
    if let Some(card) = model_card {
        manifest.model_card = card;
    }
    writer.add_head(bundle.head())?;
    writer.replace(&mut manifest)?;
    Ok(Recalibrated {
        manifest,
        comparison,
    })
}
