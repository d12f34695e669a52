//! Image files to RGB, as Pillow's `Image.open(file).convert("RGB")`.

mod jpeg;

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, Limits};

use crate::decode_options::{DecodeOptions, zeros};
use crate::{Error, RgbImage};

/// Most bytes that a file's metadata may decompress to.
const MAX_METADATA: u64 = 64 << 20;

/// Reads and decodes an image file; see [`decode`].
///
/// # Errors
/// [`Error::InFile`] with the path, around any error of reading the file and of [`decode`].
pub fn open(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<RgbImage, Error> {
    let path = path.as_ref();
    decode(&read(path, options)?, options).map_err(in_file(path))
}

/// Reads an image file for [`decode`], up to the largest size that an image within the pixel limit can have.
///
/// # Errors
/// [`Error::InFile`] around [`Error::Read`] and [`Error::FileTooLarge`].
pub fn read(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Vec<u8>, Error> {
    let path = path.as_ref();
    read_bytes(path, options.max_bytes()).map_err(in_file(path))
}

fn in_file(path: &Path) -> impl FnOnce(Error) -> Error {
    |error| Error::InFile {
        path: path.to_owned(),
        error: Box::new(error),
    }
}

fn read_bytes(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::Read)?;
    let mut bytes = Vec::new();
    // Counted while reading: a pipe or a device reports no size.
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::Read)?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::FileTooLarge { max_bytes });
    }
    Ok(bytes)
}

/// Decodes a JPEG, PNG, WebP, BMP or GIF file; of an animation, the first frame.
///
/// The format is detected from the content. For PNG and WebP the pixels are exactly those of Pillow 13's
/// `Image.open(file).convert("RGB")`; for JPEG they differ by rounding: palettes are expanded; alpha and transparent
/// colours are dropped, not blended; 16-bit colour keeps the high byte; 16-bit grey is clipped at 255, as in Pillow;
/// CMYK is read as inverted, as Adobe writes it; colour profiles and gamma are ignored. BMP and GIF are decoded by the
/// `image` crate, which differs from Pillow in rare files (transparent or partial GIF frames, 16-bit BMP).
///
/// # Errors
/// [`Error::NotAnImage`], [`Error::TooManyPixels`], and [`Error::Decode`] for damaged, truncated and unsupported files.
/// A truncated file is an error, never a partial image.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, Error> {
    let (image, orientation) = match bytes {
        [0xFF, 0xD8, 0xFF, ..] => jpeg::decode(bytes, options),
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => {
            // 16-bit greyscale, by the header's depth and colour type: Pillow's mode "I;16".
            let clip = bytes.get(24..26) == Some(&[16, 0]);
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(MAX_METADATA);
            with_decoder("PNG", options, clip, || {
                PngDecoder::with_limits(Cursor::new(bytes), limits)
            })
        }
        [b'R', b'I', b'F', b'F', ..] if bytes.get(8..12) == Some(b"WEBP") => webp(bytes, options),
        [b'B', b'M', ..] => with_decoder("BMP", options, false, || {
            BmpDecoder::new(Cursor::new(bytes))
        }),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => {
            with_decoder("GIF", options, false, || {
                let mut decoder = GifDecoder::new(Cursor::new(bytes))?;
                // A frame smaller than the screen is decoded into a buffer of its own.
                let mut limits = Limits::no_limits();
                limits.max_alloc = Some(options.max_bytes());
                decoder.set_limits(limits)?;
                Ok(decoder)
            })
        }
        [] => {
            return Err(Error::NotAnImage {
                found: "the file is empty".into(),
            });
        }
        _ => {
            let start = &bytes[..bytes.len().min(12)];
            return Err(Error::NotAnImage {
                found: format!("starts with \"{}\"", start.escape_ascii()),
            });
        }
    }?;
    if options.apply_orientation && orientation != Orientation::NoTransforms {
        return Ok(oriented(image, orientation));
    }
    Ok(image)
}

fn webp(bytes: &[u8], options: &DecodeOptions) -> Result<(RgbImage, Orientation), Error> {
    // The decoder reads missing bytes at the end as zeros.
    let size = bytes[4..8]
        .iter()
        .rev()
        .fold(0, |size, byte| size << 8 | u64::from(*byte))
        + 8;
    if size > bytes.len() as u64 {
        let reason = format!(
            "the file is truncated: {size} bytes declared, {} found",
            bytes.len()
        );
        return Err(Error::Decode {
            format: "WebP",
            reason,
        });
    }
    with_decoder("WebP", options, false, || {
        WebPDecoder::new(Cursor::new(bytes))
    })
}

/// Decodes with a decoder of the `image` crate. `clip`: clip 16-bit values at 255 instead of dropping their low byte.
fn with_decoder<D: ImageDecoder>(
    format: &'static str,
    options: &DecodeOptions,
    clip: bool,
    new: impl FnOnce() -> Result<D, ImageError>,
) -> Result<(RgbImage, Orientation), Error> {
    let failed = |e: ImageError| Error::Decode {
        format,
        reason: reason(&e),
    };
    let mut decoder = new().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    options.check_size(width, height)?;
    // A damaged EXIF block does not affect the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let mut data = zeros(format, decoder.total_bytes())?;
    decoder.read_image(&mut data).map_err(failed)?;
    Ok((
        RgbImage::new(width, height, to_rgb(format, data, color, clip)?)?,
        orientation,
    ))
}

/// Channels of 8 or 16 bits (in native byte order) to RGB; `clip` as in [`with_decoder`].
fn to_rgb(
    format: &'static str,
    data: Vec<u8>,
    color: ColorType,
    clip: bool,
) -> Result<Vec<u8>, Error> {
    let eight = |v: &[u8]| {
        let value = u16::from_ne_bytes([v[0], v[1]]);
        if clip {
            value.min(255) as u8
        } else {
            (value >> 8) as u8
        }
    };
    Ok(match color {
        ColorType::Rgb8 => data,
        ColorType::L8 => data.iter().flat_map(|v| [*v; 3]).collect(),
        ColorType::La8 => data.chunks_exact(2).flat_map(|v| [v[0]; 3]).collect(),
        ColorType::Rgba8 => data
            .chunks_exact(4)
            .flat_map(|v| [v[0], v[1], v[2]])
            .collect(),
        ColorType::L16 => data.chunks_exact(2).flat_map(|v| [eight(v); 3]).collect(),
        ColorType::La16 => data.chunks_exact(4).flat_map(|v| [eight(v); 3]).collect(),
        ColorType::Rgb16 => data.chunks_exact(2).map(eight).collect(),
        ColorType::Rgba16 => data
            .chunks_exact(8)
            .flat_map(|v| [eight(v), eight(&v[2..]), eight(&v[4..])])
            .collect(),
        other => {
            return Err(Error::Decode {
                format,
                reason: format!("unsupported colour type {other:?}"),
            });
        }
    })
}

fn oriented(image: RgbImage, orientation: Orientation) -> RgbImage {
    let RgbImage {
        width,
        height,
        data,
    } = image;
    let Some(buffer) = image::RgbImage::from_raw(width, height, data) else {
        unreachable!("the shape of an RgbImage is checked when it is made");
    };
    let mut image = DynamicImage::ImageRgb8(buffer);
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    RgbImage {
        width: image.width(),
        height: image.height(),
        data: image.into_raw(),
    }
}

/// The innermost error message: the outer ones only repeat the format's name.
fn reason(error: &ImageError) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
