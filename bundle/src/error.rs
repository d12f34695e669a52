//! What can be wrong with a bundle.

use std::path::{Path, PathBuf};

/// An error of reading or writing a bundle; each names the file, and the field where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {action}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, such as "cannot read".
        action: &'static str,
        /// The operating system's answer; not the error's source, for the message has it already.
        reason: std::io::Error,
    },
    /// The folder is not a bundle at all.
    #[error("{}: not a pinhole bundle: {reason}", path.display())]
    NotABundle {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A field of a file does not hold what it must.
    #[error("{}: field {field}: expected {expected}, found {found}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, dotted.
        field: String,
        /// What it must hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A file is not of the type that its name says.
    #[error("{}: not {expected}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The type, such as "valid JSON".
        expected: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A tensor is not what the bundle needs.
    #[error(
        "{}: tensor {tensor}: expected {expected}, found {found}; export the bundle again",
        path.display()
    )]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A file's bytes are not those that were exported.
    #[error(
        "{}: sha256: expected {expected}, found {found}; the file is damaged or was changed: copy the bundle again",
        path.display()
    )]
    Hash {
        /// The file.
        path: PathBuf,
        /// The manifest's hash.
        expected: String,
        /// The file's hash.
        found: String,
    },
    /// The destination exists; an export never overwrites.
    #[error("{}: exists already; remove it or choose another --out", .0.display())]
    Exists(PathBuf),
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str, reason: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            action,
            reason,
        }
    }

    pub(crate) fn field(
        path: &Path,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Field {
            path: path.to_owned(),
            field: field.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
