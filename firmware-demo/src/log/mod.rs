//! The log of results: JSON lines that survive a power cut, in bounded space.
//!
//! The folder has numbered files, `results-000001.jsonl` and so on, of an eighth of the space each. The oldest are
//! deleted so that all of them together stay within it. A record is one line; once it is synced it is there after a
//! power cut. A line that was torn by one is cut off when the log is next opened.
//!
//! [`LogWriter`] writes it from a thread of its own, [`read`] reads it.

mod append;
mod lines;
mod read;
mod writer;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use append::Log;
pub use lines::MAX_LINE;
pub use read::{Reader, read};
pub use writer::{LogStatus, LogWriter};

use crate::totals::Totals;

/// A line of the log. Fields that are not known are passed over when it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// By the clock on the wall, RFC 3339 in UTC, to the millisecond. A board without a clock battery starts with a
    /// wrong time, until it is set by the network.
    #[serde(with = "rfc3339")]
    pub time: SystemTime,
    /// Seconds since the program started, by a clock that nobody sets.
    pub seconds: f64,
    /// What happened: the field `kind` and the fields of that kind.
    #[serde(flatten)]
    pub what: What,
}

/// What a [`Record`] tells; `kind` is the name in snake case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// `start`: the program started. Without an `end` before it, power was cut or the program was killed.
    Start {
        /// The program's version.
        version: String,
        /// Name of the bundle.
        bundle: String,
    },
    /// `bundle`: this bundle is used from now on.
    Bundle {
        /// Its name, classes and precision.
        name: String,
    },
    /// `event`: the state changed. Synced at once.
    Event {
        /// The state before: a class, "unknown", or null if there was none yet.
        from: Option<String>,
        /// The state since: a class or "unknown".
        to: String,
        /// The three most probable classes, the best first; fewer where there are fewer.
        top: Vec<Top>,
        /// Number of the frame since the program's start, from 0.
        frame: u64,
    },
    /// `still_there`: the program runs, told every so often.
    StillThere {
        /// The state: a class, "unknown", or null if there is none yet.
        state: Option<String>,
        /// What became of everything so far.
        totals: Box<Totals>,
    },
    /// `error`: something failed, and the program went on.
    Error {
        /// What it is about, such as "camera", "display" or "bundle".
        what: String,
        /// The error in words.
        text: String,
    },
    /// `end`: the program was asked to end.
    End {
        /// What became of everything.
        totals: Box<Totals>,
    },
}

/// A class of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Top {
    /// Name of the class.
    pub class: String,
    /// Smoothed probability, 0 to 1.
    #[serde(deserialize_with = "number")]
    pub probability: f32,
    /// Smoothed cosine similarity, -1 to 1.
    #[serde(deserialize_with = "number")]
    pub similarity: f32,
}

impl Record {
    /// A record of now, in a program that started at `start`.
    pub fn now(what: What, start: Instant) -> Self {
        Self {
            time: SystemTime::now(),
            seconds: start.elapsed().as_millis() as f64 / 1e3,
            what,
        }
    }

    fn is_event(&self) -> bool {
        matches!(self.what, What::Event { .. })
    }
}

/// Why the log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refuses.
    #[error("the log: {}: cannot {doing}: {error}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        error: std::io::Error,
    },
    /// Another process writes it.
    #[error(
        "the log: {}: another process writes it; end that one, or set log.folder to another folder",
        folder.display()
    )]
    InUse {
        /// The log's folder.
        folder: PathBuf,
    },
    /// The file that is written was deleted.
    #[error("the log: {}: the file was deleted while it was written", path.display())]
    Deleted {
        /// The file.
        path: PathBuf,
    },
    /// A record is longer than a reader takes.
    #[error("the log: expected a record of {MAX_LINE} bytes or less, found {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

impl Error {
    fn io(path: impl Into<PathBuf>, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { path, doing, error }
    }
}

/// JSON has no other way to write what is no number.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f32::NAN))
}

mod rfc3339 {
    use super::*;

    /// The last second that RFC 3339 can say: 9999-12-31T23:59:59Z.
    const LAST: Duration = Duration::from_secs(253_402_300_799);

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        // Some clocks start where no format reaches.
        let time = (*time).clamp(UNIX_EPOCH, UNIX_EPOCH + LAST);
        to.collect_str(&humantime::format_rfc3339_millis(time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}
