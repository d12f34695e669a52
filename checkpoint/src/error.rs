//! What can be wrong with a checkpoint.

use std::path::{Path, PathBuf};

/// Why a checkpoint cannot be read or written.
///
/// Every variant names the file; where a tensor or a field of a configuration file is to blame it
/// is named too, with what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried, for example `read`.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is damaged, or is no file of the format that its first bytes promise.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// File.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// A file that is read well but holds something that Pinhole does not run.
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
        /// Configuration file, or the weights if it is they that do not fit.
        path: PathBuf,
        /// Field, dotted.
        field: String,
        /// What was expected, and why.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// Nothing says which activation function the weights were trained with.
    #[error(
        "{}: the activation function is unknown: no configuration file names it and it cannot be \
         told from the weights; say --activation quickgelu (OpenAI's, MetaCLIP's and every \
         *-quickgelu model) or --activation gelu (LAION's, DataComp's and most other open_clip \
         models)", path.display()
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
        /// Name as it would be spelt in this file.
        name: String,
        /// Shape that the rest of the model asks for.
        expected: Vec<usize>,
    },
    /// A tensor that the model has no place for.
    #[error(
        "{}: tensor {name} with shape {shape:?} has no place in this model: expected {expected}",
        path.display()
    )]
    SurplusTensor {
        /// File.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Shape in the file.
        shape: Vec<usize>,
        /// The architecture that was inferred, in words.
        expected: String,
    },
    /// A tensor whose shape does not fit the rest of the model.
    #[error("{}: tensor {name}: expected shape {expected:?}, found {found:?}", path.display())]
    Shape {
        /// File.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Shape that the rest of the model asks for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor of a type that these weights do not have.
    #[error("{}: tensor {name}: expected type {expected}, found {found}", path.display())]
    Dtype {
        /// File.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// The types that do.
        expected: &'static str,
        /// Type in the file.
        found: String,
    },
    /// A tensor that only code in the file could build; it is never executed.
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
    /// NaN or infinity in a weight.
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
    /// A name was asked for that the model or the state dict does not have.
    #[error("{}: there is no tensor named {name}", path.display())]
    NoSuchTensor {
        /// File.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// The writer does not overwrite unless it is told to.
    #[error("{}: already exists; choose another folder or ask to replace it", path.display())]
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
            supported: "CLIP models with a ViT or a ModifiedResNet image tower and the causal CLIP \
                        text tower, as OpenAI, open_clip and transformers save them",
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
