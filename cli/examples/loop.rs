//! The loop of `pinhole bench`, timed with nothing but two looks at the clock an image, to compare with:
//! `cargo run --release -p pinhole-cli --example loop -- BUNDLE IMAGE THREADS WARM_UP ITERATIONS`.
//! Prints the median of an image's time, then the mean of as many images with two looks at the clock for all of them,
//! in milliseconds. `benches/bench_overhead` runs it.

use std::error::Error;
use std::time::Instant;

use pinhole::{Classifier, DecodeOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, image, numbers @ ..] = &arguments[..] else {
        usage();
    };
    let numbers: Vec<usize> = numbers
        .iter()
        .map(|n| n.parse())
        .collect::<Result<_, _>>()?;
    let [threads, warm_up, iterations] = numbers[..] else {
        usage();
    };
    if iterations == 0 {
        usage();
    }
    let classifier = Classifier::builder().threads(threads).open(bundle)?;
    let bytes = std::fs::read(image)?;
    let options = DecodeOptions::default();
    let one = || -> Result<(), pinhole::Error> {
        let image = pinhole_preprocessing::decode(&bytes, &options)?;
        classifier.classify(&image)?;
        Ok(())
    };

    (0..warm_up).try_for_each(|_| one())?;
    let mut times = Vec::with_capacity(iterations);
    for _ in 0..iterations {
        let start = Instant::now();
        one()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let p50 = times[iterations.div_ceil(2) - 1];

    let start = Instant::now();
    (0..iterations).try_for_each(|_| one())?;
    let mean = start.elapsed().as_secs_f64() / iterations as f64;
    println!("{} {}", p50.as_secs_f64() * 1e3, mean * 1e3);
    Ok(())
}

fn usage() -> ! {
    eprintln!("usage: loop BUNDLE IMAGE THREADS WARM_UP ITERATIONS");
    std::process::exit(2);
}
