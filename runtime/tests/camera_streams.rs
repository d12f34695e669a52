//! MJPEG and Y4M streams, whole and damaged: what is read, what is told, and that the counters add up.

mod camera_support;

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use camera_support::{by_grey, every_frame, jpeg, mjpeg, run, run_with};
use pinhole::camera::{Camera, Input, MjpegReader, Piece, Source};

/// A JPEG with an APP1 segment that holds a whole JPEG, as cameras' thumbnails do.
fn with_thumbnail(jpeg: &[u8], thumbnail: &[u8]) -> Vec<u8> {
    let mut out = jpeg[..2].to_vec();
    out.extend([0xFF, 0xE1]);
    out.extend((thumbnail.len() as u16 + 2).to_be_bytes());
    out.extend(thumbnail);
    out.extend(&jpeg[2..]);
    out
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

/// White in limited range is a light grey in full range.
#[test]
fn y4m_is_in_limited_range_unless_it_says_otherwise() {
    for (header, white) in [
        ("W3 H2 Cmono", 255),
        ("W3 H2 Cmono XCOLORRANGE=LIMITED", 255),
        ("W3 H2 Cmono XCOLORRANGE=FULL", 235),
    ] {
        let source = y4m_source(y4m(header, &[235; 6], 1));
        let camera = Camera::open(source, every_frame()).unwrap();
        let ran = run_with(camera, |image| {
            assert_eq!(image.data, [white; 18], "{header}");
            by_grey(image)
        });
        assert_eq!(ran.counters.classified, 1);
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
