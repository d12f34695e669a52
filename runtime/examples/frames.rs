//! Classifies frames in memory: raw RGB video from standard input, one buffer for all frames, no copies.
//!
//! ```sh
//! ffmpeg -loglevel error -i video.mp4 -f rawvideo -pix_fmt rgb24 -s 640x480 - |
//!     cargo run --release -p pinhole --example frames -- assets/demo 640 480
//! ```

use std::io::Read;

use pinhole::{Classifier, RgbView};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, width, height] = &arguments[..] else {
        eprintln!("usage: frames BUNDLE WIDTH HEIGHT < RGB24");
        std::process::exit(2);
    };
    let (width, height): (u32, u32) = (width.parse()?, height.parse()?);
    // Buffers of cameras often have padded rows: then the stride is greater.
    let stride = width as usize * 3;
    let mut buffer = vec![0; stride * height as usize];

    let classifier = Classifier::open(bundle)?;
    let mut stream = classifier.stream()?;
    let mut input = std::io::stdin().lock();
    // Ends with the input; an incomplete last frame is ignored.
    while input.read_exact(&mut buffer).is_ok() {
        let frame = RgbView::with_stride(width, height, stride, &buffer)?;
        let answer = stream.classify(frame)?;
        let best = &answer.ranking[0];
        println!("{} ({:.1} %)", best.name, 100.0 * best.probability);
    }
    Ok(())
}
