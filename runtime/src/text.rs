//! The text encoder in a bundle: new classes on the board.

use std::path::Path;

use pinhole_bundle::{
    Bundle, BundleWriter, HEAD, Head, HeadKind, Manifest, TEXT_ENCODER, TensorFile,
    TextEncoderInfo, UnknownPolicy,
};
use pinhole_model::{Precision, PromptLearner};
use pinhole_prompts::{
    Classes, Templates, TextEncoder, Tokenizer, Weight, class_embeddings, learned_embeddings,
};

use crate::Error;
use crate::conditional::{fit_conditional, learner};

/// The head's tensor with embeddings of calibration images.
const CALIBRATION: &str = "calibration_embeddings";

/// Gives the bundle in `folder` other classes; it must have been exported with its text encoder.
///
/// Classes that the bundle has already keep their vectors; a conditional head's cheaper modes are fitted
/// again, to embeddings of calibration images that the bundle kept. The bundle is replaced as a whole, so that
/// a power cut leaves either the old or the new one. What was measured on the old classes goes: the
/// temperature is 1 again, and the thresholds for "unknown" are unset. Work is shared among the
/// threads of rayon's current pool; `progress` is called with prompts done and all prompts.
///
/// # Errors
/// [`Error::NoTextEncoder`]; [`Error::Bundle`] for a bundle that is damaged or cannot be replaced;
/// [`Error::Text`] for a class name that does not fit.
pub fn set_classes(
    folder: impl AsRef<Path>,
    classes: &Classes,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Manifest, Error> {
    let bundle = Bundle::open(folder.as_ref())?;
    let whole = bundle.manifest().text_encoder.as_ref();
    if whole.is_none_or(|text| !text.tokens.is_empty()) {
        return Err(Error::NoTextEncoder {
            bundle: bundle.folder().to_owned(),
        });
    }
    let tower = text_tower(&bundle)?;
    let (old, head) = (bundle.manifest(), bundle.head());
    let (names, dim) = (classes.names(), old.model.embedding_size);
    let known = |name: &String| old.classes.iter().position(|class| class == name);
    let fresh: Vec<&String> = names.iter().filter(|name| known(name).is_none()).collect();
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
            &tower,
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
        if !fresh.is_empty() {
            let fresh = Classes::new(fresh)?;
            embedded = embed(&bundle, &tower, &fresh, progress)?;
        }
        let mut embedded = embedded.chunks_exact(dim);
        let mut rows = Vec::with_capacity(names.len() * dim);
        for name in names {
            match known(name) {
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
        calibration: None,
        conditional,
        unknown: UnknownPolicy {
            negatives: old.unknown.negatives.clone(),
            ..UnknownPolicy::default()
        },
        ..old.clone()
    };
    let writer = BundleWriter::succeed(&bundle)?;
    writer.add_head(&new_head)?;
    writer.replace(&mut manifest)?;
    Ok(manifest)
}

/// The embeddings of new classes, by the prompts of the old ones.
fn embed(
    bundle: &Bundle,
    tower: &TextEncoder,
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
            learned_embeddings(tower, &tokenizer, classes, &learner, position, progress)?
        }
        _ => {
            let templates = Templates::recorded(&manifest.templates, "manifest.json: templates")?;
            class_embeddings(tower, &tokenizer, classes, &templates, progress)?
        }
    };
    Ok(embeddings.data)
}

/// The bundle's text tower, with the rows of the tokens that it holds.
///
/// # Errors
/// [`Error::NoTextEncoder`]; as [`text_encoder_in`].
pub(crate) fn text_tower(bundle: &Bundle) -> Result<TextEncoder, Error> {
    let manifest = bundle.manifest();
    let info = manifest.text_encoder.as_ref();
    let info = info.ok_or_else(|| Error::NoTextEncoder {
        bundle: bundle.folder().to_owned(),
    })?;
    text_encoder_in(bundle.folder(), info, manifest.model.embedding_size)
}

/// The text encoder of `text_encoder.safetensors` in `folder`, which `info` describes.
///
/// # Errors
/// [`Error::TextEncoder`] for one that is not as `info` says, and [`Error::Text`] for one that cannot be read.
pub fn text_encoder_in(
    folder: &Path,
    info: &TextEncoderInfo,
    embedding_size: usize,
) -> Result<TextEncoder, Error> {
    let path = folder.join(TEXT_ENCODER);
    let file = TensorFile::open(&path)?;
    let (config, embedding) = (info.config.clone(), embedding_size);
    let integers = info.precision == Precision::Int8;
    let read = |name: &str| -> Result<Weight, pinhole_bundle::Error> {
        Ok(match integers && TextEncoder::takes_int8(name) {
            true => Weight::Int8 {
                weight: file.tensor_i8(name)?,
                scales: file.tensor(&TextEncoder::scales_name(name))?,
            },
            false => Weight::F32(file.tensor(name)?),
        })
    };
    let tensor =
        |name: &str| read(name).map_err(|error| pinhole_prompts::Error::Weights(error.into()));
    let activation = info.activation;
    match info.tokens.as_slice() {
        [] => TextEncoder::new(config, embedding, activation, tensor),
        ids => TextEncoder::with_token_ids(config, embedding, activation, ids.to_vec(), tensor),
    }
    .map_err(|source| match source {
        // It names the file.
        pinhole_prompts::Error::Weights(_) => source.into(),
        _ => Error::TextEncoder {
            path,
            reason: Box::new(source),
        },
    })
}
