//! Errors of reading and writing checkpoints.

use std::path::{Path, PathBuf};

/// The models that Pinhole reads.
const SUPPORTED: &str = "CLIP models with a ViT or a ResNet of OpenAI's as image encoder and the causal CLIP text \
                         encoder, as OpenAI, open_clip and transformers save them";

/// Why a checkpoint cannot be read or written.
///
/// Every variant names the file, and the tensor or field where one is at fault, with what was expected
/// and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system reported an error.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried, for example `read`.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is damaged, or not in the format that its first bytes indicate.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// File.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// A valid file of a model that Pinhole does not run.
    #[error("{}: {found} is not supported; supported are {supported}", path.display())]
    Unsupported {
        /// File.
        path: PathBuf,
        /// What the file holds.
        found: String,
        /// What can be used instead.
        supported: &'static str,
    },
    /// A configuration file contradicts the weights, another file, or itself.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Config {
        /// Configuration file, or the weights.
        path: PathBuf,
        /// Field, dotted.
        field: String,
        /// What was expected, and why.
        expected: String,
        /// What was found.
        found: String,
    },
    /// No file states the activation function that the weights were trained with.
    #[error(
        "{}: the activation function is unknown: no configuration file names it and the weights do \
         not show it; pass --activation quickgelu (OpenAI, MetaCLIP and every *-quickgelu model) or \
         --activation gelu (LAION, DataComp and most other open_clip models)", path.display()
    )]
    UnknownActivation {
        /// The weights.
        path: PathBuf,
    },
    /// A tensor that the model needs is not in the file.
    #[error("{}: tensor {name} is missing, expected shape {expected:?}", path.display())]
    MissingTensor {
        /// File.
        path: PathBuf,
        /// Name as this file would spell it.
        name: String,
        /// Shape that the rest of the model requires.
        expected: Vec<usize>,
    },
    /// A tensor that is not part of the model.
    #[error(
        "{}: tensor {name} with shape {shape:?} is not part of this model: expected {expected}",
        path.display()
    )]
    SurplusTensor {
        /// File.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Shape in the file.
        shape: Vec<usize>,
        /// The inferred architecture in one line.
        expected: String,
    },
    /// A tensor whose shape does not fit the rest of the model.
    #[error("{}: tensor {name}: expected shape {expected:?}, found {found:?}", path.display())]
    Shape {
        /// File.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Shape that the rest of the model requires.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor of the wrong element type.
    #[error("{}: tensor {name}: expected type {expected}, found {found}", path.display())]
    Dtype {
        /// File.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// The supported types.
        expected: &'static str,
        /// Type in the file.
        found: String,
    },
    /// A tensor that only code in the file could build. Such code is never executed.
    #[error(
        "{}: tensor {name} is built by unknown global {global}, which is not executed; save the \
         plain state dict again, for example as safetensors", path.display()
    )]
    UnknownGlobal {
        /// File.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Python's dotted name.
        global: String,
    },
    /// NaN or infinity in a tensor.
    #[error(
        "{}: tensor {name}: expected finite values, found {value} at element {index}",
        path.display()
    )]
    NotFinite {
        /// File.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Row-major index of the first such element.
        index: usize,
        /// NaN, inf or -inf.
        value: f32,
    },
    /// The model or the state dict has no tensor of the requested name.
    #[error("{}: found no tensor named {name}", path.display())]
    NoSuchTensor {
        /// File.
        path: PathBuf,
        /// The requested name.
        name: String,
    },
    /// The folder exists, and [`Existing::Keep`](crate::Existing::Keep) was given.
    #[error("{}: already exists; remove it or choose another folder", path.display())]
    Exists {
        /// Folder.
        path: PathBuf,
    },
}

impl Error {
    pub(crate) fn io(
        path: &Path,
        action: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::Io {
            path,
            action,
            source,
        }
    }

    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Error {
        Error::Malformed {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(path: &Path, found: impl Into<String>) -> Error {
        Error::Unsupported {
            path: path.to_owned(),
            found: found.into(),
            supported: SUPPORTED,
        }
    }

    pub(crate) fn config(
        path: &Path,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Config {
            path: path.to_owned(),
            field: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}
