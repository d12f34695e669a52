//! The log under failures: kills, full disks, a file in the place of the folder, hostile files, slow disks.

#[path = "../../tests/kill/kills.rs"]
mod kills;
mod log_support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use log_support::{bytes, config, error, event, event_kind, files, frames};
use pinhole_firmware::log::{LogAppender, LogStatus, LogWriter, RecordKind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const FOLDER: &str = "PINHOLE_TEST_LOG";

/// This program with one of its ignored tests.
fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(FOLDER, folder);
    command
}

fn folder_of_parent() -> PathBuf {
    std::env::var_os(FOLDER).expect("started by a test").into()
}

/// Killed 50 times (`PINHOLE_KILLS`) while writing: every synced event is read, and the log is continued.
#[test]
fn no_synced_record_is_lost_by_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut next = 0;
    let mut random = 1u64;
    let rounds = kills::kills(50);
    for round in 0..rounds as usize {
        let mut child = child("writes_until_it_is_killed", path)
            .env("PINHOLE_TEST_NEXT", next.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
        let alive = Duration::from_micros(random >> 48);
        let reader = std::thread::spawn(move || {
            let synced =
                |line: String| -> Option<u64> { line.rsplit_once("synced ")?.1.parse().ok() };
            lines.map_while(Result::ok).filter_map(synced).last()
        });
        // Kill it up to 65 ms after its first record.
        let until = Instant::now() + Duration::from_secs(20);
        while frames(path).0.last().is_none_or(|last| *last < next) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(alive);
        child.kill().unwrap();
        child.wait().unwrap();
        let synced = reader.join().unwrap();

        let (kept, damaged) = frames(path);
        assert!(damaged <= 1, "round {round}: {damaged} damaged lines");
        let last = *kept.last().unwrap();
        assert_eq!(kept, (0..=last).collect::<Vec<_>>(), "round {round}");
        assert!(last >= next, "round {round}: nothing was written");
        assert!(synced.is_none_or(|n| n <= last), "round {round}");
        next = last + 1;
        // What a power cut may leave after the synced records.
        let torn: &[u8] = [&b""[..], b"{\"time\":\"2", &[0; 100]][round % 3];
        let newest = files(path).pop().unwrap();
        let mut newest = std::fs::File::options().append(true).open(newest).unwrap();
        newest.write_all(torn).unwrap();
    }
    println!("{rounds} kills of a log, {next} records");
    assert!(
        next > 2 * u64::from(rounds),
        "{next} records in {rounds} rounds"
    );
}

#[test]
#[ignore = "started by the test above"]
fn writes_until_it_is_killed() {
    let next = std::env::var("PINHOLE_TEST_NEXT").unwrap();
    let mut log = LogAppender::open(&config(&folder_of_parent(), 100.0)).unwrap();
    for frame in next.parse().unwrap().. {
        assert!(log.append(&event(frame)).unwrap());
        println!("synced {frame}");
    }
}

/// A disk that takes half a record: the error is returned once, lost records are counted, and the log continues when
/// there is space again.
#[test]
fn a_full_disk_is_reported_once_and_survived() {
    let folder = tempfile::tempdir().unwrap();
    let ran = child("fills_its_disk", folder.path()).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(frames(folder.path()), (vec![0, 1, 2, 6, 7], 0));
}

/// A separate process, because of its file size limit, which splits a write as a full disk does.
#[test]
#[ignore = "started by the test above"]
fn fills_its_disk() {
    let folder = folder_of_parent();
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, flag).unwrap();
    let limit = |current| {
        let maximum = getrlimit(Resource::Fsize).maximum;
        setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
    };
    let mut log = LogAppender::open(&config(&folder, 1.0)).unwrap();
    for frame in 0..3 {
        assert!(log.append(&event(frame)).unwrap());
    }
    let before = bytes(&folder);
    limit(Some(before + 20));
    let error_text = log.append(&event(3)).unwrap_err().to_string();
    assert!(
        error_text.contains("results-000001.jsonl: cannot write: File too large"),
        "{error_text}"
    );
    assert_eq!(bytes(&folder), before + 20);
    // Not retried at once. The same error after a retry is not returned again.
    assert!(!log.append(&event(4)).unwrap());
    std::thread::sleep(Duration::from_millis(1100));
    assert!(!log.append(&event(5)).unwrap());
    assert_eq!((log.written(), log.lost(), log.is_failing()), (3, 3, true));
    limit(None);
    std::thread::sleep(Duration::from_millis(2100));
    assert!(log.append(&event(6)).unwrap());
    assert!(log.append(&event(7)).unwrap());
    assert_eq!((log.written(), log.lost(), log.is_failing()), (5, 3, false));
    assert_eq!(log.damaged(), 0);
}

/// A file system that becomes read-only, as after an error of an SD card: reported, what is there can be read, and the log
/// continues when it can be written again.
#[test]
fn a_read_only_disk_is_reported_and_survived() {
    let script = r#"
        mount -t tmpfs tmpfs "$PINHOLE_TEST_LOG"
        "$PROGRAM" --exact writes_on_a_disk_that_becomes_read_only --ignored --nocapture
    "#;
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let environment = [(FOLDER, folder.path()), ("PROGRAM", &program)];
    let Some(ran) = kills::with_mounts(script, &environment) else {
        return;
    };
    assert!(ran.status.success(), "{ran:?}");
}

/// In a mount namespace of its own.
#[test]
#[ignore = "started by the test above"]
fn writes_on_a_disk_that_becomes_read_only() {
    let folder = folder_of_parent();
    let remount = |mode: &str| {
        let mut command = Command::new("mount");
        let done = command
            .args(["-o", &format!("remount,{mode}")])
            .arg(&folder);
        assert!(done.status().unwrap().success());
    };
    // Closed, as a file that is open for writing keeps the file system writable.
    let append = |frame| LogAppender::open(&config(&folder, 1.0))?.append(&event(frame));
    assert!(append(0).unwrap());
    remount("ro");
    let error_text = append(1).unwrap_err().to_string();
    assert!(error_text.contains("Read-only file system"), "{error_text}");
    assert_eq!(frames(&folder), (vec![0], 0));
    remount("rw");
    assert!(append(2).unwrap());
    assert_eq!(frames(&folder), (vec![0, 2], 0));
}

/// Waits until the status fits, for at most 10 s.
#[track_caller]
fn wait(writer: &LogWriter, fits: impl Fn(&LogStatus) -> bool) -> LogStatus {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let status = writer.status();
        if fits(&status) {
            return status;
        }
        assert!(Instant::now() < until, "{status:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A log that cannot be opened does not prevent the start, and is opened later.
#[test]
fn a_file_in_the_place_of_the_folder_is_reported_and_retried() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("log");
    std::fs::write(&path, "in the way").unwrap();
    let writer = LogWriter::start(&config(&path, 1.0), Instant::now()).unwrap();
    let status = wait(&writer, |status| status.failing);
    let error_text = status.last_error.unwrap();
    assert!(
        error_text.contains("log: cannot create the folder: "),
        "{error_text}"
    );
    writer.write(event_kind(0));
    wait(&writer, |status| status.lost == 1);
    std::fs::remove_file(&path).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    writer.write(event_kind(1));
    let status = wait(&writer, |status| status.written == 1 && !status.failing);
    assert_eq!((status.lost, status.last_error), (1, Some(error_text)));
    drop(writer);
    assert_eq!(frames(&path), (vec![1], 0));
}

/// Records must not be written to a deleted file.
#[test]
fn a_deleted_log_is_created_again() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("log");
    let mut log = LogAppender::open(&config(&path, 1.0)).unwrap();
    log.append(&event(0)).unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    let error_text = log.append(&event(1)).unwrap_err().to_string();
    assert!(
        error_text.contains("deleted while it was open"),
        "{error_text}"
    );
    std::thread::sleep(Duration::from_millis(1100));
    assert!(log.append(&event(2)).unwrap());
    assert_eq!(frames(&path), (vec![2], 0));
}

/// A burst that no disk can keep up with: no call waits, and every record is either in the log or counted as lost.
#[test]
fn the_writer_never_waits_and_counts_what_it_loses() {
    let folder = tempfile::tempdir().unwrap();
    let writer = LogWriter::start(&config(folder.path(), 1000.0), Instant::now()).unwrap();
    let text = "x".repeat(30_000);
    let start = Instant::now();
    for _ in 0..5000 {
        let (component, text) = ("camera".into(), text.clone());
        writer.write(RecordKind::Error { component, text });
    }
    let took = start.elapsed();
    let status = writer.stop();
    println!("{status:?} in {took:?}");
    assert_eq!(status.written + status.lost, 5000, "{status:?}");
    assert!(status.lost > 0 && status.written >= 256, "{status:?}");
    assert_eq!(status.last_error, None);
    let mut reader = pinhole_firmware::log::read(folder.path()).unwrap();
    assert_eq!(reader.by_ref().count() as u64, status.written);
    assert_eq!(reader.damaged(), 0);
}

/// The status also counts the line that a power cut damaged.
#[test]
fn a_stopped_writer_has_written_every_record() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("results-000001.jsonl"), "torn").unwrap();
    let writer = LogWriter::start(&config(folder.path(), 1.0), Instant::now()).unwrap();
    for frame in 0..100 {
        writer.write(event_kind(frame));
    }
    let status = writer.stop();
    let expected = LogStatus {
        written: 100,
        damaged_at_start: 1,
        ..LogStatus::default()
    };
    assert_eq!(status, expected);
    assert_eq!(frames(folder.path()), ((0..100).collect(), 0));
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// 100 MB of zeros, and an unterminated line of 100 MB.
#[test]
fn hostile_files_are_read_in_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let zeros = std::fs::File::create(path.join("results-000001.jsonl")).unwrap();
    zeros.set_len(100 << 20).unwrap();
    let line = serde_json::to_string(&event(1)).unwrap();
    let after = format!("\n{line}\n{{\"time\":\"{}", "x".repeat(100 << 20));
    std::fs::write(path.join("results-000002.jsonl"), after).unwrap();
    let ran = child("reads_hostile_files", path).output().unwrap();
    let output = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{output}");
    // Left as it was: a file of this size is not from this program.
    assert!(files(path)[1].metadata().unwrap().len() > 100 << 20);
}

#[test]
#[ignore = "started by the test above"]
fn reads_hostile_files() {
    let path = folder_of_parent();
    let before = peak_kib();
    assert_eq!(frames(&path), (vec![1], 3));
    let start = Instant::now();
    let mut log = LogAppender::open(&config(&path, 1000.0)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{start:?}");
    assert!(log.append(&event(2)).unwrap());
    assert!(log.append(&error("y".into())).unwrap());
    assert_eq!(frames(&path), (vec![1, 2], 3));
    let grown = peak_kib() - before;
    println!("grew by {grown} KiB");
    assert!(grown < 2 << 10, "{grown} KiB");
}
