//! Counters of frames, screens, records and events.

use pinhole::camera::FrameCounters;
use serde::{Deserialize, Serialize};

/// Counters since the program started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunCounters {
    /// Seconds since the start.
    pub seconds: f64,
    /// Frames read from the source: the sum of the five counters below.
    pub frames: u64,
    /// Frames that were classified.
    pub classified: u64,
    /// Frames that were skipped because the scene had not changed.
    pub still: u64,
    /// Frames that were skipped because of `source.every`.
    pub skipped: u64,
    /// Frames that were replaced by a newer one.
    pub dropped: u64,
    /// Damaged frames.
    pub corrupt: u64,
    /// How often the source stalled.
    pub stalls: u64,
    /// How often the source was reopened.
    pub reopened: u64,
    /// Changes of state.
    pub events: u64,
    /// Bundles put into use, including the first.
    pub bundles_taken: u64,
    /// Bundles refused.
    pub bundles_refused: u64,
    /// Pictures sent to the display.
    pub screens_shown: u64,
    /// How often the display failed.
    pub display_failures: u64,
    /// Records passed to the log: written, lost or waiting.
    pub records: u64,
    /// Records written to the log.
    pub records_written: u64,
    /// Records lost.
    pub records_lost: u64,
    /// Events passed to MQTT: sent, lost or waiting.
    pub published: u64,
    /// Events acknowledged by the broker.
    pub published_sent: u64,
    /// Events lost.
    pub published_lost: u64,
    /// Events waiting for the broker.
    pub published_waiting: u64,
    /// Lines that standard output or standard error did not take.
    pub lines_lost: u64,
}

impl RunCounters {
    /// Sets the counters of frames.
    pub(crate) fn set_frames(&mut self, frames: &FrameCounters) {
        self.frames = frames.read;
        self.classified = frames.classified;
        self.still = frames.still;
        self.skipped = frames.skipped;
        self.dropped = frames.dropped;
        self.corrupt = frames.corrupt;
        self.stalls = frames.stalls;
        self.reopened = frames.reopened;
    }
}

pub(crate) fn sum_frames(a: &FrameCounters, b: &FrameCounters) -> FrameCounters {
    FrameCounters {
        read: a.read + b.read,
        classified: a.classified + b.classified,
        still: a.still + b.still,
        skipped: a.skipped + b.skipped,
        dropped: a.dropped + b.dropped,
        corrupt: a.corrupt + b.corrupt,
        skipped_bytes: a.skipped_bytes + b.skipped_bytes,
        stalls: a.stalls + b.stalls,
        reopened: a.reopened + b.reopened,
        unreported: a.unreported + b.unreported,
    }
}
