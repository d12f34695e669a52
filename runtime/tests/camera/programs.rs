//! Child processes as sources: they are restarted when they exit or stall, and leave no process behind.

use std::process::Command;
use std::time::{Duration, Instant};

use pinhole::camera::{
    Camera, CameraError, CameraEvent, CameraOptions, FrameSource, SourceEventKind, StreamInput,
};
use pinhole::internal::ignores_hang_up;

use crate::support::{by_grey, every_frame, jpeg, run_with};

/// A folder with `frame.jpg`, in which each shell appends its process ID to `shells`.
struct Shell(tempfile::TempDir);

impl Shell {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("frame.jpg"), jpeg(100, 64, 48)).unwrap();
        Self(folder)
    }

    fn command(&self, script: &str) -> StreamInput {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("echo $$ >>shells; {script}"))
            .current_dir(self.0.path());
        StreamInput::Command(Box::new(command))
    }

    fn source(&self, script: &str) -> FrameSource {
        FrameSource::mjpeg(self.command(script))
    }

    fn started(&self) -> Vec<u32> {
        let shells = std::fs::read_to_string(self.0.path().join("shells")).unwrap();
        shells.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Live processes of the groups of all shells, and zombies of this process. Waits briefly for killed processes
    /// to disappear.
    fn left(&self) -> Vec<String> {
        let until = Instant::now() + Duration::from_millis(500);
        loop {
            let left = self.alive();
            if left.is_empty() || Instant::now() > until {
                return left;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn alive(&self) -> Vec<String> {
        let groups = self.started();
        let me = std::process::id();
        let counts = |stat: &str| -> Option<bool> {
            // The name in parentheses may contain spaces. Then follow state, parent, group.
            let (_, fields) = stat.rsplit_once(')')?;
            let fields: Vec<&str> = fields.split_whitespace().take(3).collect();
            let (parent, group): (u32, u32) = (fields[1].parse().ok()?, fields[2].parse().ok()?);
            Some(groups.contains(&group) && (fields[0] != "Z" || parent == me))
        };
        (std::fs::read_dir("/proc").unwrap())
            .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path().join("stat")).ok())
            .filter(|stat| counts(stat).unwrap_or(false))
            .collect()
    }
}

fn options() -> CameraOptions {
    CameraOptions {
        reopen_pause: Duration::from_millis(50),
        ..every_frame()
    }
}

/// A camera that stops after 20 s, longer than any test, so that a broken test ends.
fn open(source: FrameSource, options: CameraOptions) -> Camera {
    let camera = Camera::open(source, options).unwrap();
    let stop_handle = camera.stop_handle();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(20));
        stop_handle.stop();
    });
    camera
}

/// Reads until `frames` frames have arrived; returns the events in between.
#[track_caller]
fn take(camera: &mut Camera, frames: u32) -> Vec<SourceEventKind> {
    let (mut events, mut found) = (vec![], 0);
    while found < frames {
        match camera.next().unwrap().unwrap() {
            CameraEvent::Frame(_) => found += 1,
            CameraEvent::Source(event) => events.push(event.kind),
        }
    }
    events
}

fn reasons(events: &[SourceEventKind]) -> Vec<&str> {
    (events.iter())
        .filter_map(|event| match event {
            SourceEventKind::Lost { reason, .. } => Some(reason.as_str()),
            _ => None,
        })
        .collect()
}

/// A dropped camera leaves no process behind, also none of a shell's pipeline.
#[test]
fn a_dropped_camera_leaves_no_process() {
    let shell = Shell::new();
    let source = shell.source("while cat frame.jpg; do sleep 0.01; done | cat");
    assert!(source.is_live());
    let mut camera = open(source, options());
    assert_eq!(take(&mut camera, 5), []);
    assert!(shell.alive().len() >= 3, "{:?}", shell.alive());
    let start = Instant::now();
    drop(camera);
    assert!(start.elapsed() < Duration::from_millis(900), "{start:?}");
    assert_eq!(shell.left(), [""; 0]);
}

/// A process can handle SIGTERM before it is killed.
#[test]
fn a_process_has_time_to_exit() {
    let shell = Shell::new();
    let script = "trap 'sleep 0.2; echo done >ended; exit' TERM; cat frame.jpg; while :; do sleep 0.01; done";
    let mut camera = open(shell.source(script), options());
    take(&mut camera, 1);
    drop(camera);
    assert!(shell.0.path().join("ended").exists());
    assert_eq!(shell.left(), [""; 0]);
}

/// The same for a camera that is stopped from another thread.
#[test]
fn a_stopped_camera_leaves_no_process() {
    let shell = Shell::new();
    let source = shell.source("cat frame.jpg; sleep 60");
    let camera = open(source, options());
    let stop_handle = camera.stop_handle();
    let timer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        stop_handle.stop();
    });
    let ran = run_with(camera, by_grey);
    timer.join().unwrap();
    assert_eq!(ran.frames(), [0]);
    assert!(ran.error.is_none());
    assert_eq!(shell.left(), [""; 0]);
}

/// A process that ignores SIGTERM is killed after a second.
#[test]
fn a_process_that_does_not_exit_is_killed() {
    let shell = Shell::new();
    let script = "trap '' TERM; cat frame.jpg; while true; do sleep 0.1; done";
    let mut camera = open(shell.source(script), options());
    take(&mut camera, 1);
    let start = Instant::now();
    drop(camera);
    let took = start.elapsed();
    assert!((800..2000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(shell.left(), [""; 0]);
}

/// The exit status is reported, and the rest of its process group is terminated before the restart.
#[test]
fn a_process_that_exits_is_restarted() {
    let shell = Shell::new();
    // The third one keeps running, so that its end is not reported too.
    let script =
        "cat frame.jpg; [ $(wc -l <shells) = 3 ] && exec sleep 60; sleep 60 >/dev/null & exit 3";
    let mut camera = open(shell.source(script), options());
    let events = take(&mut camera, 3);
    assert_eq!(reasons(&events), ["sh: exit status 3"; 2]);
    let reopened = events.iter().filter(|r| **r == SourceEventKind::Reopened);
    assert_eq!(reopened.count(), 2);
    assert_eq!(camera.counters().stalls, 0);
    assert_eq!(shell.started().len(), 3);
    drop(camera);
    assert_eq!(shell.left(), [""; 0]);
}

/// A stall is reported once, as for other sources; each restart is reported too.
#[test]
fn a_process_that_stalls_is_restarted() {
    let shell = Shell::new();
    let options = CameraOptions {
        timeout: Some(Duration::from_millis(400)),
        ..options()
    };
    // The second one delivers no frame. Other bytes do not end a stall.
    let script = "[ $(wc -l <shells) = 2 ] || cat frame.jpg; while echo; do sleep 0.1; done";
    let mut camera = open(shell.source(script), options);
    let start = Instant::now();
    let events = take(&mut camera, 2);
    let took = start.elapsed();
    assert!((800..3000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(reasons(&events), ["sh: no frame for 0.4 s"; 2]);
    let count = |wanted: fn(&SourceEventKind) -> bool| events.iter().filter(|r| wanted(r)).count();
    assert_eq!(count(|r| matches!(r, SourceEventKind::Stalled { .. })), 1);
    assert_eq!(count(|r| matches!(r, SourceEventKind::Resumed { .. })), 1);
    assert_eq!(camera.counters().stalls, 1);
    assert_eq!(shell.started().len(), 3);
}

/// Without a timeout a process may take any time.
#[test]
fn without_a_timeout_nothing_stalls() {
    let shell = Shell::new();
    let options = CameraOptions {
        timeout: None,
        ..options()
    };
    let source = shell.source("cat frame.jpg; sleep 1; cat frame.jpg; sleep 60");
    let mut camera = open(source, options);
    assert_eq!(take(&mut camera, 2), []);
}

#[test]
fn a_failure_of_the_process_is_reported() {
    for (script, y4m, expected) in [
        ("kill -9 $$", false, "sh: killed by signal 9"),
        (
            "exec 1>&-; sleep 60",
            false,
            "sh: the process closed its output",
        ),
        // The exit status matters more than the error of parsing an empty stream.
        ("exit 7", true, "sh: exit status 7; Y4M header: expected"),
        ("echo no; sleep 60", true, "sh: Y4M header: expected"),
    ] {
        let shell = Shell::new();
        let source = match y4m {
            true => FrameSource::y4m(shell.command(script)),
            false => shell.source(script),
        };
        let mut camera = open(source, options());
        match camera.next().unwrap().unwrap() {
            CameraEvent::Source(event) => {
                let kind = [event.kind];
                let reason = reasons(&kind)[0];
                assert!(reason.starts_with(expected), "{script}: {reason}");
            }
            CameraEvent::Frame(_) => panic!("{script}: a frame"),
        }
        drop(camera);
        assert_eq!(shell.left(), [""; 0], "{script}");
    }
}

#[test]
fn y4m_of_a_process_is_read() {
    let shell = Shell::new();
    let script = "printf 'YUV4MPEG2 W2 H2 Cmono\\nFRAME\\nabcdFRAME\\nabcd'; sleep 60";
    let mut camera = open(FrameSource::y4m(shell.command(script)), options());
    assert_eq!(take(&mut camera, 2), []);
}

#[test]
fn a_missing_program_is_an_error_when_opened() {
    let command = Box::new(Command::new("no-such-camera-program"));
    let opened = Camera::open(FrameSource::mjpeg(StreamInput::Command(command)), options());
    let Err(e @ CameraError::Open { .. }) = opened else {
        panic!("{:?}", opened.err());
    };
    let message = e.to_string();
    assert!(
        message.starts_with("no-such-camera-program: cannot open: No such file"),
        "{message}"
    );
}

/// The reason of an end has the program's last line on stderr: without control characters, passwords and empty lines.
#[test]
fn the_last_message_of_a_process_is_part_of_the_reason() {
    for (script, expected) in [
        (
            "echo first >&2; echo 'no camera' >&2; echo >&2; exit 3",
            "sh: exit status 3; its last message: no camera",
        ),
        (
            "printf 'progress 1\\rrtsp://admin:s3cret@cam/1: \\033[31mrefused' >&2; exit 1",
            "sh: exit status 1; its last message: rtsp://...@cam/1: \\x1b[31mrefused",
        ),
        (
            "yes x | head -c 3000000 | tr -d '\\n' >&2; exit 2",
            "sh: exit status 2; its last message: xxxx",
        ),
        (
            "seq 100000 >&2; exit 4",
            "sh: exit status 4; its last message: 100000",
        ),
    ] {
        let shell = Shell::new();
        let mut camera = open(shell.source(script), options());
        let CameraEvent::Source(event) = camera.next().unwrap().unwrap() else {
            panic!("{script}: a frame");
        };
        let kind = [event.kind];
        let reason = reasons(&kind)[0];
        assert!(
            reason.starts_with(expected) && reason.len() < 700,
            "{script}: {reason}"
        );
    }
}

#[test]
fn the_reason_of_a_stall_has_the_last_message() {
    let shell = Shell::new();
    let options = CameraOptions {
        timeout: Some(Duration::from_millis(400)),
        ..options()
    };
    let mut camera = open(
        shell.source("echo 'waiting for the camera' >&2; sleep 60"),
        options,
    );
    let mut events = vec![];
    while reasons(&events).is_empty() {
        let CameraEvent::Source(event) = camera.next().unwrap().unwrap() else {
            panic!("a frame");
        };
        events.push(event.kind);
    }
    let expected = "sh: no frame for 0.4 s; its last message: waiting for the camera";
    assert_eq!(reasons(&events), [expected]);
}

/// What runs in the process that is killed, by `a_killed_process_leaves_no_program`.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn reads_a_program_until_it_is_killed() {
    let Some(folder) = std::env::var_os("PINHOLE_TEST_FOLDER") else {
        return;
    };
    let mut command = Command::new("sh");
    // SIGTERM is ignored by one of the processes.
    let script = "echo $$ >>shells; (trap '' TERM; sleep 60) & cat frame.jpg; sleep 60";
    command.args(["-c", script]).current_dir(folder);
    let source = FrameSource::mjpeg(StreamInput::Command(Box::new(command)));
    let mut camera = Camera::open(source, options()).unwrap();
    take(&mut camera, 1);
    println!("ready");
    std::thread::sleep(Duration::from_secs(30));
}

/// However this process ends, the program that it started ends too: also by SIGKILL, and by a second Ctrl-C.
#[test]
fn a_killed_process_leaves_no_program() {
    // An ignored SIGHUP remains so.
    let hang_up = (!ignores_hang_up()).then_some("HUP");
    for signal in ["KILL", "INT"].into_iter().chain(hang_up) {
        let shell = Shell::new();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "programs::reads_a_program_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env("PINHOLE_TEST_FOLDER", shell.0.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(process.stdout.take().unwrap());
        let ready = std::io::BufRead::lines(output).any(|line| line.unwrap().contains("ready"));
        assert!(ready && !shell.alive().is_empty());
        let id = process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &id])
                .status()
                .unwrap()
                .success()
        );
        process.wait().unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while !shell.alive().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(shell.alive(), [""; 0], "{signal}");
    }
}
