//! Y4M (YUV4MPEG2): raw frames behind a line of text each, as mjpegtools and ffmpeg write them.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read};

use super::yuv::{Layout, Yuv};

/// Largest raw frame that is taken from a stream, in bytes: 64 MiB, 4096 x 4096 in 4:4:4 and more.
pub const MAX_RAW: u64 = 64 << 20;

const MAX_LINE: usize = 4096;
const WORD: &[u8] = b"FRAME";

/// Reads the frames of a Y4M stream.
pub struct Y4mReader<R> {
    input: BufReader<R>,
    width: u32,
    height: u32,
    layout: Layout,
    full_range: bool,
    skipped: u64,
    /// The word that begins a frame has been read.
    at_frame: bool,
}

/// What stands next in a Y4M stream.
#[derive(Debug, PartialEq, Eq)]
pub enum RawPiece {
    /// A frame.
    Frame(Yuv),
    /// The stream ends inside a frame, or something else stood in a frame's place.
    Corrupt {
        /// What was expected and what was found.
        reason: String,
    },
}

impl<R: Read> Y4mReader<R> {
    /// Reads the header: sides, chroma (420jpeg, 420mpeg2, 420paldv, 420, 422, 444, 411, mono; 420 when not
    /// given; how 4:2:0 is sited is not looked at) and `XCOLORRANGE` (limited when not given).
    ///
    /// # Errors
    /// `InvalidData` with the field for what is no such header; those of the input.
    pub fn new(input: R) -> std::io::Result<Self> {
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
            at_frame: false,
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
        if bytes > MAX_RAW {
            return Err(invalid(format!(
                "expected frames of {MAX_RAW} bytes or less, found {bytes} ({} x {})",
                reader.width, reader.height
            )));
        }
        Ok(reader)
    }

    fn field(&mut self, field: &str) -> std::io::Result<()> {
        let side = |text: &str| match text.parse::<u16>() {
            Ok(side) if side > 0 => Ok(u32::from(side)),
            _ => Err(invalid(format!(
                "expected a side of 1 to 65535, found {field:?}"
            ))),
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
                    "mono" => Layout::Grey,
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
            // Frame rate, interlacing, aspect: without meaning for single frames.
            _ => {}
        }
        Ok(())
    }

    /// Bytes so far that are part of no frame.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next piece; `None` at the end. Where no frame stands, the next `FRAME` is looked for.
    ///
    /// # Errors
    /// Those of the input.
    pub fn next_piece(&mut self) -> std::io::Result<Option<RawPiece>> {
        if !std::mem::take(&mut self.at_frame) {
            let mut word = vec![];
            (&mut self.input)
                .take(WORD.len() as u64)
                .read_to_end(&mut word)?;
            if word.is_empty() {
                return Ok(None);
            }
            if word != WORD {
                let reason = format!("expected \"FRAME\", found \"{}\"", word.escape_ascii());
                self.find_frame(word)?;
                return Ok(Some(RawPiece::Corrupt { reason }));
            }
        }
        let parameters = line(&mut self.input)?.unwrap_or_default();
        if !matches!(parameters[..], [b'\n'] | [b' ', .., b'\n']) {
            self.skipped += (WORD.len() + parameters.len()) as u64;
            let start = parameters[..parameters.len().min(12)].escape_ascii();
            return Ok(Some(RawPiece::Corrupt {
                reason: format!("expected a line's end after \"FRAME\", found \"{start}\""),
            }));
        }
        let bytes = self.layout.bytes(self.width, self.height);
        let mut data = Vec::new();
        (&mut self.input).take(bytes).read_to_end(&mut data)?;
        if data.len() as u64 != bytes {
            let len = data.len();
            self.skipped += len as u64;
            return Ok(Some(RawPiece::Corrupt {
                reason: format!(
                    "the stream ends inside a frame: expected {bytes} bytes, found {len}"
                ),
            }));
        }
        Ok(Some(RawPiece::Frame(Yuv {
            width: self.width,
            height: self.height,
            layout: self.layout,
            full_range: self.full_range,
            data,
        })))
    }

    /// Skips bytes until the last ones are `FRAME`, beginning with those of `window`.
    fn find_frame(&mut self, mut window: Vec<u8>) -> std::io::Result<()> {
        loop {
            let mut next = [0];
            match self.input.read(&mut next) {
                Ok(0) => break,
                Ok(_) => window.push(next[0]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if window.len() > WORD.len() {
                window.remove(0);
                self.skipped += 1;
            }
            if window == WORD {
                self.at_frame = true;
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

fn planes(horizontal: u32, vertical: u32) -> Layout {
    Layout::Planes {
        horizontal,
        vertical,
    }
}

/// A line with its end, or as much of it as a line may have; `None` at the end of the stream.
fn line<R: Read>(input: &mut BufReader<R>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = vec![];
    let limit = MAX_LINE as u64;
    input.take(limit).read_until(b'\n', &mut line)?;
    Ok((!line.is_empty()).then_some(line))
}
