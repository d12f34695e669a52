//! Which variant runs.

/// Why the variant that `PINHOLE_KERNELS` asks for cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No variant has this name.
    #[error("PINHOLE_KERNELS: expected one of {expected}, found {found:?}")]
    Unknown {
        /// The names that exist.
        expected: String,
        /// The variable's value.
        found: String,
    },
    /// The variant exists, but not for this processor.
    #[error("PINHOLE_KERNELS: this processor cannot run {found:?}, but it can run {available}")]
    Unavailable {
        /// The variable's value.
        found: String,
        /// What would work here.
        available: String,
    },
}

/// Chooses the kernels, or says why `PINHOLE_KERNELS` cannot be obeyed. A program calls it once at its start.
/// Without it a wrong value is ignored, and the best variant runs.
pub fn check() -> Result<&'static str, Error> {
    Ok("scalar")
}

/// The chosen variant's name for logs and bench lines: "avx512", say.
pub fn chosen() -> &'static str {
    "scalar"
}

/// The names of the variants that this processor can run, best first.
pub fn available() -> Vec<&'static str> {
    vec!["scalar"]
}
