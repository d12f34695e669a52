//! The Python package `pinhole`: the library's classifier, streams and new classes, for numpy arrays, files and PIL images.
//!
//! The interpreter's lock is released while an image is decoded or classified. Errors are exceptions of the package with
//! the library's texts.

mod answer;
mod classifier;
mod error;
mod image;
mod stream;

use pyo3::prelude::*;

/// Compiled part of the package `pinhole`, which re-exports all of it.
#[pymodule]
mod _pinhole {
    #[pymodule_export]
    use super::answer::{Classification, Ranked};
    #[pymodule_export]
    use super::classifier::{Classifier, set_classes};
    #[pymodule_export]
    use super::error::{BundleError, ImageError, PinholeError};
    #[pymodule_export]
    use super::stream::{Stream, StreamAnswer};

    /// The version of the package.
    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
