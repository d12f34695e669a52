//! Standard output and error that are closed, full, or pipes that nobody reads: the appliance works and stops as always.

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use pinhole_firmware::counters::RunCounters;
use pinhole_firmware::log::{self, RecordKind};
use rustix::process::Signal;

use crate::support::{Program, assets};

/// A configuration with a log, and a source that repeats the scenes endlessly.
fn configuration(folder: &Path) -> PathBuf {
    let path = folder.join("firmware.toml");
    let scenes = assets("scenes.mjpeg");
    let source = format!("while cat '{}'; do sleep 0.1; done", scenes.display());
    let text = format!(
        "bundle = {:?}\nthreads = 1\n[thresholds]\nsmoothing = 0.0\nhysteresis = 1\n\
         [source]\ncommand = [\"sh\", \"-c\", {source:?}]\n[log]\nfolder = \"log\"\ninterval_seconds = 0.2\n",
        assets("demo"),
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// Starts the appliance.
fn start(folder: &Path, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Program {
    let child = Command::new(env!("CARGO_BIN_EXE_pinhole-firmware"))
        .arg("run")
        .arg(configuration(folder))
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    Program(child)
}

/// A pipe without room. The reader keeps it open.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 512]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    (reader, writer.into())
}

fn closed_pipe() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

fn full_disk() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

fn records(folder: &Path) -> Vec<RecordKind> {
    let Ok(records) = log::read(folder.join("log")) else {
        return vec![];
    };
    records.map(|record| record.unwrap().kind).collect()
}

/// Waits for ten events: the first line that cannot be written has not stopped the appliance.
fn until_it_works(program: &mut Program, folder: &Path) {
    let start = Instant::now();
    let is_event = |record: &&RecordKind| matches!(record, RecordKind::Event { .. });
    while records(folder).iter().filter(is_event).count() < 10 {
        assert_eq!(program.0.try_wait().unwrap(), None, "the appliance ended");
        assert!(start.elapsed() < Duration::from_secs(60), "no events");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends `signal` and waits for the end.
fn stop(program: &mut Program, signal: Signal) -> ExitStatus {
    let pid = rustix::process::Pid::from_child(&program.0);
    rustix::process::kill_process(pid, signal).unwrap();
    let start = Instant::now();
    loop {
        if let Some(status) = program.0.try_wait().unwrap() {
            return status;
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the appliance does not stop"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn assert_ended_well(status: ExitStatus, folder: &Path) -> RunCounters {
    assert!(status.success(), "{status}");
    match records(folder).pop() {
        Some(RecordKind::End { counters }) => *counters,
        other => panic!("expected the end of the log, found {other:?}"),
    }
}

#[test]
fn a_pipe_that_nobody_reads_does_not_stop_the_appliance() {
    for full in ["stdout", "stderr"] {
        let folder = tempfile::tempdir().unwrap();
        let (_reader, pipe) = full_pipe();
        let mut program = match full {
            "stdout" => start(folder.path(), pipe, Stdio::null()),
            _ => start(folder.path(), Stdio::null(), pipe),
        };
        until_it_works(&mut program, folder.path());
        let status = stop(&mut program, Signal::TERM);
        assert_ended_well(status, folder.path());
    }
}

#[test]
fn streams_that_are_closed_or_full_do_not_stop_the_appliance() {
    for stream in [closed_pipe, full_disk] {
        let folder = tempfile::tempdir().unwrap();
        let mut program = start(folder.path(), stream(), stream());
        until_it_works(&mut program, folder.path());
        let status = stop(&mut program, Signal::TERM);
        let counters = assert_ended_well(status, folder.path());
        // Each event is a line.
        assert!(counters.lines_lost >= 10, "{counters:?}");
    }
}

/// The terminal of a session over SSH was closed.
#[test]
fn a_hang_up_ends_like_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut program = start(folder.path(), Stdio::null(), writer);
    until_it_works(&mut program, folder.path());
    let status = stop(&mut program, Signal::HUP);
    assert_ended_well(status, folder.path());
    let mut stderr = String::new();
    reader.read_to_string(&mut stderr).unwrap();
    let counters: RunCounters = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert_eq!(counters.lines_lost, 0);
}

/// nohup(1) starts a program that ignores it, so that it goes on after the session.
#[test]
fn a_hang_up_that_was_ignored_at_the_start_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = configuration(folder.path());
    let child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" run \"$1\""])
        .arg(env!("CARGO_BIN_EXE_pinhole-firmware"))
        .arg(path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut program = Program(child);
    until_it_works(&mut program, folder.path());
    let pid = rustix::process::Pid::from_child(&program.0);
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(program.0.try_wait().unwrap(), None, "the appliance ended");
    let status = stop(&mut program, Signal::TERM);
    assert_ended_well(status, folder.path());
}

/// `pinhole-firmware log | head` is silent; a full disk is an error that names the stream.
#[test]
fn the_log_can_be_printed_to_a_closed_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let log_folder = folder.path().join("log");
    std::fs::create_dir(&log_folder).unwrap();
    let line =
        r#"{"time":"2026-05-01T12:00:00.000Z","seconds":1.0,"kind":"error","what":"a","text":"b"}"#;
    let lines = format!("{line}\n").repeat(1000);
    std::fs::write(log_folder.join("results-000001.jsonl"), lines).unwrap();
    let print = |stdout: Stdio| {
        let output = Command::new(env!("CARGO_BIN_EXE_pinhole-firmware"))
            .arg("log")
            .arg(&log_folder)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(print(closed_pipe()), (Some(0), String::new()));
    let (code, stderr) = print(full_disk());
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("error: standard output: cannot write: No space left"),
        "{stderr}"
    );
}
