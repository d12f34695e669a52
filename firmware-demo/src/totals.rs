//! What became of frames, screens, records and events.

use pinhole::camera::Counters;
use serde::{Deserialize, Serialize};

/// What became of everything; each sum in it adds up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Seconds since the start.
    pub seconds: f64,
    /// Frames that the source brought: the sum of the five counters below.
    pub frames: u64,
    /// Of them, classified.
    pub classified: u64,
    /// Of them, like the one before.
    pub still: u64,
    /// Of them, passed over because of `source.every`.
    pub skipped: u64,
    /// Of them, replaced by a newer one.
    pub dropped: u64,
    /// Of them, damaged.
    pub corrupt: u64,
    /// Times without a frame for too long.
    pub stalls: u64,
    /// Times that the camera was opened again.
    pub reopened: u64,
    /// Changes of what is seen.
    pub events: u64,
    /// Bundles taken, the first one too.
    pub bundles_taken: u64,
    /// Bundles refused.
    pub bundles_refused: u64,
    /// Pictures shown on the display.
    pub screens_shown: u64,
    /// Times that the display failed.
    pub display_failures: u64,
    /// Records asked for: the sum of those written, those lost and those that wait.
    pub records: u64,
    /// Records in the log.
    pub records_written: u64,
    /// Records that are lost.
    pub records_lost: u64,
    /// Events for the broker: the sum of those sent, those lost and those that wait.
    pub published: u64,
    /// Events that the broker has acknowledged.
    pub published_sent: u64,
    /// Events that are lost.
    pub published_lost: u64,
    /// Events that wait for the broker.
    pub published_waiting: u64,
}

impl Totals {
    /// Puts in what became of the frames.
    pub(crate) fn count_frames(&mut self, frames: &Counters) {
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
