//! Windows and OS/2 bitmaps with 1, 4, 8, 16, 24 and 32 bits a pixel, as Pillow's BmpImagePlugin.
//!
//! `image` rounds 5 and 6 bits to 8 where Pillow cuts, and leaves out what RLE skips.

use super::{DecodeOptions, zeros};
use crate::{Error, RgbImage};

const FILE_HEADER: usize = 14;

/// What the headers say.
struct Header {
    width: u32,
    height: u32,
    top_down: bool,
    bits: u32,
    compression: Compression,
    palette: Vec<[u8; 3]>,
    /// Where the pixels begin in the file.
    offset: usize,
}

enum Compression {
    None,
    Rle8,
    Rle4,
    /// Bits of red, green and blue in a pixel.
    Masks([u32; 3]),
}

pub(super) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, Error> {
    let header = header(bytes)?;
    let (width, height) = (header.width, header.height);
    options.check_size(width, height)?;
    let (columns, rows) = (width as usize, height as usize);
    let stored = bytes.get(header.offset..).unwrap_or(&[]);
    // Each stored row is padded to four bytes; the padding of the last may be missing.
    let row_bits = columns * header.bits as usize;
    let (stride, used) = (row_bits.div_ceil(32) * 4, row_bits.div_ceil(8));
    let run_lengths = matches!(header.compression, Compression::Rle8 | Compression::Rle4);
    if !run_lengths && stored.len() < stride * (rows - 1) + used {
        return Err(truncated());
    }
    let indices = if run_lengths {
        rle(bytes, &header)?
    } else {
        Vec::new()
    };
    let mut data = zeros("BMP", u64::from(width) * u64::from(height) * 3)?;
    for y in 0..rows {
        let at = if header.top_down { y } else { rows - 1 - y };
        let row = &mut data[at * columns * 3..][..columns * 3];
        match header.compression {
            Compression::Rle8 | Compression::Rle4 => {
                expand(row, &header.palette, indices[y * columns..].iter().copied());
            }
            Compression::None => uncompressed(row, &stored[y * stride..][..used], &header),
            Compression::Masks(masks) => {
                let stored = stored[y * stride..][..used].chunks_exact(header.bits as usize / 8);
                for (pixel, stored) in row.chunks_exact_mut(3).zip(stored) {
                    let value = stored
                        .iter()
                        .rev()
                        .fold(0, |value, byte| value << 8 | u32::from(*byte));
                    pixel.copy_from_slice(&masks.map(|mask| masked(value, mask)));
                }
            }
        }
    }
    RgbImage::new(width, height, data)
}

fn header(bytes: &[u8]) -> Result<Header, Error> {
    let u16_at = |at: usize| {
        bytes
            .get(at..at + 2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]))
            .ok_or_else(truncated)
    };
    let u32_at = |at: usize| {
        bytes
            .get(at..at + 4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .ok_or_else(truncated)
    };
    let info = FILE_HEADER;
    let size = u32_at(info)?;
    let core = size == 12;
    if !matches!(size, 12 | 40 | 52 | 56 | 64 | 108 | 124) {
        return Err(wrong(format!("header of {size} bytes")));
    }
    let (width, height, bits) = if core {
        (
            u32::from(u16_at(info + 4)?),
            i32::from(u16_at(info + 6)?),
            u32::from(u16_at(info + 10)?),
        )
    } else {
        (
            u32_at(info + 4)?,
            u32_at(info + 8)?.cast_signed(),
            u32::from(u16_at(info + 14)?),
        )
    };
    if width == 0 || width > i32::MAX as u32 || height == 0 {
        return Err(wrong(format!("{width} x {height} pixels")));
    }
    if !matches!(bits, 1 | 4 | 8 | 16 | 24 | 32) {
        return Err(wrong(format!("{bits} bits a pixel")));
    }
    let mut end = info + size as usize;
    let masks = |at: usize| Ok::<_, Error>([u32_at(at)?, u32_at(at + 4)?, u32_at(at + 8)?]);
    let compression = match if core { 0 } else { u32_at(info + 16)? } {
        0 if bits == 16 => Compression::Masks([0x7C00, 0x3E0, 0x1F]),
        0 => Compression::None,
        1 if bits == 8 => Compression::Rle8,
        2 if bits == 4 => Compression::Rle4,
        3 if bits >= 16 => {
            let masks = masks(info + 40)?;
            if size == 40 {
                end += 12;
            }
            match masks {
                [0, 0, 0] if bits == 32 => Compression::None,
                _ if masks.contains(&0) => {
                    return Err(wrong("a colour without bits"));
                }
                _ => Compression::Masks(masks),
            }
        }
        other => {
            return Err(wrong(format!(
                "compression {other} with {bits} bits a pixel"
            )));
        }
    };

    let mut palette = Vec::new();
    let entry = if core { 3 } else { 4 };
    let mut colors = 0;
    if bits <= 8 {
        colors = match if core { 0 } else { u32_at(info + 32)? } {
            0 => 1 << bits,
            colors @ 1..=65_536 => colors as usize,
            colors => return Err(wrong(format!("a palette of {colors} colours"))),
        };
        let stored = bytes.get(end..).unwrap_or(&[]).chunks_exact(entry);
        palette.extend(
            stored
                .take(colors.min(256))
                .map(|bgr| [bgr[2], bgr[1], bgr[0]]),
        );
        // An index beyond the palette is a shade of grey, as in Pillow.
        palette.extend((palette.len()..256).map(|i| [i as u8; 3]));
    }
    let offset = match u32_at(10)? as usize {
        0 => end + entry * colors,
        // Some writers give the end of the header, where the palette is.
        offset if offset == info + size as usize => offset + entry * colors,
        offset => offset,
    };
    Ok(Header {
        width,
        height: height.unsigned_abs(),
        top_down: height < 0,
        bits,
        compression,
        palette,
        offset,
    })
}

fn truncated() -> Error {
    wrong("the file is truncated")
}

fn wrong(reason: impl Into<String>) -> Error {
    Error::Decode {
        format: "BMP",
        reason: reason.into(),
    }
}

/// A row without compression and without masks to RGB.
fn uncompressed(row: &mut [u8], stored: &[u8], header: &Header) {
    match header.bits {
        1 => expand(
            row,
            &header.palette,
            stored
                .iter()
                .flat_map(|b| (0..8).rev().map(move |bit| b >> bit & 1)),
        ),
        4 => expand(
            row,
            &header.palette,
            stored.iter().flat_map(|b| [b >> 4, b & 15]),
        ),
        8 => expand(row, &header.palette, stored.iter().copied()),
        bits => {
            for (pixel, bgr) in row
                .chunks_exact_mut(3)
                .zip(stored.chunks_exact(bits as usize / 8))
            {
                pixel.copy_from_slice(&[bgr[2], bgr[1], bgr[0]]);
            }
        }
    }
}

fn expand(row: &mut [u8], palette: &[[u8; 3]], indices: impl Iterator<Item = u8>) {
    for (pixel, index) in row.chunks_exact_mut(3).zip(indices) {
        pixel.copy_from_slice(&palette[usize::from(index)]);
    }
}

/// The bits of `mask` in `pixel`, scaled to 0..=255 and cut.
fn masked(pixel: u32, mask: u32) -> u8 {
    let shift = mask.trailing_zeros();
    let (value, most) = (u64::from((pixel & mask) >> shift), u64::from(mask >> shift));
    (value * 255 / most) as u8
}

/// The palette indices of a run-length encoded image in stored order, [height, width].
fn rle(bytes: &[u8], header: &Header) -> Result<Vec<u8>, Error> {
    let width = header.width as usize;
    let total = u64::from(header.width) * u64::from(header.height);
    // What is skipped has index 0.
    let mut indices = zeros("BMP", total)?;
    let total = indices.len();
    // `x` counts apart from `at`, which runs on where a literal run goes beyond the row.
    let (mut at, mut x, mut position) = (0, 0, header.offset);
    let nibbles = matches!(header.compression, Compression::Rle4);
    while at < total {
        let Some([count, value]) = bytes.get(position..position.saturating_add(2)) else {
            return Err(truncated());
        };
        position += 2;
        match (*count, *value) {
            (0, 0) => {
                at = at.next_multiple_of(width);
                x = 0;
            }
            (0, 1) => break,
            (0, 2) => {
                let Some([right, up]) = bytes.get(position..position + 2) else {
                    return Err(truncated());
                };
                position += 2;
                at = total.min(at + usize::from(*right) + usize::from(*up) * width);
                x = at % width;
            }
            (0, literal) => {
                let run = usize::from(literal).min(total - at);
                let len = if nibbles { run.div_ceil(2) } else { run };
                let stored = bytes.get(position..position + len).ok_or_else(truncated)?;
                for (i, index) in indices[at..at + run].iter_mut().enumerate() {
                    *index = if nibbles {
                        nibble(stored[i / 2], i)
                    } else {
                        stored[i]
                    };
                }
                at += run;
                x += usize::from(literal);
                position = (position + len).next_multiple_of(2);
            }
            (count, value) => {
                let run = usize::from(count)
                    .min(width.saturating_sub(x))
                    .min(total - at);
                for (i, index) in indices[at..at + run].iter_mut().enumerate() {
                    *index = if nibbles { nibble(value, i) } else { value };
                }
                at += run;
                x += run;
            }
        }
    }
    Ok(indices)
}

/// The first of two nibbles is the high one.
fn nibble(byte: u8, i: usize) -> u8 {
    if i.is_multiple_of(2) {
        byte >> 4
    } else {
        byte & 15
    }
}
