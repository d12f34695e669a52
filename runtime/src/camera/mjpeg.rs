//! Motion JPEG: concatenated JPEG images without a container.
//!
//! The end of a frame is found by walking its markers (ITU-T T.81, annex B), as a decoder does. Segments are skipped
//! by their length, because a thumbnail inside a segment has start and end markers of its own. FF00 and restart
//! markers do not end entropy-coded data.

use std::io::{Error, ErrorKind, Read};

use super::capture::{Capture, Poll};
use super::content::{START_BYTES, describe, is_inside_jpeg};
use super::frame::EncodedFrame;

/// Size limit of a JPEG frame in a stream: 16 MiB.
pub const MAX_JPEG_BYTES: usize = 16 << 20;

/// A stream without a frame in this many bytes from its start is something else.
const MAX_BYTES_BEFORE_FRAME: u64 = 100_000;

/// A stream without a frame in this many bytes after one has become something else.
const MAX_BYTES_BETWEEN_FRAMES: u64 = 1 << 20;

/// Most segments of a frame. Bounds the time that a hostile stream costs.
const MAX_SEGMENTS: u32 = 1000;
const READ_BYTES: usize = 64 << 10;
const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

/// Splits a byte stream into JPEG frames. Buffers at most `limit` bytes plus 64 KiB.
pub struct MjpegReader<R> {
    input: R,
    limit: usize,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are consumed. They are removed only when more is read: otherwise a stream of false
    /// starts would move the same bytes again and again.
    consumed: usize,
    /// Position after `consumed` up to which the frame's markers have been walked; 0 while searching for a start.
    position: usize,
    /// Start of the segment before `position`, relative to `consumed`.
    segment: usize,
    segments: u32,
    has_size: bool,
    in_scan: bool,
    ended: bool,
    skipped: u64,
    /// What was skipped since the last frame.
    gap: Gap,
    /// More bytes in the gap are an error.
    max_gap: u64,
}

/// Bytes of a stream that belong to no frame, since the last frame.
#[derive(Default)]
struct Gap {
    len: u64,
    /// The first [`START_BYTES`] of them.
    start: Vec<u8>,
}

/// What [`MjpegReader::next_chunk`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum MjpegChunk {
    /// A frame from its start marker to its end marker.
    Frame(Vec<u8>),
    /// A frame that ends without an end marker, at the next start marker or at the end of the stream. Some webcams
    /// omit the end marker, so the frame may be complete or cut off.
    Unterminated(Vec<u8>),
    /// A start marker without a valid frame after it. Its bytes count as skipped.
    Corrupt {
        /// What was expected and what was found.
        reason: String,
    },
}

enum Walk {
    NeedsMore,
    /// The frame has `len` bytes, including the end marker if there is one.
    End {
        len: usize,
        has_end_marker: bool,
    },
    Corrupt {
        reason: String,
        resume: usize,
    },
}

impl<R: Read> MjpegReader<R> {
    /// Reads `input`; a frame of more than `limit` bytes is corrupt.
    pub fn new(input: R, limit: usize) -> Self {
        Self {
            input,
            limit,
            buffer: vec![],
            consumed: 0,
            position: 0,
            segment: 0,
            segments: 0,
            has_size: false,
            in_scan: false,
            ended: false,
            skipped: 0,
            gap: Gap::default(),
            max_gap: u64::MAX,
        }
    }

    /// Bytes so far that belong to no frame.
    pub fn skipped_bytes(&self) -> u64 {
        self.skipped
    }

    /// Capacity of the buffer in bytes.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next chunk; `None` at the end of the stream.
    ///
    /// # Errors
    /// Errors of the input. Reading may continue afterwards.
    pub fn next_chunk(&mut self) -> std::io::Result<Option<MjpegChunk>> {
        loop {
            if self.position == 0 && !self.find_start() {
                if self.ended {
                    self.skip(self.rest().len());
                    return Ok(None);
                }
                if self.gap.len > self.max_gap {
                    return Err(Error::new(ErrorKind::InvalidData, "expected a frame"));
                }
                self.read()?;
                continue;
            }
            match self.walk() {
                Walk::End {
                    len,
                    has_end_marker,
                } => {
                    let frame = self.rest()[..len].to_vec();
                    self.consumed += len;
                    self.position = 0;
                    self.gap = Gap::default();
                    return Ok(Some(if has_end_marker {
                        MjpegChunk::Frame(frame)
                    } else {
                        MjpegChunk::Unterminated(frame)
                    }));
                }
                Walk::Corrupt { reason, resume } => {
                    self.skip(resume);
                    return Ok(Some(MjpegChunk::Corrupt { reason }));
                }
                Walk::NeedsMore if self.rest().len() > self.limit => {
                    let reason = format!(
                        "expected an end marker within {} bytes, found none",
                        self.limit
                    );
                    self.skip(self.rest().len());
                    return Ok(Some(MjpegChunk::Corrupt { reason }));
                }
                Walk::NeedsMore if self.ended => {
                    let reason = "the stream ends inside a frame's header".into();
                    let resume = self.segment.max(2);
                    self.skip(resume);
                    return Ok(Some(MjpegChunk::Corrupt { reason }));
                }
                Walk::NeedsMore => self.read()?,
            }
        }
    }

    /// The buffered bytes that are not consumed. They begin with a start marker if `position` is not 0.
    fn rest(&self) -> &[u8] {
        &self.buffer[self.consumed..]
    }

    fn read(&mut self) -> std::io::Result<()> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        let len = self.buffer.len();
        // Not doubled, so that the memory bound holds.
        self.buffer.reserve_exact(READ_BYTES);
        self.buffer.resize(len + READ_BYTES, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[len..]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(len + *read.as_ref().unwrap_or(&0));
        self.ended = read? == 0;
        Ok(())
    }

    /// Skips bytes that belong to no frame, and searches for the next start.
    fn skip(&mut self, len: usize) {
        let missing = START_BYTES - self.gap.start.len();
        let skipped = &self.buffer[self.consumed..self.consumed + len];
        self.gap.start.extend(&skipped[..len.min(missing)]);
        self.gap.len += len as u64;
        self.consumed += len;
        self.skipped += len as u64;
        self.position = 0;
    }

    /// Skips to the next start marker that is followed by another marker.
    fn find_start(&mut self) -> bool {
        let start = find_soi(self.rest());
        // The last two bytes may begin a start marker.
        self.skip(start.unwrap_or(self.rest().len().saturating_sub(2)));
        if start.is_some() {
            self.position = 2;
            self.segment = 0;
            self.segments = 0;
            self.has_size = false;
            self.in_scan = false;
        }
        start.is_some()
    }

    /// Walks from marker to marker, each segment once it is complete. After a segment that is not followed by a
    /// marker, the search for a start resumes inside that segment only, so that no byte is read many times.
    fn walk(&mut self) -> Walk {
        loop {
            if self.in_scan {
                let rest = self.rest().get(self.position..).unwrap_or_default();
                let Some(next) = rest.iter().position(|b| *b == 0xFF) else {
                    let len = rest.len();
                    self.position += len;
                    return self.end_of_scan_data();
                };
                let (advance, in_scan) = match rest.get(next + 1) {
                    None => (next, true),
                    Some(0x00 | 0xD0..=0xD7) => (next + 2, true),
                    Some(0xFF) => (next + 1, true),
                    Some(_) => (next, false),
                };
                let no_more = next + 1 == rest.len();
                self.position += advance;
                self.in_scan = in_scan;
                if no_more {
                    return self.end_of_scan_data();
                }
                continue;
            }
            let marker = match *self.rest().get(self.position..).unwrap_or_default() {
                [0xFF, 0xFF, ..] => {
                    self.position += 1;
                    continue;
                }
                [0xFF, marker, ..] => marker,
                [] | [0xFF] => return Walk::NeedsMore,
                [other, ..] => {
                    return Walk::Corrupt {
                        reason: format!("expected a marker, found the byte {other:#04x}"),
                        resume: self.segment.max(2),
                    };
                }
            };
            match marker {
                EOI => {
                    return Walk::End {
                        len: self.position + 2,
                        has_end_marker: true,
                    };
                }
                // After a scan, the frame lacks its end marker. Before one, it has no image.
                SOI if self.had_scan() => {
                    return Walk::End {
                        len: self.position,
                        has_end_marker: false,
                    };
                }
                SOI => {
                    return Walk::Corrupt {
                        reason: "expected an image, found the start of the next frame".into(),
                        resume: self.position,
                    };
                }
                0x01 | 0xD0..=0xD7 => {
                    self.position += 2;
                    continue;
                }
                0x00 => {
                    return Walk::Corrupt {
                        reason: "expected a marker, found FF00".into(),
                        resume: self.segment.max(2),
                    };
                }
                _ => {}
            }
            let Some([high, low]) = self.rest().get(self.position + 2..self.position + 4) else {
                return Walk::NeedsMore;
            };
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            if len < 2 {
                return Walk::Corrupt {
                    reason: format!("expected a segment of 2 bytes or more, found {len}"),
                    resume: self.position,
                };
            }
            // Two more bytes, for a start marker that begins in the segment's last byte.
            let end = self.position + 2 + len;
            let segment = match self.rest().get(self.position..end + 2) {
                Some(segment) => segment,
                None if self.ended && end <= self.rest().len() => &self.rest()[self.position..],
                None => return Walk::NeedsMore,
            };
            // Application segments hold thumbnails, comments hold text; tables never contain a start marker.
            let may_hold_start = matches!(marker, 0xE0..=0xEF | 0xFE);
            if let Some(inside) = find_soi(segment).filter(|_| !may_hold_start) {
                return Walk::Corrupt {
                    reason: "expected an image, found the start of the next frame".into(),
                    resume: self.position + inside,
                };
            }
            self.segments += 1;
            self.has_size |= matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC);
            if self.segments > MAX_SEGMENTS || (marker == SOS && !self.has_size) {
                // A truncated application segment has swallowed the start of the next frame.
                return Walk::Corrupt {
                    reason: "expected a frame header before the image, found none".into(),
                    resume: 2,
                };
            }
            self.segment = self.position;
            self.position = end;
            self.in_scan = marker == SOS;
        }
    }

    fn end_of_scan_data(&self) -> Walk {
        match self.ended {
            true => Walk::End {
                len: self.rest().len(),
                has_end_marker: false,
            },
            false => Walk::NeedsMore,
        }
    }

    /// Whether the segment before `position` was a scan header.
    fn had_scan(&self) -> bool {
        self.segment > 0 && self.rest().get(self.segment + 1) == Some(&SOS)
    }
}

/// Position of the first start marker that is followed by another marker.
fn find_soi(bytes: &[u8]) -> Option<usize> {
    bytes.windows(3).position(|w| w == [0xFF, SOI, 0xFF])
}

/// The frames of a stream, which must be Motion JPEG.
struct MjpegCapture {
    reader: MjpegReader<Box<dyn Read + Send>>,
    has_frames: bool,
}

impl MjpegCapture {
    /// The next chunk; an error if the stream ends without a frame, or if [`MAX_BYTES_BEFORE_FRAME`] or
    /// [`MAX_BYTES_BETWEEN_FRAMES`] arrive without one.
    fn next_chunk(&mut self) -> std::io::Result<Option<MjpegChunk>> {
        let chunk = self.reader.next_chunk();
        if let Ok(Some(MjpegChunk::Frame(_) | MjpegChunk::Unterminated(_))) = chunk {
            self.has_frames = true;
            self.reader.max_gap = MAX_BYTES_BETWEEN_FRAMES;
        }
        let start = &*self.reader.gap.start;
        let kind = match &chunk {
            Err(e) if e.kind() == ErrorKind::InvalidData => {
                let max_gap = match start {
                    // Damaged, but nothing else.
                    [0xFF, SOI, 0xFF, ..] => u64::MAX,
                    // The program was connected to a running camera, or the camera lost the start of a frame.
                    _ if is_inside_jpeg(start) => MAX_JPEG_BYTES as u64,
                    _ => 0,
                };
                if max_gap > self.reader.max_gap {
                    self.reader.max_gap = max_gap;
                    return self.next_chunk();
                }
                ErrorKind::InvalidData
            }
            _ if self.has_frames => return chunk,
            Ok(None) if start.is_empty() => ErrorKind::UnexpectedEof,
            // Its frames are corrupt, which has been reported.
            Ok(None) if start.starts_with(&[0xFF, SOI, 0xFF]) => return chunk,
            Ok(None) => ErrorKind::InvalidData,
            _ => return chunk,
        };
        let after = if self.has_frames {
            " after the last frame"
        } else {
            ""
        };
        let reason = format!("expected JPEG images (MJPEG){after}, {}", describe(start));
        Err(Error::new(kind, reason))
    }
}

impl Capture for MjpegCapture {
    fn next(&mut self) -> std::io::Result<Option<Poll>> {
        Ok(self.next_chunk()?.map(|chunk| match chunk {
            MjpegChunk::Frame(bytes) | MjpegChunk::Unterminated(bytes) => {
                Poll::Frame(EncodedFrame::Jpeg(bytes))
            }
            MjpegChunk::Corrupt { reason } => Poll::Corrupt { file: None, reason },
        }))
    }

    fn skipped_bytes(&self) -> u64 {
        self.reader.skipped_bytes()
    }
}

/// The frames of a Motion JPEG stream.
pub(super) fn capture(stream: Box<dyn Read + Send>) -> Box<dyn Capture> {
    let mut reader = MjpegReader::new(stream, MAX_JPEG_BYTES);
    reader.max_gap = MAX_BYTES_BEFORE_FRAME;
    Box::new(MjpegCapture {
        reader,
        has_frames: false,
    })
}
