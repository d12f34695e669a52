//! Helpers for tests of the log.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses only some of these"
)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use pinhole_firmware::config::LogConfig;
use pinhole_firmware::log::{ClassScore, RecordKind, ResultRecord, read};

pub fn config(folder: &Path, megabytes: f64) -> LogConfig {
    LogConfig {
        folder: folder.to_owned(),
        megabytes,
        interval_seconds: 60.0,
    }
}

pub fn event(frame: u64) -> ResultRecord {
    ResultRecord::now(event_kind(frame), Instant::now())
}

pub fn event_kind(frame: u64) -> RecordKind {
    let top = |class: &str, probability| ClassScore {
        class: class.into(),
        index: None,
        probability,
        similarity: probability / 4.0,
    };
    RecordKind::Event {
        from: None,
        to: "grüne Tür \"1\"\n".into(),
        top: vec![top("grüne Tür \"1\"\n", 0.75), top("猫", 0.25)],
        score: Some("softmax".into()),
        frame,
    }
}

pub fn error(text: String) -> ResultRecord {
    let component = "camera".into();
    ResultRecord::now(RecordKind::Error { component, text }, Instant::now())
}

/// Frame numbers of all events, and the number of damaged lines.
#[track_caller]
pub fn frames(folder: &Path) -> (Vec<u64>, u64) {
    let mut reader = read(folder).unwrap();
    let frames = (reader.by_ref())
        .filter_map(|record| match record.unwrap().kind {
            RecordKind::Event { frame, .. } => Some(frame),
            _ => None,
        })
        .collect();
    (frames, reader.damaged())
}

/// The log's files, oldest first.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = (std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    files.sort();
    files
}

pub fn bytes(folder: &Path) -> u64 {
    let len = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    files(folder).iter().map(len).sum()
}
