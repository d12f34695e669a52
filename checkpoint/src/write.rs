//! The one writer.
use crate::{ClipConfig, Error, Tensor};
use std::path::Path;

/// What to do when the folder exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Error.
    Keep,
    /// Replace it.
    Replace,
}
/// Writes a model; `tensor` is asked for every canonical name, one at a time.
pub fn write<E: From<Error>>(
    _folder: &Path,
    _config: &ClipConfig,
    _existing: Existing,
    _tensor: impl FnMut(&str) -> Result<Tensor, E>,
) -> Result<(), E> {
    todo!()
}
