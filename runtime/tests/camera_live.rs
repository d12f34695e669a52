//! A live camera that is faster than the classifier: the newest frame wins, so that answers are for recent frames.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use pinhole::Classifier;
use pinhole::camera::{
    Camera, CameraOptions, FrameSource, MjpegChunk, MjpegReader, Pipeline, PipelineEvent,
    StreamInput, TrackerOptions,
};

const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 30);
const FRAMES: u32 = 300;

/// 10 s at 30 frames per second, classified at 5 per second or less: the age of an answer is below the inference time
/// plus two frame intervals.
#[test]
fn answers_are_for_recent_frames() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let bytes = std::fs::read(assets.join("scenes.mjpeg")).unwrap();
    let mut reader = MjpegReader::new(&bytes[..], bytes.len());
    let mut scenes = vec![];
    while let Some(MjpegChunk::Frame(frame)) = reader.next_chunk().unwrap() {
        scenes.push(frame);
    }
    let classifier = Classifier::builder()
        .threads(1)
        .open(assets.join("demo"))
        .unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let camera = Camera::open(
        FrameSource::mjpeg(StreamInput::Reader(Box::new(reader))),
        CameraOptions::default(),
    )
    .unwrap();
    let sender = std::thread::spawn(move || {
        let start = Instant::now();
        for number in 0..FRAMES {
            let due = start + FRAME * number;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let scene = &scenes[number as usize % scenes.len()];
            writer.write_all(scene).unwrap();
        }
    });
    let mut inferences = vec![];
    let mut ages = vec![];
    let slow = |image: &pinhole::Image| {
        let start = Instant::now();
        let answer = classifier.classify(image)?;
        std::thread::sleep(Duration::from_millis(200).saturating_sub(start.elapsed()));
        inferences.push(start.elapsed());
        Ok(answer)
    };
    let mut pipeline = Pipeline::new(camera, slow, TrackerOptions::default());
    for event in pipeline.by_ref() {
        match event.unwrap() {
            PipelineEvent::Answer(answer) => ages.push(answer.age),
            PipelineEvent::Source(event) => panic!("{event:?}"),
        }
    }
    sender.join().unwrap();
    let counters = pipeline.camera().counters();
    drop(pipeline);
    assert_eq!(counters.read, u64::from(FRAMES));
    assert_eq!(counters.classified + counters.dropped, u64::from(FRAMES));
    assert!(ages.len() >= 40, "{}", ages.len());

    // Waiting and decoding time. One frame in twenty may be late, because other tests keep the machine busy.
    let mut waits: Vec<Duration> = (ages.iter().zip(&inferences))
        .map(|(age, inference)| age.saturating_sub(*inference))
        .collect();
    waits.sort();
    let late = waits.iter().filter(|wait| **wait >= 2 * FRAME).count();
    println!(
        "{} of {FRAMES} frames answered; age minus inference: median {:.1} ms, largest {:.1} ms; {late} late",
        ages.len(),
        waits[waits.len() / 2].as_secs_f64() * 1e3,
        waits[waits.len() - 1].as_secs_f64() * 1e3
    );
    assert!(late * 20 <= waits.len(), "{waits:?}");
}
