//! The first frame of a GIF on its screen, as Pillow shows it.

use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions as GifOptions, MemoryLimit};

use super::{DecodeOptions, zeros};
use crate::{Error, RgbImage};

pub(super) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, Error> {
    let mut settings = GifOptions::new();
    settings.set_color_output(ColorOutput::Indexed);
    settings.set_memory_limit(MemoryLimit::Bytes(
        NonZeroU64::new(options.max_bytes()).unwrap_or(NonZeroU64::MIN),
    ));
    let mut decoder = settings.read_info(bytes).map_err(wrong)?;
    let (screen_width, screen_height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    let frame = decoder
        .next_frame_info()
        .map_err(wrong)?
        .ok_or_else(|| wrong("no frame"))?;
    let [left, top, width, height] =
        [frame.left, frame.top, frame.width, frame.height].map(u32::from);
    let outside = frame.transparent.unwrap_or(0);
    // Pillow widens the screen where the first frame goes beyond it.
    let (screen_width, screen_height) = (
        screen_width.max(left + width),
        screen_height.max(top + height),
    );
    options.check_size(screen_width, screen_height)?;
    let mut indices = zeros("GIF", decoder.buffer_size() as u64)?;
    decoder.read_into_buffer(&mut indices).map_err(wrong)?;

    let palette = decoder.palette().unwrap_or(&[]);
    // Indices beyond the palette, and all where there is none, are shades of grey.
    let colors: Vec<[u8; 3]> = (0..=255)
        .map(|i: u8| match palette.chunks_exact(3).nth(usize::from(i)) {
            Some(color) => [color[0], color[1], color[2]],
            None => [i; 3],
        })
        .collect();
    let len = u64::from(screen_width) * u64::from(screen_height) * 3;
    let mut data = zeros("GIF", len)?;
    for pixel in data.chunks_exact_mut(3) {
        pixel.copy_from_slice(&colors[usize::from(outside)]);
    }
    let [left, top, width] = [left, top, width].map(|v| v as usize);
    if width > 0 {
        let rows = data.chunks_exact_mut(screen_width as usize * 3).skip(top);
        for (row, indices) in rows.zip(indices.chunks_exact(width)) {
            for (pixel, index) in row[left * 3..].chunks_exact_mut(3).zip(indices) {
                pixel.copy_from_slice(&colors[usize::from(*index)]);
            }
        }
    }
    RgbImage::new(screen_width, screen_height, data)
}

fn wrong(reason: impl std::fmt::Display) -> Error {
    Error::Decode {
        format: "GIF",
        reason: reason.to_string(),
    }
}
