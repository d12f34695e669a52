//! Sources and options of a camera: stalls, ends, folders, regions, still scenes. The classifier is a stub; the images
//! are small grey JPEGs.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pinhole::camera::{
    Camera, CameraOptions, FrameSource, Pipeline, PipelineEvent, Region, SourceEventKind,
    StreamInput, TrackerOptions,
};
use pinhole::{DecodeOptions, Error, Image, ImageError, Reduction};

use crate::support::{NO_SMOOTHING, by_grey, every_frame, jpeg, mjpeg, run, run_with};

/// A pipe that pauses: one event soon after the timeout, and one when frames resume.
#[test]
fn a_stall_and_its_end_are_each_reported_once() {
    let frame = jpeg(100, 64, 48);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let timeout = Duration::from_millis(300);
    let sender = std::thread::spawn(move || {
        writer.write_all(&frame).unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        writer.write_all(&frame).unwrap();
    });
    let options = CameraOptions {
        timeout: Some(timeout),
        ..Default::default()
    };
    let camera = Camera::open(
        FrameSource::mjpeg(StreamInput::Reader(Box::new(reader))),
        options,
    )
    .unwrap();
    let mut events = vec![];
    let mut last_frame = Instant::now();
    let mut pipeline = Pipeline::new(camera, by_grey, NO_SMOOTHING);
    for event in pipeline.by_ref() {
        match event.unwrap() {
            PipelineEvent::Answer(answer) => last_frame = answer.captured,
            PipelineEvent::Source(event) => events.push((event.kind, last_frame.elapsed())),
        }
    }
    sender.join().unwrap();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[0].0, SourceEventKind::Stalled { timeout });
    assert!(
        events[0].1 >= timeout && events[0].1 < timeout * 3,
        "{events:?}"
    );
    assert!(matches!(events[1].0, SourceEventKind::Resumed { after } if after >= timeout * 3));
    let counters = pipeline.camera().counters();
    assert_eq!((counters.classified, counters.stalls), (2, 1));
}

/// A named pipe is reopened after its writer closes it, each time after a short pause.
#[test]
fn a_named_pipe_is_reopened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let options = CameraOptions {
        reopen_pause: Duration::from_millis(50),
        timeout: None,
        ..Default::default()
    };
    let camera =
        Camera::open(FrameSource::mjpeg(StreamInput::Path(path.clone())), options).unwrap();
    let stop_handle = camera.stop_handle();
    let sender = std::thread::spawn(move || {
        for _ in 0..3 {
            let frame = jpeg(100, 64, 48);
            let mut pipe = std::fs::File::options().write(true).open(&path).unwrap();
            pipe.write_all(&frame).unwrap();
            drop(pipe);
            std::thread::sleep(Duration::from_millis(300));
        }
        stop_handle.stop();
    });
    let ran = run_with(camera, by_grey);
    sender.join().unwrap();
    assert_eq!(ran.frames(), [0, 1, 2]);
    assert_eq!(ran.counters.reopened, 3, "{}", ran.reasons());
    let lost = |r: &&SourceEventKind| matches!(r, SourceEventKind::Lost { wait, .. } if *wait <= Duration::from_millis(100));
    assert_eq!(
        ran.events.iter().filter(lost).count(),
        3,
        "{}",
        ran.reasons()
    );
}

/// A watched folder that is deleted is reported, retried with pauses that double, and used when it exists again.
#[test]
fn a_deleted_folder_is_reopened() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("frames");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("a.jpg"), jpeg(40, 32, 32)).unwrap();
    let options = CameraOptions {
        reopen_pause: Duration::from_millis(100),
        timeout: None,
        ..Default::default()
    };
    let source = FrameSource::watched_folder(path.clone());
    let camera = Camera::open(source, options).unwrap();
    let stop_handle = camera.stop_handle();
    let mover = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1200));
        std::fs::remove_dir_all(&path).unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("b.jpg"), jpeg(200, 32, 32)).unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        stop_handle.stop();
    });
    let ran = run_with(camera, by_grey);
    mover.join().unwrap();
    assert_eq!(ran.classes(), ["black", "white"], "{}", ran.reasons());
    let waits: Vec<Duration> = (ran.events.iter())
        .filter_map(|r| match r {
            SourceEventKind::Lost { wait, .. } => Some(*wait),
            _ => None,
        })
        .collect();
    assert!(waits.len() >= 3, "{}", ran.reasons());
    assert!(waits.windows(2).all(|w| w[1] == 2 * w[0]), "{waits:?}");
    assert_eq!(ran.counters.reopened, 1);
}

#[test]
fn every_image_of_a_folder_is_used_in_name_order() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("b.jpg", &jpeg(100, 32, 32));
    write("c.JPEG", &jpeg(200, 32, 32));
    write("a.jpg", &jpeg(40, 32, 32));
    write("notes.txt", b"not an image");
    write(".hidden.jpg", &jpeg(40, 32, 32));
    let half = jpeg(100, 32, 32);
    write("bb.jpg", &half[..half.len() / 2]);
    write("bc.png", b"");
    let source = FrameSource::folder(folder.path());
    // Slower than the source: frames must wait, not be dropped.
    let ran = run_with(
        Camera::open(source, CameraOptions::default()).unwrap(),
        |image| {
            std::thread::sleep(Duration::from_millis(50));
            by_grey(image)
        },
    );
    assert_eq!(ran.classes(), ["black", "dark", "white"]);
    assert_eq!(ran.counters.read, 5);
    assert_eq!(ran.counters.corrupt, 2);
    assert!(
        ran.reasons().contains("bb.jpg: damaged"),
        "{}",
        ran.reasons()
    );
    assert!(
        ran.reasons().contains("bc.png: not an image"),
        "{}",
        ran.reasons()
    );
    assert_eq!(ran.answers[1].file, Some(folder.path().join("b.jpg")));
}

/// A file that is written in two halves is read once it is complete.
#[test]
fn a_half_written_file_is_read_once_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let source = FrameSource::watched_folder(path.clone());
    let options = CameraOptions {
        timeout: None,
        ..Default::default()
    };
    let camera = Camera::open(source, options).unwrap();
    let stop_handle = camera.stop_handle();
    let writer = std::thread::spawn(move || {
        let image = jpeg(100, 640, 480);
        let (first, second) = image.split_at(image.len() / 2);
        let mut file = std::fs::File::create(path.join("a.jpg")).unwrap();
        file.write_all(first).unwrap();
        file.flush().unwrap();
        // Longer than the settle time.
        std::thread::sleep(Duration::from_millis(1500));
        let finished = Instant::now();
        file.write_all(second).unwrap();
        drop(file);
        std::thread::sleep(Duration::from_millis(1500));
        // Rewritten under the same name: a new image.
        std::fs::write(path.join("a.jpg"), jpeg(200, 640, 481)).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        stop_handle.stop();
        finished
    });
    let ran = run_with(camera, by_grey);
    let finished = writer.join().unwrap();
    assert_eq!(ran.classes(), ["dark", "white"], "{}", ran.reasons());
    assert!(ran.answers[0].captured > finished);
    assert_eq!(ran.counters.corrupt, 0);
}

#[test]
fn every_nth_frame_is_used() {
    let stream = jpeg(100, 32, 32).repeat(10);
    let options = CameraOptions {
        every: 4,
        ..every_frame()
    };
    let ran = run(mjpeg(stream), options);
    assert_eq!(ran.frames(), [0, 4, 8]);
    assert_eq!(ran.counters.skipped, 7);
}

/// A still scene with one change of the whole image and one of a corner.
#[test]
fn still_frames_are_skipped_and_keep_the_answer() {
    let frame = |grey: u8, corner: u8| {
        let mut pixels = vec![grey; 64 * 64 * 3];
        for y in 0..8 {
            pixels[y * 64 * 3..][..8 * 3].fill(corner);
        }
        let mut bytes = vec![];
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95)
            .encode(&pixels, 64, 64, image::ExtendedColorType::Rgb8)
            .unwrap();
        bytes
    };
    let stream = [
        frame(100, 100).repeat(6),
        frame(102, 102).repeat(2),
        frame(200, 200).repeat(4),
        frame(200, 220).repeat(3),
    ]
    .concat();
    let options = CameraOptions {
        still_threshold: Some(8.0),
        ..every_frame()
    };
    let calls = AtomicUsize::new(0);
    let ran = run_with(Camera::open(mjpeg(stream), options).unwrap(), |image| {
        calls.fetch_add(1, Ordering::Relaxed);
        by_grey(image)
    });
    let passed: Vec<u64> = (ran.answers.iter())
        .filter(|a| !a.still)
        .map(|a| a.frame)
        .collect();
    assert_eq!(passed, [0, 8, 12]);
    assert_eq!(calls.into_inner(), 3);
    assert_eq!((ran.answers.len(), ran.counters.still), (15, 12));
    let classes = ran.classes();
    assert!(
        classes[..8].iter().all(|c| *c == "dark") && classes[8..].iter().all(|c| *c == "white")
    );
}

#[test]
fn a_still_frame_is_classified_on_request_and_after_a_rejected_one() {
    let mut bytes = vec![];
    image::codecs::jpeg::JpegEncoder::new(&mut bytes)
        .encode(&[90; 64 * 64 * 3], 64, 64, image::ExtendedColorType::Rgb8)
        .unwrap();
    let options = CameraOptions {
        still_threshold: Some(8.0),
        ..every_frame()
    };
    let camera = Camera::open(mjpeg(bytes.repeat(40)), options).unwrap();
    let handle = camera.stop_handle();
    let calls = AtomicUsize::new(0);
    // The first two frames are of a size that the classifier refuses, and so are not still.
    let classify = |image: &Image| match calls.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Err(Error::Image(ImageError::Region {
            region: "0,0,100,100".into(),
            width: 64,
            height: 64,
        })),
        _ => by_grey(image),
    };
    let mut classified = vec![];
    for event in Pipeline::new(camera, classify, TrackerOptions::default()) {
        if let PipelineEvent::Answer(answer) = event.unwrap() {
            if answer.frame == 20 {
                handle.refresh();
            }
            if !answer.still {
                classified.push(answer.frame);
            }
        }
    }
    // A frame or two are decoded ahead.
    assert_eq!(classified.len(), 2, "{classified:?}");
    assert!(classified[0] >= 2 && classified[0] < 8, "{classified:?}");
    assert!((21..25).contains(&classified[1]), "{classified:?}");
}

#[test]
fn the_region_is_cropped_and_must_be_inside() {
    // Light only in the lower right quarter.
    let mut pixels = vec![30; 64 * 48 * 3];
    for y in 24..48 {
        pixels[(y * 64 + 32) * 3..][..32 * 3].fill(220);
    }
    let mut bytes = vec![];
    image::codecs::png::PngEncoder::new(&mut bytes);
    let image = image::RgbImage::from_raw(64, 48, pixels).unwrap();
    image
        .write_to(
            &mut std::io::Cursor::new(&mut bytes),
            image::ImageFormat::Png,
        )
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.png"), &bytes).unwrap();
    let with = |x| CameraOptions {
        region: Some(region(x, 24, 32, 24)),
        ..Default::default()
    };
    let source = || FrameSource::folder(folder.path());
    let camera = Camera::open(source(), with(32)).unwrap();
    let ran = run_with(camera, |image| {
        assert_eq!((image.width(), image.height()), (32, 24));
        assert!(image.to_rgb().data.iter().all(|v| *v == 220));
        by_grey(image)
    });
    assert_eq!(ran.classes(), ["white"]);
    let ran = run(source(), with(33));
    let message = ran.error.unwrap().to_string();
    assert!(
        message.contains("33,24,32,24") && message.contains("64 x 48"),
        "{message}"
    );
    assert_eq!(ran.counters.corrupt, 1);
}

/// If this fails, a region shows something else, or too few pixels, when frames are reduced.
#[test]
fn a_region_of_reduced_frames_is_in_pixels_of_the_source() {
    let mut pixels = vec![30; 128 * 64 * 3];
    for row in pixels.chunks_exact_mut(128 * 3) {
        row[64 * 3..].fill(220);
    }
    let mut frame = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut frame, 95)
        .encode(&pixels, 128, 64, image::ExtendedColorType::Rgb8)
        .unwrap();
    let with = |x, side| CameraOptions {
        region: Some(region(x, 0, 64, 64)),
        decode: DecodeOptions {
            reduction: Some(Reduction { side, part: None }),
            ..Default::default()
        },
        ..every_frame()
    };
    for (side, expected) in [(16, 16), (17, 32), (33, 64)] {
        let camera = Camera::open(mjpeg(frame.clone()), with(64, side)).unwrap();
        let ran = run_with(camera, |image| {
            assert_eq!((image.width(), image.height()), (expected, expected));
            assert!(image.to_rgb().data.iter().all(|v| *v > 200));
            by_grey(image)
        });
        assert_eq!(ran.classes(), ["white"]);
    }
    let message = run(mjpeg(frame), with(65, 16)).error.unwrap().to_string();
    assert!(message.contains("128 x 64"), "{message}");
}

fn region(x: u32, y: u32, width: u32, height: u32) -> Region {
    Region {
        x,
        y,
        width,
        height,
    }
}

/// The region shows something else in frames of another size, also if it fits into them.
#[test]
fn a_region_applies_to_frames_of_the_first_size() {
    let small = jpeg(200, 64, 64);
    let stream = [
        jpeg(40, 64, 64),
        jpeg(200, 128, 128),
        jpeg(200, 128, 64),
        jpeg(40, 64, 64),
    ];
    let options = || CameraOptions {
        region: Some(region(10, 10, 40, 40)),
        ..every_frame()
    };
    let ran = run(mjpeg(stream.concat()), options());
    assert_eq!(ran.frames(), [0, 3]);
    assert_eq!(ran.counters.corrupt, 2);
    let reasons = ran.reasons();
    for part in ["64 x 64", "128 x 128", "10,10,40,40"] {
        assert!(reasons.contains(part), "expected {part:?} in: {reasons}");
    }
    // Photos in a folder have sizes of their own.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.jpg"), &small).unwrap();
    std::fs::write(folder.path().join("b.jpg"), &stream[1]).unwrap();
    let ran = run(FrameSource::folder(folder.path()), options());
    assert_eq!(ran.frames(), [0, 1], "{}", ran.reasons());
}

/// Later frames of another size, for example with a damaged header, do not end the stream.
#[test]
fn a_frame_too_small_for_the_region_is_corrupt_after_one_that_fitted() {
    let stream = [jpeg(40, 64, 64), jpeg(40, 16, 16), jpeg(200, 64, 64)].concat();
    let options = CameraOptions {
        region: Some(region(10, 10, 40, 40)),
        ..every_frame()
    };
    let ran = run(mjpeg(stream), options);
    assert_eq!(ran.frames(), [0, 2]);
    assert_eq!(ran.counters.corrupt, 1);
}

#[test]
fn an_open_error_names_the_source() {
    let open = |source| match Camera::open(source, CameraOptions::default()) {
        Ok(_) => panic!("opened"),
        Err(e) => e.to_string(),
    };
    let missing = || PathBuf::from("/nowhere/at all.mjpeg");
    let message = open(FrameSource::mjpeg(StreamInput::Path(missing())));
    assert!(message.contains("at all.mjpeg: cannot open"), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let message = open(FrameSource::y4m(StreamInput::Path(folder.path().into())));
    assert!(message.contains("found a folder"), "{message}");
    let message = open(FrameSource::folder(folder.path()));
    assert!(message.contains("expected JPEG"), "{message}");
}

/// An image that cannot be preprocessed does not end the stream.
#[test]
fn a_frame_that_cannot_be_preprocessed_is_corrupt() {
    let stream = [jpeg(40, 32, 32), jpeg(40, 16, 16), jpeg(200, 32, 32)].concat();
    let ran = run_with(
        Camera::open(mjpeg(stream), every_frame()).unwrap(),
        |image| {
            if image.width() == 16 {
                return Err(pinhole::ImageError::Encode("too small".into()).into());
            }
            by_grey(image)
        },
    );
    assert_eq!(ran.frames(), [0, 2]);
    assert_eq!((ran.counters.classified, ran.counters.corrupt), (2, 1));
}

/// Dropping a camera does not wait for a source that never ends.
#[test]
fn a_camera_can_be_dropped_at_any_time() {
    struct Cycle(Vec<u8>, usize);
    impl Read for Cycle {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_millis(1));
            let len = (&self.0[self.1..]).read(buffer)?;
            self.1 = (self.1 + len) % self.0.len();
            Ok(len)
        }
    }
    let endless = || FrameSource::mjpeg(StreamInput::Reader(Box::new(Cycle(jpeg(100, 32, 32), 0))));
    for live in [false, true] {
        for frames in 0..3 {
            let options = CameraOptions {
                live: Some(live),
                ..Default::default()
            };
            let mut camera = Camera::open(endless(), options).unwrap();
            let start = Instant::now();
            for event in camera.by_ref().take(frames) {
                event.unwrap();
            }
            drop(camera);
            assert!(start.elapsed() < Duration::from_secs(5));
        }
    }
}
