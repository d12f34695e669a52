//! Y4M (YUV4MPEG2): raw frames, each after a line of text, as mjpegtools and ffmpeg write them.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read};

use memchr::memmem;
use pinhole_preprocessing::{YuvLayout, YuvRange};

use super::capture::{Capture, Poll};
use super::content::{StartReader, describe};
use super::frame::{EncodedFrame, YuvFrame};
use crate::standard_streams::printable;

/// Size limit of a raw frame in a stream: 64 MiB, enough for 4096 x 4096 in 4:4:4.
const MAX_FRAME_BYTES: u64 = 64 << 20;

const MAX_LINE: usize = 4096;
/// How much of a frame is read and searched first.
const FIRST_PIECE: u64 = 64;
const FRAME: &[u8] = b"FRAME";
const HEADER: &[u8] = b"YUV4MPEG2 ";
/// Frames and headers begin with one of these, which have the same length.
const KEYWORDS: [&[u8]; 2] = [FRAME, HEADER.split_at(FRAME.len()).0];

/// Reads the frames of a Y4M stream. A header between frames applies to the frames after it.
struct Y4mReader<R> {
    input: Input<StartReader<R>>,
    /// `None` before the first header.
    format: Option<Format>,
    skipped: u64,
    /// Whether data was skipped: then the next frame must be followed by a keyword, or its size is another one.
    unsure: bool,
}

/// What a header says.
struct Format {
    width: u32,
    height: u32,
    layout: YuvLayout,
    range: YuvRange,
}

/// What [`Y4mReader::next_chunk`] found.
enum Y4mChunk {
    Frame(YuvFrame),
    /// The stream ends inside a frame, or has other data instead of a frame.
    Corrupt {
        reason: String,
    },
}

impl Format {
    /// Reads a header: width, height, chroma (420jpeg, 420mpeg2, 420paldv, 420, 422, 444, 411 or mono; default
    /// 420; chroma siting is ignored) and `XCOLORRANGE` (default limited).
    ///
    /// # Errors
    /// `InvalidData` naming the field for an invalid header.
    fn parse(line: &[u8]) -> std::io::Result<Self> {
        let mut format = Self {
            width: 0,
            height: 0,
            layout: planes(2, 2),
            range: YuvRange::Limited,
        };
        let line = String::from_utf8_lossy(line);
        for field in line.split_ascii_whitespace().skip(1) {
            format.field(field)?;
        }
        if format.width == 0 || format.height == 0 {
            let line = line.trim_end();
            return Err(invalid(format!("expected W and H, found \"{line}\"")));
        }
        let bytes = format.bytes();
        if bytes > MAX_FRAME_BYTES {
            return Err(invalid(format!(
                "expected frames of {MAX_FRAME_BYTES} bytes or less, found {bytes} ({} x {})",
                format.width, format.height
            )));
        }
        Ok(format)
    }

    fn bytes(&self) -> u64 {
        self.layout.bytes(self.width, self.height)
    }

    fn field(&mut self, field: &str) -> std::io::Result<()> {
        let side = |text: &str| match text.parse::<u16>() {
            Ok(side) if side > 0 => Ok(u32::from(side)),
            _ => Err(invalid(format!("expected 1 to 65535, found \"{field}\""))),
        };
        match field.split_at_checked(1) {
            Some(("W", text)) => self.width = side(text)?,
            Some(("H", text)) => self.height = side(text)?,
            Some(("C", chroma)) => {
                self.layout = match chroma {
                    "420" | "420jpeg" | "420mpeg2" | "420paldv" => planes(2, 2),
                    "422" => planes(2, 1),
                    "444" => planes(1, 1),
                    "411" => planes(4, 1),
                    "mono" => YuvLayout::Grey,
                    _ => {
                        return Err(invalid(format!(
                            "expected C420, C422, C444, C411 or Cmono of 8 bits, found \"{field}\"; \
                             ffmpeg converts with -pix_fmt yuv420p"
                        )));
                    }
                }
            }
            Some(("X", "COLORRANGE=FULL")) => self.range = YuvRange::Full,
            Some(("X", "COLORRANGE=LIMITED")) => self.range = YuvRange::Limited,
            Some(("X", text)) if text.starts_with("COLORRANGE=") => {
                return Err(invalid(format!(
                    "expected FULL or LIMITED, found \"{field}\""
                )));
            }
            // Frame rate, interlacing and aspect ratio do not matter for single frames.
            _ => {}
        }
        Ok(())
    }
}

impl<R: Read> Y4mReader<R> {
    fn new(input: R) -> Self {
        Self {
            input: Input::new(StartReader::new(input)),
            format: None,
            skipped: 0,
            unsure: false,
        }
    }

    /// The next chunk; `None` at the end of the stream. After other data, skips to the next frame or header.
    ///
    /// # Errors
    /// `InvalidData` for a stream that does not begin with a header, and for an invalid header anywhere: its frames
    /// cannot be split. Errors of the input.
    fn next_chunk(&mut self) -> std::io::Result<Option<Y4mChunk>> {
        loop {
            let line = match &self.format {
                None => self.input.line()?,
                Some(format) => {
                    let keyword = self.input.keyword()?;
                    if keyword.is_empty() {
                        return Ok(None);
                    }
                    if keyword == FRAME {
                        let (bytes, layout) = (format.bytes(), format.layout);
                        let (width, height, range) = (format.width, format.height, format.range);
                        return Ok(Some(self.frame(bytes)?.map_or_else(
                            |reason| Y4mChunk::Corrupt { reason },
                            |data| {
                                Y4mChunk::Frame(YuvFrame {
                                    width,
                                    height,
                                    layout,
                                    range,
                                    data,
                                })
                            },
                        )));
                    }
                    if keyword != KEYWORDS[1] {
                        let found = keyword.escape_ascii();
                        let reason = format!("expected \"FRAME\", found \"{found}\"");
                        self.find_keyword(keyword)?;
                        return Ok(Some(Y4mChunk::Corrupt { reason }));
                    }
                    [keyword, self.input.line()?].concat()
                }
            };
            if line.starts_with(HEADER) {
                self.format = Some(Format::parse(&line)?);
                self.unsure = false;
            } else if self.format.is_none() {
                let found = describe(self.input.inner.get_ref().start());
                return Err(invalid(format!("expected \"YUV4MPEG2\", {found}")));
            } else {
                self.skipped += line.len() as u64;
                self.unsure = true;
                let reason = "expected \"FRAME\" or \"YUV4MPEG2\", found other data".into();
                return Ok(Some(Y4mChunk::Corrupt { reason }));
            }
        }
    }

    /// The data of a frame of `bytes` bytes after its keyword, or why there is none.
    fn frame(&mut self, bytes: u64) -> std::io::Result<Result<Vec<u8>, String>> {
        let parameters = self.input.line()?;
        if !matches!(parameters[..], [b'\n'] | [b' ', .., b'\n']) {
            self.skipped += (FRAME.len() + parameters.len()) as u64;
            self.unsure = true;
            let start = parameters[..parameters.len().min(12)].escape_ascii();
            return Ok(Err(format!(
                "expected the end of the line after \"FRAME\", found \"{start}\""
            )));
        }
        let mut data = Vec::new();
        // In pieces that double, so that a stream of keywords costs no more than others.
        let mut piece = FIRST_PIECE;
        while (data.len() as u64) < bytes {
            let before = data.len();
            let wanted = piece.min(bytes - before as u64);
            (&mut self.input).take(wanted).read_to_end(&mut data)?;
            // Frames of another size, for example after a header that was lost, would be read as noise.
            let searched = before.saturating_sub(HEADER.len());
            let found = [&b"FRAME\n"[..], HEADER].map(|k| memmem::find(&data[searched..], k));
            if let Some(at) = found.into_iter().flatten().min() {
                let at = searched + at;
                self.skipped += at as u64;
                self.input.push_back(&data[at..]);
                return Ok(Err(format!(
                    "expected a frame of {bytes} bytes, found the next one after {at}"
                )));
            }
            if ((data.len() - before) as u64) < wanted {
                break;
            }
            piece = data.len() as u64;
        }
        if data.len() as u64 != bytes {
            let len = data.len();
            self.skipped += len as u64;
            return Ok(Err(format!(
                "the stream ends inside a frame: expected {bytes} bytes, found {len}"
            )));
        }
        if self.unsure {
            let next = self.input.keyword()?;
            let known = next.is_empty() || KEYWORDS.contains(&&next[..]);
            self.input.push_back(&next);
            if !known {
                self.skipped += bytes;
                return Ok(Err(format!(
                    "expected a frame of {bytes} bytes, found a longer one"
                )));
            }
            self.unsure = false;
        }
        Ok(Ok(data))
    }

    /// Skips to the next keyword, beginning with the bytes in `window`.
    fn find_keyword(&mut self, mut window: Vec<u8>) -> std::io::Result<()> {
        self.unsure = true;
        while !KEYWORDS.contains(&&window[..]) {
            let mut next = [0];
            match self.input.read(&mut next) {
                Ok(0) => {
                    self.skipped += window.len() as u64;
                    return Ok(());
                }
                Ok(_) => window.push(next[0]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if window.len() > FRAME.len() {
                window.remove(0);
                self.skipped += 1;
            }
        }
        self.input.push_back(&window);
        Ok(())
    }
}

/// A buffered input that can be given bytes back.
struct Input<R> {
    inner: BufReader<R>,
    back: VecDeque<u8>,
}

impl<R: Read> Input<R> {
    fn new(input: R) -> Self {
        Self {
            inner: BufReader::with_capacity(64 << 10, input),
            back: VecDeque::new(),
        }
    }

    /// `bytes` are read next.
    fn push_back(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().rev() {
            self.back.push_front(*byte);
        }
    }

    /// The bytes in which a keyword is expected; fewer at the end.
    fn keyword(&mut self) -> std::io::Result<Vec<u8>> {
        let mut keyword = vec![];
        self.take(FRAME.len() as u64).read_to_end(&mut keyword)?;
        Ok(keyword)
    }

    /// A line including its line feed, cut off at [`MAX_LINE`] bytes; empty at the end of the stream.
    fn line(&mut self) -> std::io::Result<Vec<u8>> {
        let mut line = vec![];
        self.take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
        Ok(line)
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.back.is_empty() {
            true => self.inner.read(buffer),
            false => self.back.read(buffer),
        }
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        match self.back.is_empty() {
            true => self.inner.fill_buf(),
            false => self.back.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self.back.is_empty() {
            true => self.inner.consume(amount),
            false => self.back.consume(amount),
        }
    }
}

fn invalid(reason: String) -> Error {
    let reason = printable(&reason).into_owned();
    Error::new(ErrorKind::InvalidData, format!("Y4M header: {reason}"))
}

fn planes(horizontal: u32, vertical: u32) -> YuvLayout {
    YuvLayout::Planes {
        horizontal,
        vertical,
    }
}

impl<R: Read + Send> Capture for Y4mReader<R> {
    fn next(&mut self) -> std::io::Result<Option<Poll>> {
        Ok(self.next_chunk()?.map(|chunk| match chunk {
            Y4mChunk::Frame(frame) => Poll::Frame(EncodedFrame::Yuv(frame)),
            Y4mChunk::Corrupt { reason } => Poll::Corrupt { file: None, reason },
        }))
    }

    fn skipped_bytes(&self) -> u64 {
        self.skipped
    }
}

/// The frames of a Y4M stream.
pub(super) fn capture(stream: Box<dyn Read + Send>) -> Box<dyn Capture> {
    Box::new(Y4mReader::new(stream))
}

/// Reads all frames of a stream, and returns their number.
pub(crate) fn count_y4m_frames(stream: Vec<u8>) -> std::io::Result<u64> {
    let mut capture = capture(Box::new(std::io::Cursor::new(stream)));
    let mut frames = 0;
    while capture.next()?.is_some() {
        frames += 1;
    }
    Ok(frames)
}
