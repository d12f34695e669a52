//! The capture thread: brings frames from the source, and opens it again where that can be done.

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::report::ReportKind;
use super::slot::Shared;
use super::source::{Came, Capture, Source};

/// The longest pause before a source is opened again, in first pauses.
const MAX_PAUSES: u32 = 30;

pub(super) struct Capturing {
    pub(super) source: Source,
    pub(super) every: u64,
    /// The first pause before a source is opened again.
    pub(super) pause: Duration,
}

impl Capturing {
    /// Runs until the source has ended for good, or the camera is stopped.
    pub(super) fn run(
        mut self,
        mut open: Box<dyn Capture>,
        shared: &Arc<Shared>,
    ) -> Result<(), Error> {
        let mut pause = self.pause;
        loop {
            let before = shared.counters().read;
            let ended = self.bring(open.as_mut(), shared);
            // Closed before it is opened again: a device can be opened once.
            drop(open);
            if shared.stopped() {
                return Ok(());
            }
            if !self.source.reopens() {
                return ended.map_err(|e| Error::Source {
                    name: self.source.name(),
                    reason: e.to_string(),
                });
            }
            if shared.counters().read > before {
                pause = self.pause;
            }
            let mut reason = match ended {
                Ok(()) => format!("{}: the source ended", self.source.name()),
                Err(e) => format!("{}: {e}", self.source.name()),
            };
            open = loop {
                shared.report(ReportKind::Lost {
                    reason,
                    wait: pause,
                });
                shared.sleep(pause);
                if shared.stopped() {
                    return Ok(());
                }
                pause = (pause * 2).min(self.pause * MAX_PAUSES);
                match self.source.open(shared) {
                    Ok(open) => break open,
                    Err(e) => reason = e.to_string(),
                }
            };
            shared.count(|c| c.reopened += 1);
            shared.report(ReportKind::Reopened);
        }
    }

    /// Brings frames until the source ends.
    fn bring(&self, open: &mut dyn Capture, shared: &Shared) -> std::io::Result<()> {
        let mut skipped = 0;
        loop {
            let came = open.next();
            let now = open.skipped_bytes();
            if now > skipped {
                shared.count(|c| c.skipped_bytes += now - skipped);
                if skipped == 0 {
                    shared.report(ReportKind::SkippedBytes { bytes: now });
                }
                skipped = now;
            }
            if shared.stopped() {
                return Ok(());
            }
            match came? {
                Some(Came::Frame(encoded)) => shared.came(encoded, self.every),
                Some(Came::Corrupt { file, reason }) => shared.came_corrupt(file, reason),
                None => return Ok(()),
            }
        }
    }
}
