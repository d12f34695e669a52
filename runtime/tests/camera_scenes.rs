//! A scripted run of 60 scenes (`assets/scenes.mjpeg`) with the demo bundle: every change is told within 3
//! frames, and nothing else is. Each scene lasts a few frames with noise and a brightness that wavers, and every
//! third has one odd frame in its midst.

use std::path::{Path, PathBuf};

use pinhole::camera::{
    Camera, Change, Input, MjpegReader, Options, Piece, Pipeline, Seen, Source, TrackerOptions,
    Update,
};
use pinhole::{Classifier, DecodeOptions, RgbImage};

fn assets(path: &str) -> PathBuf {
    (Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets")).join(path)
}

/// The scenes with their classes.
fn scenes() -> Vec<(RgbImage, String)> {
    let bytes = std::fs::read(assets("scenes.mjpeg")).unwrap();
    let names = std::fs::read_to_string(assets("scenes.txt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut reader = MjpegReader::new(&bytes[..], bytes.len());
    let mut names = names.lines();
    let mut scenes = vec![];
    while let Some(piece) = reader.next_piece().unwrap() {
        let Piece::Frame(frame) = piece else {
            panic!("{piece:?}");
        };
        let path = folder.path().join("frame.jpg");
        std::fs::write(&path, frame).unwrap();
        let image = pinhole::open_image(&path, &DecodeOptions::default()).unwrap();
        scenes.push((image, names.next().unwrap().to_owned()));
    }
    scenes
}

/// A linear congruential generator (Numerical Recipes): any noise will do.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> i32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 24) as i32
    }
}

/// The picture as a camera brings it: with noise of 10 levels either way and a brightness that wavers by 6.
fn shot(image: &RgbImage, noise: &mut Noise) -> Vec<u8> {
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
fn every_scene_change_is_told_within_three_frames_and_nothing_else_is() {
    let scenes = scenes();
    assert_eq!(scenes.len(), 60);
    let mut noise = Noise(1);
    let mut stream = vec![];
    // Number of the first frame of each scene.
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
            stream.extend(shot(shown, &mut noise));
            frames += 1;
        }
    }
    let classifier = Classifier::builder()
        .threads(1)
        .open(assets("demo"))
        .unwrap();
    let options = Options {
        live: Some(false),
        ..Default::default()
    };
    let source = Source::Mjpeg(Input::Reader(Box::new(std::io::Cursor::new(stream))));
    let camera = Camera::open(source, options).unwrap();
    let mut pipeline = Pipeline::new(
        camera,
        |image| classifier.classify(image),
        TrackerOptions::default(),
    );
    let mut events: Vec<(u64, Change)> = vec![];
    for update in pipeline.by_ref() {
        match update.unwrap() {
            Update::Answer(answer) => {
                events.extend(answer.tracked.change.map(|change| (answer.frame, change)));
            }
            Update::Report(report) => panic!("{report:?}"),
        }
    }
    assert_eq!(pipeline.camera().counters().classified, frames);

    let mut expected_from = None;
    let mut latest = 0;
    for (index, (frame, change)) in events.iter().enumerate() {
        let (_, name) = &scenes[index];
        let seen = Some(Seen::Class(name.clone()));
        assert_eq!(
            (&change.from, Some(&change.to)),
            (&expected_from, seen.as_ref()),
            "{frame}"
        );
        // Its first frame counts as one.
        let within = frame + 1 - starts[index];
        assert!(
            within <= 3,
            "scene {index}, {name}: told in its frame {within}"
        );
        latest = latest.max(within);
        expected_from = seen;
    }
    assert_eq!(events.len(), 60);
    println!("60 scenes, {frames} frames: 60 events, the latest in frame {latest} of its scene");
}
