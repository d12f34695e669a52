//! MJPEG and Y4M streams, intact and damaged: frames, events, and counters that add up.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use pinhole::camera::{Camera, FrameSource, MjpegChunk, MjpegReader, StreamInput};

use crate::support::{by_grey, every_frame, jpeg, mjpeg, run, run_with};

/// A JPEG with an APP1 segment that contains another JPEG, like a thumbnail.
fn with_thumbnail(jpeg: &[u8], thumbnail: &[u8]) -> Vec<u8> {
    let mut out = jpeg[..2].to_vec();
    out.extend([0xFF, 0xE1]);
    out.extend((thumbnail.len() as u16 + 2).to_be_bytes());
    out.extend(thumbnail);
    out.extend(&jpeg[2..]);
    out
}

/// Yields at most a given number of bytes per read.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.1.min(buffer.len());
        (&mut self.0).take(len as u64).read(buffer)
    }
}

fn chunks(bytes: &[u8], at_once: usize) -> (Vec<MjpegChunk>, u64) {
    let mut reader = MjpegReader::new(Slow(bytes, at_once), 1 << 20);
    let mut chunks = vec![];
    while let Some(chunk) = reader.next_chunk().unwrap() {
        chunks.push(chunk);
    }
    (chunks, reader.skipped_bytes())
}

/// The frames among the chunks, with or without an end marker.
fn frames(chunks: &[MjpegChunk]) -> Vec<&[u8]> {
    (chunks.iter())
        .filter_map(|chunk| match chunk {
            MjpegChunk::Frame(bytes) | MjpegChunk::Unterminated(bytes) => Some(&bytes[..]),
            MjpegChunk::Corrupt { .. } => None,
        })
        .collect()
}

/// Frames are recovered independent of read sizes: with thumbnails, restart markers, progressive scans and padding
/// before markers.
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
        let (found, skipped) = chunks(&written.concat(), at_once);
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
        let (found, skipped) = chunks(&stream, at_once);
        assert_eq!(frames(&found), [&frame[..], &frame]);
        assert_eq!(found.len(), 2);
        assert_eq!(skipped as usize, 2 * garbage.len() + zeros.len());
    }
    let ran = run(mjpeg(stream.clone()), every_frame());
    assert_eq!(ran.frames(), [0, 1]);
    let all = (2 * garbage.len() + zeros.len()) as u64;
    assert_eq!(ran.counters.skipped_bytes, all);
    assert!(
        ran.reasons().contains("belong to no frame"),
        "{}",
        ran.reasons()
    );
}

/// A frame truncated at any byte affects no other frame and never yields a wrong image. It is used only if nothing but
/// the end marker is missing.
#[test]
fn a_truncated_frame_does_not_damage_the_next_one() {
    let (before, cut, after) = (jpeg(40, 32, 32), jpeg(100, 64, 48), jpeg(200, 32, 32));
    let cut = with_thumbnail(&cut, &jpeg(250, 16, 16));
    for len in 3..cut.len() {
        let stream = [&before[..], &cut[..len], &after].concat();
        let (found, _) = chunks(&stream, 1 << 20);
        let found = frames(&found);
        assert_eq!(found.first(), Some(&&before[..]), "{len}");
        // For some lengths, the start marker of the next frame falls into a segment.
        assert!(found.last().unwrap().ends_with(&after[2..]), "{len}");
        if len % 7 == 0 || len + 4 > cut.len() {
            let ran = run(mjpeg(stream), every_frame());
            let complete = len + 2 >= cut.len();
            let expected: &[&str] = if complete {
                &["black", "dark", "white"]
            } else {
                &["black", "white"]
            };
            assert_eq!(
                ran.classes(),
                expected,
                "{len} of {} bytes: {}",
                cut.len(),
                ran.reasons()
            );
            assert_eq!(ran.counters.corrupt >= 1, !complete, "{len}");
            assert_eq!(ran.events.is_empty(), complete, "{len}: {}", ran.reasons());
        }
    }
}

#[test]
fn the_last_frame_may_be_truncated() {
    let frame = jpeg(100, 64, 48);
    let stream = [&frame[..], &frame[..frame.len() / 2]].concat();
    let ran = run(mjpeg(stream), every_frame());
    assert_eq!(ran.frames(), [0]);
    assert_eq!(ran.counters.corrupt, 1);
    let ran = run(mjpeg(vec![0; 5000]), every_frame());
    assert_eq!(ran.counters.read, 0);
    assert_eq!(ran.counters.skipped_bytes, 5000);
}

/// `head`, then `fill` bytes without a marker, then `tail`.
struct LongFrame {
    head: Vec<u8>,
    at: usize,
    fill: usize,
    tail: Vec<u8>,
}

impl Read for LongFrame {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let (head, fill) = (self.head.len(), self.fill);
        let part = match self.at {
            at if at < head => &self.head[at..],
            at if at < head + fill => {
                let len = buffer.len().min(head + fill - at);
                buffer[..len].fill(0x11);
                self.at += len;
                return Ok(len);
            }
            at => &self.tail[at - head - fill..],
        };
        let len = part.len().min(buffer.len());
        buffer[..len].copy_from_slice(&part[..len]);
        self.at += len;
        Ok(len)
    }
}

/// A frame of 100 MiB is rejected after 16 MiB, which bounds memory, and the stream continues with the next frame.
#[test]
fn the_size_of_a_frame_is_limited() {
    let frame = jpeg(100, 64, 48);
    let long_frame = || LongFrame {
        head: frame[..frame.len() - 2].to_vec(),
        at: 0,
        fill: 100 << 20,
        tail: frame.clone(),
    };
    let mut reader = MjpegReader::new(long_frame(), pinhole::camera::MAX_JPEG_BYTES);
    let first = reader.next_chunk().unwrap();
    assert!(
        matches!(&first, Some(MjpegChunk::Corrupt { reason }) if reason.contains("16777216")),
        "{first:?}"
    );
    assert_eq!(
        reader.next_chunk().unwrap(),
        Some(MjpegChunk::Frame(frame.clone()))
    );
    assert_eq!(reader.next_chunk().unwrap(), None);
    assert_eq!(
        reader.skipped_bytes() as usize,
        frame.len() - 2 + (100 << 20)
    );
    assert!(
        reader.capacity() <= (16 << 20) + (256 << 10),
        "{}",
        reader.capacity()
    );

    let source = FrameSource::mjpeg(StreamInput::Reader(Box::new(long_frame())));
    let ran = run(source, every_frame());
    assert_eq!((ran.frames(), ran.counters.corrupt), (vec![1], 1));
}

/// Start markers without a frame must be cheap, or a hostile stream stops the camera.
#[test]
fn false_starts_are_cheap() {
    let stream = [0xFF, 0xD8, 0xFF, 0xE0, 0xFF, 0xFF].repeat(1 << 20);
    let start = Instant::now();
    let (found, skipped) = chunks(&stream, 1 << 16);
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

fn y4m_source(bytes: Vec<u8>) -> FrameSource {
    FrameSource::y4m(StreamInput::Reader(Box::new(std::io::Cursor::new(bytes))))
}

#[test]
fn y4m_frames_have_the_colours_of_their_header() {
    // Red in BT.601: 76 85 255 in full range, 81 90 240 in limited range.
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
            assert_eq!((image.width(), image.height()), (3, 2));
            for pixel in image.to_rgb().data.chunks(3) {
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

/// White in limited range is light grey in full range.
#[test]
fn y4m_has_limited_range_by_default() {
    for (header, white) in [
        ("W3 H2 Cmono", 255),
        ("W3 H2 Cmono XCOLORRANGE=LIMITED", 255),
        ("W3 H2 Cmono XCOLORRANGE=FULL", 235),
    ] {
        let source = y4m_source(y4m(header, &[235; 6], 1));
        let camera = Camera::open(source, every_frame()).unwrap();
        let ran = run_with(camera, |image| {
            assert_eq!(image.to_rgb().data, [white; 18], "{header}");
            by_grey(image)
        });
        assert_eq!(ran.counters.classified, 1);
    }
}

#[test]
fn invalid_y4m_is_reported() {
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
    // Garbage instead of a frame, and an end inside a frame.
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

/// A second header applies to the frames after it, as in `cat a.y4m b.y4m`.
#[test]
fn a_second_y4m_header_is_obeyed() {
    let stream = [
        y4m(
            "W4 H4 C444 XCOLORRANGE=FULL",
            &[[10; 16], [128; 16], [128; 16]].concat(),
            3,
        ),
        y4m("W6 H2 Cmono XCOLORRANGE=FULL", &[100; 12], 2),
        y4m("W2 H2", &[&[235; 4][..], &[128; 2]].concat(), 2),
    ]
    .concat();
    let camera = Camera::open(y4m_source(stream), every_frame()).unwrap();
    let mut seen = vec![];
    let ran = run_with(camera, |image| {
        let rgb = image.to_rgb();
        assert!(rgb.data.iter().all(|v| *v == rgb.data[0]));
        seen.push((rgb.width, rgb.height, rgb.data[0]));
        by_grey(image)
    });
    assert!(
        ran.error.is_none() && ran.events.is_empty(),
        "{:?} {}",
        ran.error,
        ran.reasons()
    );
    let expected = [
        vec![(4, 4, 10); 3],
        vec![(6, 2, 100); 2],
        vec![(2, 2, 255); 2],
    ];
    assert_eq!(seen, expected.concat());
}

#[test]
fn a_second_y4m_header_that_cannot_be_read_ends_the_stream() {
    for (header, part) in [
        ("W4 H4 C420p10", "C420p10"),
        ("W0 H4", "W0"),
        ("W4", "W and H"),
    ] {
        let stream = [y4m("W2 H2", &[100; 6], 2), y4m(header, &[200; 24], 3)].concat();
        let ran = run(y4m_source(stream), every_frame());
        assert_eq!(ran.frames(), [0, 1]);
        let message = ran.error.unwrap().to_string();
        assert!(message.contains(part), "{message}");
    }
}

/// The header of the second part was lost: no frame is made of pieces of others.
#[test]
fn y4m_frames_of_another_size_are_not_taken_for_noise() {
    let part = |side: usize, grey: u8| {
        let size = side * side * 3;
        y4m(
            &format!("W{side} H{side} C444 XCOLORRANGE=FULL"),
            &vec![grey; size],
            4,
        )
    };
    for (first, second) in [(8, 4), (8, 7)] {
        let lost = part(second, 200);
        let header = lost.iter().position(|b| *b == b'\n').unwrap() + 1;
        let stream = [&part(first, 40)[..], &lost[header..], &part(first, 40)].concat();
        let ran = run(y4m_source(stream), every_frame());
        assert!(
            ran.classes().iter().all(|c| *c == "black"),
            "{:?}",
            ran.classes()
        );
        assert_eq!(ran.counters.classified, 8, "{}", ran.reasons());
        assert_eq!(ran.counters.corrupt, 4, "{}", ran.reasons());
    }
}

/// H.264, a web page, raw video and so on: the error names what arrives and what to do.
#[test]
fn a_stream_of_something_else_is_named() {
    let raw: Vec<u8> = (0..200_000u32)
        .map(|i| (i.wrapping_mul(i) / 7) as u8 & 0x7F)
        .collect();
    let h264 = [&b"\0\0\0\x01\x67\x42\0\x1e"[..], &raw].concat();
    let page = b"<html><body>401 Unauthorized</body></html>\n".repeat(4000);
    let png = [&b"\x89PNG\r\n\x1a\n"[..], &raw].concat();
    for (bytes, parts) in [
        (&h264, &["H.264", "--codec mjpeg"][..]),
        (&page, &["HTML", "401 Unauthorized"]),
        (&png, &["PNG image"]),
        (&raw, &["no known format", "rawvideo"]),
        (&y4m("W2 H2", &[100; 6], 1), &["Y4M", "--y4m"]),
        (&vec![], &["empty"]),
    ] {
        // It never ends, as a camera does not.
        let endless = |bytes: &[u8]| std::io::Cursor::new(bytes.to_vec()).chain(std::io::repeat(7));
        let mut sources = vec![mjpeg(bytes.clone())];
        if bytes.len() > 100_000 {
            let input = StreamInput::Reader(Box::new(endless(bytes)));
            sources.push(FrameSource::mjpeg(input));
        }
        for source in sources {
            let ran = run(source, every_frame());
            let message = ran.error.unwrap().to_string();
            for part in parts {
                assert!(message.contains(part), "expected {part:?} in: {message}");
            }
            assert_eq!(ran.counters.read, 0);
        }
    }
    let message = run(y4m_source(page), every_frame())
        .error
        .unwrap()
        .to_string();
    assert!(
        message.contains("YUV4MPEG2") && message.contains("HTML"),
        "{message}"
    );
}

/// A camera that restarts with H.264 after its first frames: the error names what arrives. A page of less than the limit is
/// skipped and counted.
#[test]
fn a_stream_that_becomes_something_else_is_named() {
    let (first, second) = (jpeg(40, 32, 32), jpeg(80, 32, 32));
    let page = b"<html><body>rebooting</body></html>\n".repeat(20_000);
    let endless = std::io::repeat(b'\x07');
    let h264 =
        std::io::Cursor::new([&first[..], &page, &second, b"\0\0\0\x01\x67\x42\0\x1e"].concat());
    let source = FrameSource::mjpeg(StreamInput::Reader(Box::new(h264.chain(endless))));
    let ran = run(source, every_frame());
    assert_eq!(ran.counters.read, 2);
    let message = ran.error.unwrap().to_string();
    for part in ["after the last frame", "H.264", "--codec mjpeg"] {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

/// A program that is connected to a running camera sees the rest of a frame first, however large it is.
#[test]
fn a_stream_may_begin_inside_a_frame() {
    let pixels: Vec<u8> = (0..600u32 * 600 * 3)
        .map(|i| (i.wrapping_mul(i) / 31) as u8)
        .collect();
    let mut large = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut large, 100)
        .encode(&pixels, 600, 600, image::ExtendedColorType::Rgb8)
        .unwrap();
    assert!(large.len() > 400_000);
    let stream = [&large[200_000..], &jpeg(100, 32, 32)].concat();
    let ran = run(mjpeg(stream), every_frame());
    assert_eq!(ran.frames(), [0], "{:?}", ran.error);
}

/// Keywords without frames must be cheap, or a hostile stream stops the camera.
#[test]
fn y4m_keywords_without_frames_are_cheap() {
    let mut stream = b"YUV4MPEG2 W65535 H1000 Cmono\n".to_vec();
    stream.resize(1 << 20, 7);
    for keyword in [&b"FRAME\n"[..], b"YUV4M", b"FRAMEFRAME\n"] {
        let tail = keyword.repeat((1 << 20) / keyword.len());
        let start = Instant::now();
        let ran = run(y4m_source([&stream[..], &tail].concat()), every_frame());
        assert_eq!(ran.counters.classified, 0);
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            start.elapsed()
        );
    }
}

/// A frame that is larger than one piece of reading, and the next one in any place of it.
#[test]
fn y4m_keywords_are_found_at_any_position() {
    let frame = [90; 100 * 100];
    for cut in [0, 1, 55, 58, 59, 63, 64, 65, 4090, 4096, 8190, 9999] {
        let good = y4m("W100 H100 Cmono XCOLORRANGE=FULL", &frame, 1);
        let stream = [
            &good[..],
            b"FRAME\n",
            &frame[..cut],
            b"FRAME\n",
            &frame,
            b"FRAME\n",
            &frame,
        ]
        .concat();
        let ran = run(y4m_source(stream), every_frame());
        assert_eq!(ran.counters.classified, 3, "{cut}: {}", ran.reasons());
        assert_eq!(ran.counters.corrupt, 1, "{cut}: {}", ran.reasons());
    }
}
