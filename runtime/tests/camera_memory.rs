//! 10,000 frames as fast as a pipe carries them: memory stays flat, and frames that are dropped are not decoded.
//! Alone in its file, because memory is measured of the whole process.

use std::io::Write;
use std::time::Duration;

use pinhole::camera::{Camera, Input, Options, Pipeline, Source, TrackerOptions, Update};
use pinhole::{Classification, Latency, Ranked};

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_is_flat_and_dropped_frames_are_not_decoded() {
    let pixels: Vec<u8> = (0..160 * 120 * 3).map(|i| (i * 7919 % 251) as u8).collect();
    let mut whole = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut whole, 90)
        .encode(&pixels, 160, 120, image::ExtendedColorType::Rgb8)
        .unwrap();
    // Split off as a frame and refused by the decoder: whichever is decoded is counted. Its image is 0 wide.
    let mut broken = whole.clone();
    let size = broken.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    broken[size + 7..size + 9].fill(0);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let camera = Camera::open(
        Source::Mjpeg(Input::Reader(Box::new(reader))),
        Options::default(),
    )
    .unwrap();
    let sender = std::thread::spawn(move || {
        for _ in 0..5000 {
            writer.write_all(&whole).unwrap();
            writer.write_all(&broken).unwrap();
        }
    });
    let answer = Classification {
        ranking: vec![Ranked {
            index: 0,
            name: "noise".into(),
            probability: 1.0,
            similarity: 1.0,
        }],
        unknown: false,
        latency: Latency::default(),
    };
    let classify = |_: &pinhole::RgbImage| {
        std::thread::sleep(Duration::from_millis(5));
        Ok(answer.clone())
    };
    let mut pipeline = Pipeline::new(camera, classify, TrackerOptions::default());
    let mut early = None;
    let mut highest = 0;
    for update in pipeline.by_ref() {
        if let Update::Answer(answer) = update.unwrap()
            && answer.counters.read >= 1000
        {
            early.get_or_insert_with(resident_kib);
            highest = highest.max(resident_kib());
        }
    }
    sender.join().unwrap();
    let c = pipeline.camera().counters();
    println!(
        "{} frames: {} classified, {} corrupt, {} dropped; resident {} KiB after 1,000, at most {highest} KiB later",
        c.read,
        c.classified,
        c.corrupt,
        c.dropped,
        early.unwrap()
    );
    assert_eq!(c.read, 10_000);
    assert_eq!(c.read, c.classified + c.corrupt + c.dropped);
    // Half of the frames are broken. Had the dropped ones been decoded, so many would count as corrupt; as it is,
    // about as many do as are classified, and one for each turn of the caller.
    assert!(c.corrupt > 0 && c.classified > 20, "{c:?}");
    assert!(c.dropped > 5000 && c.corrupt < 2000, "{c:?}");
    // 30,000 KiB of frames went by.
    assert!(highest < early.unwrap() + 4096, "{early:?} {highest}");
}
