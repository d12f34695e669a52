//! Errors of reading, decoding and preprocessing images.

use std::path::PathBuf;

/// An error of this crate; each names what was found and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error in one file.
    #[error("{}: {error}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// The file cannot be read.
    #[error("cannot read: {0}")]
    Read(std::io::Error),
    /// The file is larger than any image within the pixel limit.
    #[error(
        "the file has more than {max_bytes} bytes, the most that an image within the pixel limit can have"
    )]
    FileTooLarge {
        /// Largest accepted size in bytes.
        max_bytes: u64,
    },
    /// The content is in no supported format.
    #[error("not an image: {found}; supported are JPEG, PNG, WebP, BMP, GIF")]
    NotAnImage {
        /// The first bytes, escaped.
        found: String,
    },
    /// The header declares more pixels than [`crate::DecodeOptions::max_pixels`]; nothing was allocated.
    #[error("the image has {width} x {height} pixels, more than the limit of {max_pixels}")]
    TooManyPixels {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// The limit.
        max_pixels: u64,
    },
    /// The content is damaged, truncated, or uses a feature that is not supported.
    #[error("damaged or unsupported {format} image: {reason}")]
    Decode {
        /// Name of the format.
        format: &'static str,
        /// What the decoder found.
        reason: String,
    },
    /// The sides of an image do not match the length of its data.
    #[error("image of {width} x {height} pixels: expected {expected}, found {found} bytes")]
    Shape {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The expected length.
        expected: String,
        /// Length of the data in bytes.
        found: usize,
    },
    /// A field of the preprocessing configuration is out of range.
    #[error(transparent)]
    Config(#[from] pinhole_model::InvalidPreprocessing),
    /// An image of these sides cannot be resized.
    #[error("an image of {width} x {height} pixels cannot be resized: {reason}")]
    Degenerate {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The reason.
        reason: &'static str,
    },
    /// The pixels cannot be written as PNG.
    #[error("cannot write a PNG file: {0}")]
    Encode(String),
}
