//! Times JPEG decoders on one thread, in turns: `jpeg_decoders FILE ROUNDS [DECODER]`, all decoders or the one of that name.
//!
//! Prints the median of each in milliseconds, and how far zune-jpeg's pixels are from libjpeg-turbo's, which are Pillow's.
//! `tests/arm/count_decoders` counts instructions with it.

use std::hint::black_box;
use std::time::Instant;

use pinhole_preprocessing::{DecodeOptions, Image, decode};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
type Decoder = fn(&[u8]) -> Result<Vec<u8>>;

/// Name and decoder; the first gives no pixels.
const DECODERS: [(&str, Decoder); 3] = [
    ("libjpeg-turbo-planes", |bytes| {
        black_box(Image::decode(bytes, &DecodeOptions::default())?);
        Ok(vec![])
    }),
    ("libjpeg-turbo", |bytes| {
        Ok(decode(bytes, &DecodeOptions::default())?.data)
    }),
    ("zune-jpeg", |bytes| {
        Ok(JpegDecoder::new(ZCursor::new(bytes)).decode()?)
    }),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, rounds, only) = match arguments.as_slice() {
        [file, rounds] => (file, rounds, None),
        [file, rounds, only] => (file, rounds, Some(only.as_str())),
        _ => return Err("usage: jpeg_decoders FILE ROUNDS [DECODER]".into()),
    };
    let (bytes, rounds) = (std::fs::read(file)?, rounds.parse::<usize>()?);
    let decoders: Vec<_> = DECODERS
        .into_iter()
        .filter(|(name, _)| only.is_none_or(|only| only == *name))
        .collect();
    if decoders.is_empty() {
        let names = DECODERS.map(|(name, _)| name).join(", ");
        return Err(format!("DECODER: expected one of {names}").into());
    }
    let mut times = vec![vec![]; decoders.len()];
    for _ in 0..rounds {
        for ((_, decode), times) in decoders.iter().zip(&mut times) {
            let start = Instant::now();
            black_box(decode(&bytes)?);
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    for ((name, _), times) in decoders.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        if let Some(median) = times.get(rounds / 2) {
            println!("{name:<22} {median:.2} ms");
        }
    }
    if only.is_none() {
        let [_, (_, ours), (_, theirs)] = DECODERS;
        let (ours, theirs) = (ours(&bytes)?, theirs(&bytes)?);
        let differences = || ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b));
        let different = differences().filter(|difference| *difference > 0).count();
        println!(
            "{:.1} % of zune-jpeg's values differ, by {} at most",
            100.0 * different as f64 / ours.len() as f64,
            differences().max().unwrap_or(0)
        );
    }
    Ok(())
}
