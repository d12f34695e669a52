//! The log of a training: JSON lines, continued when the training is resumed.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, error::io};

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Updates done.
    pub step: u64,
    /// Mean loss since the previous line.
    pub loss: f64,
    /// Mean accuracy within the batches since the previous line.
    pub accuracy: f64,
    /// Learning rate of the last update.
    pub learning_rate: f64,
    /// Scale of cosine similarities.
    pub logit_scale: f64,
    /// L2 norm of the last gradient, before clipping.
    pub gradient: f64,
    /// Images seen since the start.
    pub images: u64,
    /// Wall time in seconds, of all sessions.
    pub seconds: f64,
    /// Processor time in seconds of all threads and all sessions, if known.
    pub cpu_seconds: Option<f64>,
}

/// Loss, accuracy within the batch, and L2 norm of the gradient of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateStats {
    /// The loss.
    pub loss: f32,
    /// Fraction of correct predictions in the batch.
    pub accuracy: f64,
    /// L2 norm of the gradient, before clipping.
    pub gradient: f64,
}

/// Wall and processor time of all sessions of a training, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TimeSpent {
    /// Wall time.
    pub wall: f64,
    /// Processor time of all threads.
    pub cpu: f64,
}

/// The values of a log line that the log does not compute.
pub(crate) struct LogLine {
    pub(crate) step: u64,
    pub(crate) learning_rate: f64,
    pub(crate) logit_scale: f64,
    pub(crate) images: u64,
}

/// The log of a running training.
pub(crate) struct TrainingLog {
    path: PathBuf,
    file: fs::File,
    records: Vec<LogRecord>,
    /// Of the updates since the last line: losses, accuracies, number.
    sums: (f64, f64, f64),
    gradient: f64,
    started: Instant,
    cpu_started: Option<f64>,
    before: TimeSpent,
}

impl TrainingLog {
    /// Opens the log of a training that has done `done` updates in `before`. Lines after these are removed, because their
    /// updates will be repeated, and so is a last line that a kill or a power cut has torn; the others are not touched.
    pub(crate) fn open(path: &Path, done: u64, before: TimeSpent) -> Result<Self> {
        let mut file = fs::OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(io(path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io(path))?;
        let (records, kept) = records_until(&bytes, done, path)?;
        if kept < bytes.len() {
            file.set_len(kept as u64).map_err(io(path))?;
        }
        if kept > 0 && bytes[kept - 1] != b'\n' {
            file.write_all(b"\n").map_err(io(path))?;
        }
        Ok(Self {
            path: path.into(),
            file,
            records,
            sums: (0.0, 0.0, 0.0),
            gradient: 0.0,
            started: Instant::now(),
            cpu_started: cpu_seconds(),
            before,
        })
    }

    /// Writes what the system holds of the log to the disk: before a state is saved that is further than the log would be
    /// after a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(io(&self.path))
    }

    /// Adds an update.
    pub(crate) fn add(&mut self, update: UpdateStats) {
        self.sums.0 += f64::from(update.loss);
        self.sums.1 += update.accuracy;
        self.sums.2 += 1.0;
        self.gradient = update.gradient;
    }

    /// Time spent until now.
    pub(crate) fn spent(&self) -> TimeSpent {
        TimeSpent {
            wall: self.before.wall + self.started.elapsed().as_secs_f64(),
            cpu: self.before.cpu + self.session_cpu().unwrap_or(0.0),
        }
    }

    /// Writes a line for the updates since the previous one.
    pub(crate) fn write(&mut self, line: LogLine) -> Result<&LogRecord> {
        let ((loss, accuracy, count), spent) = (self.sums, self.spent());
        let record = LogRecord {
            step: line.step,
            loss: loss / count,
            accuracy: accuracy / count,
            learning_rate: line.learning_rate,
            logit_scale: line.logit_scale,
            gradient: self.gradient,
            images: line.images,
            seconds: spent.wall,
            cpu_seconds: self.session_cpu().map(|_| spent.cpu),
        };
        self.sums = (0.0, 0.0, 0.0);
        self.write_line(&record)?;
        self.records.push(record);
        Ok(&self.records[self.records.len() - 1])
    }

    /// All lines, those of earlier sessions included.
    pub(crate) fn into_records(self) -> Vec<LogRecord> {
        self.records
    }

    fn session_cpu(&self) -> Option<f64> {
        let (now, start) = cpu_seconds().zip(self.cpu_started)?;
        Some(now - start)
    }

    fn write_line(&mut self, record: &LogRecord) -> Result<()> {
        let mut line = serde_json::to_string(record).map_err(|e| io(&self.path)(e.into()))?;
        // One write per line: a killed training leaves complete lines.
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(io(&self.path))
    }
}

/// The lines of the first `done` updates, and how many bytes they are. An incomplete last line ends them.
fn records_until(bytes: &[u8], done: u64, path: &Path) -> Result<(Vec<LogRecord>, usize)> {
    let (mut records, mut kept) = (Vec::new(), 0);
    for (number, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        // Nothing of a training that starts again is read.
        if done == 0 {
            break;
        }
        match pinhole_fs::from_json::<LogRecord>(line) {
            Ok(record) if record.step > done => break,
            Ok(record) => records.push(record),
            Err(_) if !line.ends_with(b"\n") => break,
            Err(e) => {
                return Err(Error::Data {
                    path: path.into(),
                    problem: format!("line {}: {e}; delete this line to resume", number + 1),
                });
            }
        }
        kept += line.len();
    }
    Ok((records, kept))
}

/// User and system time of this process in seconds, from /proc.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command name, in parentheses, may contain spaces; user and system time are fields 12 and 13
    // after it, in ticks of 1/100 s on every Linux.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> LogRecord {
        LogRecord {
            step,
            loss: 0.5,
            accuracy: 0.25,
            learning_rate: 1e-3,
            logit_scale: 14.3,
            gradient: 2.0,
            images: 8 * step,
            seconds: 1.5,
            cpu_seconds: None,
        }
    }

    fn lines(steps: std::ops::RangeInclusive<u64>) -> String {
        steps
            .map(|step| serde_json::to_string(&record(step)).unwrap() + "\n")
            .collect()
    }

    fn open(path: &Path, done: u64) -> Result<TrainingLog> {
        TrainingLog::open(path, done, TimeSpent::default())
    }

    /// The log was truncated and written again line by line: a kill in between left 2 of 400 records.
    #[test]
    fn a_resumed_log_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        fs::write(&path, lines(1..=400)).unwrap();
        let log = open(&path, 380).unwrap();
        assert_eq!(log.records.last(), Some(&record(380)));
        assert_eq!(fs::read_to_string(&path).unwrap(), lines(1..=380));
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        drop(open(&path, 380).unwrap());
        let after = fs::metadata(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), lines(1..=380));
        assert_eq!(after.modified().unwrap(), before, "written again");
    }

    #[test]
    fn a_torn_last_line_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let (kept, last) = (lines(1..=5), lines(6..=6));
        let zeros = [0; 100];
        let torn = (0..last.len() - 1).map(|end| &last.as_bytes()[..end]);
        for torn in torn.chain([&zeros[..], &last.as_bytes()[..last.len() - 1]]) {
            fs::write(&path, [kept.as_bytes(), torn].concat()).unwrap();
            let mut log = open(&path, 6).unwrap();
            let whole = torn.ends_with(b"}");
            assert_eq!(log.records.len(), 5 + usize::from(whole));
            log.write_line(&record(7)).unwrap();
            let last = if whole { last.as_str() } else { "" };
            let expected = [&kept, last, &lines(7..=7)].concat();
            assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        }
    }

    #[test]
    fn a_new_training_starts_an_empty_log_and_a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        fs::write(&path, "not JSON\n").unwrap();
        let error = open(&path, 5).map(drop).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"not JSON\n", "untouched");
        open(&path, 0).unwrap();
        assert!(fs::read(&path).unwrap().is_empty());
    }
}
