//! The capture thread: reads frames from the source, and reopens it.

use std::sync::Arc;
use std::time::Duration;

use super::capture::{Capture, Poll};
use super::error::CameraError;
use super::event::SourceEventKind;
use super::slot::Shared;
use super::source::FrameSource;

/// The longest pause before reopening, as a multiple of the first.
const MAX_PAUSE_FACTOR: u32 = 30;

pub(super) struct CaptureThread {
    pub(super) source: FrameSource,
    pub(super) every: u64,
    /// The first pause before reopening the source.
    pub(super) pause: Duration,
}

impl CaptureThread {
    /// Runs until the source has ended for good or the camera is stopped.
    pub(super) fn run(
        mut self,
        mut capture: Box<dyn Capture>,
        shared: &Arc<Shared>,
    ) -> Result<(), CameraError> {
        let source = &mut self.source.0;
        let mut pause = self.pause;
        loop {
            let read_before = shared.counters().read;
            let ended = read_frames(capture.as_mut(), self.every, shared);
            // Closed first: a device can be open only once.
            drop(capture);
            if shared.stopped() {
                return Ok(());
            }
            if !source.can_reopen() {
                return ended.map_err(|e| CameraError::Source {
                    name: source.name(),
                    reason: e.to_string(),
                });
            }
            if shared.counters().read > read_before {
                pause = self.pause;
            }
            let mut reason = match ended {
                Ok(()) => format!("{}: the source ended", source.name()),
                Err(e) => format!("{}: {e}", source.name()),
            };
            capture = loop {
                shared.push_event(SourceEventKind::Lost {
                    reason,
                    wait: pause,
                });
                shared.sleep(pause);
                if shared.stopped() {
                    return Ok(());
                }
                pause = (pause * 2).min(self.pause * MAX_PAUSE_FACTOR);
                match source.open(shared) {
                    Ok(capture) => break capture,
                    Err(e) => reason = e.to_string(),
                }
            };
            shared.count(|c| c.reopened += 1);
            shared.push_event(SourceEventKind::Reopened);
        }
    }
}

/// Reads frames until the source ends.
fn read_frames(capture: &mut dyn Capture, every: u64, shared: &Shared) -> std::io::Result<()> {
    let mut skipped_before = 0;
    loop {
        let polled = capture.next();
        let skipped = capture.skipped_bytes();
        if skipped > skipped_before {
            shared.count(|c| c.skipped_bytes += skipped - skipped_before);
            if skipped_before == 0 {
                shared.push_event(SourceEventKind::SkippedBytes { bytes: skipped });
            }
            skipped_before = skipped;
        }
        if shared.stopped() {
            return Ok(());
        }
        match polled? {
            Some(Poll::Frame(encoded)) => shared.push_captured(encoded, every),
            Some(Poll::Corrupt { file, reason }) => shared.push_captured_corrupt(file, reason),
            None => return Ok(()),
        }
    }
}
