//! What a stream is, by its first bytes: for the message about a stream that is not what was expected.

use std::io::Read;

use pinhole_model::without_credentials;

use crate::standard_streams::printable;

/// How much of a stream is kept to recognise it.
pub(super) const START_BYTES: usize = 4096;
/// How much of a text is shown, in characters.
const SHOWN_CHARS: usize = 80;

const FFMPEG_MJPEG: &str = "convert it with `ffmpeg -i - -c:v mjpeg -f mjpeg -`";
const CLASSIFY: &str = "`pinhole classify` reads image files, --folder a folder of them";
const ADDRESS: &str = "check the address and the password of the camera";

/// A reader that keeps the start of what was read.
pub(super) struct StartReader<R> {
    input: R,
    start: Vec<u8>,
}

impl<R> StartReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            start: vec![],
        }
    }

    pub(super) fn start(&self) -> &[u8] {
        &self.start
    }
}

impl<R: Read> Read for StartReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.input.read(buffer)?;
        let missing = START_BYTES - self.start.len();
        self.start.extend(&buffer[..len.min(missing)]);
        Ok(len)
    }
}

/// "found ..., and what to do", for a stream that begins with `start`.
pub(super) fn describe(start: &[u8]) -> String {
    let has = |at: usize, magic: &[u8]| start.get(at..).is_some_and(|s| s.starts_with(magic));
    if start.is_empty() {
        return "found an empty stream".into();
    }
    // Magic numbers: position, bytes, name, remedy.
    let known: &[(usize, &[u8], &str, &str)] = &[
        (0, b"\xFF\xD8\xFF", "JPEG images", "read them with --mjpeg"),
        (0, b"YUV4MPEG2 ", "Y4M", "read it with --y4m"),
        (0, b"\x89PNG", "a PNG image", CLASSIFY),
        (0, b"GIF8", "a GIF image", CLASSIFY),
        (8, b"WEBP", "a WebP image", CLASSIFY),
        (8, b"AVI ", "an AVI file", FFMPEG_MJPEG),
        (4, b"ftyp", "an MP4 or QuickTime file", FFMPEG_MJPEG),
        (4, b"styp", "fragments of an MP4 file", FFMPEG_MJPEG),
        (4, b"moof", "fragments of an MP4 file", FFMPEG_MJPEG),
        (
            0,
            b"\x1A\x45\xDF\xA3",
            "a Matroska or WebM file",
            FFMPEG_MJPEG,
        ),
        (0, b"FLV\x01", "Flash video", FFMPEG_MJPEG),
        (0, b"OggS", "an Ogg file", FFMPEG_MJPEG),
        (0, b"DKIF", "an IVF file", FFMPEG_MJPEG),
        (
            0,
            b"\x00\x00\x01\xBA",
            "an MPEG program stream",
            FFMPEG_MJPEG,
        ),
        (0, b"\x00\x00\x01\xB3", "MPEG-2 video", FFMPEG_MJPEG),
        (0, b"\x1F\x8B", "gzip", "decompress it"),
        (0, b"RTSP/", "an RTSP answer", ADDRESS),
    ];
    if let Some((.., name, remedy)) = known.iter().find(|(at, magic, ..)| has(*at, magic)) {
        return format!("found {name}; {remedy}");
    }
    if let Some(codec) = annex_b(start) {
        return format!(
            "found {codec} video; let the camera send MJPEG (`rpicam-vid --codec mjpeg`), or {FFMPEG_MJPEG}"
        );
    }
    // A packet has 188 bytes, each begins with 0x47.
    if has(0, b"\x47") && has(188, b"\x47") && has(376, b"\x47") {
        return format!("found an MPEG transport stream; {FFMPEG_MJPEG}");
    }
    if let Some(text) = text(start) {
        let lower = text.to_ascii_lowercase();
        let kind = if lower.starts_with("http/") {
            "an HTTP answer"
        } else if lower.contains("<html") || lower.contains("<!doctype html") {
            "an HTML page"
        } else {
            "text"
        };
        return format!("found {kind} (\"{}\"); {ADDRESS}", excerpt(&text));
    }
    let first: Vec<String> = start.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!(
        "found bytes of no known format, which begin with {}; raw video has no header: convert it with `ffmpeg -f \
         rawvideo -pix_fmt yuv420p -video_size 640x480 -i - -f yuv4mpegpipe -` and its own format and size",
        first.join(" ")
    )
}

/// H.264 or H.265 as a byte stream (annex B): a start code, then the type of a unit.
fn annex_b(start: &[u8]) -> Option<&'static str> {
    let zeros = start.iter().position(|b| *b != 0)?;
    match start[zeros..] {
        _ if zeros < 2 => None,
        // VPS, SPS, PPS, access unit delimiter and SEI of the base layer.
        [1, unit, 1, ..] if matches!(unit >> 1, 32..=35 | 39) => Some("H.265"),
        [1, unit, ..] if unit < 0x80 && matches!(unit & 31, 1 | 5..=9) => Some("H.264"),
        _ => None,
    }
}

/// The start as text, if it is text. Its last character may be cut off.
fn text(start: &[u8]) -> Option<String> {
    let chunk = start.utf8_chunks().next()?;
    let is_text = chunk.valid().len() + 3 >= start.len()
        && !(chunk.valid().chars())
            .any(|c| c.is_control() && !c.is_ascii_whitespace() && c != '\x1b');
    is_text.then(|| chunk.valid().trim_start().to_owned())
}

/// The first words of a text, without markup.
fn excerpt(text: &str) -> String {
    let (mut words, mut in_tag) = (String::new(), false);
    for c in text.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                words.push(' ');
            }
            _ if in_tag => {}
            c => words.push(c),
        }
    }
    let words: Vec<&str> = words.split_whitespace().collect();
    let words = without_credentials(&words.join(" ")).into_owned();
    let mut shown: String = printable(&words).chars().take(SHOWN_CHARS).collect();
    if shown.len() < words.len() {
        shown += "...";
    }
    shown
}

/// Whether a stream begins in the middle of a JPEG image: in the data of a scan, a byte of 0xFF is followed by 0 or is a
/// restart marker.
pub(super) fn is_inside_jpeg(start: &[u8]) -> bool {
    let mut markers = start.windows(2).filter(|pair| pair[0] == 0xFF).peekable();
    markers.peek().is_some() && markers.all(|pair| matches!(pair[1], 0 | 0xD0..=0xD7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_named() {
        let mut transport = vec![0xAA; 400];
        for packet in transport.chunks_mut(188) {
            packet[0] = 0x47;
        }
        let page = b"<!DOCTYPE html>\n<html><head><title>401 Unauthorized</title></head>";
        for (start, parts) in [
            (&b""[..], &["empty"][..]),
            (b"\0\0\0\x01\x67\x42\0\x1e", &["H.264", "--codec mjpeg"]),
            (b"\0\0\x01\x09\x10\0\0\0\x01\x67", &["H.264"]),
            (b"\0\0\0\x01\x40\x01\x0c\x01", &["H.265"]),
            (page, &["HTML", "\"401 Unauthorized\"", "password"]),
            (
                b"HTTP/1.1 404 Not Found\r\nDate: x\r\n",
                &["HTTP", "404 Not Found"],
            ),
            (b"RTSP/1.0 401 Unauthorized\r\n", &["RTSP"]),
            (b"\x89PNG\r\n\x1a\n\0\0", &["PNG", "pinhole classify"]),
            (b"\0\0\0\x20ftypisom\0\0", &["MP4", "ffmpeg"]),
            (&transport, &["transport stream", "ffmpeg"]),
            (b"YUV4MPEG2 W2 H2\n", &["Y4M", "--y4m"]),
            (b"\xFF\xD8\xFF\xE0", &["JPEG", "--mjpeg"]),
            (
                b"sh: 1: rpicam-vid: not found\n",
                &["text (\"sh: 1: rpicam-vid"],
            ),
            (
                b"\x10\x80\x11\x7f\0\0\xff\xff",
                &["10 80 11 7f", "rawvideo"],
            ),
            (
                b"rtsp://admin:s3cret@cam/1 failed\x1b[0m",
                &["rtsp://...@cam/1 failed\\x1b"],
            ),
        ] {
            let found = describe(start);
            for part in parts {
                assert!(found.contains(part), "expected {part:?} in: {found}");
            }
        }
    }
}
