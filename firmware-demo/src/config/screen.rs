//! The table `[screen]`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::validation::{FieldError, require, require_seconds};

/// The screens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScreenConfig {
    /// Maximum number of pictures per second.
    pub rate: f64,
    /// Seconds without a change of state until the idle screen; 0 for never.
    pub idle_seconds: f64,
    /// Font files (TTF, OTF, TTC) for characters that the built-in fonts lack, in order of preference.
    pub fonts: Vec<PathBuf>,
}

impl Default for ScreenConfig {
    fn default() -> Self {
        Self {
            rate: 10.0,
            idle_seconds: 300.0,
            fonts: vec![],
        }
    }
}

impl ScreenConfig {
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        require_seconds("screen.idle_seconds", self.idle_seconds)?;
        let valid = (0.1..=60.0).contains(&self.rate);
        require(valid, "screen.rate", "0.1 to 60", self.rate)
    }
}
