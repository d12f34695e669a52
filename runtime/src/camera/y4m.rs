//! Y4M (YUV4MPEG2): raw frames, each after a line of text, as mjpegtools and ffmpeg write them.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read};

use super::capture::{Capture, Poll};
use super::frame::EncodedFrame;
use super::yuv::{YuvFrame, YuvLayout};

/// Size limit of a raw frame in a stream: 64 MiB, enough for 4096 x 4096 in 4:4:4.
const MAX_FRAME_BYTES: u64 = 64 << 20;

const MAX_LINE: usize = 4096;
const KEYWORD: &[u8] = b"FRAME";

/// Reads the frames of a Y4M stream.
struct Y4mReader<R> {
    input: BufReader<R>,
    width: u32,
    height: u32,
    layout: YuvLayout,
    full_range: bool,
    skipped: u64,
    /// Whether the keyword that begins a frame has been read.
    keyword_read: bool,
}

/// What [`Y4mReader::next_chunk`] found.
enum Y4mChunk {
    Frame(YuvFrame),
    /// The stream ends inside a frame, or has other data instead of a frame.
    Corrupt {
        reason: String,
    },
}

impl<R: Read> Y4mReader<R> {
    /// Reads the header: width, height, chroma (420jpeg, 420mpeg2, 420paldv, 420, 422, 444, 411 or mono; default
    /// 420; chroma siting is ignored) and `XCOLORRANGE` (default limited).
    ///
    /// # Errors
    /// `InvalidData` naming the field for an invalid header; errors of the input.
    fn new(input: R) -> std::io::Result<Self> {
        let mut input = BufReader::with_capacity(64 << 10, input);
        let line = line(&mut input)?.unwrap_or_default();
        if !line.starts_with(b"YUV4MPEG2 ") {
            let start = line[..line.len().min(12)].escape_ascii();
            return Err(invalid(format!(
                "expected \"YUV4MPEG2\", found \"{start}\""
            )));
        }
        let mut reader = Self {
            input,
            width: 0,
            height: 0,
            layout: planes(2, 2),
            full_range: false,
            skipped: 0,
            keyword_read: false,
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        for field in line.split_ascii_whitespace().skip(1) {
            reader.field(field)?;
        }
        if reader.width == 0 || reader.height == 0 {
            let line = line.trim_end();
            return Err(invalid(format!("expected W and H, found {line:?}")));
        }
        let bytes = reader.layout.bytes(reader.width, reader.height);
        if bytes > MAX_FRAME_BYTES {
            return Err(invalid(format!(
                "expected frames of {MAX_FRAME_BYTES} bytes or less, found {bytes} ({} x {})",
                reader.width, reader.height
            )));
        }
        Ok(reader)
    }

    fn field(&mut self, field: &str) -> std::io::Result<()> {
        let side = |text: &str| match text.parse::<u16>() {
            Ok(side) if side > 0 => Ok(u32::from(side)),
            _ => Err(invalid(format!("expected 1 to 65535, found {field:?}"))),
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
                            "expected C420, C422, C444, C411 or Cmono of 8 bits, found {field:?}; \
                             ffmpeg converts with -pix_fmt yuv420p"
                        )));
                    }
                }
            }
            Some(("X", "COLORRANGE=FULL")) => self.full_range = true,
            Some(("X", "COLORRANGE=LIMITED")) => self.full_range = false,
            Some(("X", text)) if text.starts_with("COLORRANGE=") => {
                return Err(invalid(format!(
                    "expected FULL or LIMITED, found {field:?}"
                )));
            }
            // Frame rate, interlacing and aspect ratio do not matter for single frames.
            _ => {}
        }
        Ok(())
    }

    /// The next chunk; `None` at the end of the stream. After other data, skips to the next `FRAME`.
    fn next_chunk(&mut self) -> std::io::Result<Option<Y4mChunk>> {
        if !std::mem::take(&mut self.keyword_read) {
            let mut keyword = vec![];
            (&mut self.input)
                .take(KEYWORD.len() as u64)
                .read_to_end(&mut keyword)?;
            if keyword.is_empty() {
                return Ok(None);
            }
            if keyword != KEYWORD {
                let reason = format!("expected \"FRAME\", found \"{}\"", keyword.escape_ascii());
                self.find_frame(keyword)?;
                return Ok(Some(Y4mChunk::Corrupt { reason }));
            }
        }
        let parameters = line(&mut self.input)?.unwrap_or_default();
        if !matches!(parameters[..], [b'\n'] | [b' ', .., b'\n']) {
            self.skipped += (KEYWORD.len() + parameters.len()) as u64;
            let start = parameters[..parameters.len().min(12)].escape_ascii();
            return Ok(Some(Y4mChunk::Corrupt {
                reason: format!("expected the end of the line after \"FRAME\", found \"{start}\""),
            }));
        }
        let bytes = self.layout.bytes(self.width, self.height);
        let mut data = Vec::new();
        (&mut self.input).take(bytes).read_to_end(&mut data)?;
        if data.len() as u64 != bytes {
            let len = data.len();
            self.skipped += len as u64;
            return Ok(Some(Y4mChunk::Corrupt {
                reason: format!(
                    "the stream ends inside a frame: expected {bytes} bytes, found {len}"
                ),
            }));
        }
        Ok(Some(Y4mChunk::Frame(YuvFrame {
            width: self.width,
            height: self.height,
            layout: self.layout,
            full_range: self.full_range,
            data,
        })))
    }

    /// Skips to the next `FRAME`, beginning with the bytes in `window`.
    fn find_frame(&mut self, mut window: Vec<u8>) -> std::io::Result<()> {
        loop {
            let mut next = [0];
            match self.input.read(&mut next) {
                Ok(0) => break,
                Ok(_) => window.push(next[0]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if window.len() > KEYWORD.len() {
                window.remove(0);
                self.skipped += 1;
            }
            if window == KEYWORD {
                self.keyword_read = true;
                return Ok(());
            }
        }
        self.skipped += window.len() as u64;
        Ok(())
    }
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidData, format!("Y4M header: {reason}"))
}

fn planes(horizontal: u32, vertical: u32) -> YuvLayout {
    YuvLayout::Planes {
        horizontal,
        vertical,
    }
}

/// A line including its line feed, cut off at [`MAX_LINE`] bytes; `None` at the end of the stream.
fn line<R: Read>(input: &mut BufReader<R>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = vec![];
    let limit = MAX_LINE as u64;
    input.take(limit).read_until(b'\n', &mut line)?;
    Ok((!line.is_empty()).then_some(line))
}

/// A Y4M stream whose header is read by the capture thread, together with the first frame.
enum Y4mCapture {
    Unopened(Option<Box<dyn Read + Send>>),
    Open(Y4mReader<Box<dyn Read + Send>>),
}

impl Capture for Y4mCapture {
    fn next(&mut self) -> std::io::Result<Option<Poll>> {
        let reader = match self {
            Self::Open(reader) => reader,
            Self::Unopened(input) => {
                let Some(input) = input.take() else {
                    return Ok(None);
                };
                *self = Self::Open(Y4mReader::new(input)?);
                return self.next();
            }
        };
        Ok(reader.next_chunk()?.map(|chunk| match chunk {
            Y4mChunk::Frame(frame) => Poll::Frame(EncodedFrame::Yuv(frame)),
            Y4mChunk::Corrupt { reason } => Poll::Corrupt { file: None, reason },
        }))
    }

    fn skipped_bytes(&self) -> u64 {
        match self {
            Self::Unopened(_) => 0,
            Self::Open(reader) => reader.skipped,
        }
    }
}

/// The frames of a Y4M stream.
pub(super) fn capture(stream: Box<dyn Read + Send>) -> Box<dyn Capture> {
    Box::new(Y4mCapture::Unopened(Some(stream)))
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
