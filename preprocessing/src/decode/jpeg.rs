//! JPEG by libjpeg-turbo (the decoder that Pillow uses), in the source that mozjpeg vendors: bit-identical pixels.
//!
//! libjpeg reports damage as a warning and goes on with grey or shifted blocks; here every warning about the pixels is
//! an error. Its errors unwind the stack, so the program must not be built with `panic = "abort"`.
//!
//! Damage that libjpeg does not notice can give coefficients beyond the range of 8-bit samples. There its SIMD code
//! saturates and its C code wraps, so the pixels of such a file depend on the processor and on whether nasm was there.

use std::cell::Cell;
use std::ffi::c_int;
use std::panic::{catch_unwind, resume_unwind};

use image::metadata::Orientation;
use mozjpeg::decompress::DecompressBuilder;
use mozjpeg::{ColorSpace, Decompress};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr};

use super::markers::Structure;
use super::rgb::keep_rgb;
use crate::decode_options::{DecodeOptions, zeros};
use crate::yuv::JpegPlanes;
use crate::{Error, Image, RgbImage, YuvImage};

pub(super) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<(Image, Orientation), Error> {
    let jpeg = Structure::parse(bytes).map_err(failed)?;
    let (width, height) = (jpeg.width, jpeg.height);
    let channels = if jpeg.components == 4 { 4 } else { 3 };
    let rgb_bytes = u64::from(width) * u64::from(height) * channels;
    // Reduced images need less, but the same files are refused.
    options.check_memory(width, height, rgb_bytes + jpeg.coefficient_bytes)?;
    let divisor = options.divisor(width, height);
    // Planes and the RGB image that they may become, before libjpeg's.
    let both = rgb_bytes + jpeg.plane_bytes + jpeg.coefficient_bytes;
    if divisor == 1 && options.check_memory(width, height, both).is_ok() {
        let read = run(&jpeg, strict(), |decoder| planes(&jpeg, decoder));
        if let Ok(Ok(Some(planes))) = read {
            return Ok((Image::from(planes), jpeg.metadata.orientation()));
        }
    }
    let image = rgb(&jpeg, divisor)?.reduced_from(width, height);
    Ok((image, jpeg.metadata.orientation()))
}

/// The image in RGB, of 1 / `divisor` of its size.
fn rgb(jpeg: &Structure, divisor: u32) -> Result<Image, Error> {
    let channels = if jpeg.components == 4 { 4 } else { 3 };
    let (width, height) = (jpeg.width.div_ceil(divisor), jpeg.height.div_ceil(divisor));
    let size = u64::from(width) * u64::from(height) * channels;
    let mut data = zeros("JPEG", size)?;
    let mut read = |errors| {
        run(jpeg, errors, |decoder| {
            scanlines(jpeg, divisor, decoder, &mut data)
        })
    };
    // On an error the same decoding with libjpeg's own handler tells what was wrong.
    if !read(strict()).is_ok_and(|read| read.is_ok()) {
        let reason = match read(DecompressBuilder::new()) {
            Ok(Ok(())) => "its compressed data is damaged or incomplete".into(),
            Ok(Err(e)) => e.to_string(),
            Err(panic) => panic.downcast_ref::<String>().map_or_else(
                || "libjpeg failed".into(),
                |message| message.trim().to_owned(),
            ),
        };
        return Err(failed(reason));
    }
    if channels == 4 {
        for pixel in data.chunks_exact_mut(4) {
            let [red, green, blue] = inverted_cmyk_to_rgb([pixel[0], pixel[1], pixel[2]], pixel[3]);
            pixel[..3].copy_from_slice(&[red, green, blue]);
        }
        keep_rgb(&mut data, 4);
    }
    Ok(RgbImage::new(width, height, data)?.into())
}

fn failed(reason: impl Into<String>) -> Error {
    Error::Decode {
        format: "JPEG",
        reason: reason.into(),
    }
}

/// Decodes by `read`, which gets the decoder behind the header.
fn run<T>(
    jpeg: &Structure,
    errors: DecompressBuilder<'_>,
    read: impl FnOnce(Decompress<&[u8]>) -> std::io::Result<T>,
) -> std::thread::Result<std::io::Result<T>> {
    PIXELS_FOLLOW.set(false);
    catch_unwind(std::panic::AssertUnwindSafe(|| {
        let decoder: Decompress<&[u8]> = errors.from_mem(&jpeg.data)?;
        // Warnings about the header (an unknown JFIF version) have no effect.
        PIXELS_FOLLOW.set(true);
        read(decoder)
    }))
}

/// Decodes into `data`: RGB, or of four components CMYK as stored; of 1 / `divisor` of the size.
fn scanlines(
    jpeg: &Structure,
    divisor: u32,
    mut decoder: Decompress<&[u8]>,
    data: &mut [u8],
) -> std::io::Result<()> {
    decoder.scale((8 / divisor) as u8);
    let mut decoder = decoder.to_colorspace(if jpeg.components == 4 {
        ColorSpace::JCS_CMYK
    } else {
        ColorSpace::JCS_RGB
    })?;
    let found = (
        decoder.width(),
        decoder.height(),
        decoder.min_flat_buffer_size(),
    );
    let side = |side: u32| side.div_ceil(divisor) as usize;
    if found != (side(jpeg.width), side(jpeg.height), data.len()) {
        return Err(std::io::Error::other("its frame header is ambiguous"));
    }
    decoder.read_scanlines_into(data).map(|_| ())
}

/// Decodes to planes, of which only the pixels that are used need be converted to RGB; `None` for samplings and colours
/// that libjpeg converts.
fn planes(jpeg: &Structure, decoder: Decompress<&[u8]>) -> std::io::Result<Option<YuvImage>> {
    let components = decoder.components();
    let factors: Vec<_> = components
        .iter()
        .map(|c| (c.h_samp_factor, c.v_samp_factor))
        .collect();
    let (horizontal, vertical, color) = match factors[..] {
        [(1, 1)] => (1, 1, ColorSpace::JCS_GRAYSCALE),
        [(h @ 1..=2, v @ 1..=2), (1, 1), (1, 1)] => (h as usize, v as usize, ColorSpace::JCS_YCbCr),
        _ => return Ok(None),
    };
    let (width, height) = (decoder.width(), decoder.height());
    if decoder.color_space() != color
        || (width, height) != (jpeg.width as usize, jpeg.height as usize)
    {
        return Ok(None);
    }
    let units = height.div_ceil(8 * vertical);
    let mut planes = vec![];
    for component in components {
        let stride = component.width_in_blocks as usize * 8;
        let rows = units * component.v_samp_factor as usize * 8;
        let Ok(mut plane) = zeros("JPEG", (rows * stride) as u64) else {
            return Ok(None);
        };
        // Rows are appended to its capacity.
        plane.clear();
        planes.push((plane, stride));
    }
    let mut buffers: Vec<_> = planes.iter_mut().map(|(plane, _)| plane).collect();
    decoder.raw()?.read_raw_data(&mut buffers);
    Ok(YuvImage::from_jpeg(JpegPlanes {
        width: jpeg.width,
        height: jpeg.height,
        planes,
        horizontal,
        vertical,
    }))
}

thread_local! {
    /// Whether the decoder of this thread is past the header. A static, because libjpeg's handlers get a raw pointer as
    /// their only argument.
    static PIXELS_FOLLOW: Cell<bool> = const { Cell::new(false) };
}

/// An error handler that also unwinds at a warning about the pixels.
fn strict() -> DecompressBuilder<'static> {
    DecompressBuilder::new().with_err(jpeg_error_mgr {
        error_exit: Some(unwind),
        emit_message: Some(unwind_at_warning),
        output_message: Some(ignore),
        format_message: None,
        reset_error_mgr: Some(ignore),
        msg_code: 0,
        msg_parm: Default::default(),
        trace_level: 0,
        num_warnings: 0,
        jpeg_message_table: std::ptr::null(),
        last_jpeg_message: 0,
        addon_message_table: std::ptr::null(),
        first_addon_message: 0,
        last_addon_message: 0,
    })
}

extern "C-unwind" fn unwind(_: &mut jpeg_common_struct) {
    // Without the panic hook, which would print a message.
    resume_unwind(Box::new(()));
}

/// A negative level is a warning, others are traces.
extern "C-unwind" fn unwind_at_warning(_: &mut jpeg_common_struct, level: c_int) {
    if level < 0 && PIXELS_FOLLOW.get() {
        resume_unwind(Box::new(()));
    }
}

extern "C-unwind" fn ignore(_: &mut jpeg_common_struct) {}

/// Pillow's `CMYK;I` to RGB: all four channels are stored inverted.
fn inverted_cmyk_to_rgb(cmy: [u8; 3], k: u8) -> [u8; 3] {
    let white = i32::from(k);
    cmy.map(|ink| {
        let product = (255 - i32::from(ink)) * white + 128;
        (white - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8
    })
}
