//! A camera's sources and options: stalls, ends, folders, regions, still scenes. The classifier is a stand-in; the
//! pictures are small JPEGs of one grey.

mod camera_support;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use camera_support::{PLAIN, by_grey, every_frame, jpeg, mjpeg, run, run_with};
use pinhole::camera::{Camera, Input, Options, Pipeline, Region, ReportKind, Source, Update};

/// A pipe that stops delivering: told once, within the time-out and a little, and told when frames come again.
#[test]
fn a_stall_is_told_once_and_so_is_its_end() {
    let frame = jpeg(100, 64, 48);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let timeout = Duration::from_millis(300);
    let sender = std::thread::spawn(move || {
        writer.write_all(&frame).unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        writer.write_all(&frame).unwrap();
    });
    let options = Options {
        timeout: Some(timeout),
        ..Default::default()
    };
    let camera = Camera::open(Source::Mjpeg(Input::Reader(Box::new(reader))), options).unwrap();
    let mut told = vec![];
    let mut last_frame = Instant::now();
    let mut pipeline = Pipeline::new(camera, by_grey, PLAIN);
    for update in pipeline.by_ref() {
        match update.unwrap() {
            Update::Answer(answer) => last_frame = answer.captured,
            Update::Report(report) => told.push((report.kind, last_frame.elapsed())),
        }
    }
    sender.join().unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0].0, ReportKind::Stalled { timeout });
    assert!(told[0].1 >= timeout && told[0].1 < timeout * 3, "{told:?}");
    assert!(matches!(told[1].0, ReportKind::Resumed { after } if after >= timeout * 3));
    let counters = pipeline.camera().counters();
    assert_eq!((counters.classified, counters.stalls), (2, 1));
}

/// A named pipe is opened again when who wrote it is gone, at once at first and then in longer pauses.
#[test]
fn a_named_pipe_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let options = Options {
        reopen_pause: Duration::from_millis(50),
        timeout: None,
        ..Default::default()
    };
    let camera = Camera::open(Source::Mjpeg(Input::Path(path.clone())), options).unwrap();
    let stopper = camera.stopper();
    let sender = std::thread::spawn(move || {
        for _ in 0..3 {
            let frame = jpeg(100, 64, 48);
            let mut pipe = std::fs::File::options().write(true).open(&path).unwrap();
            pipe.write_all(&frame).unwrap();
            drop(pipe);
            std::thread::sleep(Duration::from_millis(300));
        }
        stopper.stop();
    });
    let ran = run_with(camera, by_grey);
    sender.join().unwrap();
    assert_eq!(ran.frames(), [0, 1, 2]);
    assert_eq!(ran.counters.reopened, 3, "{}", ran.reasons());
    let lost = |r: &&ReportKind| matches!(r, ReportKind::Lost { wait, .. } if *wait <= Duration::from_millis(100));
    assert_eq!(
        ran.reports.iter().filter(lost).count(),
        3,
        "{}",
        ran.reasons()
    );
}

/// A watched folder that vanishes is told, tried again in pauses that double, and used when it is back.
#[test]
fn a_folder_that_vanishes_is_opened_again() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("frames");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("a.jpg"), jpeg(40, 32, 32)).unwrap();
    let options = Options {
        reopen_pause: Duration::from_millis(100),
        timeout: None,
        ..Default::default()
    };
    let source = Source::Folder {
        path: path.clone(),
        watch: true,
    };
    let camera = Camera::open(source, options).unwrap();
    let stopper = camera.stopper();
    let mover = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1200));
        std::fs::remove_dir_all(&path).unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("b.jpg"), jpeg(200, 32, 32)).unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        stopper.stop();
    });
    let ran = run_with(camera, by_grey);
    mover.join().unwrap();
    assert_eq!(ran.classes(), ["black", "white"], "{}", ran.reasons());
    let waits: Vec<Duration> = (ran.reports.iter())
        .filter_map(|r| match r {
            ReportKind::Lost { wait, .. } => Some(*wait),
            _ => None,
        })
        .collect();
    assert!(waits.len() >= 3, "{}", ran.reasons());
    assert!(waits.windows(2).all(|w| w[1] == 2 * w[0]), "{waits:?}");
    assert_eq!(ran.counters.reopened, 1);
}

#[test]
fn every_image_of_a_folder_is_used_in_the_order_of_names() {
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
    let source = Source::Folder {
        path: folder.path().into(),
        watch: false,
    };
    // Slower than the source: frames must wait for it, not be dropped.
    let ran = run_with(Camera::open(source, Options::default()).unwrap(), |image| {
        std::thread::sleep(Duration::from_millis(50));
        by_grey(image)
    });
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

/// A file that is written in two halves is read when it is whole.
#[test]
fn a_half_written_file_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let source = Source::Folder {
        path: path.clone(),
        watch: true,
    };
    let options = Options {
        timeout: None,
        ..Default::default()
    };
    let camera = Camera::open(source, options).unwrap();
    let stopper = camera.stopper();
    let writer = std::thread::spawn(move || {
        let image = jpeg(100, 640, 480);
        let (first, second) = image.split_at(image.len() / 2);
        let mut file = std::fs::File::create(path.join("a.jpg")).unwrap();
        file.write_all(first).unwrap();
        file.flush().unwrap();
        // Longer than a file takes to settle.
        std::thread::sleep(Duration::from_millis(1500));
        let finished = Instant::now();
        file.write_all(second).unwrap();
        drop(file);
        std::thread::sleep(Duration::from_millis(1500));
        // Written again under the same name: that is a new image.
        std::fs::write(path.join("a.jpg"), jpeg(200, 640, 481)).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        stopper.stop();
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
    let options = Options {
        every: 4,
        ..every_frame()
    };
    let ran = run(mjpeg(stream), options);
    assert_eq!(ran.frames(), [0, 4, 8]);
    assert_eq!(ran.counters.skipped, 7);
}

/// A scene that stays, with a change after six frames and another in a corner alone.
#[test]
fn still_frames_are_passed_over_and_the_answer_stands() {
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
    let options = Options {
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
fn the_region_is_cut_out_and_must_be_inside() {
    // Light in the lower right quarter alone.
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
    let with = |x| Options {
        region: Some(region(x, 24, 32, 24)),
        ..Default::default()
    };
    let source = || Source::Folder {
        path: folder.path().into(),
        watch: false,
    };
    let camera = Camera::open(source(), with(32)).unwrap();
    let ran = run_with(camera, |image| {
        assert_eq!((image.width, image.height), (32, 24));
        assert!(image.data.iter().all(|v| *v == 220));
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

fn region(x: u32, y: u32, width: u32, height: u32) -> Region {
    Region {
        x,
        y,
        width,
        height,
    }
}

/// Later frames of another size, such as a damaged header makes, do not end the stream.
#[test]
fn a_frame_too_small_for_the_region_is_corrupt_if_others_were_not() {
    let stream = [jpeg(40, 64, 64), jpeg(40, 16, 16), jpeg(200, 64, 64)].concat();
    let options = Options {
        region: Some(region(10, 10, 40, 40)),
        ..every_frame()
    };
    let ran = run(mjpeg(stream), options);
    assert_eq!(ran.frames(), [0, 2]);
    assert_eq!(ran.counters.corrupt, 1);
}

#[test]
fn what_cannot_be_opened_is_an_error_that_names_it() {
    let open = |source| match Camera::open(source, Options::default()) {
        Ok(_) => panic!("opened"),
        Err(e) => e.to_string(),
    };
    let missing = || PathBuf::from("/nowhere/at all.mjpeg");
    let message = open(Source::Mjpeg(Input::Path(missing())));
    assert!(message.contains("at all.mjpeg: cannot open"), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let message = open(Source::Y4m(Input::Path(folder.path().into())));
    assert!(message.contains("found a folder"), "{message}");
    let message = open(Source::Folder {
        path: folder.path().into(),
        watch: false,
    });
    assert!(message.contains("expected JPEG"), "{message}");
}

/// An image that the preprocessing rule cannot resize costs itself alone.
#[test]
fn a_frame_that_cannot_be_preprocessed_is_corrupt() {
    let stream = [jpeg(40, 32, 32), jpeg(40, 16, 16), jpeg(200, 32, 32)].concat();
    let ran = run_with(
        Camera::open(mjpeg(stream), every_frame()).unwrap(),
        |image| {
            if image.width == 16 {
                return Err(pinhole::ImageError::Encode("too small".into()).into());
            }
            by_grey(image)
        },
    );
    assert_eq!(ran.frames(), [0, 2]);
    assert_eq!((ran.counters.classified, ran.counters.corrupt), (2, 1));
}

/// A camera that is dropped in the midst of a source that never ends does not wait for it.
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
    let endless = || Source::Mjpeg(Input::Reader(Box::new(Cycle(jpeg(100, 32, 32), 0))));
    for live in [false, true] {
        for frames in 0..3 {
            let options = Options {
                live: Some(live),
                ..Default::default()
            };
            let mut camera = Camera::open(endless(), options).unwrap();
            let start = Instant::now();
            for item in camera.by_ref().take(frames) {
                item.unwrap();
            }
            drop(camera);
            assert!(start.elapsed() < Duration::from_secs(5));
        }
    }
}
