//! Image files to RGB, as Pillow's `Image.open(file).convert("RGB")`.

mod chunks;
mod format;
mod jpeg;
mod markers;
mod orientation;
mod rgb;

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, Limits};

use self::format::Format;
use self::rgb::keep_rgb;
use crate::decode_options::{DecodeOptions, zeros};
use crate::{Error, Image, RgbImage, missing};

/// Most bytes that a file's metadata may decompress to.
const MAX_METADATA: u64 = 64 << 20;

/// Reads and decodes an image file; see [`decode`].
///
/// # Errors
/// [`Error::InFile`] with the path, around any error of reading the file and of [`decode`].
pub fn open(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<RgbImage, Error> {
    Image::open(path, options).map(Image::into_rgb)
}

impl Image {
    /// As [`open`], but in luma and chroma where the file has them, so that only the pixels that are used need be converted.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::decode(&read(path, options)?, options).map_err(in_file(path))
    }

    /// As [`Image::open`], of a stream such as standard input, from which at most [`DecodeOptions::max_memory`] bytes are
    /// read; `name` is its path in errors.
    ///
    /// # Errors
    /// As [`open`].
    pub fn read(
        from: impl Read,
        name: impl AsRef<Path>,
        options: &DecodeOptions,
    ) -> Result<Self, Error> {
        read_bytes(from, options.max_memory)
            .and_then(|bytes| Self::decode(&bytes, options))
            .map_err(in_file(name.as_ref()))
    }
}

/// Reads an image file for [`decode`], up to [`DecodeOptions::max_memory`].
///
/// # Errors
/// [`Error::InFile`] around [`Error::Missing`], [`Error::Read`] and [`Error::FileTooLarge`].
pub fn read(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Vec<u8>, Error> {
    let path = path.as_ref();
    File::open(path)
        .map_err(|error| missing(path).map_or(Error::Read(error), Error::Missing))
        .and_then(|file| read_bytes(file, options.max_memory))
        .map_err(in_file(path))
}

fn in_file(path: &Path) -> impl FnOnce(Error) -> Error {
    |error| Error::InFile {
        path: path.to_owned(),
        error: Box::new(error),
    }
}

fn read_bytes(from: impl Read, max_bytes: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    // Counted while reading: a pipe or a device reports no size.
    from.take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::Read)?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::FileTooLarge {
            max_memory: max_bytes,
        });
    }
    Ok(bytes)
}

/// Decodes a JPEG, PNG, WebP, BMP or GIF file; of an animation, the first frame.
///
/// The format is detected from the content. For JPEG, PNG and WebP the pixels are exactly those of Pillow 13's
/// `Image.open(file).convert("RGB")`: palettes are expanded; alpha and transparent colours are dropped, not blended;
/// 16-bit colour keeps the high byte; 16-bit grey is clipped at 255, as in Pillow; CMYK is read as inverted, as Adobe
/// writes it; colour profiles and gamma are ignored. BMP and GIF are decoded by the `image` crate, which differs from
/// Pillow in rare files (transparent or partial GIF frames, 16-bit BMP).
///
/// # Errors
/// [`Error::NotAnImage`], [`Error::TooLarge`], and [`Error::Decode`] for damaged, truncated and unsupported files.
/// A truncated file is an error, never a partial image.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, Error> {
    Image::decode(bytes, options).map(Image::into_rgb)
}

impl Image {
    /// As [`decode`], but in luma and chroma where the file has them, so that only the pixels that are used need be
    /// converted.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Self, Error> {
        let (image, orientation) = decode_as_stored(bytes, options)?;
        if !options.apply_orientation || orientation == Orientation::NoTransforms {
            return Ok(image);
        }
        let (width, height) = image.original_size();
        let image = image.into_rgb();
        // Image and rotated image.
        options.check_memory(image.width, image.height, 2 * image.data.len() as u64)?;
        let image = oriented(image, orientation);
        // The original is rotated with it.
        let [width, height] = match (image.width < image.height) == (width < height) {
            true => [width, height],
            false => [height, width],
        };
        Ok(Self::from(image).reduced_from(width, height))
    }
}

/// The image before its orientation is applied.
fn decode_as_stored(bytes: &[u8], options: &DecodeOptions) -> Result<(Image, Orientation), Error> {
    let format = Format::of(bytes).map_err(|found| Error::NotAnImage { found })?;
    let (image, orientation) = match format {
        Format::Jpeg => return jpeg::decode(bytes, options),
        Format::Png => {
            // 16-bit greyscale, by the header's depth and colour type: Pillow's mode "I;16".
            let clip = bytes.get(24..26) == Some(&[16, 0]);
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(MAX_METADATA);
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits);
            decode_with(format, options, 0, clip, decoder)
                .map(|image| (image, chunks::png_metadata(bytes).orientation()))
        }
        Format::WebP => webp(bytes, options),
        Format::Bmp => without_orientation(decode_with(
            format,
            options,
            0,
            false,
            BmpDecoder::new(Cursor::new(bytes)),
        )),
        Format::Gif => {
            let decoder = GifDecoder::new(Cursor::new(bytes)).and_then(|mut decoder| {
                let mut limits = Limits::no_limits();
                limits.max_alloc = Some(options.max_memory);
                decoder.set_limits(limits)?;
                Ok(decoder)
            });
            // A frame smaller than the screen is decoded into a buffer of its own, RGBA.
            without_orientation(decode_with(format, options, 4, false, decoder))
        }
    }?;
    Ok((image.into(), orientation))
}

/// Whether bytes, at least the first 12 of a file, begin as a format that [`decode`] reads.
pub fn is_image(start: &[u8]) -> bool {
    Format::of(start).is_ok()
}

fn without_orientation(image: Result<RgbImage, Error>) -> Result<(RgbImage, Orientation), Error> {
    image.map(|image| (image, Orientation::NoTransforms))
}

fn webp(bytes: &[u8], options: &DecodeOptions) -> Result<(RgbImage, Orientation), Error> {
    let metadata = chunks::webp_metadata(bytes).map_err(|reason| Error::Decode {
        format: Format::WebP.name(),
        reason,
    })?;
    // Bytes per pixel of the decoder's own buffers, by the kind of the first chunk and, if it is the extended header,
    // by its flags: planes of chroma at half resolution; RGBA; both, and the alpha channel; canvas and frame.
    let own = match (bytes.get(12..16), bytes.get(20)) {
        (Some(b"VP8 "), _) => 2,
        (Some(b"VP8L"), _) => 5,
        (_, Some(flags)) if flags & 0x02 != 0 => 16,
        (_, Some(flags)) if flags & 0x10 != 0 => 7,
        _ => 5,
    };
    let decoder = WebPDecoder::new(Cursor::new(bytes));
    let image = decode_with(Format::WebP, options, own, false, decoder)?;
    Ok((image, metadata.orientation()))
}

/// Decodes with a decoder of the `image` crate. `own`: bytes per pixel that it needs beside its result. `clip`: clip
/// 16-bit values at 255 instead of dropping their low byte.
fn decode_with<D: ImageDecoder>(
    format: Format,
    options: &DecodeOptions,
    own: u64,
    clip: bool,
    decoder: Result<D, ImageError>,
) -> Result<RgbImage, Error> {
    let format = format.name();
    let failed = |e: ImageError| Error::Decode {
        format,
        reason: reason(&e),
    };
    let decoder = decoder.map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let color = decoder.color_type();
    let size = decoder.total_bytes();
    // Pixels of three bytes and more are converted in place.
    let converted = if color.bytes_per_pixel() < 3 {
        pixels * 3
    } else {
        0
    };
    let needed = pixels
        .saturating_mul(own)
        .saturating_add(size)
        .saturating_add(converted);
    options.check_memory(width, height, needed)?;
    let mut data = zeros(format, size)?;
    decoder.read_image(&mut data).map_err(failed)?;
    RgbImage::new(width, height, to_rgb(format, data, color, clip)?)
}

/// Channels of 8 or 16 bits (in native byte order) to RGB; `clip` as in [`decode_with`].
fn to_rgb(
    format: &'static str,
    mut data: Vec<u8>,
    color: ColorType,
    clip: bool,
) -> Result<Vec<u8>, Error> {
    let eight = |low_address: u8, high_address: u8| {
        let value = u16::from_ne_bytes([low_address, high_address]);
        if clip {
            value.min(255) as u8
        } else {
            (value >> 8) as u8
        }
    };
    let grey = |stride: usize, wide: bool| {
        let value = |v: &[u8]| if wide { eight(v[0], v[1]) } else { v[0] };
        let pixels = data.chunks_exact(stride);
        pixels.flat_map(|v| [value(v); 3]).collect()
    };
    match color {
        ColorType::Rgb8 => {}
        ColorType::L8 => data = grey(1, false),
        ColorType::La8 => data = grey(2, false),
        ColorType::L16 => data = grey(2, true),
        ColorType::La16 => {
            for v in data.chunks_exact_mut(4) {
                let value = eight(v[0], v[1]);
                v[..3].fill(value);
            }
            keep_rgb(&mut data, 4);
        }
        ColorType::Rgba8 => keep_rgb(&mut data, 4),
        ColorType::Rgb16 | ColorType::Rgba16 => {
            let stride = usize::from(color.bytes_per_pixel());
            for v in data.chunks_exact_mut(stride) {
                (v[0], v[1], v[2]) = (eight(v[0], v[1]), eight(v[2], v[3]), eight(v[4], v[5]));
            }
            keep_rgb(&mut data, stride);
        }
        other => {
            return Err(Error::Decode {
                format,
                reason: format!("unsupported colour type {other:?}"),
            });
        }
    }
    Ok(data)
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
