//! Checks of configuration fields.

use std::fmt::Display;
use std::time::Duration;

/// A configuration field has a value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct FieldError {
    /// The field with its table, such as `source.every`.
    pub field: &'static str,
    /// The accepted values.
    pub expected: String,
    /// The value in the file.
    pub found: String,
}

/// Returns an error for `field` unless its value, `found`, is `valid`.
pub(crate) fn require(
    valid: bool,
    field: &'static str,
    expected: impl Display,
    found: impl Display,
) -> Result<(), FieldError> {
    if valid {
        return Ok(());
    }
    Err(FieldError {
        field,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}

/// Requires 0 to ten years, which every clock can represent.
pub(crate) fn require_seconds(field: &'static str, value: f64) -> Result<(), FieldError> {
    let valid = (0.0..=3.2e8).contains(&value);
    require(valid, field, "0 to 320000000", value)
}

/// The duration of validated seconds; `None` for 0, which means never.
pub(crate) fn optional_duration(seconds: f64) -> Option<Duration> {
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds))
}
