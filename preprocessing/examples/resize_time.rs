//! Times the preprocessing of one image size, single-threaded: `resize_time WIDTH HEIGHT SIZE RUNS`.
//!
//! Prints the seconds of each run. benches/time_preprocessing.py compares them with Pillow's.

use std::time::Instant;

use pinhole_model::PreprocessConfig;
use pinhole_preprocessing::{RgbImage, preprocess};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<u32> = std::env::args()
        .skip(1)
        .map(|a| a.parse())
        .collect::<Result<_, _>>()?;
    let [width, height, size, runs] = arguments[..] else {
        return Err("usage: resize_time WIDTH HEIGHT SIZE RUNS".into());
    };
    let bytes = width as usize * height as usize * 3;
    let data = (0..bytes as u32)
        .map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8)
        .collect();
    let image = RgbImage::new(width, height, data)?;
    let config = PreprocessConfig::openai(size);
    for _ in 0..runs {
        let start = Instant::now();
        let pixels = preprocess(&config, &image)?;
        let seconds = start.elapsed().as_secs_f64();
        std::hint::black_box(pixels);
        println!("{seconds}");
    }
    Ok(())
}
