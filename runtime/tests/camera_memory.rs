//! 10,000 frames as fast as a pipe transports them: memory stays constant, and dropped frames are not decoded. The only
//! test of its file, because it measures the memory of the whole process.

use std::io::Write;
use std::time::Duration;

use pinhole::camera::{
    Camera, CameraOptions, FrameSource, Pipeline, PipelineEvent, StreamInput, TrackerOptions,
};
use pinhole::{Classification, Latency, Ranked};

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_is_constant_and_dropped_frames_are_not_decoded() {
    let pixels: Vec<u8> = (0..160 * 120 * 3).map(|i| (i * 7919 % 251) as u8).collect();
    let mut whole = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut whole, 90)
        .encode(&pixels, 160, 120, image::ExtendedColorType::Rgb8)
        .unwrap();
    // A complete frame of width 0, which the decoder rejects: each decoded one counts as corrupt.
    let mut broken = whole.clone();
    let size = broken.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    broken[size + 7..size + 9].fill(0);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let camera = Camera::open(
        FrameSource::mjpeg(StreamInput::Reader(Box::new(reader))),
        CameraOptions::default(),
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
        score: pinhole::Score::Softmax,
        unknown: false,
        latency: Latency::default(),
    };
    let classify = |_: &pinhole::Image| {
        std::thread::sleep(Duration::from_millis(5));
        Ok(answer.clone())
    };
    let mut pipeline = Pipeline::new(camera, classify, TrackerOptions::default());
    let mut early = None;
    let mut highest = 0;
    for event in pipeline.by_ref() {
        if let PipelineEvent::Answer(answer) = event.unwrap()
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
    // Half of the frames are broken. If dropped frames were decoded, thousands would count as corrupt.
    assert!(c.corrupt > 0 && c.classified > 20, "{c:?}");
    assert!(c.dropped > 5000 && c.corrupt < 2000, "{c:?}");
    // The frames have 30,000 KiB in total.
    assert!(highest < early.unwrap() + 4096, "{early:?} {highest}");
}
