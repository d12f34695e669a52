//! `pinhole camera` on the demo bundle: JSON lines, events, the summary, signals and wrong usage.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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
    for name in ["TERM", "INT"] {
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

/// As with `pinhole camera ... | head`.
#[test]
fn a_closed_stdout_ends_without_an_error() {
    let mut child = camera(&["--mjpeg", &scenes(), "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
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
