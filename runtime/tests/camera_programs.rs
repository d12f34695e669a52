//! Programs as a camera's source: they are started again when they end or stall, and nothing of them is left behind.

mod camera_support;

use std::process::Command;
use std::time::{Duration, Instant};

use camera_support::{by_grey, every_frame, jpeg, run_with};
use pinhole::camera::{Camera, Error, Input, Item, Options, ReportKind, Source};

/// A folder with `frame.jpg`, where the shell writes its number as a line of `shells`.
struct Shell(tempfile::TempDir);

impl Shell {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("frame.jpg"), jpeg(100, 64, 48)).unwrap();
        Self(folder)
    }

    fn command(&self, script: &str) -> Input {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("echo $$ >>shells; {script}"))
            .current_dir(self.0.path());
        Input::Command(Box::new(command))
    }

    fn source(&self, script: &str) -> Source {
        Source::Mjpeg(self.command(script))
    }

    fn started(&self) -> Vec<u32> {
        let shells = std::fs::read_to_string(self.0.path().join("shells")).unwrap();
        shells.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// What is alive of the groups of all shells, and zombies that are this process's to wait for. What was killed
    /// a moment ago may take another to be gone.
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
            // The name in parentheses may have spaces; then state, parent, group.
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

fn options() -> Options {
    Options {
        reopen_pause: Duration::from_millis(50),
        ..every_frame()
    }
}

/// A camera that ends after 20 s, which no test takes, rather than have a broken one wait for ever.
fn open(source: Source, options: Options) -> Camera {
    let camera = Camera::open(source, options).unwrap();
    let stopper = camera.stopper();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(20));
        stopper.stop();
    });
    camera
}

/// Takes items until `frames` frames are there; the reports in between.
#[track_caller]
fn take(camera: &mut Camera, frames: u32) -> Vec<ReportKind> {
    let (mut reports, mut found) = (vec![], 0);
    while found < frames {
        match camera.next().unwrap().unwrap() {
            Item::Frame(_) => found += 1,
            Item::Report(report) => reports.push(report.kind),
        }
    }
    reports
}

fn reasons(reports: &[ReportKind]) -> Vec<&str> {
    (reports.iter())
        .filter_map(|report| match report {
            ReportKind::Lost { reason, .. } => Some(reason.as_str()),
            _ => None,
        })
        .collect()
}

/// A camera that is dropped leaves no process behind, not of a pipeline either.
#[test]
fn frames_come_and_a_dropped_camera_leaves_nothing() {
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

/// A program has time to end by itself.
#[test]
fn a_program_is_asked_to_end() {
    let shell = Shell::new();
    let script = "trap 'sleep 0.2; echo done >ended; exit' TERM; cat frame.jpg; while :; do sleep 0.01; done";
    let mut camera = open(shell.source(script), options());
    take(&mut camera, 1);
    drop(camera);
    assert!(shell.0.path().join("ended").exists());
    assert_eq!(shell.left(), [""; 0]);
}

/// The same when it is stopped by a signal's thread.
#[test]
fn a_stopped_camera_leaves_nothing() {
    let shell = Shell::new();
    let source = shell.source("cat frame.jpg; sleep 60");
    let camera = open(source, options());
    let stopper = camera.stopper();
    let timer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        stopper.stop();
    });
    let ran = run_with(camera, by_grey);
    timer.join().unwrap();
    assert_eq!(ran.frames(), [0]);
    assert!(ran.error.is_none());
    assert_eq!(shell.left(), [""; 0]);
}

/// A program that ignores SIGTERM is killed after a second.
#[test]
fn a_program_that_does_not_end_is_killed() {
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

/// Its exit status is told. What it has started in its group goes with it, before it is started again.
#[test]
fn a_program_that_ends_is_started_again() {
    let shell = Shell::new();
    // The third one stays, so that its own end is not told too.
    let script =
        "cat frame.jpg; [ $(wc -l <shells) = 3 ] && exec sleep 60; sleep 60 >/dev/null & exit 3";
    let mut camera = open(shell.source(script), options());
    let reports = take(&mut camera, 3);
    assert_eq!(reasons(&reports), ["sh: exit status 3"; 2]);
    let reopened = reports.iter().filter(|r| **r == ReportKind::Reopened);
    assert_eq!(reopened.count(), 2);
    assert_eq!(camera.counters().stalls, 0);
    assert_eq!(shell.started().len(), 3);
    drop(camera);
    assert_eq!(shell.left(), [""; 0]);
}

/// A stall is told once, as of other sources; and each time that the program is started again for it.
#[test]
fn a_program_that_stalls_is_started_again() {
    let shell = Shell::new();
    let options = Options {
        timeout: Some(Duration::from_millis(400)),
        ..options()
    };
    // The second one brings no frame at all. Bytes that are no frame are no sign of life.
    let script = "[ $(wc -l <shells) = 2 ] || cat frame.jpg; while echo; do sleep 0.1; done";
    let mut camera = open(shell.source(script), options);
    let start = Instant::now();
    let reports = take(&mut camera, 2);
    let took = start.elapsed();
    assert!((800..3000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(reasons(&reports), ["sh: no frame for 0.4 s"; 2]);
    let count = |wanted: fn(&ReportKind) -> bool| reports.iter().filter(|r| wanted(r)).count();
    assert_eq!(count(|r| matches!(r, ReportKind::Stalled { .. })), 1);
    assert_eq!(count(|r| matches!(r, ReportKind::Resumed { .. })), 1);
    assert_eq!(camera.counters().stalls, 1);
    assert_eq!(shell.started().len(), 3);
}

/// Without a time-out a program may take as long as it likes.
#[test]
fn without_a_timeout_nothing_stalls() {
    let shell = Shell::new();
    let options = Options {
        timeout: None,
        ..options()
    };
    let source = shell.source("cat frame.jpg; sleep 1; cat frame.jpg; sleep 60");
    let mut camera = open(source, options);
    assert_eq!(take(&mut camera, 2), []);
}

#[test]
fn how_a_program_failed_is_told() {
    for (script, y4m, expected) in [
        ("kill -9 $$", false, "sh: ended by signal 9"),
        ("exec 1>&-; sleep 60", false, "sh: it closed its output"),
        // What is wrong with nothing as a stream says less than the program's status.
        ("exit 7", true, "sh: exit status 7; Y4M header: expected"),
        ("echo no; sleep 60", true, "sh: Y4M header: expected"),
    ] {
        let shell = Shell::new();
        let source = match y4m {
            true => Source::Y4m(shell.command(script)),
            false => shell.source(script),
        };
        let mut camera = open(source, options());
        match camera.next().unwrap().unwrap() {
            Item::Report(report) => {
                let kind = [report.kind];
                let reason = reasons(&kind)[0];
                assert!(reason.starts_with(expected), "{script}: {reason}");
            }
            Item::Frame(_) => panic!("{script}: a frame"),
        }
        drop(camera);
        assert_eq!(shell.left(), [""; 0], "{script}");
    }
}

#[test]
fn y4m_of_a_program_is_read() {
    let shell = Shell::new();
    let script = "printf 'YUV4MPEG2 W2 H2 Cmono\\nFRAME\\nabcdFRAME\\nabcd'; sleep 60";
    let mut camera = open(Source::Y4m(shell.command(script)), options());
    assert_eq!(take(&mut camera, 2), []);
}

#[test]
fn a_program_that_is_not_there_is_an_error_at_the_first_opening() {
    let command = Box::new(Command::new("no-such-camera-program"));
    let opened = Camera::open(Source::Mjpeg(Input::Command(command)), options());
    let Err(e @ Error::Open { .. }) = opened else {
        panic!("{:?}", opened.err());
    };
    let message = e.to_string();
    assert!(
        message.starts_with("no-such-camera-program: cannot open: No such file"),
        "{message}"
    );
}
