//! Errors of reading and writing bundles.

use std::path::{Path, PathBuf};

/// Why a bundle cannot be read or written. Every variant names the file, and the field if there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system reported an error.
    #[error("{}: {action}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, such as "cannot read".
        action: &'static str,
        /// The system's error. It is not the `source`, because the message has it already.
        reason: std::io::Error,
    },
    /// The path is no folder, or the folder is not a bundle at all.
    #[error("{}: not a pinhole bundle: {reason}", path.display())]
    NotABundle {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A field has a value that is not allowed.
    #[error("{}: field {field}: expected {expected}, found {found}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, dotted.
        field: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A file does not have the format that its name indicates.
    #[error("{}: not {expected}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format, such as "valid JSON".
        expected: &'static str,
        /// The parser's error.
        reason: String,
    },
    /// A tensor is missing, or has the wrong type or values.
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
    /// A file's content is not what was exported.
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
    /// Another process is changing the bundle, and did not end in time.
    #[error(
        "{}: {holder} is changing this bundle; waited {seconds} s; try again when it has ended",
        path.display()
    )]
    Locked {
        /// The bundle's folder.
        path: PathBuf,
        /// The process, such as "process 1234 (pinhole)", or "another process".
        holder: String,
        /// How long this process waited.
        seconds: u64,
    },
    /// The destination exists, and an export does not overwrite it.
    #[error("{}: already exists; remove it or choose another --out", .0.display())]
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
