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
    /// There is no such file: what was found, as [`crate::missing`] says it.
    #[error("expected an image file, {0}")]
    Missing(String),
    /// The file cannot be read.
    #[error("cannot read: {0}")]
    Read(std::io::Error),
    /// The file is larger than [`crate::DecodeOptions::max_memory`].
    #[error("the file has more than {} MiB, the limit for an image", max_memory >> 20)]
    FileTooLarge {
        /// The limit in bytes.
        max_memory: u64,
    },
    /// The content is in no supported format.
    #[error("not an image: {found}; supported are JPEG, PNG, WebP, BMP, GIF")]
    NotAnImage {
        /// What the file is instead, or its first bytes, escaped.
        found: String,
    },
    /// Decoding the image needs more memory than [`crate::DecodeOptions::max_memory`]; nothing was allocated.
    #[error(
        "the image of {width} x {height} pixels needs {} MiB to decode, more than the limit of {} MiB; \
         --max-image-memory {} allows it",
        needed.div_ceil(1 << 20),
        max_memory >> 20,
        needed.div_ceil(1 << 20)
    )]
    TooLarge {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// Bytes needed.
        needed: u64,
        /// The limit in bytes.
        max_memory: u64,
    },
    /// The content is damaged, truncated, or uses a feature that is not supported.
    #[error("damaged or unsupported {format} image: {reason}")]
    Decode {
        /// Name of the format.
        format: &'static str,
        /// What the decoder found.
        reason: String,
    },
    /// A region of interest is not inside its image.
    #[error("region {region}: expected it inside of {width} x {height} pixels; choose another")]
    Region {
        /// Left, top, width, height.
        region: String,
        /// Width of the image.
        width: u32,
        /// Height of the image.
        height: u32,
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
    /// The pixels cannot be written as JPEG.
    #[error("cannot write a JPEG file: {0}")]
    EncodeJpeg(String),
}
