//! The log of results: JSON lines in bounded space that survive a power cut.
//!
//! The folder holds numbered files, `results-000001.jsonl` and so on, each of at most an eighth of the space. The oldest
//! are deleted to stay within it. A record is one line; after a sync it survives a power cut. A torn last line is
//! truncated when the log is next opened.
//!
//! [`LogWriter`] appends records from a thread of its own; [`read`] reads them.

mod append;
mod lines;
mod read;
mod record;
mod segments;
mod writer;

use std::path::PathBuf;

pub use append::LogAppender;
pub use lines::MAX_LINE;
pub use read::{LogReader, read};
#[cfg(feature = "mqtt")]
pub(crate) use record::rfc3339;
pub(crate) use record::top_classes;
pub use record::{ClassScore, RecordKind, ResultRecord};
pub use writer::{LogStatus, LogWriter};

use crate::access::{self, Access};

/// Why the log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("log: {}: cannot {operation}: {}", path.display(), access::explain(path, Access::Create, error))]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The operation.
        operation: &'static str,
        /// The system's error.
        error: std::io::Error,
    },
    /// Another process writes to the log.
    #[error(
        "log: {}: another process writes to this folder; stop it, or set log.folder to another folder",
        folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The open file was deleted.
    #[error("log: {}: the file was deleted while it was open", path.display())]
    Deleted {
        /// The file.
        path: PathBuf,
    },
    /// A record exceeds the length limit.
    #[error("log: expected a record of at most {MAX_LINE} bytes, found {bytes}")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
}

impl LogError {
    fn io(
        path: impl Into<PathBuf>,
        operation: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io {
            path,
            operation,
            error,
        }
    }
}
