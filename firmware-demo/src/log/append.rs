//! Appending to the log, with retries after errors.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::lines::MAX_LINE;
use super::segments::OpenLog;
use super::{LogError, ResultRecord};
use crate::config::LogConfig;

/// Minimum interval between syncs of events, and of other records. A sync wears an SD card, so that a state that changes
/// with every frame must not sync every frame.
const EVENT_SYNC_INTERVAL: Duration = Duration::from_millis(250);
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// First and longest pause before a failed log is reopened.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Appends records to the log. After an error the log is closed, and reopened at a later record, with pauses that double.
pub struct LogAppender {
    folder: PathBuf,
    limit: u64,
    open: Option<OpenLog>,
    pause: Duration,
    retry: Option<Instant>,
    /// The last error, until the next successful sync.
    error: Option<String>,
    damaged: Option<u64>,
    /// Whether an event was written since the last sync.
    event_waits: bool,
    written: u64,
    lost: u64,
}

impl LogAppender {
    /// A log that is opened at the first record.
    pub fn new(config: &LogConfig) -> Self {
        Self {
            folder: config.folder.clone(),
            limit: (config.megabytes * 1e6) as u64,
            open: None,
            pause: FIRST_PAUSE,
            retry: None,
            error: None,
            damaged: None,
            event_waits: false,
            written: 0,
            lost: 0,
        }
    }

    /// Opens the log, creates its folder, and truncates a torn last line.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::InUse`]. The content of the files never causes an error.
    pub fn open(config: &LogConfig) -> Result<Self, LogError> {
        let mut log = Self::new(config);
        log.reopen()?;
        Ok(log)
    }

    /// Appends a record. Events are synced before this returns, other records at most once per second.
    ///
    /// Returns whether the record was written. It is `false` while the log fails with an error that was already returned.
    ///
    /// # Errors
    /// The first occurrence of an error that prevents writing.
    pub fn append(&mut self, record: &ResultRecord) -> Result<bool, LogError> {
        let written = self.write(record)?;
        if written && (record.is_event() || self.next_sync().is_some_and(|due| due.is_zero())) {
            self.sync()?;
        }
        Ok(written)
    }

    /// Appends a record without syncing it.
    pub(super) fn write(&mut self, record: &ResultRecord) -> Result<bool, LogError> {
        let result = self.try_write(record);
        match result {
            Ok(true) => {
                self.written += 1;
                self.event_waits |= record.is_event();
            }
            _ => self.lost += 1,
        }
        result
    }

    fn try_write(&mut self, record: &ResultRecord) -> Result<bool, LogError> {
        let failed = |e: serde_json::Error| LogError::Io {
            path: self.folder.clone(),
            operation: "write a record as JSON",
            error: e.into(),
        };
        let mut line = serde_json::to_vec(record).map_err(failed)?;
        line.push(b'\n');
        if line.len() > MAX_LINE {
            return Err(LogError::TooLong { bytes: line.len() });
        }
        if self.open.is_none() && self.retry.is_some_and(|at| Instant::now() < at) {
            return Ok(false);
        }
        let limit = self.limit;
        match self.reopen().and_then(|open| open.append(&line, limit)) {
            Ok(()) => Ok(true),
            Err(e) => self.close_after(e).map_or(Ok(false), Err),
        }
    }

    /// Opens the log unless it is open.
    pub(super) fn ensure_open(&mut self) -> Result<(), LogError> {
        match self.reopen() {
            Ok(_) => Ok(()),
            Err(e) => self.close_after(e).map_or(Ok(()), Err),
        }
    }

    /// Syncs the written records.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        match open.sync() {
            Ok(()) => {
                self.event_waits = false;
                self.error = None;
                self.pause = FIRST_PAUSE;
                Ok(())
            }
            Err(e) => self.close_after(e).map_or(Ok(()), Err),
        }
    }

    /// Time until the next sync is due; `None` if everything is synced.
    pub(super) fn next_sync(&self) -> Option<Duration> {
        let open = self.open.as_ref().filter(|open| open.dirty)?;
        let interval = match self.event_waits {
            true => EVENT_SYNC_INTERVAL,
            false => SYNC_INTERVAL,
        };
        Some(interval.saturating_sub(open.synced.elapsed()))
    }

    /// Number of damaged lines in the newest file when the log was first opened.
    pub fn damaged(&self) -> u64 {
        self.damaged.unwrap_or(0)
    }

    /// Number of records written. A power cut may lose those since the last sync.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Number of records that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether writing failed and no sync has succeeded since.
    pub fn is_failing(&self) -> bool {
        self.error.is_some()
    }

    /// The open log. Opens it if necessary.
    fn reopen(&mut self) -> Result<&mut OpenLog, LogError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let (open, damaged) = OpenLog::open(&self.folder, self.limit)?;
                self.damaged.get_or_insert(damaged);
                open
            }
        };
        Ok(self.open.insert(open))
    }

    /// Closes the log until the next attempt, which repairs a partly written record. Returns the error if it is a new one.
    fn close_after(&mut self, error: LogError) -> Option<LogError> {
        self.open = None;
        self.retry = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        let text = error.to_string();
        let is_new = self.error.as_ref() != Some(&text);
        self.error = Some(text);
        is_new.then_some(error)
    }
}

impl Drop for LogAppender {
    /// Syncs the written records.
    fn drop(&mut self) {
        // A caller that needs the result calls `sync` itself.
        let _ = self.sync();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::RecordKind;

    /// A log in a new folder.
    fn log() -> (tempfile::TempDir, LogAppender) {
        let folder = tempfile::tempdir().unwrap();
        let log = LogAppender::open(&LogConfig {
            folder: folder.path().to_owned(),
            megabytes: 1.0,
            interval_seconds: 60.0,
        });
        (folder, log.unwrap())
    }

    fn event() -> ResultRecord {
        let kind = RecordKind::Event {
            from: None,
            to: "a".into(),
            top: vec![],
            score: None,
            frame: 0,
        };
        ResultRecord::now(kind, Instant::now())
    }

    /// No event may be lost; syncing other records less often extends the life of an SD card.
    #[test]
    fn events_are_synced_immediately_and_other_records_once_per_second() {
        let (_folder, mut log) = log();
        let other = RecordKind::Error {
            component: "a".into(),
            text: "b".into(),
        };
        let other = ResultRecord::now(other, Instant::now());
        let event = event();
        log.append(&other).unwrap();
        assert!(log.next_sync().is_some_and(|due| !due.is_zero()));
        log.append(&event).unwrap();
        assert_eq!(log.next_sync(), None);
        log.append(&other).unwrap();
        std::thread::sleep(SYNC_INTERVAL);
        assert_eq!(log.next_sync(), Some(Duration::ZERO));
        log.append(&other).unwrap();
        assert_eq!(log.next_sync(), None);
    }

    /// The state may change with every frame.
    #[test]
    fn the_log_thread_syncs_events_four_times_per_second() {
        let (_folder, mut log) = log();
        let event = event();
        log.sync().unwrap();
        let start = Instant::now();
        log.write(&event).unwrap();
        let due = log.next_sync().unwrap();
        assert!(due <= EVENT_SYNC_INTERVAL, "{due:?}");
        // Unless this machine is slow.
        assert!(!due.is_zero() || start.elapsed() > EVENT_SYNC_INTERVAL / 2);
        std::thread::sleep(due);
        assert_eq!(log.next_sync(), Some(Duration::ZERO));
        log.sync().unwrap();
        assert_eq!(log.next_sync(), None);
    }
}
