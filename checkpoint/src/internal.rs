//! For tests of this repository: the parsers by themselves. Unstable: anything in it can change in any release.

use std::path::Path;

use crate::{Error, budget::Budget, open_clip, pickle, transformers};

/// Interprets one pickle.
///
/// # Errors
/// What was expected and found.
pub fn read_pickle(bytes: &[u8]) -> Result<(), String> {
    pickle::read(bytes, &mut Budget::new()).map(drop)
}

/// Reads open_clip's configuration.
///
/// # Errors
/// As [`Checkpoint::open`](crate::Checkpoint::open).
pub fn read_open_clip_config(path: &Path) -> Result<(), Error> {
    open_clip::read(path).map(drop)
}

/// Reads `config.json`, `preprocessor_config.json` or `tokenizer_config.json` of transformers.
///
/// # Errors
/// As [`Checkpoint::open`](crate::Checkpoint::open), of all.
pub fn read_transformers_config(path: &Path) -> Result<(), Error> {
    let model = transformers::read(path).map(drop);
    let tokenizer = transformers::check_tokenizer(path);
    model
        .or(transformers::read_preprocessing(path).map(drop))
        .and(tokenizer)
}
