//! The appliance's state, as it is published and kept at the broker.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::log::ClassScore;

/// The state. Its JSON is a contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct StateReport {
    /// The class or "unknown"; null before the first and while nothing can be classified.
    pub(crate) class: Option<String>,
    /// The class's index in the bundle, which may have its name several times; null for "unknown" and without a class.
    pub(crate) index: Option<usize>,
    /// Smoothed probability of the class when it became the state, 0 to 1; null for "unknown" and without a class.
    pub(crate) probability: Option<f32>,
    /// What the probability is: "softmax", one of the classes, or "sigmoid", each class by itself; null where it is.
    pub(crate) score: Option<&'static str>,
    /// The most probable classes when it became the state, at most three, in descending order; empty without a class.
    pub(crate) top: Vec<ClassScore>,
    /// Since when this is the class or the error: RFC 3339, UTC, in milliseconds.
    #[serde(serialize_with = "crate::log::rfc3339::serialize")]
    pub(crate) since: SystemTime,
    /// Why nothing can be classified; null while it works.
    pub(crate) error: Option<String>,
    /// The camera.
    pub(crate) camera: Health,
    /// The bundle.
    pub(crate) bundle: Health,
}

/// The health of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Health {
    /// Whether it is in use: the camera has delivered a frame since its last failure; there is a bundle.
    pub(crate) ok: bool,
    /// What is wrong with it, such as a new bundle that was refused while the previous one is used; null if nothing is.
    pub(crate) error: Option<String>,
}

impl StateReport {
    /// Whether a subscriber has to be told, which knows `before`. The probability alone is no reason. The time is one
    /// when the clock was set.
    pub(crate) fn differs(&self, before: &Self) -> bool {
        const JUMP: Duration = Duration::from_secs(2);
        let later = self.since.duration_since(before.since);
        let shift = later.unwrap_or_else(|earlier| earlier.duration());
        (&self.class, self.index, &self.error) != (&before.class, before.index, &before.error)
            || (&self.camera, &self.bundle) != (&before.camera, &before.bundle)
            || shift > JUMP
    }
}

/// How the appliance is. Its JSON is a contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DiagnosticsReport {
    /// Temperature of the processor in degrees Celsius; null if the system does not report it.
    pub(crate) temperature_c: Option<f64>,
    /// Classified frames per second, smoothed; 0 while nothing is classified.
    pub(crate) frames_per_second: f64,
    /// Whether the board is throttled because of heat or low voltage.
    pub(crate) throttled: bool,
    /// The bundle: folder, number of classes, precision; null without one.
    pub(crate) bundle: Option<String>,
}

impl DiagnosticsReport {
    /// Whether a subscriber has to be told at once, which knows `before`.
    pub(crate) fn differs(&self, before: &Self) -> bool {
        (self.throttled, &self.bundle) != (before.throttled, &before.bundle)
    }
}
