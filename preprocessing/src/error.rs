//! What can go wrong between a file and the pixels that the encoder sees.

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
        "the file has more than {max_bytes} bytes, which no image within the pixel limit needs"
    )]
    FileTooLarge {
        /// Largest size that is read.
        max_bytes: u64,
    },
    /// The content is in no format that this crate decodes.
    #[error("not an image: {found}; supported are JPEG, PNG, WebP, BMP, GIF")]
    NotAnImage {
        /// What the content starts with, printable.
        found: String,
    },
    /// The header announces more pixels than [`crate::DecodeOptions::max_pixels`]; nothing was allocated.
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
    /// Sides and data of an image do not fit together.
    #[error("image of {width} x {height} pixels: expected {expected}, found {found} bytes")]
    Shape {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// What such an image needs.
        expected: String,
        /// Number of bytes given.
        found: usize,
    },
    /// A field of the preprocessing configuration is out of range.
    #[error(transparent)]
    Config(#[from] pinhole_model::InvalidPreprocessing),
    /// The rule cannot be applied to an image of this shape.
    #[error("an image of {width} x {height} pixels cannot be resized: {reason}")]
    Degenerate {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Why.
        reason: &'static str,
    },
    /// The pixels cannot be written as PNG.
    #[error("cannot write a PNG file: {0}")]
    Encode(String),
}
