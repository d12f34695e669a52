//! Reading the log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::lines::{Line, Lines};
use super::segments::list_segments;
use super::{LogError, ResultRecord};

/// Reads the records of the log in `folder`, oldest first. If the log is being written, its last line may be incomplete
/// and counts as damaged.
///
/// # Errors
/// [`LogError::Io`] if the folder cannot be read.
pub fn read(folder: impl AsRef<Path>) -> Result<LogReader, LogError> {
    let (segments, _) = list_segments(folder.as_ref())?;
    Ok(LogReader {
        files: segments.into_iter().map(|segment| segment.path).collect(),
        open: None,
        damaged: 0,
    })
}

/// Iterates over the records of a log, in memory for one line. Damaged lines are skipped.
pub struct LogReader {
    files: VecDeque<PathBuf>,
    open: Option<(Lines<BufReader<File>>, PathBuf)>,
    damaged: u64,
}

impl LogReader {
    /// Number of damaged lines so far: torn by a power cut, longer than [`MAX_LINE`](super::MAX_LINE), or otherwise not
    /// a record.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }
}

impl Iterator for LogReader {
    /// After an error, reading continues with the next file.
    type Item = Result<ResultRecord, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((lines, path)) = &mut self.open else {
                let path = self.files.pop_front()?;
                match File::open(&path) {
                    Ok(file) => self.open = Some((Lines::new(BufReader::new(file)), path)),
                    // The writer deleted it meanwhile.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Some(Err(LogError::io(path, "open")(e))),
                }
                continue;
            };
            match lines.next() {
                Ok(Some(Line::Record(record) | Line::Unterminated(Some(record)))) => {
                    return Some(Ok(record));
                }
                Ok(Some(Line::Damaged | Line::Unterminated(None))) => self.damaged += 1,
                Ok(None) => self.open = None,
                Err(e) => {
                    let error = LogError::io(std::mem::take(path), "read")(e);
                    self.open = None;
                    return Some(Err(error));
                }
            }
        }
    }
}
