//! The lines of a log file.

use std::io::{BufRead, ErrorKind};

use super::ResultRecord;

/// Maximum length of a line in bytes, including the newline: 64 KiB. Longer lines count as damaged.
pub const MAX_LINE: usize = 64 << 10;

/// A line of a log file.
pub(super) enum Line {
    Record(ResultRecord),
    /// Terminated by a newline, but not a record.
    Damaged,
    /// The last line, without a newline; it may still be a record.
    Unterminated(Option<ResultRecord>),
}

/// Reads a file line by line, in memory for one line.
pub(super) struct Lines<R> {
    input: R,
    line: Vec<u8>,
    /// Total length so far of the lines terminated by a newline.
    pub(super) terminated: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            line: vec![],
            terminated: 0,
        }
    }

    /// The next line; `None` at the end of the file.
    pub(super) fn next(&mut self) -> std::io::Result<Option<Line>> {
        self.line.clear();
        let mut bytes = 0;
        let terminated = loop {
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
        // A line that is too long was not stored completely.
        let line = (bytes <= MAX_LINE as u64).then_some(&self.line);
        let record = line.and_then(|line| serde_json::from_slice(line).ok());
        if terminated {
            self.terminated += bytes;
        }
        Ok(Some(match record {
            record if !terminated => Line::Unterminated(record),
            Some(record) => Line::Record(record),
            None => Line::Damaged,
        }))
    }
}
