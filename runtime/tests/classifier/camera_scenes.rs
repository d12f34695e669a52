//! 60 scenes (`assets/scenes.mjpeg`) with the demo bundle: every scene change is detected within 3 frames, and nothing
//! else is. Each scene lasts a few frames with noise and varying brightness; every third scene contains one frame of
//! another scene.

use std::path::{Path, PathBuf};

use pinhole::camera::{
    Camera, CameraOptions, FrameSource, MjpegChunk, MjpegReader, Pipeline, PipelineEvent,
    StateChange, StreamInput, TrackerOptions,
};
use pinhole::{Classifier, DecodeOptions, RgbImage};

fn assets(path: &str) -> PathBuf {
    (Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets")).join(path)
}

/// Images and class names of the scenes.
fn scenes() -> Vec<(RgbImage, String)> {
    let bytes = std::fs::read(assets("scenes.mjpeg")).unwrap();
    let names = std::fs::read_to_string(assets("scenes.txt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut reader = MjpegReader::new(&bytes[..], bytes.len());
    let mut names = names.lines();
    let mut scenes = vec![];
    while let Some(chunk) = reader.next_chunk().unwrap() {
        let MjpegChunk::Frame(frame) = chunk else {
            panic!("{chunk:?}");
        };
        let path = folder.path().join("frame.jpg");
        std::fs::write(&path, frame).unwrap();
        let image = pinhole::open_image(&path, &DecodeOptions::default()).unwrap();
        scenes.push((image, names.next().unwrap().to_owned()));
    }
    scenes
}

/// A linear congruential generator (Numerical Recipes).
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> i32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 24) as i32
    }
}

/// A simulated camera frame: uniform noise of +-10 levels and a brightness offset of +-6.
fn camera_frame(image: &RgbImage, noise: &mut Noise) -> Vec<u8> {
    let brightness = noise.next() % 13 - 6;
    let pixels: Vec<u8> = (image.data.iter())
        .map(|v| (i32::from(*v) + brightness + noise.next() % 21 - 10).clamp(0, 255) as u8)
        .collect();
    let mut jpeg = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 85)
        .encode(
            &pixels,
            image.width,
            image.height,
            image::ExtendedColorType::Rgb8,
        )
        .unwrap();
    jpeg
}

#[test]
fn exactly_the_scene_changes_are_detected_within_three_frames() {
    let scenes = scenes();
    assert_eq!(scenes.len(), 60);
    let mut noise = Noise(1);
    let mut stream = vec![];
    // First frame of each scene.
    let mut starts = vec![];
    let mut frames = 0;
    for (index, (image, _)) in scenes.iter().enumerate() {
        starts.push(frames);
        for frame in 0..6 + index % 5 {
            let odd = index % 3 == 2 && frame == 4;
            let shown = if odd {
                &scenes[(index + 30) % 60].0
            } else {
                image
            };
            stream.extend(camera_frame(shown, &mut noise));
            frames += 1;
        }
    }
    let classifier = Classifier::builder()
        .threads(1)
        .open(assets("demo"))
        .unwrap();
    let options = CameraOptions {
        live: Some(false),
        ..Default::default()
    };
    let source = FrameSource::mjpeg(StreamInput::Reader(Box::new(std::io::Cursor::new(stream))));
    let camera = Camera::open(source, options).unwrap();
    let mut pipeline = Pipeline::new(
        camera,
        |image| classifier.classify(image),
        TrackerOptions::default(),
    );
    let mut events: Vec<(u64, StateChange)> = vec![];
    for event in pipeline.by_ref() {
        match event.unwrap() {
            PipelineEvent::Answer(answer) => {
                events.extend(answer.tracked.change.map(|change| (answer.frame, change)));
            }
            PipelineEvent::Source(event) => panic!("{event:?}"),
        }
    }
    assert_eq!(pipeline.camera().counters().classified, frames);

    let mut expected_from = None;
    let mut latest = 0;
    for (index, (frame, change)) in events.iter().enumerate() {
        let (_, name) = &scenes[index];
        let state = Some(change.to.clone());
        assert_eq!(change.to.name(), name.as_str(), "{frame}");
        assert_eq!(change.from, expected_from, "{frame}");
        let named = change
            .to
            .index()
            .map(|class| &classifier.manifest().classes[class]);
        assert_eq!(named, Some(name), "{frame}");
        // Counted from 1.
        let within = frame + 1 - starts[index];
        assert!(
            within <= 3,
            "scene {index}, {name}: detected in its frame {within}"
        );
        latest = latest.max(within);
        expected_from = state;
    }
    assert_eq!(events.len(), 60);
    println!("60 scenes, {frames} frames: 60 events, the latest in frame {latest} of its scene");
}
