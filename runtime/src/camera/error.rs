//! Errors that end a camera.

use std::path::PathBuf;

use super::region::Region;
use crate::standard_streams::printable_path;

/// An error after which a camera cannot continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CameraError {
    /// The source cannot be opened.
    #[error("{}: cannot open: {reason}", printable_path(path))]
    Open {
        /// File, folder or device.
        path: PathBuf,
        /// The system's error, or what was expected and what was found.
        reason: String,
    },
    /// A source that cannot be reopened failed.
    #[error("{name}: {reason}")]
    Source {
        /// Name of the source.
        name: String,
        /// The system's error, or what was expected and what was found.
        reason: String,
    },
    /// The region of interest is not inside the first frame.
    #[error("region {region}: expected a region inside the frame of {width} x {height} pixels")]
    Region {
        /// The requested region.
        region: Region,
        /// Width of the frame in pixels.
        width: u32,
        /// Height of the frame in pixels.
        height: u32,
    },
    /// An option is out of range.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        found: String,
    },
    /// A thread cannot be started.
    #[error("cannot start the {name} thread: {error}")]
    Thread {
        /// Name of the thread.
        name: &'static str,
        /// The system's error.
        error: std::io::Error,
    },
    /// The classifier failed.
    #[error(transparent)]
    Classifier(#[from] crate::error::Error),
}
