//! The package's exceptions.

use std::error::Error as _;

use pinhole::Error;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

create_exception!(
    pinhole,
    PinholeError,
    PyException,
    "The base of the package's exceptions."
);
create_exception!(
    pinhole,
    BundleError,
    PinholeError,
    "A bundle is missing, damaged, or of a kind that cannot be run or changed."
);
create_exception!(
    pinhole,
    ImageError,
    PinholeError,
    "An image cannot be read, decoded or preprocessed."
);

/// The exception for `error`, whose text names all causes.
pub(crate) fn exception(error: Error) -> PyErr {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some errors repeat their cause.
        if !text.contains(&inner_text) {
            text += ": ";
            text += &inner_text;
        }
        cause = inner.source();
    }
    match error {
        Error::Image(_) => ImageError::new_err(text),
        Error::Threads { .. } | Error::Text(_) | Error::Teaching { .. } => {
            PyValueError::new_err(text)
        }
        Error::Bundle(_)
        | Error::NoTextEncoder { .. }
        | Error::TextEncoder { .. }
        | Error::Head { .. }
        | Error::SelfTest { .. }
        | Error::Network { .. } => BundleError::new_err(text),
        _ => PinholeError::new_err(text),
    }
}
