//! What a training reports while it runs.

use crate::log::LogRecord;

/// Progress of a training.
#[derive(Clone, Debug)]
pub enum TrainingEvent<'a> {
    /// Images were encoded; happens once, before the first update.
    Encoded {
        /// Images, or views of them, encoded so far.
        done: usize,
        /// The number to encode.
        total: usize,
    },
    /// An update, or another step, of a method without a log.
    Updated {
        /// Steps so far.
        done: u64,
        /// Steps of the whole training.
        total: u64,
        /// The loss.
        loss: f32,
    },
    /// A line of the log was written.
    Logged {
        /// The line.
        record: &'a LogRecord,
        /// Updates of the whole training.
        steps: u64,
    },
}
