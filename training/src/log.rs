//! The log of a training: JSON lines, continued when the training is resumed.

use std::{
    fs,
    io::Write,
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
    /// Opens the log of a training that has done `done` updates in `before`.
    pub(crate) fn open(path: &Path, done: u64, before: TimeSpent) -> Result<Self> {
        let mut records = Vec::new();
        if done > 0 && path.exists() {
            // Lines after the saved state belong to updates that will be repeated.
            records = read_log(path)?;
            records.retain(|record| record.step <= done);
        }
        let mut log = Self {
            path: path.into(),
            file: fs::File::create(path).map_err(io(path))?,
            records: Vec::new(),
            sums: (0.0, 0.0, 0.0),
            gradient: 0.0,
            started: Instant::now(),
            cpu_started: cpu_seconds(),
            before,
        };
        for record in &records {
            log.write_line(record)?;
        }
        log.records = records;
        Ok(log)
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

fn read_log(path: &Path) -> Result<Vec<LogRecord>> {
    let text = fs::read_to_string(path).map_err(io(path))?;
    let parse = |(number, line): (usize, &str)| {
        pinhole_fs::from_json(line.as_bytes()).map_err(|e| Error::Data {
            path: path.into(),
            problem: format!("line {}: {e}", number + 1),
        })
    };
    text.lines().enumerate().map(parse).collect()
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
