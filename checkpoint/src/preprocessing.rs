//! The preprocessing of a model that this crate need not know otherwise.

use std::path::Path;

use pinhole_model::PreprocessConfig;

use crate::{Error, open_clip, transformers};

/// Reads how images are preprocessed: from open_clip's `open_clip_config.json` (`preprocess_cfg`), whatever the model, or
/// from transformers' `preprocessor_config.json`.
///
/// # Errors
/// A file that cannot be read; a field that is missing or not supported.
pub fn read_preprocessing(path: &Path) -> Result<PreprocessConfig, Error> {
    match open_clip::read_preprocessing_alone(path)? {
        Some(config) => Ok(config),
        None => transformers::read_preprocessing(path),
    }
}
