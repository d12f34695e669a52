//! The table `[log]`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::validation::{FieldError, require, require_seconds};

/// The log of results.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Folder of the log.
    pub folder: PathBuf,
    /// Maximum size of the log in MB (1,000,000 bytes).
    #[serde(default = "megabytes")]
    pub megabytes: f64,
    /// Seconds between two records while the state does not change; 0 for no such records.
    #[serde(default = "interval_seconds")]
    pub interval_seconds: f64,
}

fn megabytes() -> f64 {
    10.0
}

fn interval_seconds() -> f64 {
    60.0
}

impl LogConfig {
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        let megabytes = self.megabytes;
        let valid = (0.1..=1e6).contains(&megabytes);
        require(valid, "log.megabytes", "0.1 to 1000000", megabytes)?;
        require_seconds("log.interval_seconds", self.interval_seconds)
    }
}
