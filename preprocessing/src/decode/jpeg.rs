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
use crate::{Error, RgbImage};

pub(super) fn decode(
    bytes: &[u8],
    options: &DecodeOptions,
) -> Result<(RgbImage, Orientation), Error> {
    let jpeg = Structure::parse(bytes).map_err(failed)?;
    let (width, height) = (jpeg.width, jpeg.height);
    let channels = if jpeg.components == 4 { 4 } else { 3 };
    let pixels = u64::from(width) * u64::from(height);
    let size = pixels * channels;
    options.check_memory(width, height, size + jpeg.coefficient_bytes)?;
    let mut data = zeros("JPEG", size)?;
    // On an error the same decoding with libjpeg's own handler tells what was wrong.
    if !read(
        &jpeg,
        DecompressBuilder::new().with_err(strict()),
        &mut data,
    )
    .is_ok_and(|read| read.is_ok())
    {
        let reason = match read(&jpeg, DecompressBuilder::new(), &mut data) {
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
    Ok((
        RgbImage::new(width, height, data)?,
        jpeg.metadata.orientation(),
    ))
}

fn failed(reason: impl Into<String>) -> Error {
    Error::Decode {
        format: "JPEG",
        reason: reason.into(),
    }
}

/// Decodes into `data`: RGB, or of four components CMYK as stored.
fn read(
    jpeg: &Structure,
    decoder: DecompressBuilder<'_>,
    data: &mut [u8],
) -> std::thread::Result<std::io::Result<()>> {
    PIXELS_FOLLOW.set(false);
    catch_unwind(std::panic::AssertUnwindSafe(|| {
        let decoder: Decompress<&[u8]> = decoder.from_mem(&jpeg.data)?;
        // Warnings about the header (an unknown JFIF version) have no effect.
        PIXELS_FOLLOW.set(true);
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
        if found != (jpeg.width as usize, jpeg.height as usize, data.len()) {
            return Err(std::io::Error::other("its frame header is ambiguous"));
        }
        decoder.read_scanlines_into(data).map(|_| ())
    }))
}

thread_local! {
    /// Whether the decoder of this thread is past the header. A static, because libjpeg's handlers get a raw pointer as
    /// their only argument.
    static PIXELS_FOLLOW: Cell<bool> = const { Cell::new(false) };
}

/// An error handler that also unwinds at a warning about the pixels.
fn strict() -> jpeg_error_mgr {
    jpeg_error_mgr {
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
    }
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
