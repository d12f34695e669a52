//! JPEG by zune-jpeg, with libjpeg's colour conversion, which Pillow uses.

use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::decode_options::{DecodeOptions, zeros};
use crate::{Error, RgbImage};

pub(super) fn decode(
    bytes: &[u8],
    options: &DecodeOptions,
) -> Result<(RgbImage, Orientation), Error> {
    let complete = complete(bytes)?;
    // In its lenient mode the decoder fills what it cannot decode with grey and reports success.
    let settings = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(65_535)
        .set_max_height(65_535);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&complete), settings);
    decoder.decode_headers().map_err(failed)?;
    let (Some(info), Some(stored)) = (decoder.info(), decoder.input_colorspace()) else {
        return Err(failed("no header"));
    };
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    options.check_size(width, height)?;
    let orientation = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif));

    // The decoder returns samples in the stored colour space; they are converted here.
    decoder.set_options(settings.jpeg_set_out_colorspace(stored));
    let size = decoder
        .output_buffer_size()
        .ok_or_else(|| failed("no size"))?;
    let mut data = zeros("JPEG", size as u64)?;
    decoder.decode_into(&mut data).map_err(failed)?;
    let data = to_rgb(data, stored)?;
    Ok((
        RgbImage::new(width, height, data)?,
        orientation.unwrap_or(Orientation::NoTransforms),
    ))
}

fn failed(reason: impl std::fmt::Display) -> Error {
    Error::Decode {
        format: "JPEG",
        reason: reason.to_string(),
    }
}

/// The marker segments and scans of a JPEG file up to its end marker, without stray bytes between them.
///
/// Pillow skips stray bytes; the strict decoder refuses them. Pillow and this function both refuse a file without an end
/// marker as truncated.
fn complete(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    const END: u8 = 0xD9;
    const SCAN: u8 = 0xDA;
    let truncated = || failed("the file is truncated: it has no end marker");
    let mut rest = &bytes[2..];
    let mut out = vec![0xFF, 0xD8];
    loop {
        let start = rest.iter().position(|b| *b == 0xFF).ok_or_else(truncated)?;
        rest = &rest[start..];
        let start = rest.iter().position(|b| *b != 0xFF).ok_or_else(truncated)?;
        let marker = rest[start];
        rest = &rest[start + 1..];
        match marker {
            END => {
                out.extend([0xFF, END]);
                return Ok(out);
            }
            // Markers without a length: stuffed zero, TEM, restart outside a scan, start of image.
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            _ => {}
        }
        let [high, low, ..] = *rest else {
            return Err(truncated());
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let segment = rest.get(..len.max(2)).ok_or_else(truncated)?;
        out.extend([0xFF, marker]);
        out.extend(segment);
        rest = &rest[segment.len()..];
        if marker == SCAN {
            let len = scan_len(rest).ok_or_else(truncated)?;
            out.extend(&rest[..len]);
            rest = &rest[len..];
        }
    }
}

/// Length of the entropy-coded data before the next marker other than a restart marker.
fn scan_len(bytes: &[u8]) -> Option<usize> {
    let mut len = 0;
    loop {
        len += bytes.get(len..)?.iter().position(|b| *b == 0xFF)?;
        match bytes.get(len + 1)? {
            0x00 | 0xD0..=0xD7 => len += 2,
            0xFF => len += 1,
            _ => return Some(len),
        }
    }
}

/// Samples in the stored colour space to RGB.
fn to_rgb(mut data: Vec<u8>, stored: ColorSpace) -> Result<Vec<u8>, Error> {
    Ok(match stored {
        ColorSpace::RGB => data,
        ColorSpace::Luma => data.iter().flat_map(|v| [*v; 3]).collect(),
        ColorSpace::YCbCr => {
            for pixel in data.chunks_exact_mut(3) {
                pixel.copy_from_slice(&ycc_to_rgb(pixel[0], pixel[1], pixel[2]));
            }
            data
        }
        ColorSpace::CMYK => data
            .chunks_exact(4)
            .flat_map(|v| inverted_cmyk_to_rgb([v[0], v[1], v[2]], v[3]))
            .collect(),
        ColorSpace::YCCK => {
            let cmy = |v: &[u8]| ycc_to_rgb(v[0], v[1], v[2]).map(|v| 255 - v);
            data.chunks_exact(4)
                .flat_map(|v| inverted_cmyk_to_rgb(cmy(v), v[3]))
                .collect()
        }
        other => return Err(failed(format!("colour space {other:?}"))),
    })
}

/// libjpeg's conversion (jdcolor.c): 16-bit fixed point, rounding half up.
fn ycc_to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|v| v.clamp(0, 255) as u8)
}

/// Pillow's `CMYK;I` to RGB: all four channels are stored inverted.
fn inverted_cmyk_to_rgb(cmy: [u8; 3], k: u8) -> [u8; 3] {
    let white = i32::from(k);
    cmy.map(|ink| {
        let product = (255 - i32::from(ink)) * white + 128;
        (white - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8
    })
}
