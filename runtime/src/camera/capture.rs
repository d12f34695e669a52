//! The interface between the capture thread and the kinds of sources.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::CameraError;
use super::frame::EncodedFrame;
use super::slot::Shared;

/// How long a wait for input lasts before it checks whether the camera was stopped.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A source of frames that can be opened, and reopened if [`CaptureSource::can_reopen`].
pub(super) trait CaptureSource: Send {
    /// For messages: path, program or device.
    fn name(&self) -> String;

    /// See [`FrameSource::is_live`](super::source::FrameSource::is_live).
    fn is_live(&self) -> bool;

    /// Whether to reopen the source after it ends or fails.
    fn can_reopen(&self) -> bool;

    /// Whether [`Capture::next`] returns soon after the camera is stopped.
    fn is_interruptible(&self) -> bool {
        true
    }

    fn open(&mut self, shared: &Arc<Shared>) -> Result<Box<dyn Capture>, CameraError>;
}

/// An open source.
pub(super) trait Capture: Send {
    /// Waits for the next frame; `None` at the end of the source. Also returns an error if the camera was stopped.
    fn next(&mut self) -> std::io::Result<Option<Poll>>;

    /// Bytes so far that belong to no frame.
    fn skipped_bytes(&self) -> u64 {
        0
    }
}

/// What [`Capture::next`] found.
pub(super) enum Poll {
    Frame(EncodedFrame),
    Corrupt {
        file: Option<PathBuf>,
        reason: String,
    },
}
