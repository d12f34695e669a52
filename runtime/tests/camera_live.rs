//! A live camera that is faster than the classifier: the newest frame wins, so that answers are of fresh frames.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use pinhole::Classifier;
use pinhole::camera::{
    Camera, Input, MjpegReader, Options, Piece, Pipeline, Source, TrackerOptions, Update,
};

const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 30);
const FRAMES: u32 = 300;

/// 10 s at 30 frames a second into a classifier of at most 5 a second: the age of each answered frame is below
/// two frame times and the inference itself.
#[test]
fn answers_are_of_fresh_frames() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let bytes = std::fs::read(assets.join("scenes.mjpeg")).unwrap();
    let mut reader = MjpegReader::new(&bytes[..], bytes.len());
    let mut scenes = vec![];
    while let Some(Piece::Frame(frame)) = reader.next_piece().unwrap() {
        scenes.push(frame);
    }
    let classifier = Classifier::builder()
        .threads(1)
        .open(assets.join("demo"))
        .unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let camera = Camera::open(
        Source::Mjpeg(Input::Reader(Box::new(reader))),
        Options::default(),
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
    let slow = |image: &pinhole::RgbImage| {
        let start = Instant::now();
        let answer = classifier.classify(image)?;
        std::thread::sleep(Duration::from_millis(200).saturating_sub(start.elapsed()));
        inferences.push(start.elapsed());
        Ok(answer)
    };
    let mut pipeline = Pipeline::new(camera, slow, TrackerOptions::default());
    for update in pipeline.by_ref() {
        match update.unwrap() {
            Update::Answer(answer) => ages.push(answer.age),
            Update::Report(report) => panic!("{report:?}"),
        }
    }
    sender.join().unwrap();
    let counters = pipeline.camera().counters();
    drop(pipeline);
    assert_eq!(counters.read, u64::from(FRAMES));
    assert_eq!(counters.classified + counters.dropped, u64::from(FRAMES));
    assert!(ages.len() >= 40, "{}", ages.len());

    // What a frame waited for and was decoded in. On a machine that other tests keep busy, a thread may be late
    // once in a while; one frame in twenty may be older for that.
    let mut waits: Vec<Duration> = (ages.iter().zip(&inferences))
        .map(|(age, inference)| age.saturating_sub(*inference))
        .collect();
    waits.sort();
    let late = waits.iter().filter(|wait| **wait >= 2 * FRAME).count();
    println!(
        "{} of {FRAMES} frames answered; age less the inference: median {:.1} ms, largest {:.1} ms; {late} late",
        ages.len(),
        waits[waits.len() / 2].as_secs_f64() * 1e3,
        waits[waits.len() - 1].as_secs_f64() * 1e3
    );
    assert!(late * 20 <= waits.len(), "{waits:?}");
}
