//! The table `[thresholds]`.

use serde::Deserialize;

use crate::validation::{FieldError, require, require_seconds};

/// When the state changes and when it is "unknown".
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThresholdsConfig {
    /// Minimum cosine similarity of the top class, -1 to 1; the bundle's if `None`.
    pub min_similarity: Option<f32>,
    /// Minimum difference in similarity between the top two classes; the bundle's if `None`.
    pub min_margin: Option<f32>,
    /// Time constant of the smoothing in frames; 0 for none.
    pub smoothing: f32,
    /// Number of consecutive frames for which a class must lead before it becomes the state, at least 1.
    pub hysteresis: u32,
    /// Seconds for which it must also lead.
    pub hysteresis_seconds: f64,
    /// Lead in probability (0 to 1) that makes a class the state at once. `lead` was its name before.
    #[serde(alias = "lead")]
    pub margin: Option<f32>,
    /// Minimum number of seconds between two changes of the state.
    pub cool_down_seconds: f64,
}

impl Default for ThresholdsConfig {
    fn default() -> Self {
        let tracker = pinhole::camera::TrackerOptions::default();
        Self {
            min_similarity: None,
            min_margin: None,
            smoothing: tracker.smoothing,
            hysteresis: tracker.hysteresis,
            hysteresis_seconds: tracker.hysteresis_time.as_secs_f64(),
            margin: tracker.margin,
            cool_down_seconds: tracker.cool_down.as_secs_f64(),
        }
    }
}

impl ThresholdsConfig {
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        if let Some(value) = self.min_similarity {
            let valid = (-1.0..=1.0).contains(&value);
            require(valid, "thresholds.min_similarity", "-1 to 1", value)?;
        }
        if let Some(value) = self.min_margin {
            // The largest difference of two cosines.
            let valid = (-1.0..=2.0).contains(&value);
            require(valid, "thresholds.min_margin", "-1 to 2", value)?;
        }
        let smoothing = self.smoothing;
        let valid = (0.0..=1e6).contains(&smoothing);
        require(valid, "thresholds.smoothing", "0 to 1000000", smoothing)?;
        let hysteresis = self.hysteresis;
        require(
            hysteresis > 0,
            "thresholds.hysteresis",
            "1 or more",
            hysteresis,
        )?;
        require_seconds("thresholds.hysteresis_seconds", self.hysteresis_seconds)?;
        require_seconds("thresholds.cool_down_seconds", self.cool_down_seconds)?;
        if let Some(margin) = self.margin {
            let valid = (0.0..=1.0).contains(&margin);
            require(valid, "thresholds.margin", "0 to 1", margin)?;
        }
        Ok(())
    }
}
