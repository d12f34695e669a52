//! New classes for a bundle that contains its text encoder.

use std::path::Path;

use pinhole_bundle::{
    Bundle, BundleWriter, EXAMPLES, HEAD, Head, HeadKind, LockedBundle, Manifest, UnknownPolicy,
};
use pinhole_model::PromptLearner;
use pinhole_prompts::{
    Classes, Templates, TextEncoder, Tokenizer, class_embeddings, class_indices, learned_embeddings,
};

use crate::Error;
use crate::classifier::thread_pool;
use crate::conditional::learner;
use crate::conditional_fit::fit_conditional;
use crate::error::TeachError;
use crate::text_encoder::text_encoder;

/// Name of the head's tensor with embeddings of calibration images.
const CALIBRATION: &str = "calibration_embeddings";

/// Replaces the classes of the bundle in `folder`, which must have been exported with its text encoder.
///
/// Classes that stay keep their embeddings; of several classes of one name, the n-th is the n-th of that name before. The approximations of a conditional head are fitted again, to calibration
/// embeddings that the bundle contains. The temperature becomes 1 and the thresholds for "unknown" are removed, because
/// they were calibrated on the old classes. The bundle is replaced as a whole: after a power cut it is the old or the
/// new one. Files in its folder that are not the bundle's stay, and so do permissions; owners stay where this process may
/// keep them.
///
/// While another process changes the bundle, this waits as [`LockedBundle::open`] does. To choose the new classes by the
/// old ones, such as to add one, use [`change_classes`].
///
/// `threads` is as for [`ClassifierBuilder::threads`](crate::ClassifierBuilder::threads), `None` for all processors;
/// `progress` gets the number of prompts done and in total.
///
/// # Errors
/// [`Error::NoTextEncoder`]; [`Error::Teaching`] for a bundle that was taught by examples, whose classes
/// [`Teacher`](crate::Teacher) changes; [`Error::Bundle`] for a bundle that is damaged, in use or cannot be replaced;
/// [`Error::Text`] for a class name that is too long; [`Error::Threads`], [`Error::ThreadPool`], [`Error::Kernels`].
pub fn set_classes(
    folder: impl AsRef<Path>,
    classes: &Classes,
    threads: Option<usize>,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<Manifest, Error> {
    let locked = LockedBundle::open(folder.as_ref(), &mut |_| {})?;
    change_classes(locked, classes, threads, progress)
}

/// As [`set_classes`], for a bundle that is locked already: nobody has changed the classes since they were read from it.
///
/// # Errors
/// As [`set_classes`].
pub fn change_classes(
    locked: LockedBundle,
    classes: &Classes,
    threads: Option<usize>,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<Manifest, Error> {
    thread_pool(threads)?.install(|| change_classes_here(&locked, classes, progress))
}

/// [`change_classes`] in rayon's current pool.
fn change_classes_here(
    locked: &LockedBundle,
    classes: &Classes,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Manifest, Error> {
    let bundle = locked.bundle();
    if bundle.lists(EXAMPLES) {
        return Err(Error::Teaching {
            bundle: bundle.folder().to_owned(),
            reason: TeachError::ClassesOfExamples,
        });
    }
    if !takes_new_classes(bundle) {
        return Err(Error::NoTextEncoder {
            bundle: bundle.folder().to_owned(),
        });
    }
    if let kind @ (HeadKind::Linear | HeadKind::Cache) = bundle.manifest().head {
        return Err(Error::Head {
            path: bundle.folder().join(HEAD),
            reason: format!(
                "expected class embeddings, to which classes can be added, found a {kind:?} head"
            ),
        });
    }
    // First, so that a folder that cannot be replaced is reported before the long steps.
    let writer = BundleWriter::succeed(locked)?;
    let text_encoder = text_encoder(bundle)?;
    let (old, head) = (bundle.manifest(), bundle.head());
    let (names, dim) = (classes.names(), old.model.embedding_size);
    let known = class_indices(&old.classes, names);
    let new = names
        .iter()
        .zip(&known)
        .filter(|(_, known)| known.is_none());
    let new: Vec<String> = new.map(|(name, _)| name.clone()).collect();
    let mut conditional = None;
    let new_head = if old.head == HeadKind::Conditional {
        let wrong = |reason: String| Error::Head {
            path: bundle.folder().join(HEAD),
            reason,
        };
        let learner = learner(&head.learned).map_err(wrong)?;
        let calibration = head.learned.get(CALIBRATION);
        let calibration = calibration
            .ok_or_else(|| wrong(format!("expected tensor {CALIBRATION}, found none")))?;
        let scale = old.logit_scale;
        let (mut fitted, info) = fit_conditional(
            &text_encoder,
            classes,
            &learner,
            &calibration.data,
            scale,
            progress,
        )?;
        conditional = Some(info);
        fitted.negative_embeddings = head.negative_embeddings.clone();
        fitted
            .learned
            .insert(CALIBRATION.into(), calibration.clone());
        fitted
    } else {
        let mut embedded = Vec::new();
        if !new.is_empty() {
            let new = Classes::recorded(&new)?;
            embedded = embed_classes(bundle, &text_encoder, &new, progress)?;
        }
        let mut embedded = embedded.chunks_exact(dim);
        let mut rows = Vec::with_capacity(names.len() * dim);
        for class in known {
            match class {
                Some(i) => rows.extend_from_slice(&head.class_embeddings[i * dim..][..dim]),
                None => rows.extend(embedded.next().into_iter().flatten()),
            }
        }
        Head {
            classes: names.len(),
            class_embeddings: rows,
            ..head.clone()
        }
    };
    let mut manifest = Manifest {
        classes: names.to_vec(),
        temperature: 1.0,
        score: old.score.uncalibrated(),
        calibration: None,
        conditional,
        unknown: UnknownPolicy {
            negatives: old.unknown.negatives.clone(),
            ..UnknownPolicy::default()
        },
        ..old.clone()
    };
    writer.add_head(&new_head)?;
    writer.replace(&mut manifest)?;
    Ok(manifest)
}

/// Whether the bundle has a text encoder for any class name. One with the token embeddings of the old classes only cannot
/// embed new ones.
pub(crate) fn takes_new_classes(bundle: &Bundle) -> bool {
    let info = bundle.manifest().text_encoder.as_ref();
    info.is_some_and(|text| text.tokens.is_empty())
}

/// What is allowed and seldom meant in `classes` for the bundle of `manifest`, one line each.
pub fn class_warnings(manifest: &Manifest, classes: &Classes) -> Vec<String> {
    let mut warnings = classes.warnings(&manifest.unknown.negatives);
    // The templates of a manifest were checked when it was written, and are checked again when they are used.
    if let Ok(templates) = Templates::recorded(&manifest.templates, "manifest.json: templates") {
        warnings.extend(templates.article_warning(classes.names()));
    }
    warnings
}

/// The embeddings `[C, D]` of new classes, with the prompts of the old ones.
pub(crate) fn embed_classes(
    bundle: &Bundle,
    text_encoder: &TextEncoder,
    classes: &Classes,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<f32>, Error> {
    let (manifest, tokenizer) = (bundle.manifest(), Tokenizer::new());
    let embeddings = match (
        &manifest.prompt_learner,
        bundle.head().learned.get("context"),
    ) {
        (Some(info), Some(context)) => {
            let learner = PromptLearner {
                context: context.clone(),
                meta_net: None,
                class_position: Some(info.class_position),
            };
            let position = info.class_position;
            learned_embeddings(
                text_encoder,
                &tokenizer,
                classes,
                &learner,
                position,
                progress,
            )?
        }
        _ => {
            let templates = Templates::recorded(&manifest.templates, "manifest.json: templates")?;
            class_embeddings(text_encoder, &tokenizer, classes, &templates, progress)?
        }
    };
    Ok(embeddings.data)
}
