//! The generated images of tests/reference/make_preprocessing.py, and Pillow's resize in plain loops.

use pinhole_model::{CropRounding, Filter, PreprocessConfig, Resize};
use pinhole_preprocessing::RgbImage;
use sha2::{Digest, Sha256};

pub(crate) fn sha256(data: &[u8]) -> String {
    Sha256::digest(data)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The image that make_preprocessing.py's `draw` gives for the same arguments.
pub(crate) fn draw(width: u32, height: u32, seed: u32) -> RgbImage {
    let mut data = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            for c in 0..3_u32 {
                let noise = || {
                    let mut v = x.wrapping_mul(0x9E37_79B1)
                        ^ y.wrapping_mul(0x85EB_CA77)
                        ^ c.wrapping_mul(0xC2B2_AE3D);
                    v ^= seed.wrapping_mul(0x27D4_EB2F);
                    v = (v ^ (v >> 15)).wrapping_mul(0x2C1B_3C6D);
                    v = (v ^ (v >> 12)).wrapping_mul(0x297A_2D39);
                    (v ^ (v >> 15)) & 255
                };
                let gradient = || (x * 255 / width * (c + 1) + y * 255 / height) & 255;
                let edges = || (((x / 7) ^ (y / 5) ^ c) & 1) * 255;
                let value = match seed % 5 {
                    0 => noise(),
                    1 => gradient(),
                    2 => edges(),
                    3 => (gradient() * 3 + noise()) / 4,
                    _ if (x + y) % 97 < 40 => noise(),
                    _ => edges(),
                };
                data.push(value as u8);
            }
        }
    }
    RgbImage::new(width, height, data).unwrap()
}

/// Resize and crop as the Python libraries do it: the whole image is resized, then cropped or padded. `None` where a
/// side would be 0.
pub(crate) fn reference(image: &RgbImage, config: &PreprocessConfig) -> Option<Vec<u8>> {
    let (width, height, size) = (
        image.width as usize,
        image.height as usize,
        config.size as usize,
    );
    let scaled = config.resize_to.map_or(size, |side| side as usize);
    let (resized_width, resized_height) = match config.resize {
        Resize::Squash => (scaled, scaled),
        Resize::Shortest => {
            let (short, long) = (width.min(height), width.max(height));
            let long = ((scaled * long) as f64 / short as f64) as usize;
            if width <= height {
                (scaled, long)
            } else {
                (long, scaled)
            }
        }
        Resize::Longest => {
            let ratio = (height as f64 / scaled as f64).max(width as f64 / scaled as f64);
            let side = |side: usize| (side as f64 / ratio).round_ties_even() as usize;
            (side(width), side(height))
        }
    };
    if resized_width == 0 || resized_height == 0 {
        return None;
    }
    let resized = pillow_resize(
        &image.data,
        (width, height),
        (resized_width, resized_height),
        config.filter,
    );
    let offset = |side: usize| {
        let offset = (side as f64 - size as f64) / 2.0;
        if side < size {
            -(((size - side) / 2) as isize)
        } else if config.crop == CropRounding::Floor {
            offset.floor() as isize
        } else {
            offset.round_ties_even() as isize
        }
    };
    let (left, top) = (offset(resized_width), offset(resized_height));
    let mut result = Vec::new();
    for y in 0..size as isize {
        for x in 0..size as isize {
            let (x, y) = (x + left, y + top);
            if (0..resized_width as isize).contains(&x) && (0..resized_height as isize).contains(&y)
            {
                let at = (y as usize * resized_width + x as usize) * 3;
                result.extend(&resized[at..at + 3]);
            } else {
                result.extend(config.fill);
            }
        }
    }
    Some(result)
}

/// `Image.resize` of Pillow on RGB data: libImaging/Resample.c, and Geometry.c for nearest.
pub(crate) fn pillow_resize(
    data: &[u8],
    from: (usize, usize),
    to: (usize, usize),
    filter: Filter,
) -> Vec<u8> {
    if from == to {
        return data.to_vec();
    }
    if filter == Filter::Nearest {
        return pillow_nearest(data, from, to);
    }
    let (down, across) = (from.1 as i64 - to.1 as i64, from.0 as i64 - to.0 as i64);
    if down > 0 && down > 2 * across {
        let middle = pillow_vertical(data, from, to.1, filter);
        pillow_horizontal(&middle, (from.0, to.1), to.0, filter)
    } else {
        let middle = pillow_horizontal(data, from, to.0, filter);
        pillow_vertical(&middle, (to.0, from.1), to.1, filter)
    }
}

fn pillow_horizontal(data: &[u8], from: (usize, usize), to: usize, filter: Filter) -> Vec<u8> {
    let coefficients = coefficients(from.0, to, filter);
    let mut result = Vec::new();
    for y in 0..from.1 {
        for (first, weights) in &coefficients {
            for c in 0..3 {
                result.push(weighted_sum(weights, |t| {
                    data[(y * from.0 + first + t) * 3 + c]
                }));
            }
        }
    }
    result
}

fn pillow_vertical(data: &[u8], from: (usize, usize), to: usize, filter: Filter) -> Vec<u8> {
    let mut result = Vec::new();
    for (first, weights) in coefficients(from.1, to, filter) {
        for column in 0..from.0 * 3 {
            result.push(weighted_sum(&weights, |t| {
                data[(first + t) * from.0 * 3 + column]
            }));
        }
    }
    result
}

fn weighted_sum(weights: &[i32], pixel: impl Fn(usize) -> u8) -> u8 {
    let mut sum = 1 << 21;
    for (t, weight) in weights.iter().enumerate() {
        sum += i32::from(pixel(t)) * weight;
    }
    (sum >> 22).clamp(0, 255) as u8
}

/// For each result pixel the first source pixel and the weights, in 22-bit fixed point.
fn coefficients(from: usize, to: usize, filter: Filter) -> Vec<(usize, Vec<i32>)> {
    let support = match filter {
        Filter::Nearest => unreachable!(),
        Filter::Box => 0.5,
        Filter::Bilinear | Filter::Hamming => 1.0,
        Filter::Bicubic => 2.0,
        Filter::Lanczos => 3.0,
    };
    let scale = from as f64 / to as f64;
    let filter_scale = if scale < 1.0 { 1.0 } else { scale };
    let support = support * filter_scale;
    let mut result = Vec::new();
    for x in 0..to {
        let center = (x as f64 + 0.5) * scale;
        let first = ((center - support + 0.5) as i64).max(0);
        let end = ((center + support + 0.5) as i64).min(from as i64);
        let mut weights = Vec::new();
        let mut total = 0.0;
        for t in 0..end - first {
            let weight = kernel(
                filter,
                ((t + first) as f64 - center + 0.5) * (1.0 / filter_scale),
            );
            weights.push(weight);
            total += weight;
        }
        let fixed = |weight: &f64| {
            let weight = if total != 0.0 {
                weight / total
            } else {
                *weight
            };
            let scaled = weight * f64::from(1 << 22);
            if weight < 0.0 {
                (-0.5 + scaled) as i32
            } else {
                (0.5 + scaled) as i32
            }
        };
        result.push((first as usize, weights.iter().map(fixed).collect()));
    }
    result
}

fn kernel(filter: Filter, x: f64) -> f64 {
    use std::f64::consts::PI;
    let sinc = |x: f64| {
        if x == 0.0 {
            1.0
        } else {
            (x * PI).sin() / (x * PI)
        }
    };
    match filter {
        Filter::Nearest => unreachable!(),
        Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
        Filter::Bilinear if x.abs() < 1.0 => 1.0 - x.abs(),
        Filter::Hamming if x == 0.0 => 1.0,
        Filter::Hamming if x.abs() < 1.0 => {
            let x = x.abs() * PI;
            x.sin() / x * (f64::from(0.54_f32) + f64::from(0.46_f32) * x.cos())
        }
        Filter::Bicubic if x.abs() < 1.0 => {
            let x = x.abs();
            (1.5 * x - 2.5) * x * x + 1.0
        }
        Filter::Bicubic if x.abs() < 2.0 => {
            let x = x.abs();
            (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
        }
        Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
        _ => 0.0,
    }
}

fn pillow_nearest(data: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let positions = |from: usize, to: usize| {
        let step = from as f64 / to as f64;
        let mut position = step * 0.5;
        let mut positions = Vec::new();
        for _ in 0..to {
            positions.push(position as usize);
            position += step;
        }
        positions
    };
    let columns = positions(from.0, to.0);
    let mut result = Vec::new();
    for y in positions(from.1, to.1) {
        for x in &columns {
            if y < from.1 && *x < from.0 {
                result.extend(&data[(y * from.0 + x) * 3..][..3]);
            } else {
                result.extend([0; 3]);
            }
        }
    }
    result
}
