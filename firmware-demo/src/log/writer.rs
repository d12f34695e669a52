//! The log thread.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{LogAppender, LogError, RecordKind, ResultRecord};
use crate::config::LogConfig;

/// Maximum number of records waiting for the disk.
const QUEUE_LENGTH: usize = 256;
/// How long stopping waits for the disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes the log from its own thread, so that a slow SD card delays nothing else: [`LogWriter::write`] never waits.
/// Dropping it writes and syncs the remaining records.
pub struct LogWriter {
    sender: Option<SyncSender<ResultRecord>>,
    shared: Arc<Mutex<Shared>>,
    start: Instant,
    /// Disconnected when the thread ends.
    ended: Receiver<()>,
}

/// Status of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Number of records written. Those of the last second may not be synced yet, nor events of the last quarter.
    pub written: u64,
    /// Number of records lost because the disk was too slow or failed.
    pub lost: u64,
    /// Number of damaged lines in the newest file when the log was opened.
    pub damaged_at_start: u64,
    /// The last error. It is kept when the log works again.
    pub last_error: Option<String>,
    /// Whether the log cannot be written; `false` again after the next sync.
    pub failing: bool,
}

#[derive(Default)]
struct Shared {
    /// As known to the thread.
    status: LogStatus,
    /// Number of records that did not fit into the queue.
    overflow: u64,
}

/// The counters stay valid when a thread panics.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogWriter {
    /// Starts the thread, which opens the log. If that fails, [`LogWriter::status`] has the error and the thread retries.
    /// `start` is when the program started.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(config: &LogConfig, start: Instant) -> std::io::Result<Self> {
        let (sender, records) = sync_channel(QUEUE_LENGTH);
        let (end, ended) = sync_channel(0);
        let shared = Arc::default();
        let mut log = LogAppender::new(config);
        let thread = std::thread::Builder::new().name("log".into());
        thread.spawn({
            let shared = Arc::clone(&shared);
            move || {
                run(&mut log, &records, &shared);
                drop(end);
            }
        })?;
        Ok(Self {
            sender: Some(sender),
            shared,
            start,
            ended,
        })
    }

    /// Writes a record with the current time. If the queue is full, the record is counted as lost.
    pub fn write(&self, kind: RecordKind) {
        let record = ResultRecord::now(kind, self.start);
        let sender = self.sender.as_ref();
        if sender.is_none_or(|sender| sender.try_send(record).is_err()) {
            lock(&self.shared).overflow += 1;
        }
    }

    /// The current status.
    pub fn status(&self) -> LogStatus {
        let shared = lock(&self.shared);
        let mut status = shared.status.clone();
        status.lost += shared.overflow;
        status
    }

    /// Writes and syncs the remaining records, for at most 10 s, and stops the thread.
    pub fn stop(mut self) -> LogStatus {
        self.end();
        self.status()
    }

    fn end(&mut self) {
        drop(self.sender.take());
        // A thread that hangs in a driver is abandoned.
        let _ = self.ended.recv_timeout(STOP_TIMEOUT);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(log: &mut LogAppender, records: &Receiver<ResultRecord>, shared: &Mutex<Shared>) {
    // Report an unusable log without waiting for the first record.
    let opened = log.ensure_open();
    update_status(log, opened, shared);
    loop {
        let first = match log.next_sync() {
            Some(due) => records.recv_timeout(due),
            None => records.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let first = match first {
            Ok(record) => Some(record),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        // One sync covers all records that arrived since the last one.
        for record in first
            .into_iter()
            .chain(records.try_iter())
            .take(QUEUE_LENGTH)
        {
            let written = log.write(&record);
            update_status(log, written.map(|_| ()), shared);
        }
        if log.next_sync().is_some_and(|due| due.is_zero()) {
            let synced = log.sync();
            update_status(log, synced, shared);
        }
    }
    let synced = log.sync();
    update_status(log, synced, shared);
}

fn update_status(log: &LogAppender, result: Result<(), LogError>, shared: &Mutex<Shared>) {
    let status = &mut lock(shared).status;
    status.written = log.written();
    status.lost = log.lost();
    status.damaged_at_start = log.damaged();
    status.failing = log.is_failing();
    if let Err(e) = result {
        status.last_error = Some(e.to_string());
    }
}
