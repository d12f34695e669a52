//! Files of records, and their lines.

use std::io::{BufRead, ErrorKind};
use std::path::{Path, PathBuf};

use super::{Error, Record};

/// Most bytes of a line, its end among them. A longer one is damaged: 64 KiB.
pub const MAX_LINE: usize = 64 << 10;

/// A file of the log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

pub(super) fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("results-{number:06}.jsonl"))
}

/// The files of the log in `folder`, the oldest first, and the largest number that a name has, of whatever it names.
pub(super) fn segments(folder: &Path) -> Result<(Vec<Segment>, u64), Error> {
    let failed = || Error::io(folder, "list the folder");
    let mut segments = vec![];
    let mut last = 0;
    for entry in std::fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(number) else {
            continue;
        };
        last = last.max(number);
        // Deleted meanwhile, or no file: a pipe could not be opened without waiting.
        let Ok(metadata) = std::fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if metadata.is_file() {
            segments.push(Segment {
                number,
                path: entry.path(),
                bytes: metadata.len(),
            });
        }
    }
    segments.sort_by_key(|segment| segment.number);
    Ok((segments, last))
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("results-")?.strip_suffix(".jsonl")?;
    // Of more digits a name is not ours: numbers do not get there.
    let fits = (6..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| digits.parse().ok())?
}

/// A line of a file.
pub(super) enum Line {
    Record(Record),
    /// With an end, but no record.
    Damaged,
    /// The last one, without an end; it may be a record nonetheless.
    Unended(Option<Record>),
}

/// The lines of a file, in memory for one.
pub(super) struct Lines<R> {
    input: R,
    line: Vec<u8>,
    /// Bytes of the lines so far that have an end.
    pub(super) ended: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            line: vec![],
            ended: 0,
        }
    }

    /// The next line; `None` at the end.
    pub(super) fn next(&mut self) -> std::io::Result<Option<Line>> {
        self.line.clear();
        let mut bytes = 0;
        let end = loop {
            let chunk = match self.input.fill_buf() {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            };
            if chunk.is_empty() {
                break false;
            }
            let newline = chunk.iter().position(|b| *b == b'\n');
            let len = newline.map_or(chunk.len(), |at| at + 1);
            if bytes + len as u64 <= MAX_LINE as u64 {
                self.line.extend_from_slice(&chunk[..len]);
            }
            bytes += len as u64;
            self.input.consume(len);
            if newline.is_some() {
                break true;
            }
        };
        if bytes == 0 {
            return Ok(None);
        }
        // What is too long was not kept whole.
        let line = (bytes <= MAX_LINE as u64).then_some(&self.line);
        let record = line.and_then(|line| serde_json::from_slice(line).ok());
        if end {
            self.ended += bytes;
        }
        Ok(Some(match record {
            record if !end => Line::Unended(record),
            Some(record) => Line::Record(record),
            None => Line::Damaged,
        }))
    }
}
