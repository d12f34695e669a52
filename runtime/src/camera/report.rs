//! What a camera tells beside its frames: counters, reports, errors.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::Region;

/// What became of the frames. `read` is the sum of the five counters after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that the source brought, whole or not.
    pub read: u64,
    /// Frames given out to be classified.
    pub classified: u64,
    /// Frames that the gate found to show what was classified before.
    pub still: u64,
    /// Frames passed over because only every n-th is asked for.
    pub skipped: u64,
    /// Frames that a newer one replaced, or that the end found unused.
    pub dropped: u64,
    /// Frames that could not be split off, decoded or preprocessed.
    pub corrupt: u64,
    /// Bytes of the stream that are part of no frame.
    pub skipped_bytes: u64,
    /// Times without a frame for longer than the time-out.
    pub stalls: u64,
    /// Times that the source was opened again.
    pub reopened: u64,
    /// Reports that nobody took in time.
    pub unreported: u64,
}

/// Something that happened to the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// When.
    pub at: SystemTime,
    /// What.
    pub kind: ReportKind,
}

/// What a [`Report`] tells; `Display` says it in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// No frame for longer than the time-out. Told once until a frame comes.
    Stalled {
        /// The time-out.
        timeout: Duration,
    },
    /// A frame after a stall.
    Resumed {
        /// Time without a frame.
        after: Duration,
    },
    /// A frame that cannot be used. Of a stream, one in a second is told, and all are counted.
    Corrupt {
        /// Number of the frame, from 0.
        frame: u64,
        /// Name of the file, if frames are files.
        file: Option<PathBuf>,
        /// What was expected and what was found.
        reason: String,
    },
    /// Bytes that are part of no frame. Told once for each opening of the source; all are counted.
    SkippedBytes {
        /// How many so far.
        bytes: u64,
    },
    /// The source ended or failed, and will be opened again.
    Lost {
        /// Why.
        reason: String,
        /// Pause before it is opened.
        wait: Duration,
    },
    /// The source was opened again.
    Reopened,
}

impl std::fmt::Display for ReportKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stalled { timeout } => {
                write!(f, "no frame for {:.1} s", timeout.as_secs_f64())
            }
            Self::Resumed { after } => {
                write!(f, "a frame again, after {:.1} s", after.as_secs_f64())
            }
            Self::Corrupt {
                frame,
                file: None,
                reason,
            } => write!(f, "frame {frame}: {reason}"),
            Self::Corrupt {
                file: Some(file),
                reason,
                ..
            } => write!(f, "{}: {reason}", file.display()),
            Self::SkippedBytes { bytes } => {
                write!(f, "skipped {bytes} bytes that are part of no frame")
            }
            Self::Lost { reason, wait } => {
                write!(
                    f,
                    "{reason}; opening it again in {:.1} s",
                    wait.as_secs_f64()
                )
            }
            Self::Reopened => write!(f, "opened again"),
        }
    }
}

/// An error that a camera cannot go on after.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source cannot be opened.
    #[error("{}: cannot open: {reason}", path.display())]
    Open {
        /// File, folder or device.
        path: PathBuf,
        /// The system's answer, or what was expected and what was found.
        reason: String,
    },
    /// A source that cannot be opened again failed.
    #[error("{name}: {reason}")]
    Source {
        /// Name of the source.
        name: String,
        /// The system's answer, or what was expected and what was found.
        reason: String,
    },
    /// The region of interest is not inside the first frame.
    #[error("region {region}: expected one inside the frame of {width} x {height} pixels")]
    Region {
        /// What was asked for.
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
    /// The system gave no thread.
    #[error("cannot start the thread {name}: {error}")]
    Thread {
        /// What the thread is for.
        name: &'static str,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The classifier failed.
    #[error(transparent)]
    Classifier(#[from] crate::Error),
}
