//! `pinhole camera` on the demo bundle: JSON lines, events, the summary, signals and wrong usage.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pinhole::internal::ignores_hang_up;
use serde_json::Value;

fn assets(path: &str) -> PathBuf {
    (Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets")).join(path)
}

fn camera(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole"));
    (command.arg("camera").arg(assets("demo")))
        .args(["--threads", "1"])
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn scenes() -> String {
    assets("scenes.mjpeg").display().to_string()
}

fn names() -> Vec<String> {
    let names = std::fs::read_to_string(assets("scenes.txt")).unwrap();
    names.lines().map(str::to_owned).collect()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let sent = Command::new("kill")
        .args(["-s", name, &id])
        .status()
        .unwrap();
    assert!(sent.success());
}

#[test]
fn every_frame_of_a_recorded_file_is_classified() {
    let output = camera(&[
        "--mjpeg",
        &scenes(),
        "--json",
        "--smoothing",
        "0",
        "--hysteresis",
        "1",
    ])
    .args(["--top", "2"])
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (lines, names) = (lines(&output), names());
    assert_eq!(lines.len(), 60);
    let mut before = Value::Null;
    for (number, (line, name)) in lines.iter().zip(&names).enumerate() {
        assert_eq!(line["frame"], number);
        assert_eq!(line["top"][0]["class"], name.as_str());
        assert_eq!(line["top"].as_array().unwrap().len(), 2);
        let probability = line["top"][0]["probability"].as_f64().unwrap();
        assert!(probability > line["top"][1]["probability"].as_f64().unwrap());
        assert!(line["top"][0]["similarity"].is_number());
        assert_eq!(line["unknown"], false);
        assert_eq!(line["state"], name.as_str());
        assert_eq!(line["event"]["from"], before);
        assert_eq!(line["event"]["to"], name.as_str());
        let index = &line["top"][0]["index"];
        assert_eq!(
            (&line["state_index"], &line["event"]["to_index"]),
            (index, index)
        );
        assert!(index.is_u64() && line["event"]["from_index"].is_u64() == (number > 0));
        assert_eq!(
            (&line["still"], &line["dropped"]),
            (&false.into(), &0.into())
        );
        assert!(line["image"].is_null());
        let (age, total) = (&line["age_ms"], &line["latency_ms"]["total"]);
        assert!(age.as_f64().unwrap() >= total.as_f64().unwrap(), "{line}");
        assert!(line["captured_ms"].as_f64().unwrap() >= 0.0);
        let time = line["time"].as_str().unwrap();
        assert!(
            time.len() == 24 && time.ends_with('Z') && time.starts_with("20"),
            "{time}"
        );
        before = name.as_str().into();
    }
    assert_eq!(
        stderr(&output).trim_end(),
        "frames: 60 read = 60 classified + 0 still + 0 skipped + 0 dropped + 0 corrupt; 0 bytes skipped, \
         0 stalls, reopened 0 times, 0 events discarded"
    );
    // Standard input redirected from a file is not live: every frame is used.
    let file = std::fs::File::open(scenes()).unwrap();
    let output = camera(&["--mjpeg", "-", "--json", "--every", "7"])
        .stdin(file)
        .output()
        .unwrap();
    let frames: Vec<u64> = lines_of(&output, "frame");
    assert_eq!(frames, [0, 7, 14, 21, 28, 35, 42, 49, 56]);
    assert!(stderr(&output).contains("60 read = 9 classified + 0 still + 51 skipped"));
}

fn lines_of(output: &Output, field: &str) -> Vec<u64> {
    (lines(output).iter())
        .map(|line| line[field].as_u64().unwrap())
        .collect()
}

/// The frames of a file follow each other at once: within an hour only the first class can become the state.
#[test]
fn the_state_changes_no_faster_than_the_options_say() {
    let changes = |arguments: &[&str]| {
        let output = camera(&["--mjpeg", &scenes(), "--hysteresis", "1"])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    assert!(changes(&["--cool-down-seconds", "0"]) > 10);
    assert_eq!(changes(&["--cool-down-seconds", "3600"]), 1);
    assert_eq!(changes(&["--hysteresis-seconds", "3600"]), 0);
    for time in ["-1", "inf", "soon"] {
        let mut command = camera(&["--mjpeg", "-", "--hysteresis-seconds", time]);
        assert_eq!(command.output().unwrap().status.code(), Some(2), "{time}");
    }
}

/// In a pipe, without --json, each change of the state is one line; damaged files are reported on stderr.
#[test]
fn a_folder_prints_one_line_per_change() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |sample: &str, name: &str| {
        std::fs::copy(assets("samples").join(sample), folder.path().join(name)).unwrap();
    };
    copy("red-heart.png", "1.png");
    copy("red-heart.png", "2.png");
    copy("blue-square.png", "4.png");
    copy("blue-square.png", "5.png");
    std::fs::write(folder.path().join("3.png"), b"no picture").unwrap();
    let path = folder.path().display().to_string();
    let output = camera(&["--folder", &path]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let events: Vec<&str> = text.lines().collect();
    assert_eq!(events.len(), 2, "{text}");
    assert!(
        events[0].contains("2.png") && events[0].ends_with("nothing -> red heart"),
        "{text}"
    );
    assert!(
        events[1].contains("5.png") && events[1].ends_with("red heart -> blue square"),
        "{text}"
    );
    assert!(
        stderr(&output).contains("3.png: not an image"),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("5 read = 4 classified"),
        "{}",
        stderr(&output)
    );
}

/// A stall is reported in time, and a signal ends the program with its summary and exit code 0.
#[test]
fn a_signal_ends_the_stream_with_the_summary() {
    let bytes = std::fs::read(scenes()).unwrap();
    // An ignored SIGHUP remains so.
    let hang_up = (!ignores_hang_up()).then_some("HUP");
    for name in ["TERM", "INT"].into_iter().chain(hang_up) {
        let mut child = camera(&["--mjpeg", "-", "--json", "--timeout", "0.5"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&bytes).unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let first: Value = serde_json::from_str(&line).unwrap();
        assert!(first["frame"].is_number());
        let mut err = BufReader::new(child.stderr.take().unwrap());
        line.clear();
        err.read_line(&mut line).unwrap();
        assert!(line.contains("no frame for 0.5 s"), "{line}");
        let start = Instant::now();
        signal(&child, name);
        let mut rest = String::new();
        err.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
        assert!(start.elapsed() < Duration::from_secs(5));
        assert!(
            rest.contains("frames: 60 read = ") && rest.contains("1 stalls"),
            "{rest}"
        );
        drop(stdin);
    }
}

/// The counters of the summary, which must add up.
#[track_caller]
fn summary(text: &str) -> Vec<u64> {
    let line = text.lines().find(|line| line.starts_with("frames: "));
    let line = line.unwrap_or_else(|| panic!("no summary in: {text}"));
    let numbers = line.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u64> = numbers.filter_map(|n| n.parse().ok()).collect();
    assert_eq!(numbers[0], numbers[1..6].iter().sum::<u64>(), "{line}");
    numbers
}

/// As with `pinhole camera ... | head`: no message, but the exit code tells, and the summary is right.
#[test]
fn a_closed_stdout_ends_without_a_message() {
    let mut child = camera(&["--mjpeg", &scenes(), "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
    summary(&stderr(&output));
}

fn full() -> std::fs::File {
    std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
}

#[test]
fn a_full_stdout_is_an_error() {
    let output = camera(&["--mjpeg", &scenes(), "--json"])
        .stdout(full())
        .output()
        .unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("error: standard output: cannot write: No space left"),
        "{message}"
    );
    summary(&message);
}

/// 41 frames, one of them damaged, which is reported on a stderr that is full, closed, or read by nobody.
#[test]
fn a_broken_stderr_does_not_stop_the_answers() {
    let stream = std::fs::read(scenes()).unwrap();
    let second = stream[2..]
        .windows(3)
        .position(|w| w == [0xFF, 0xD8, 0xFF])
        .unwrap()
        + 2;
    let frame = &stream[..second];
    let damaged = frame[..second / 2].to_vec();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one-damaged.mjpeg");
    std::fs::write(
        &path,
        [frame.repeat(20), damaged, frame.repeat(20)].concat(),
    )
    .unwrap();
    let path = path.display().to_string();
    let (closed, _) = std::io::pipe()
        .map(|(reader, writer)| (writer, drop(reader)))
        .unwrap();
    for stderr in [Stdio::from(full()), Stdio::from(closed)] {
        let output = camera(&["--mjpeg", &path, "--json"])
            .stderr(stderr)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(lines(&output).len(), 40);
    }
}

/// More messages than a pipe holds, and nobody reads them.
#[test]
fn a_stderr_that_nobody_reads_does_not_stop_the_answers() {
    let folder = tempfile::tempdir().unwrap();
    let long_name = "x".repeat(200);
    for number in 0..500 {
        std::fs::write(
            folder.path().join(format!("{long_name}-{number}.png")),
            "no",
        )
        .unwrap();
    }
    std::fs::copy(assets("samples/red-heart.png"), folder.path().join("z.png")).unwrap();
    let path = folder.path().display().to_string();
    let (_unread, writer) = std::io::pipe().unwrap();
    let start = Instant::now();
    let output = camera(&["--folder", &path, "--json"])
        .stderr(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(lines(&output).len(), 1);
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

/// A pipe that nobody reads holds up the answers, not the signals.
#[test]
fn a_stdout_that_nobody_reads_can_be_interrupted() {
    let stream = std::fs::read(scenes()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.mjpeg");
    std::fs::write(&path, stream.repeat(10)).unwrap();
    let path = path.display().to_string();
    let (unread, writer) = std::io::pipe().unwrap();
    let child = camera(&["--mjpeg", &path, "--json", "--top", "50"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The pipe is full when it holds 64 KiB; 600 answers are more.
    std::thread::sleep(Duration::from_secs(2));
    let start = Instant::now();
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let counters = summary(&stderr(&output));
    assert!(counters[1] < 600 && counters[1] > 0, "{counters:?}");
    drop(unread);
}

/// As `nohup` does.
#[test]
fn an_ignored_hangup_remains_ignored() {
    let mut command = Command::new("sh");
    let child = (command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]))
        .arg(env!("CARGO_BIN_EXE_pinhole"))
        .arg("camera")
        .arg(assets("demo"))
        .args(["--threads", "1", "--mjpeg", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = std::fs::read(scenes()).unwrap();
    stdin.write_all(&bytes).unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    signal(&child, "HUP");
    std::thread::sleep(Duration::from_millis(300));
    stdin.write_all(&bytes).unwrap();
    drop(stdin);
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(summary(&stderr(&output))[0], 120);
}

/// Exit code 1 if there was nothing to classify, with the reason.
#[test]
fn a_source_without_a_frame_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let page = "<html><body>401 Unauthorized</body></html>\n".repeat(4000);
    std::fs::write(path("page.html"), &page).unwrap();
    std::fs::write(path("empty"), "").unwrap();
    std::fs::write(path("header.y4m"), "YUV4MPEG2 W2 H2\n").unwrap();
    std::fs::write(path("cut.mjpeg"), &std::fs::read(scenes()).unwrap()[..300]).unwrap();
    for (arguments, part) in [
        (
            ["--mjpeg", &path("page.html")],
            "page.html: expected JPEG images (MJPEG), found an HTML page (\"401 Un",
        ),
        (["--y4m", &path("page.html")], "found an HTML page"),
        (["--mjpeg", &path("empty")], "found an empty stream"),
        (["--y4m", &path("empty")], "found an empty stream"),
        (
            ["--y4m", &path("header.y4m")],
            "found none that can be decoded",
        ),
        (
            ["--mjpeg", &path("cut.mjpeg")],
            "found none that can be decoded (1 corrupt)",
        ),
        (
            ["--y4m", &scenes()],
            "found JPEG images; read them with --mjpeg",
        ),
        (
            ["--mjpeg", &path("header.y4m")],
            "found Y4M; read it with --y4m",
        ),
    ] {
        let output = camera(&arguments).output().unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        let error = message.lines().find(|line| line.starts_with("error: "));
        assert!(
            error.is_some_and(|error| error.contains(part)),
            "expected {part:?} in: {message}"
        );
    }
}

/// The option for URLs is named, and the password is not.
#[test]
fn urls_are_not_opened() {
    for (flag, url) in [
        ("--mjpeg", "rtsp://admin:s3cret@cam/stream1"),
        ("--mjpeg", "http://cam/video?user=admin&pwd=s3cret"),
        ("--y4m", "https://cam/video.y4m"),
        ("--folder", "ftp://u:s3cret@cam/"),
    ] {
        let output = camera(&[flag, url]).output().unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        let expected = ["read it with --url", flag, "cam"];
        assert!(
            expected.iter().all(|part| message.contains(part)),
            "{message}"
        );
        assert!(!message.contains("s3cret"), "{message}");
    }
    let output = camera(&["rtsp://admin:s3cret@cam/stream1"])
        .output()
        .unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("unexpected argument 'rtsp://...@cam/stream1'"),
        "{message}"
    );
    let output = camera(&["--mjpeg", "-", "--threshold", "0.5"])
        .output()
        .unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("--margin") && message.contains("pinhole-export calibrate"),
        "{message}"
    );
}

/// Names that are not UTF-8 or hold escape sequences stay distinct, and harmless.
#[test]
fn every_file_name_can_be_printed() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let sample = std::fs::read(assets("samples/red-heart.png")).unwrap();
    let names: [&[u8]; 4] = [
        b"a\xe9.png",
        b"a\xe8.png",
        b"b\x1b[2J\n.png",
        "c\u{9b}31m.png".as_bytes(),
    ];
    for name in names {
        let name = std::ffi::OsStr::from_bytes(name);
        std::fs::write(folder.path().join(name), &sample).unwrap();
    }
    std::fs::write(folder.path().join("d\x1b[2J.png"), "damaged").unwrap();
    let not_utf8 = std::ffi::OsStr::from_bytes(b"e\xff.png");
    std::fs::write(folder.path().join(not_utf8), "damaged").unwrap();
    let path = folder.path().display().to_string();
    let output = camera(&["--folder", &path, "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let images: std::collections::BTreeSet<String> = (lines(&output).iter())
        .map(|line| {
            line["image"]
                .as_str()
                .unwrap()
                .rsplit_once('/')
                .unwrap()
                .1
                .to_owned()
        })
        .collect();
    let expected = [
        "a\\xe8.png",
        "a\\xe9.png",
        "b\x1b[2J\n.png",
        "c\u{9b}31m.png",
    ];
    assert_eq!(images, expected.map(str::to_owned).into());
    let classified = Command::new(env!("CARGO_BIN_EXE_pinhole"))
        .args(["classify", "--top", "1"])
        .args([assets("demo"), folder.path().to_owned()])
        .output()
        .unwrap();
    let changes = camera(&["--folder", &path, "--hysteresis", "1"])
        .output()
        .unwrap();
    for output in [&output, &classified, &changes] {
        for text in [
            stderr(output),
            String::from_utf8(output.stdout.clone()).unwrap(),
        ] {
            let raw = text.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(raw, None, "{text:?}");
        }
    }
    let text = String::from_utf8(classified.stdout.clone()).unwrap();
    assert!(text.contains("/b\\x1b[2J\\x0a.png  ("), "{text}");
    for part in ["d\\x1b[2J.png: ", "e\\xff.png: "] {
        for output in [&output, &classified] {
            assert!(stderr(output).contains(part), "{}", stderr(output));
        }
    }
}

#[test]
fn still_frames_are_marked() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["1.png", "2.png", "3.png"] {
        std::fs::copy(assets("samples/red-heart.png"), folder.path().join(name)).unwrap();
    }
    let path = folder.path().display().to_string();
    let output = camera(&["--folder", &path, "--json", "--still-threshold", "4"])
        .output()
        .unwrap();
    let lines = lines(&output);
    let still: Vec<&Value> = lines.iter().map(|l| &l["still"]).collect();
    assert_eq!(still, [false, true, true]);
    assert_eq!(lines[1]["latency_ms"]["encode"], 0.0);
    // The repeated answer counts for hysteresis: the class leads for its second frame.
    assert_eq!(lines[1]["event"]["to"], "red heart");
    assert!(stderr(&output).contains("3 read = 1 classified + 2 still"));
}

#[test]
fn wrong_usage_and_unusable_sources_are_errors() {
    let scenes = scenes();
    for arguments in [
        &[][..],
        &["--mjpeg", &scenes, "--folder", "."],
        &["--mjpeg", &scenes, "--watch"],
        &["--mjpeg", &scenes, "--every", "0"],
        &["--mjpeg", &scenes, "--region", "1,2,3"],
        &["--mjpeg", &scenes, "--region", "1,2,0,4"],
        &["--mjpeg", &scenes, "--region", "a,b,c,d"],
        &["--mjpeg", &scenes, "--region=-1,0,2,2"],
        &["--mjpeg", &scenes, "--region", "1,2,3,4,5"],
        &["--mjpeg", &scenes, "--smoothing", "-1"],
        &["--mjpeg", &scenes, "--smoothing", "nan"],
        &["--mjpeg", &scenes, "--margin", "2"],
        &["--mjpeg", &scenes, "--timeout", "0"],
        &["--mjpeg", &scenes, "--still-threshold", "256"],
        &["--folder", ".", "--live"],
    ] {
        let output = camera(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    for (arguments, part) in [
        (
            &["--mjpeg", "/nowhere/camera"][..],
            "/nowhere/camera: cannot open",
        ),
        (&["--y4m", &scenes], "YUV4MPEG2"),
        (
            &["--mjpeg", &scenes, "--region", "100,0,61,120"],
            "160 x 120",
        ),
        (
            &["--mjpeg", &scenes, "--conditional", "linear"],
            "--conditional",
        ),
        #[cfg(not(feature = "v4l"))]
        (&["--device", "/dev/video7"], "/dev/video7"),
    ] {
        let output = camera(arguments).output().unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        let errors: Vec<&str> = message
            .lines()
            .filter(|l| l.starts_with("error: "))
            .collect();
        assert!(errors.len() == 1 && errors[0].contains(part), "{message}");
        assert!(output.stdout.is_empty());
    }
}

/// If this fails, a camera must be restarted after teaching, or ends with a bundle that is being copied.
#[test]
fn an_exchanged_bundle_answers_from_the_next_frame_and_a_damaged_one_does_not() {
    let root = tempfile::tempdir().unwrap();
    let (bundle, frames) = (root.path().join("bundle"), root.path().join("frames"));
    std::fs::create_dir(&frames).unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .arg(assets("demo"))
        .arg(&bundle)
        .status();
    assert!(copied.unwrap().success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_pinhole"))
        .arg("camera")
        .arg(&bundle)
        .args([
            "--watch",
            "--json",
            "--smoothing",
            "0",
            "--threads",
            "1",
            "--folder",
        ])
        .arg(&frames)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut shown = 0;
    // Shows the next frame, and reads its answer: the best class.
    let mut next = || {
        shown += 1;
        let new = root.path().join("new.png");
        std::fs::copy(assets("samples/red-heart.png"), &new).unwrap();
        std::fs::rename(&new, frames.join(format!("{shown:05}.png"))).unwrap();
        let line: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["frame"], shown - 1, "every frame has an answer");
        line["top"][0]["class"].as_str().unwrap().to_owned()
    };
    assert_eq!(next(), "red heart");
    let taught = Command::new(env!("CARGO_BIN_EXE_pinhole"))
        .arg("teach")
        .arg(&bundle)
        .args(["--remove", "red heart"])
        .output()
        .unwrap();
    assert!(taught.status.success(), "{taught:?}");
    let until = Instant::now() + Duration::from_secs(60);
    while next() == "red heart" {
        assert!(Instant::now() < until, "the old bundle still answers");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::fs::write(bundle.join("manifest.json"), "{").unwrap();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert_ne!(next(), "red heart");
        std::thread::sleep(Duration::from_millis(100));
    }
    signal(&child, "INT");
    let mut events = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut events)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{events}");
    assert!(
        events.contains("using the new bundle, 63 classes"),
        "{events}"
    );
    assert!(
        events.contains("the old one continues") && events.contains("manifest.json"),
        "{events}"
    );
}

/// A camera by RTSP: ffmpeg gets the URL, and no message has its password.
#[test]
fn other_urls_are_read_by_ffmpeg() {
    let folder = tempfile::tempdir().unwrap();
    let url = "rtsp://admin:s3cret@camera.invalid/stream1";
    let run = || {
        camera(&["--json", "--url", url, "--timeout", "20"])
            .env("PATH", folder.path())
            .output()
            .unwrap()
    };
    let output = run();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("error: rtsp://...@camera.invalid/stream1: "),
        "{text}"
    );
    assert!(text.contains("install the package ffmpeg"), "{text}");

    // A stand-in that checks its arguments, writes the scenes, and then ends the program.
    let script = format!(
        "#!/bin/sh\nPATH=/usr/bin:/bin\necho \"open $*\" >&2\ncase \"$*\" in\n\
         *'-rtsp_transport tcp -i {url} '*) cat '{}'; sleep 3; kill -s INT \"$PPID\"; sleep 5 ;;\nesac\n",
        scenes()
    );
    let program = folder.path().join("ffmpeg");
    std::fs::write(&program, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let output = run();
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(!lines(&output).is_empty(), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    assert!(text.contains("rtsp://...@camera.invalid"), "{text}");
}
