//! Writing the log from a thread of its own.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Error, Log, Record, What};
use crate::config;

/// Records that may wait for the disk.
const WAITING: usize = 256;
/// How long the end waits for the disk.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Writes the log, so that a slow SD card holds nobody up: [`LogWriter::write`] never waits. Dropping it writes and
/// syncs what is left.
pub struct LogWriter {
    sender: Option<SyncSender<Record>>,
    told: Arc<Mutex<Told>>,
    start: Instant,
    /// Closed by the thread's end.
    ended: Receiver<()>,
}

/// How the log does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Records written. Those of the last second may not be synced yet, events are soon.
    pub written: u64,
    /// Records that are not in the log: they came faster than the disk takes them, or while it took none.
    pub lost: u64,
    /// Lines of the newest file that were no records when the log was opened, or the torn rest of one.
    pub damaged_at_start: u64,
    /// What went wrong last, in words; it stays when the log works again.
    pub last_error: Option<String>,
    /// Whether the log cannot be written now; `false` again once a record is synced.
    pub failing: bool,
}

#[derive(Default)]
struct Told {
    /// As the thread knows it.
    status: LogStatus,
    /// Records that did not reach the thread.
    overflow: u64,
}

/// A thread that panicked has left whole numbers.
fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogWriter {
    /// Starts the thread, which opens the log. Where it cannot be opened, [`LogWriter::status`] says why, and it is
    /// tried again. `start` is when the program started.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(config: &config::Log, start: Instant) -> std::io::Result<Self> {
        let (sender, records) = sync_channel(WAITING);
        let (end, ended) = sync_channel(0);
        let told = Arc::default();
        let mut log = Log::new(config);
        let thread = std::thread::Builder::new().name("log".into());
        thread.spawn({
            let told = Arc::clone(&told);
            move || {
                run(&mut log, &records, &told);
                drop(end);
            }
        })?;
        Ok(Self {
            sender: Some(sender),
            told,
            start,
            ended,
        })
    }

    /// Has a record of now written. Without room for it, it is lost, and counted.
    pub fn write(&self, what: What) {
        let record = Record::now(what, self.start);
        let sender = self.sender.as_ref();
        if sender.is_none_or(|sender| sender.try_send(record).is_err()) {
            lock(&self.told).overflow += 1;
        }
    }

    /// How the log does.
    pub fn status(&self) -> LogStatus {
        let told = lock(&self.told);
        let mut status = told.status.clone();
        status.lost += told.overflow;
        status
    }

    /// Writes and syncs what waits, for at most 10 s, and ends the thread.
    pub fn stop(mut self) -> LogStatus {
        self.end();
        self.status()
    }

    fn end(&mut self) {
        drop(self.sender.take());
        // Stuck in a driver, the thread is left alone.
        let _ = self.ended.recv_timeout(LAST_WAIT);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(log: &mut Log, records: &Receiver<Record>, told: &Mutex<Told>) {
    // The first record may be long in coming, and what is wrong with the log is told before.
    let opened = log.ready();
    note(log, opened, told);
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
        // One sync is enough for all that came during the last.
        let mut event = false;
        for record in first.into_iter().chain(records.try_iter()).take(WAITING) {
            event |= record.is_event();
            let written = log.write(&record);
            note(log, written.map(|_| ()), told);
        }
        if event || log.next_sync().is_some_and(|due| due.is_zero()) {
            let synced = log.sync();
            note(log, synced, told);
        }
    }
    let synced = log.sync();
    note(log, synced, told);
}

fn note(log: &Log, result: Result<(), Error>, told: &Mutex<Told>) {
    let status = &mut lock(told).status;
    status.written = log.written();
    status.lost = log.lost();
    status.damaged_at_start = log.damaged();
    status.failing = log.is_failing();
    if let Err(e) = result {
        status.last_error = Some(e.to_string());
    }
}
