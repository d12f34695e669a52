//! The images of the self-test: generated, so that no bundle contains a user's photo.

use anyhow::Result;
use image::ImageEncoder;
use image::codecs::png::PngEncoder;
use pinhole_preprocessing::RgbImage;

/// Name inside the bundle and pixels of each golden image. Their sizes cover cropping, and resizing up and down.
pub(crate) fn images() -> Result<Vec<(&'static str, RgbImage)>> {
    Ok(vec![
        ("golden/bars.png", image(160, 120, bars)?),
        ("golden/disc.png", image(90, 150, disc)?),
        ("golden/tiles.png", image(301, 211, tiles)?),
    ])
}

pub(crate) fn to_png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut png = Vec::new();
    let kind = image::ExtendedColorType::Rgb8;
    PngEncoder::new(&mut png).write_image(&image.data, image.width, image.height, kind)?;
    Ok(png)
}

fn image(width: u32, height: u32, colour: impl Fn(f32, f32) -> [f32; 3]) -> Result<RgbImage> {
    let mut data = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            let rgb = colour(x as f32 / width as f32, y as f32 / height as f32);
            data.extend(rgb.map(|v| (v.clamp(0.0, 1.0) * 255.0) as u8));
        }
    }
    Ok(RgbImage::new(width, height, data)?)
}

/// Eight colour bars, darker towards the bottom.
fn bars(x: f32, y: f32) -> [f32; 3] {
    let bar = (x * 8.0) as u32;
    [bar & 1, bar >> 1 & 1, bar >> 2 & 1].map(|bit| (0.15 + 0.85 * bit as f32) * (1.0 - 0.6 * y))
}

/// An orange disc on a blue gradient.
fn disc(x: f32, y: f32) -> [f32; 3] {
    let inside = (x - 0.5).powi(2) + (0.9 * (y - 0.45)).powi(2) < 0.09;
    if inside {
        [0.95, 0.5, 0.1]
    } else {
        [0.1, 0.2 + 0.3 * y, 0.9 - 0.5 * y]
    }
}

/// Tiles of two greens with a red diagonal.
fn tiles(x: f32, y: f32) -> [f32; 3] {
    if (x - y).abs() < 0.04 {
        [0.8, 0.1, 0.1]
    } else if ((x * 7.0) as u32 + (y * 5.0) as u32).is_multiple_of(2) {
        [0.2, 0.6, 0.3]
    } else {
        [0.7, 0.9, 0.7]
    }
}
