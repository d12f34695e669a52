//! The text encoder of a bundle.

use std::path::Path;

use pinhole_bundle::{Bundle, HeadKind, TEXT_ENCODER, TensorFile, TextEncoderInfo};
use pinhole_model::Precision;
use pinhole_prompts::{TextEncoder, Weight};

use crate::Error;

/// The bundle's text encoder, with token embeddings for all tokens or for those of its classes.
///
/// # Errors
/// [`Error::NoTextEncoder`]; [`Error::Bundle`] if the file is not what was exported; as [`text_encoder_in`].
pub(crate) fn text_encoder(bundle: &Bundle) -> Result<TextEncoder, Error> {
    let manifest = bundle.manifest();
    let info = manifest.text_encoder.as_ref();
    let info = info.ok_or_else(|| Error::NoTextEncoder {
        bundle: bundle.folder().to_owned(),
    })?;
    if manifest.head != HeadKind::Conditional {
        // Not checked with the other files.
        bundle.check_text_encoder()?;
    }
    text_encoder_in(bundle.folder(), info, manifest.model.embedding_size)
}

/// Loads `text_encoder.safetensors` in `folder`, which `info` describes.
///
/// # Errors
/// [`Error::TextEncoder`] if it contradicts `info`; [`Error::Text`] if it cannot be read.
pub fn text_encoder_in(
    folder: &Path,
    info: &TextEncoderInfo,
    embedding_size: usize,
) -> Result<TextEncoder, Error> {
    let path = folder.join(TEXT_ENCODER);
    let file = TensorFile::open(&path)?;
    let (config, embedding) = (info.config.clone(), embedding_size);
    let int8 = info.precision == Precision::Int8;
    let read = |name: &str| -> Result<Weight, pinhole_bundle::Error> {
        if !(int8 && TextEncoder::takes_int8(name)) {
            return Ok(Weight::F32(file.tensor(name)?));
        }
        Ok(Weight::Int8 {
            weight: file.tensor_i8(name)?,
            scales: file.tensor(&TextEncoder::scales_name(name))?,
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
        // Names the file already.
        pinhole_prompts::Error::Weights(_) => source.into(),
        _ => Error::TextEncoder {
            path,
            reason: Box::new(source),
        },
    })
}
