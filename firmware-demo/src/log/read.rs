//! Reading the log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::lines::{Line, Lines, segments};
use super::{Error, Record};

/// The records of the log in `folder`, the oldest first. Of a log that is written meanwhile the last line may be
/// half there, and counts as damaged.
///
/// # Errors
/// [`Error::Io`] where there is no such folder.
pub fn read(folder: impl AsRef<Path>) -> Result<Reader, Error> {
    let (segments, _) = segments(folder.as_ref())?;
    Ok(Reader {
        files: segments.into_iter().map(|segment| segment.path).collect(),
        open: None,
        damaged: 0,
    })
}

/// Iterates over the records of a log, in memory for one line. Lines that are no records are passed over.
pub struct Reader {
    files: VecDeque<PathBuf>,
    open: Option<(Lines<BufReader<File>>, PathBuf)>,
    damaged: u64,
}

impl Reader {
    /// Lines so far that are no records: torn by a power cut, longer than [`MAX_LINE`](super::MAX_LINE), or
    /// something else.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }
}

impl Iterator for Reader {
    /// After an error the next file follows.
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((lines, path)) = &mut self.open else {
                let path = self.files.pop_front()?;
                match File::open(&path) {
                    Ok(file) => self.open = Some((Lines::new(BufReader::new(file)), path)),
                    // The writer has deleted it meanwhile.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Some(Err(Error::io(path, "open")(e))),
                }
                continue;
            };
            match lines.next() {
                Ok(Some(Line::Record(record) | Line::Unended(Some(record)))) => {
                    return Some(Ok(record));
                }
                Ok(Some(Line::Damaged | Line::Unended(None))) => self.damaged += 1,
                Ok(None) => self.open = None,
                Err(e) => {
                    let error = Error::io(std::mem::take(path), "read")(e);
                    self.open = None;
                    return Some(Err(error));
                }
            }
        }
    }
}
