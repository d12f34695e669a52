//! The crate's error.

use std::path::PathBuf;

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error of training, evaluation or their data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("{path}: {reason}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        reason: std::io::Error,
    },
    /// A data set has the wrong structure or content.
    #[error("{path}: {problem}", path = path.display())]
    Data {
        /// The list or folder.
        path: PathBuf,
        /// What was found, what was expected and what to do.
        problem: String,
    },
    /// An image cannot be read.
    #[error("{path}: cannot read the image", path = path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// The cause.
        source: pinhole_preprocessing::Error,
    },
    /// A training state or result does not match the options, data or model.
    #[error("{path}: {problem}", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        problem: String,
    },
    /// Options that are out of range or exclude each other, whatever the files hold.
    #[error("{0}")]
    Options(String),
    /// Options, a model and data that do not fit each other.
    #[error("{0}")]
    Config(String),
    /// A model checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] pinhole_checkpoint::Error),
    /// A bundle cannot be opened or run.
    #[error(transparent)]
    Bundle(#[from] pinhole::Error),
    /// A prompt or prompt learner does not fit the model.
    #[error(transparent)]
    Prompts(#[from] pinhole_prompts::Error),
    /// Preprocessing failed.
    #[error(transparent)]
    Preprocessing(#[from] pinhole_preprocessing::Error),
    /// An operation on tensors failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
    /// The loss is NaN or infinite.
    #[error("step {step}: the loss is {loss}; lower --learning-rate or raise --warm-up")]
    Diverged {
        /// Step of the training.
        step: u64,
        /// The loss.
        loss: f32,
    },
}

/// For `map_err`: adds the path to an I/O error.
pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |reason| Error::Io { path, reason }
}
