//! Writes pictures as PNG and animated PNG files.

use std::io::Write;
use std::time::Duration;

use embedded_graphics::prelude::*;

use crate::canvas::Canvas;

/// Writes `canvas` as a PNG file.
///
/// # Errors
/// Any error of `out`.
pub fn write_png(out: impl Write, canvas: &Canvas) -> std::io::Result<()> {
    let Size { width, height } = canvas.size();
    let mut encoder = png::Encoder::new(out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&bytes(canvas, 1))?;
    writer.finish()?;
    Ok(())
}

/// Writes `frames`, each with the time until the next one, as an endlessly repeating animated PNG, enlarged `scale`
/// times.
///
/// # Errors
/// No frames, or frames that differ in size; any error of `out`.
pub fn write_apng(
    out: impl Write,
    frames: &[(Canvas, Duration)],
    scale: u32,
) -> std::io::Result<()> {
    let Some((first, _)) = frames.first() else {
        return Err(std::io::Error::other(
            "expected at least one picture, found none",
        ));
    };
    let Size { width, height } = first.size() * scale;
    let count = u32::try_from(frames.len()).map_err(std::io::Error::other)?;
    let mut encoder = png::Encoder::new(out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(count, 0)?;
    let mut writer = encoder.write_header()?;
    for (canvas, delay) in frames {
        // The format holds at most 65.535 s.
        let milliseconds = u16::try_from(delay.as_millis()).unwrap_or(u16::MAX);
        writer.set_frame_delay(milliseconds, 1000)?;
        writer.write_image_data(&bytes(canvas, scale as usize))?;
    }
    writer.finish()?;
    Ok(())
}

/// RGB bytes, enlarged `scale` times by repeating pixels.
fn bytes(canvas: &Canvas, scale: usize) -> Vec<u8> {
    let mut bytes = vec![];
    for y in 0..canvas.size().height {
        let row: Vec<u8> = (canvas.row(y).iter())
            .flat_map(|pixel| [pixel.r(), pixel.g(), pixel.b()].repeat(scale))
            .collect();
        for _ in 0..scale {
            bytes.extend_from_slice(&row);
        }
    }
    bytes
}
