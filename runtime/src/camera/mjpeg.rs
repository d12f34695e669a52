//! Motion JPEG: JPEG images one after the other, without a container.
//!
//! A frame's end is found by walking its markers, as a decoder does: segments are skipped by their length,
//! because a thumbnail inside one has start and end markers of its own; and in entropy-coded data FF00 and
//! restart markers end nothing.

use std::io::{ErrorKind, Read};

/// Largest JPEG frame that is taken from a stream, in bytes: 16 MiB.
pub const MAX_JPEG: usize = 16 << 20;

/// Most segments of a frame: 65 MB, and few enough that a hostile stream cannot have them walked too often.
const MAX_SEGMENTS: u32 = 1000;
const READ: usize = 64 << 10;
const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

/// Splits a byte stream into JPEG frames. Memory: at most `limit` and 64 KiB.
pub struct MjpegReader<R> {
    input: R,
    limit: usize,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are given out or skipped. They are dropped when more is read, not before:
    /// else a stream of false starts would move the same bytes again and again.
    done: usize,
    /// How far behind `done` the frame's markers have been walked; 0 while a start is looked for.
    at: usize,
    /// Where behind `done` the segment before `at` starts.
    segment: usize,
    segments: u32,
    has_size: bool,
    in_scan: bool,
    ended: bool,
    skipped: u64,
}

/// What stands next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// A frame from its start to its end marker.
    Frame(Vec<u8>),
    /// A frame that runs into the next start, or into the stream's end. Some webcams leave the end marker out,
    /// so that it may be whole or cut off: [`decode_unended`](super::decode_unended) tells.
    Unended(Vec<u8>),
    /// What started as a frame and cannot be one; its bytes count as skipped.
    Corrupt {
        /// What was expected and what was found.
        reason: String,
    },
}

enum Walk {
    More,
    /// The frame has this many bytes, the end marker among them or not.
    End {
        len: usize,
        marker: bool,
    },
    Bad {
        reason: String,
        resume: usize,
    },
}

impl<R: Read> MjpegReader<R> {
    /// A reader of `input` that gives up a frame once it has more than `limit` bytes.
    pub fn new(input: R, limit: usize) -> Self {
        Self {
            input,
            limit,
            buffer: vec![],
            done: 0,
            at: 0,
            segment: 0,
            segments: 0,
            has_size: false,
            in_scan: false,
            ended: false,
            skipped: 0,
        }
    }

    /// Bytes so far that are part of no frame.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Bytes of memory held.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// Those of the input. Reading may go on afterwards.
    pub fn next_piece(&mut self) -> std::io::Result<Option<Piece>> {
        loop {
            if self.at == 0 && !self.find_start() {
                if self.ended {
                    self.skip(self.rest().len());
                    return Ok(None);
                }
                self.read()?;
                continue;
            }
            match self.walk() {
                Walk::End { len, marker } => {
                    let frame = self.rest()[..len].to_vec();
                    self.done += len;
                    self.at = 0;
                    return Ok(Some(match marker {
                        true => Piece::Frame(frame),
                        false => Piece::Unended(frame),
                    }));
                }
                Walk::Bad { reason, resume } => {
                    self.skip(resume);
                    return Ok(Some(Piece::Corrupt { reason }));
                }
                Walk::More if self.rest().len() > self.limit => {
                    let reason = format!(
                        "expected an end marker within {} bytes, found none",
                        self.limit
                    );
                    self.skip(self.rest().len());
                    return Ok(Some(Piece::Corrupt { reason }));
                }
                Walk::More if self.ended => {
                    let reason = "the stream ends inside a frame's header".into();
                    let resume = self.segment.max(2);
                    self.skip(resume);
                    return Ok(Some(Piece::Corrupt { reason }));
                }
                Walk::More => self.read()?,
            }
        }
    }

    /// What was read and is neither given out nor skipped; a frame's start if `at` is not 0.
    fn rest(&self) -> &[u8] {
        &self.buffer[self.done..]
    }

    fn read(&mut self) -> std::io::Result<()> {
        self.buffer.drain(..self.done);
        self.done = 0;
        let len = self.buffer.len();
        // Grown to what is needed rather than doubled, so that the bound holds.
        self.buffer.reserve_exact(READ);
        self.buffer.resize(len + READ, 0);
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

    /// Drops bytes that belong to no frame, and looks for a start again.
    fn skip(&mut self, len: usize) {
        self.done += len;
        self.skipped += len as u64;
        self.at = 0;
    }

    /// Drops what stands before a start marker that a further marker follows.
    fn find_start(&mut self) -> bool {
        let start = find_soi(self.rest());
        // The last two bytes may be the beginning of a start.
        self.skip(start.unwrap_or(self.rest().len().saturating_sub(2)));
        if start.is_some() {
            self.at = 2;
            self.segment = 0;
            self.segments = 0;
            self.has_size = false;
            self.in_scan = false;
        }
        start.is_some()
    }

    /// Walks on from marker to marker, each segment once it is there as a whole. Where it leads to no marker, the
    /// search for the next start goes back into the last segment alone: no byte is looked at many times.
    fn walk(&mut self) -> Walk {
        loop {
            if self.in_scan {
                let rest = self.rest().get(self.at..).unwrap_or_default();
                let Some(next) = rest.iter().position(|b| *b == 0xFF) else {
                    let len = rest.len();
                    self.at += len;
                    return self.scan_ended_by_stream();
                };
                let (advance, in_scan) = match rest.get(next + 1) {
                    None => (next, true),
                    Some(0x00 | 0xD0..=0xD7) => (next + 2, true),
                    Some(0xFF) => (next + 1, true),
                    Some(_) => (next, false),
                };
                let no_more = next + 1 == rest.len();
                self.at += advance;
                self.in_scan = in_scan;
                if no_more {
                    return self.scan_ended_by_stream();
                }
                continue;
            }
            let marker = match *self.rest().get(self.at..).unwrap_or_default() {
                [0xFF, 0xFF, ..] => {
                    self.at += 1;
                    continue;
                }
                [0xFF, marker, ..] => marker,
                [] | [0xFF] => return Walk::More,
                [other, ..] => {
                    return Walk::Bad {
                        reason: format!("expected a marker, found the byte {other:#04x}"),
                        resume: self.segment.max(2),
                    };
                }
            };
            match marker {
                EOI => {
                    return Walk::End {
                        len: self.at + 2,
                        marker: true,
                    };
                }
                // The frame ended without a word if it has had a scan; else it never had an image.
                SOI if self.had_scan() => {
                    return Walk::End {
                        len: self.at,
                        marker: false,
                    };
                }
                SOI => {
                    return Walk::Bad {
                        reason: "expected an image, found the start of the next frame".into(),
                        resume: self.at,
                    };
                }
                0x01 | 0xD0..=0xD7 => {
                    self.at += 2;
                    continue;
                }
                0x00 => {
                    return Walk::Bad {
                        reason: "expected a marker, found FF00".into(),
                        resume: self.segment.max(2),
                    };
                }
                _ => {}
            }
            let Some([high, low]) = self.rest().get(self.at + 2..self.at + 4) else {
                return Walk::More;
            };
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            if len < 2 {
                return Walk::Bad {
                    reason: format!("expected a segment of 2 bytes or more, found {len}"),
                    resume: self.at,
                };
            }
            // With two bytes more, for a start that began as the segment's last byte.
            let end = self.at + 2 + len;
            let segment = match self.rest().get(self.at..end + 2) {
                Some(segment) => segment,
                None if self.ended && end <= self.rest().len() => &self.rest()[self.at..],
                None => return Walk::More,
            };
            // Thumbnails are in application segments (and text in comments); no table holds a start.
            let may_hold_start = matches!(marker, 0xE0..=0xEF | 0xFE);
            if let Some(inside) = find_soi(segment).filter(|_| !may_hold_start) {
                return Walk::Bad {
                    reason: "expected an image, found the start of the next frame".into(),
                    resume: self.at + inside,
                };
            }
            self.segments += 1;
            self.has_size |= matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC);
            if self.segments > MAX_SEGMENTS || (marker == SOS && !self.has_size) {
                // An application segment that was cut off has swallowed the beginning of the next frame.
                return Walk::Bad {
                    reason: "expected a frame header before the image, found none".into(),
                    resume: 2,
                };
            }
            self.segment = self.at;
            self.at = end;
            self.in_scan = marker == SOS;
        }
    }

    fn scan_ended_by_stream(&self) -> Walk {
        match self.ended {
            true => Walk::End {
                len: self.rest().len(),
                marker: false,
            },
            false => Walk::More,
        }
    }

    /// Whether the segment before `at` was a scan's header.
    fn had_scan(&self) -> bool {
        self.segment > 0 && self.rest().get(self.segment + 1) == Some(&SOS)
    }
}

/// Where a start marker is that a further marker follows.
fn find_soi(bytes: &[u8]) -> Option<usize> {
    bytes.windows(3).position(|w| w == [0xFF, SOI, 0xFF])
}
