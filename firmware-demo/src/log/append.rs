//! Appending to the log.

use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::io::{BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::lines::{Line, Lines, MAX_LINE, Segment, segment_path, segments};
use super::{Error, Record};
use crate::config;

/// Records that are no events are synced no more often than this.
pub(super) const SYNC: Duration = Duration::from_secs(1);

/// Pauses until a log that failed is opened again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Files of a large log are smaller than an eighth: the newest is read when the log is opened.
const MAX_SEGMENT: u64 = 16 << 20;

/// A log that is appended to. Where that fails it is opened again at a later record, in pauses that double.
pub struct Log {
    folder: PathBuf,
    limit: u64,
    open: Option<Open>,
    pause: Duration,
    retry: Option<Instant>,
    /// The error that was returned last, until the log works again.
    told: Option<String>,
    damaged: Option<u64>,
    written: u64,
    lost: u64,
}

impl Log {
    /// A log that is opened at its first record.
    pub fn new(config: &config::Log) -> Self {
        Self {
            folder: config.folder.clone(),
            limit: (config.megabytes * 1e6) as u64,
            open: None,
            pause: FIRST_PAUSE,
            retry: None,
            told: None,
            damaged: None,
            written: 0,
            lost: 0,
        }
    }

    /// Opens the log, making its folder, and cuts off what a power cut has left of a line.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::InUse`]. Never for what is in the files.
    pub fn open(config: &config::Log) -> Result<Self, Error> {
        let mut log = Self::new(config);
        log.opened()?;
        Ok(log)
    }

    /// Appends a record. An event is synced before this returns, others at most once a second.
    ///
    /// Returns whether the record was written: `false` while the log cannot be written for a reason that was
    /// returned before.
    ///
    /// # Errors
    /// Why it cannot be written, once until it can.
    pub fn append(&mut self, record: &Record) -> Result<bool, Error> {
        let written = self.write(record)?;
        if written && (record.is_event() || self.next_sync().is_some_and(|due| due.is_zero())) {
            self.sync()?;
        }
        Ok(written)
    }

    /// Appends a record without syncing it.
    pub(super) fn write(&mut self, record: &Record) -> Result<bool, Error> {
        let result = self.try_write(record);
        match result {
            Ok(true) => self.written += 1,
            _ => self.lost += 1,
        }
        result
    }

    fn try_write(&mut self, record: &Record) -> Result<bool, Error> {
        let failed = |e: serde_json::Error| Error::Io {
            path: self.folder.clone(),
            doing: "write a record as JSON",
            error: e.into(),
        };
        let mut line = serde_json::to_vec(record).map_err(failed)?;
        line.push(b'\n');
        if line.len() > MAX_LINE {
            return Err(Error::TooLong { bytes: line.len() });
        }
        if self.open.is_none() && self.retry.is_some_and(|at| Instant::now() < at) {
            return Ok(false);
        }
        let limit = self.limit;
        match self.opened().and_then(|open| open.write(&line, limit)) {
            Ok(()) => Ok(true),
            Err(e) => self.failed(e).map_or(Ok(false), Err),
        }
    }

    /// Opens the log where it is not open.
    pub(super) fn ready(&mut self) -> Result<(), Error> {
        match self.opened() {
            Ok(_) => Ok(()),
            Err(e) => self.failed(e).map_or(Ok(()), Err),
        }
    }

    /// Has what was written reach the disk.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        match open.sync() {
            Ok(()) => {
                self.told = None;
                self.pause = FIRST_PAUSE;
                Ok(())
            }
            Err(e) => self.failed(e).map_or(Ok(()), Err),
        }
    }

    /// Time until something that was written should be synced; `None` if all is.
    pub(super) fn next_sync(&self) -> Option<Duration> {
        let open = self.open.as_ref().filter(|open| open.dirty)?;
        Some(SYNC.saturating_sub(open.synced.elapsed()))
    }

    /// Lines of the newest file that were no records when the log was first opened, or the torn rest of one.
    pub fn damaged(&self) -> u64 {
        self.damaged.unwrap_or(0)
    }

    /// Records written. Those since the last sync may be lost in a power cut.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Records that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether the log cannot be written, or could not and nothing was synced since.
    pub fn is_failing(&self) -> bool {
        self.told.is_some()
    }

    fn opened(&mut self) -> Result<&mut Open, Error> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let (open, damaged) = Open::new(&self.folder, self.limit)?;
                self.damaged.get_or_insert(damaged);
                open
            }
        };
        Ok(self.open.insert(open))
    }

    /// Closes the log until later. Opening it repairs what half a record has left. Returns the error if it is news.
    fn failed(&mut self, error: Error) -> Option<Error> {
        self.open = None;
        self.retry = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        let text = error.to_string();
        let news = self.told.as_ref() != Some(&text);
        self.told = Some(text);
        news.then_some(error)
    }
}

impl Drop for Log {
    /// Syncs what was written.
    fn drop(&mut self) {
        // Whoever wants to know has synced.
        let _ = self.sync();
    }
}

/// A log that is open.
struct Open {
    /// Locked, for this process alone.
    folder: File,
    path: PathBuf,
    /// The oldest first; the last one is written.
    segments: VecDeque<Segment>,
    /// Number of the next file.
    next: u64,
    file: Option<File>,
    dirty: bool,
    synced: Instant,
}

impl Open {
    /// Opens the log in `path`. Returns how many lines of the newest file are damaged too.
    fn new(path: &Path, limit: u64) -> Result<(Self, u64), Error> {
        make_folder(path)?;
        let folder = File::open(path).map_err(Error::io(path, "open the folder"))?;
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse {
                    folder: path.to_owned(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(Error::io(path, "lock the folder")(e)),
        }
        let (segments, last) = segments(path)?;
        let mut open = Self {
            folder,
            path: path.to_owned(),
            segments: segments.into(),
            next: last + 1,
            file: None,
            dirty: false,
            synced: Instant::now(),
        };
        let mut damaged = 0;
        // What is longer than a file of ours is left alone.
        if let Some(newest) = open.segments.back_mut()
            && newest.bytes <= segment_limit(limit).max(MAX_LINE as u64)
        {
            let (file, found) = repair(newest)?;
            damaged = found;
            open.file = Some(file);
        }
        open.make_room(0, limit)?;
        Ok((open, damaged))
    }

    fn write(&mut self, line: &[u8], limit: u64) -> Result<(), Error> {
        let bytes = line.len() as u64;
        let full =
            |segment: &Segment| segment.bytes > 0 && segment.bytes + bytes > segment_limit(limit);
        if self.file.is_none() || self.segments.back().is_some_and(full) {
            self.begin()?;
        }
        self.make_room(bytes, limit)?;
        let (Some(file), Some(newest)) = (&mut self.file, self.segments.back_mut()) else {
            // `begin` has just made one.
            return Ok(());
        };
        file.write_all(line)
            .map_err(Error::io(&newest.path, "write"))?;
        newest.bytes += bytes;
        self.dirty = true;
        Ok(())
    }

    /// Begins the next file.
    fn begin(&mut self) -> Result<(), Error> {
        if self.dirty {
            self.sync()?;
        }
        let path = segment_path(&self.path, self.next);
        let file = File::options()
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io(&path, "make the file"))?;
        // Else the file itself may be gone after a power cut.
        self.folder
            .sync_all()
            .map_err(Error::io(&self.path, "sync the folder"))?;
        self.segments.push_back(Segment {
            number: self.next,
            path,
            bytes: 0,
        });
        self.next += 1;
        self.file = Some(file);
        Ok(())
    }

    /// Deletes the oldest files until `bytes` more are within the limit; never the one that is written.
    fn make_room(&mut self, bytes: u64, limit: u64) -> Result<(), Error> {
        let mut total: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let keep = usize::from(self.file.is_some());
        while total + bytes > limit && self.segments.len() > keep {
            let Some(oldest) = self.segments.front() else {
                break;
            };
            match std::fs::remove_file(&oldest.path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&oldest.path, "delete the oldest file")(e));
                }
                _ => {}
            }
            total -= oldest.bytes;
            self.segments.pop_front();
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        let (Some(file), Some(newest)) = (&self.file, self.segments.back()) else {
            return Ok(());
        };
        self.synced = Instant::now();
        file.sync_data().map_err(Error::io(&newest.path, "sync"))?;
        self.dirty = false;
        // Written to, it would be lost without a word.
        match file.metadata() {
            Ok(metadata) if metadata.nlink() == 0 => Err(Error::Deleted {
                path: newest.path.clone(),
            }),
            _ => Ok(()),
        }
    }
}

fn segment_limit(limit: u64) -> u64 {
    (limit / 8).min(MAX_SEGMENT)
}

fn make_folder(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(Error::io(path, "make the folder"))?;
    // The folder's name is in the one above, and is synced with that.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    (File::open(parent).and_then(|folder| folder.sync_all()))
        .map_err(Error::io(parent, "sync the folder"))
}

/// Opens the newest file, so that the next record begins a line. Returns how many lines are damaged too.
fn repair(segment: &mut Segment) -> Result<(File, u64), Error> {
    let path = segment.path.clone();
    let mut file = File::options()
        .read(true)
        .append(true)
        .open(&path)
        .map_err(Error::io(&path, "open"))?;
    let mut lines = Lines::new(BufReader::new(&file));
    let mut damaged = 0;
    let mut unended = None;
    while let Some(line) = lines.next().map_err(Error::io(&path, "read"))? {
        match line {
            Line::Record(_) => {}
            Line::Damaged => damaged += 1,
            Line::Unended(record) => unended = Some(record.is_some()),
        }
    }
    let ended = lines.ended;
    match unended {
        None => {}
        Some(true) => file
            .write_all(b"\n")
            .map_err(Error::io(&path, "end the last line"))?,
        Some(false) => {
            damaged += 1;
            file.set_len(ended)
                .map_err(Error::io(&path, "cut off a torn line"))?;
        }
    }
    if unended.is_some() {
        file.sync_data().map_err(Error::io(&path, "sync"))?;
    }
    segment.bytes = (file.metadata()).map_err(Error::io(&path, "open"))?.len();
    Ok((file, damaged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::What;

    /// Each event, that none is lost; of others one in a second, that a card lives longer.
    #[test]
    fn events_are_synced_at_once_and_others_once_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(&config::Log {
            folder: folder.path().to_owned(),
            megabytes: 1.0,
            interval_seconds: 60.0,
        })
        .unwrap();
        let other = What::Error {
            what: "a".into(),
            text: "b".into(),
        };
        let other = Record::now(other, Instant::now());
        let event = What::Event {
            from: None,
            to: "a".into(),
            top: vec![],
            frame: 0,
        };
        let event = Record::now(event, Instant::now());
        log.append(&other).unwrap();
        assert!(log.next_sync().is_some_and(|due| !due.is_zero()));
        log.append(&event).unwrap();
        assert_eq!(log.next_sync(), None);
        log.append(&other).unwrap();
        std::thread::sleep(SYNC);
        assert_eq!(log.next_sync(), Some(Duration::ZERO));
        log.append(&other).unwrap();
        assert_eq!(log.next_sync(), None);
    }
}
