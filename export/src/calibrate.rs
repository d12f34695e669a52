//! Stage 5: temperature and thresholds for "unknown", fitted to labelled images.

use std::path::Path;

use anyhow::{Context, Result, bail};
use pinhole::Classifier;
use pinhole::internal::{
    CalibrationFit, CalibrationLabel, LabelledAnswer, Logits, NoFit, fit_calibration,
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

/// Fits to the `embeddings` of images with these `labels`, as [`fit_calibration`] does, `none` as for it. The inner error says why the images
/// are no basis for a fit.
///
/// # Errors
/// Similarities that cannot be computed.
pub(crate) fn fit_to_images(
    embeddings: &[Vec<f32>],
    labels: &[CalibrationLabel],
    none: Option<usize>,
    similarities: Similarities,
    logits: Logits,
    keep: f32,
    progress: &mut ExportProgress,
) -> Result<std::result::Result<CalibrationFit, String>> {
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
    Ok(fit_calibration(&answers, none, logits, keep).map_err(|reason| match reason {
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
    }))
}

/// Fits temperature and thresholds of the bundle in `folder` to labelled images, and replaces the bundle atomically.
/// `model_card` replaces the bundle's if given. Returns the new manifest. While another process changes the bundle, this
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
) -> Result<Manifest> {
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
    let fitted = fit_to_images(
        &embeddings,
        labels,
        manifest.unknown.class,
        &similarities,
        logits,
        options.keep,
        progress,
    )?;
    match fitted {
        Ok(fitted) => fitted.record(&mut manifest),
        Err(reason) => bail!("--calibration: {reason}; the bundle is unchanged"),
    }
    if let Some(card) = model_card {
        manifest.model_card = card;
    }
    writer.add_head(bundle.head())?;
    writer.replace(&mut manifest)?;
    Ok(manifest)
}
