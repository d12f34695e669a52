//! Records of the log, and their JSON.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pinhole::Ranked;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::counters::RunCounters;

/// A line of the log. The reader ignores unknown fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// Wall clock time: RFC 3339, UTC, in milliseconds. On a board without a clock battery it is wrong until the network
    /// has set the clock.
    #[serde(with = "rfc3339")]
    pub time: SystemTime,
    /// Seconds since the program started, by the monotonic clock.
    pub seconds: f64,
    /// The field `kind` and the fields of that kind.
    #[serde(flatten)]
    pub kind: RecordKind,
}

/// The kinds of [`ResultRecord`]. The JSON field `kind` is given for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RecordKind {
    /// `start`: the program started. Without an `end` before it, the previous run ended by a power cut, a crash or a kill.
    Start {
        /// Version of the program.
        version: String,
        /// Folder of the bundle.
        bundle: String,
    },
    /// `bundle`: a bundle was put into use.
    Bundle {
        /// Name, number of classes and precision.
        name: String,
    },
    /// `event`: the state changed. Synced within a quarter of a second.
    Event {
        /// Previous state: a class, "unknown", or null if there was none.
        from: Option<String>,
        /// New state: a class or "unknown".
        to: String,
        /// The most probable classes, at most three, in descending order.
        top: Vec<ClassScore>,
        /// What the probabilities are: "softmax", one of the classes, or "sigmoid", each class by itself; absent in logs of
        /// earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        score: Option<String>,
        /// Number of the frame since the program started, from 0.
        frame: u64,
    },
    /// `still_there`: the program runs and the state has not changed. Written at a configured interval.
    #[serde(rename = "still_there")]
    Heartbeat {
        /// The state: a class, "unknown", or null if there is none.
        state: Option<String>,
        /// Counters so far.
        #[serde(rename = "totals")]
        counters: Box<RunCounters>,
    },
    /// `error`: something failed and the program continued.
    Error {
        /// The part that failed, such as "camera", "display" or "bundle".
        #[serde(rename = "what")]
        component: String,
        /// The error.
        text: String,
    },
    /// `end`: the program was asked to stop, or the source ended.
    End {
        /// Counters of the whole run.
        #[serde(rename = "totals")]
        counters: Box<RunCounters>,
    },
}

/// A class with its scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// Class name.
    pub class: String,
    /// Its index in the bundle's list of classes, which may have the name several times; absent in logs of earlier
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Smoothed probability, 0 to 1.
    #[serde(deserialize_with = "number_or_nan")]
    pub probability: f32,
    /// Smoothed cosine similarity, -1 to 1.
    #[serde(deserialize_with = "number_or_nan")]
    pub similarity: f32,
}

impl ResultRecord {
    /// A record with the current time, in a program that started at `start`.
    pub fn now(kind: RecordKind, start: Instant) -> Self {
        Self {
            time: SystemTime::now(),
            seconds: start.elapsed().as_millis() as f64 / 1e3,
            kind,
        }
    }

    pub(super) fn is_event(&self) -> bool {
        matches!(self.kind, RecordKind::Event { .. })
    }
}

/// The most probable classes of `ranking`, as they are recorded: at most three.
pub(crate) fn top_classes(ranking: &[Ranked]) -> Vec<ClassScore> {
    let top = ranking.iter().take(3).map(|class| ClassScore {
        class: class.name.to_string(),
        index: Some(class.index),
        probability: class.probability,
        similarity: class.similarity,
    });
    top.collect()
}

/// Reads null as NaN: JSON has no NaN, and serde_json writes it as null.
fn number_or_nan<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f32::NAN))
}

pub(crate) mod rfc3339 {
    use super::*;

    /// The last second in RFC 3339: 9999-12-31T23:59:59Z.
    const LAST: Duration = Duration::from_secs(253_402_300_799);

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        // A clock that was never set may be outside the range of the format.
        let time = (*time).clamp(UNIX_EPOCH, UNIX_EPOCH + LAST);
        to.collect_str(&humantime::format_rfc3339_millis(time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}
