//! What a camera reports apart from frames: counters, and events of the source.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::standard_streams::printable_path;

/// Counts of frames by outcome. `read` is the sum of the five counters after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounters {
    /// Frames that the source delivered, intact or not.
    pub read: u64,
    /// Frames handed out for classification.
    pub classified: u64,
    /// Frames that show the same scene as the last classified one.
    pub still: u64,
    /// Frames skipped because of [`CameraOptions::every`](super::CameraOptions::every).
    pub skipped: u64,
    /// Frames replaced by a newer one, or left over at the end.
    pub dropped: u64,
    /// Frames that could not be split off, decoded or preprocessed.
    pub corrupt: u64,
    /// Bytes of the stream that belong to no frame.
    pub skipped_bytes: u64,
    /// Number of stalls: no frame for longer than the timeout.
    pub stalls: u64,
    /// Number of times the source was reopened.
    pub reopened: u64,
    /// Events discarded because the caller did not fetch them in time.
    pub unreported: u64,
}

/// Something that happened to the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceEvent {
    /// When it happened.
    pub time: SystemTime,
    /// What happened.
    pub kind: SourceEventKind,
}

/// The kinds of [`SourceEvent`]; `Display` writes one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEventKind {
    /// No frame for longer than the timeout. Reported once per stall.
    Stalled {
        /// The timeout.
        timeout: Duration,
    },
    /// The first frame after a stall.
    Resumed {
        /// Time without a frame.
        after: Duration,
    },
    /// A frame that cannot be used. For streams, reported at most once per second; all are counted.
    Corrupt {
        /// Frame number, from 0.
        frame: u64,
        /// The file, if frames are files.
        file: Option<PathBuf>,
        /// What was expected and what was found.
        reason: String,
    },
    /// A file or folder in a folder of images that is not read. For files, reported once per extension.
    SkippedFile {
        /// The file or folder.
        file: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// Bytes that belong to no frame. Reported once each time the source is opened; all are counted.
    SkippedBytes {
        /// Bytes so far.
        bytes: u64,
    },
    /// The source ended or failed, and will be reopened.
    Lost {
        /// The reason.
        reason: String,
        /// Pause before the source is reopened.
        wait: Duration,
    },
    /// The source was reopened.
    Reopened,
}

impl std::fmt::Display for SourceEventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stalled { timeout } => {
                write!(f, "no frame for {:.1} s", timeout.as_secs_f64())
            }
            Self::Resumed { after } => {
                write!(f, "frames resumed after {:.1} s", after.as_secs_f64())
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
            } => write!(f, "{}: {reason}", printable_path(file)),
            Self::SkippedFile { file, reason } => {
                write!(f, "{}: skipped: {reason}", printable_path(file))
            }
            Self::SkippedBytes { bytes } => {
                write!(f, "skipped {bytes} bytes that belong to no frame")
            }
            Self::Lost { reason, wait } => {
                write!(f, "{reason}; reopening in {:.1} s", wait.as_secs_f64())
            }
            Self::Reopened => write!(f, "reopened"),
        }
    }
}
