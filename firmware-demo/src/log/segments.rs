//! The numbered files of a log, opened for appending.

use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::io::{BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::LogError;
use super::lines::{Line, Lines, MAX_LINE};

/// Maximum size of a file in bytes. It limits the time to open a large log, because the newest file is read then.
const MAX_SEGMENT: u64 = 16 << 20;

/// A file of the log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    number: u64,
    pub(super) path: PathBuf,
    bytes: u64,
}

fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("results-{number:06}.jsonl"))
}

/// The files of the log in `folder`, oldest first, and the largest number in any file or folder name.
pub(super) fn list_segments(folder: &Path) -> Result<(Vec<Segment>, u64), LogError> {
    let failed = || LogError::io(folder, "list the folder");
    let mut segments = vec![];
    let mut last = 0;
    for entry in std::fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(parse_number) else {
            continue;
        };
        last = last.max(number);
        // Skip a file that was deleted meanwhile, and anything but regular files: opening a pipe would block.
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

fn parse_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("results-")?.strip_suffix(".jsonl")?;
    // More digits are not from this program: it never counts that far.
    let fits = (6..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| digits.parse().ok())?
}

/// A log that is open for appending.
pub(super) struct OpenLog {
    /// Locked, so that no other process appends.
    folder: File,
    path: PathBuf,
    /// Oldest first. The last one is appended to.
    segments: VecDeque<Segment>,
    /// Number of the next file.
    next: u64,
    file: Option<File>,
    /// Whether something was written since the last sync.
    pub(super) dirty: bool,
    /// When it was last synced, or opened.
    pub(super) synced: Instant,
}

impl OpenLog {
    /// Opens the log in `path`, limited to `limit` bytes. Also returns the number of damaged lines in the newest file.
    pub(super) fn open(path: &Path, limit: u64) -> Result<(Self, u64), LogError> {
        create_folder(path)?;
        let folder = File::open(path).map_err(LogError::io(path, "open the folder"))?;
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LogError::InUse {
                    folder: path.to_owned(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(LogError::io(path, "lock the folder")(e)),
        }
        let (segments, last) = list_segments(path)?;
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
        // A file that is larger than this program writes is left as it is.
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

    /// Appends `line`, in the next file if it does not fit into the current one.
    pub(super) fn append(&mut self, line: &[u8], limit: u64) -> Result<(), LogError> {
        let bytes = line.len() as u64;
        let full =
            |segment: &Segment| segment.bytes > 0 && segment.bytes + bytes > segment_limit(limit);
        if self.file.is_none() || self.segments.back().is_some_and(full) {
            self.start_segment()?;
        }
        self.make_room(bytes, limit)?;
        let (Some(file), Some(newest)) = (&mut self.file, self.segments.back_mut()) else {
            // Impossible: `start_segment` has opened one.
            return Ok(());
        };
        file.write_all(line)
            .map_err(LogError::io(&newest.path, "write"))?;
        newest.bytes += bytes;
        self.dirty = true;
        Ok(())
    }

    /// Creates the next file.
    fn start_segment(&mut self) -> Result<(), LogError> {
        if self.dirty {
            self.sync()?;
        }
        let path = segment_path(&self.path, self.next);
        let file = File::options()
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(LogError::io(&path, "create the file"))?;
        // Otherwise the file may not exist after a power cut.
        self.folder
            .sync_all()
            .map_err(LogError::io(&self.path, "sync the folder"))?;
        self.segments.push_back(Segment {
            number: self.next,
            path,
            bytes: 0,
        });
        self.next += 1;
        self.file = Some(file);
        Ok(())
    }

    /// Deletes the oldest files, except the current one, until `bytes` more fit into the limit.
    fn make_room(&mut self, bytes: u64, limit: u64) -> Result<(), LogError> {
        let mut total: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let keep = usize::from(self.file.is_some());
        while total + bytes > limit && self.segments.len() > keep {
            let Some(oldest) = self.segments.front() else {
                break;
            };
            match std::fs::remove_file(&oldest.path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LogError::io(&oldest.path, "delete the oldest file")(e));
                }
                _ => {}
            }
            total -= oldest.bytes;
            self.segments.pop_front();
        }
        Ok(())
    }

    /// Syncs the current file.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        let (Some(file), Some(newest)) = (&self.file, self.segments.back()) else {
            return Ok(());
        };
        self.synced = Instant::now();
        file.sync_data()
            .map_err(LogError::io(&newest.path, "sync"))?;
        self.dirty = false;
        // Further records in a deleted file would be lost silently.
        match file.metadata() {
            Ok(metadata) if metadata.nlink() == 0 => Err(LogError::Deleted {
                path: newest.path.clone(),
            }),
            _ => Ok(()),
        }
    }
}

fn segment_limit(limit: u64) -> u64 {
    (limit / 8).min(MAX_SEGMENT)
}

fn create_folder(path: &Path) -> Result<(), LogError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(LogError::io(path, "create the folder"))?;
    // The folder's name is an entry of its parent: sync that.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    (File::open(parent).and_then(|folder| folder.sync_all()))
        .map_err(LogError::io(parent, "sync the folder"))
}

/// Opens the newest file and repairs its last line, so that the next record starts on a new line. Also returns the
/// number of damaged lines.
fn repair(segment: &mut Segment) -> Result<(File, u64), LogError> {
    let path = segment.path.clone();
    let mut file = File::options()
        .read(true)
        .append(true)
        .open(&path)
        .map_err(LogError::io(&path, "open"))?;
    let mut lines = Lines::new(BufReader::new(&file));
    let mut damaged = 0;
    let mut unterminated = None;
    while let Some(line) = lines.next().map_err(LogError::io(&path, "read"))? {
        match line {
            Line::Record(_) => {}
            Line::Damaged => damaged += 1,
            Line::Unterminated(record) => unterminated = Some(record.is_some()),
        }
    }
    let terminated = lines.terminated;
    match unterminated {
        None => {}
        Some(true) => file
            .write_all(b"\n")
            .map_err(LogError::io(&path, "terminate the last line"))?,
        Some(false) => {
            damaged += 1;
            file.set_len(terminated)
                .map_err(LogError::io(&path, "truncate a torn line"))?;
        }
    }
    if unterminated.is_some() {
        file.sync_data().map_err(LogError::io(&path, "sync"))?;
    }
    segment.bytes = (file.metadata())
        .map_err(LogError::io(&path, "open"))?
        .len();
    Ok((file, damaged))
}
