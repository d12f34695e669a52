//! A camera's frames from damaged, stalling and ending sources: what is read, what is told, and that the
//! counters add up. The classifier is a stand-in; the pictures are small JPEGs of one grey.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pinhole::camera::{
    Answer, Camera, Counters, Error, Input, MjpegReader, Options, Piece, Pipeline, Region,
    ReportKind, Source, TrackerOptions, Update,
};
use pinhole::{Classification, Latency, Ranked, RgbImage};

/// A JPEG of one grey, whose class is `grey / 64`.
fn jpeg(grey: u8, width: u32, height: u32) -> Vec<u8> {
    let pixels = vec![grey; (width * height * 3) as usize];
    let mut bytes = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90)
        .encode(&pixels, width, height, image::ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

/// A JPEG with an APP1 segment that holds a whole JPEG, as cameras' thumbnails do.
fn with_thumbnail(jpeg: &[u8], thumbnail: &[u8]) -> Vec<u8> {
    let mut out = jpeg[..2].to_vec();
    out.extend([0xFF, 0xE1]);
    out.extend((thumbnail.len() as u16 + 2).to_be_bytes());
    out.extend(thumbnail);
    out.extend(&jpeg[2..]);
    out
}

/// Answers with the class of an image's grey.
fn by_grey(image: &RgbImage) -> Result<Classification, pinhole::Error> {
    let class = usize::from(image.data[0]) / 64;
    let mut ranking: Vec<Ranked> = ["black", "dark", "light", "white"]
        .iter()
        .enumerate()
        .map(|(index, name)| Ranked {
            index,
            name: (*name).into(),
            probability: if index == class { 0.97 } else { 0.01 },
            similarity: 0.0,
        })
        .collect();
    ranking.swap(0, class);
    Ok(Classification {
        ranking,
        unknown: false,
        latency: Latency::default(),
    })
}

struct Ran {
    answers: Vec<Answer>,
    reports: Vec<ReportKind>,
    error: Option<Error>,
    counters: Counters,
}

impl Ran {
    fn frames(&self) -> Vec<u64> {
        self.answers.iter().map(|a| a.frame).collect()
    }

    fn classes(&self) -> Vec<&str> {
        let best = |a: &'_ Answer| -> usize { a.tracked.ranking[0].index };
        (self.answers.iter())
            .map(|a| ["black", "dark", "light", "white"][best(a)])
            .collect()
    }

    fn reasons(&self) -> String {
        let lines: Vec<String> = self.reports.iter().map(|r| r.to_string()).collect();
        lines.join("\n")
    }
}

const PLAIN: TrackerOptions = TrackerOptions {
    smoothing: 0.0,
    hysteresis: 1,
    margin: None,
};

/// Runs a camera to its end.
#[track_caller]
fn run(source: Source, options: Options) -> Ran {
    run_with(Camera::open(source, options).unwrap(), by_grey)
}

#[track_caller]
fn run_with(
    camera: Camera,
    classify: impl FnMut(&RgbImage) -> Result<Classification, pinhole::Error>,
) -> Ran {
    let mut pipeline = Pipeline::new(camera, classify, PLAIN);
    let (mut answers, mut reports, mut error) = (vec![], vec![], None);
    for update in pipeline.by_ref() {
        match update {
            Ok(Update::Answer(answer)) => answers.push(*answer),
            Ok(Update::Report(report)) => reports.push(report.kind),
            Err(e) => error = Some(e),
        }
    }
    let counters = pipeline.camera().counters();
    assert_adds_up(&counters);
    Ran {
        answers,
        reports,
        error,
        counters,
    }
}

#[track_caller]
fn assert_adds_up(c: &Counters) {
    let sum = c.classified + c.still + c.skipped + c.dropped + c.corrupt;
    assert_eq!(c.read, sum, "{c:?}");
}

fn mjpeg(bytes: Vec<u8>) -> Source {
    Source::Mjpeg(Input::Reader(Box::new(std::io::Cursor::new(bytes))))
}

fn every_frame() -> Options {
    Options {
        live: Some(false),
        ..Default::default()
    }
}

/// Gives out what it is sent, a few bytes at a time.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.1.min(buffer.len());
        (&mut self.0).take(len as u64).read(buffer)
    }
}

fn pieces(bytes: &[u8], at_once: usize) -> (Vec<Piece>, u64) {
    let mut reader = MjpegReader::new(Slow(bytes, at_once), 1 << 20);
    let mut pieces = vec![];
    while let Some(piece) = reader.next_piece().unwrap() {
        pieces.push(piece);
    }
    (pieces, reader.skipped())
}

/// The frames among the pieces, with or without an end marker.
fn frames(pieces: &[Piece]) -> Vec<&[u8]> {
    (pieces.iter())
        .filter_map(|piece| match piece {
            Piece::Frame(bytes) | Piece::Unended(bytes) => Some(&bytes[..]),
            Piece::Corrupt { .. } => None,
        })
        .collect()
}

/// However the bytes arrive, frames come out as they went in: with thumbnails, restart markers, progressive
/// scans and padding before markers.
#[test]
fn frames_are_split_as_they_were_written() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../preprocessing/tests/golden/decode");
    let read = |name: &str| std::fs::read(golden.join(name)).unwrap();
    let plain = jpeg(100, 64, 48);
    let padded = [&plain[..2], &[0xFF, 0xFF], &plain[2..]].concat();
    let written = [
        plain.clone(),
        with_thumbnail(&plain, &jpeg(200, 16, 16)),
        padded,
        read("restart.jpg"),
        read("progressive.jpg"),
        read("rgb420.jpg"),
        plain,
    ];
    for at_once in [1, 2, 3, 7, 1000, 1 << 20] {
        let (found, skipped) = pieces(&written.concat(), at_once);
        assert_eq!(frames(&found), written, "{at_once} bytes at a time");
        assert_eq!((found.len(), skipped), (written.len(), 0));
    }
}

#[test]
fn garbage_and_zeros_between_frames_are_skipped_and_counted() {
    let frame = jpeg(100, 64, 48);
    let garbage = b"--boundary\r\nContent-Type: image/jpeg\r\n\r\n\xFF\xFF\xD8\x00\xFF";
    let zeros = [0; 3000];
    let stream = [&garbage[..], &frame, &zeros, &frame, garbage].concat();
    for at_once in [1, 5, 1 << 20] {
        let (found, skipped) = pieces(&stream, at_once);
        assert_eq!(frames(&found), [&frame[..], &frame]);
        assert_eq!(found.len(), 2);
        assert_eq!(skipped as usize, 2 * garbage.len() + zeros.len());
    }
    let ran = run(mjpeg(stream.clone()), every_frame());
    assert_eq!(ran.frames(), [0, 1]);
    let all = (2 * garbage.len() + zeros.len()) as u64;
    assert_eq!(ran.counters.skipped_bytes, all);
    assert!(
        ran.reasons().contains("part of no frame"),
        "{}",
        ran.reasons()
    );
}

/// A frame cut at any byte costs itself alone, and never gives a wrong picture. Only a frame that lacks
/// nothing but its end marker is used.
#[test]
fn a_truncated_frame_does_not_take_the_next_one_with_it() {
    let (before, cut, after) = (jpeg(40, 32, 32), jpeg(100, 64, 48), jpeg(200, 32, 32));
    let cut = with_thumbnail(&cut, &jpeg(250, 16, 16));
    for len in 3..cut.len() {
        let stream = [&before[..], &cut[..len], &after].concat();
        let (found, _) = pieces(&stream, 1 << 20);
        let found = frames(&found);
        assert_eq!(found.first(), Some(&&before[..]), "{len}");
        // Cut just so, the next frame's start marker is inside a segment, and the rest of it is there.
        assert!(found.last().unwrap().ends_with(&after[2..]), "{len}");
        if len % 7 == 0 || len + 4 > cut.len() {
            let ran = run(mjpeg(stream), every_frame());
            let whole = len + 2 >= cut.len();
            let expected: &[&str] = match whole {
                true => &["black", "dark", "white"],
                false => &["black", "white"],
            };
            assert_eq!(
                ran.classes(),
                expected,
                "{len} of {} bytes: {}",
                cut.len(),
                ran.reasons()
            );
            assert_eq!(ran.counters.corrupt >= 1, !whole, "{len}");
            assert_eq!(ran.reports.is_empty(), whole, "{len}: {}", ran.reasons());
        }
    }
}

#[test]
fn the_last_frame_may_be_cut_too() {
    let frame = jpeg(100, 64, 48);
    let stream = [&frame[..], &frame[..frame.len() / 2]].concat();
    let ran = run(mjpeg(stream), every_frame());
    assert_eq!(ran.frames(), [0]);
    assert_eq!(ran.counters.corrupt, 1);
    let ran = run(mjpeg(vec![0; 5000]), every_frame());
    assert_eq!(ran.counters.read, 0);
    assert_eq!(ran.counters.skipped_bytes, 5000);
}

/// Counts what is read of it.
struct Endless {
    head: Vec<u8>,
    at: usize,
    zeros: usize,
    tail: Vec<u8>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let (head, zeros) = (self.head.len(), self.zeros);
        let part = match self.at {
            at if at < head => &self.head[at..],
            at if at < head + zeros => {
                let len = buffer.len().min(head + zeros - at);
                buffer[..len].fill(0x11);
                self.at += len;
                return Ok(len);
            }
            at => &self.tail[at - head - zeros..],
        };
        let len = part.len().min(buffer.len());
        buffer[..len].copy_from_slice(&part[..len]);
        self.at += len;
        Ok(len)
    }
}

/// 100 MB without an end marker are given up after 16 MiB, in memory for no more than that, and the stream
/// goes on at the next frame.
#[test]
fn a_frame_without_end_is_bounded() {
    let frame = jpeg(100, 64, 48);
    let endless = || Endless {
        head: frame[..frame.len() - 2].to_vec(),
        at: 0,
        zeros: 100 << 20,
        tail: frame.clone(),
    };
    let mut reader = MjpegReader::new(endless(), pinhole::camera::MAX_JPEG);
    let first = reader.next_piece().unwrap();
    assert!(
        matches!(&first, Some(Piece::Corrupt { reason }) if reason.contains("16777216")),
        "{first:?}"
    );
    assert_eq!(
        reader.next_piece().unwrap(),
        Some(Piece::Frame(frame.clone()))
    );
    assert_eq!(reader.next_piece().unwrap(), None);
    assert_eq!(reader.skipped() as usize, frame.len() - 2 + (100 << 20));
    assert!(
        reader.capacity() <= (16 << 20) + (256 << 10),
        "{}",
        reader.capacity()
    );

    let source = Source::Mjpeg(Input::Reader(Box::new(endless())));
    let ran = run(source, every_frame());
    assert_eq!((ran.frames(), ran.counters.corrupt), (vec![1], 1));
}

/// Starts of frames whose segments lead nowhere: each must cost little, or a hostile stream stops the camera.
#[test]
fn false_starts_are_cheap() {
    let stream = [0xFF, 0xD8, 0xFF, 0xE0, 0xFF, 0xFF].repeat(1 << 20);
    let start = Instant::now();
    let (found, skipped) = pieces(&stream, 1 << 16);
    assert_eq!(frames(&found).len(), 0);
    assert_eq!(skipped as usize, stream.len());
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

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
    let with = |region: &str| Options {
        region: Some(region.parse().unwrap()),
        ..Default::default()
    };
    let source = || Source::Folder {
        path: folder.path().into(),
        watch: false,
    };
    let camera = Camera::open(source(), with("32,24,32,24")).unwrap();
    let ran = run_with(camera, |image| {
        assert_eq!((image.width, image.height), (32, 24));
        assert!(image.data.iter().all(|v| *v == 220));
        by_grey(image)
    });
    assert_eq!(ran.classes(), ["white"]);
    let ran = run(source(), with("33,24,32,24"));
    let message = ran.error.unwrap().to_string();
    assert!(
        message.contains("33,24,32,24") && message.contains("64 x 48"),
        "{message}"
    );
    assert_eq!(ran.counters.corrupt, 1);
    for wrong in ["1,2,3", "1,2,0,4", "a,b,c,d", "-1,0,2,2", "1,2,3,4,5"] {
        assert!(wrong.parse::<Region>().is_err(), "{wrong}");
    }
}

/// Later frames of another size, such as a damaged header makes, do not end the stream.
#[test]
fn a_frame_too_small_for_the_region_is_corrupt_if_others_were_not() {
    let stream = [jpeg(40, 64, 64), jpeg(40, 16, 16), jpeg(200, 64, 64)].concat();
    let options = Options {
        region: Some("10,10,40,40".parse().unwrap()),
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

fn y4m(header: &str, frame: &[u8], count: usize) -> Vec<u8> {
    let mut stream = format!("YUV4MPEG2 {header}\n").into_bytes();
    for _ in 0..count {
        stream.extend(b"FRAME\n");
        stream.extend(frame);
    }
    stream
}

fn y4m_source(bytes: Vec<u8>) -> Source {
    Source::Y4m(Input::Reader(Box::new(std::io::Cursor::new(bytes))))
}

#[test]
fn y4m_frames_have_the_colours_that_the_header_says() {
    // BT.601's red: in full range 76 85 255, in limited range 81 90 240.
    for (header, samples) in [
        (
            "W3 H2 C420jpeg XCOLORRANGE=FULL",
            [(76, 6), (85, 2), (255, 2)],
        ),
        ("H2 W3 F30:1 Ip A1:1", [(81, 6), (90, 2), (240, 2)]),
        ("W3 H2 C420mpeg2", [(81, 6), (90, 2), (240, 2)]),
        ("W3 H2 C422", [(81, 6), (90, 4), (240, 4)]),
        ("W3 H2 C444", [(81, 6), (90, 6), (240, 6)]),
        ("W3 H2 C411", [(81, 6), (90, 2), (240, 2)]),
    ] {
        let frame: Vec<u8> = (samples.iter())
            .flat_map(|(value, count)| vec![*value; *count])
            .collect();
        let camera = Camera::open(y4m_source(y4m(header, &frame, 2)), every_frame()).unwrap();
        let ran = run_with(camera, |image| {
            assert_eq!((image.width, image.height), (3, 2));
            for pixel in image.data.chunks(3) {
                let near = |found: u8, expected: u8| found.abs_diff(expected) <= 2;
                assert!(
                    near(pixel[0], 255) && near(pixel[1], 0) && near(pixel[2], 0),
                    "{header}: {pixel:?}"
                );
            }
            by_grey(image)
        });
        assert_eq!(ran.frames(), [0, 1], "{header}: {:?}", ran.error);
    }
}

#[test]
fn y4m_that_is_not_as_expected_is_told() {
    let frame = [100; 6];
    for (stream, part) in [
        (y4m("W2 H2 C420p10", &frame, 1), "C420p10"),
        (y4m("W2 H0", &frame, 1), "H0"),
        (y4m("W2", &frame, 1), "W and H"),
        (y4m("W65535 H65535", &frame, 1), "67108864"),
        (y4m("W2 H2 XCOLORRANGE=WIDE", &frame, 1), "XCOLORRANGE=WIDE"),
        (jpeg(100, 16, 16), "YUV4MPEG2"),
        (vec![], "YUV4MPEG2"),
    ] {
        let ran = run(y4m_source(stream), every_frame());
        let message = ran.error.unwrap().to_string();
        assert!(message.contains(part), "{message}");
        assert!(ran.answers.is_empty());
    }
    let good = y4m("W2 H2", &frame, 1);
    // Garbage in a frame's place, and an end inside a frame.
    let stream = [
        &good[..],
        b"garbage garbage FRAME\n",
        &frame,
        b"FRAME\n",
        &frame[..3],
    ]
    .concat();
    let ran = run(y4m_source(stream), every_frame());
    assert_eq!(ran.counters.classified, 2, "{}", ran.reasons());
    assert_eq!(ran.counters.corrupt, 2, "{}", ran.reasons());
    assert_eq!(ran.counters.skipped_bytes, 16 + 3);
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
