//! The command `pinhole-train`: pre-training and shapes.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

const TINY: &str = "--image-size 16 --width 64 --layers 1 --text-width 64 --text-layers 1 \
                    --patch-size 8 --embedding 16 --batch-size 16 --test-images 1 --log-every 2 \
                    --save-every 2";

fn call(arguments: &str, folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-train"));
    command
        .args(arguments.split_whitespace())
        .current_dir(folder);
    command.output().unwrap()
}

fn succeed(arguments: &str, folder: &Path) -> String {
    let output = call(arguments, folder);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The standard error of a failure, with one error line.
fn fail(arguments: &str, folder: &Path) -> String {
    let output = call(arguments, folder);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments}: {errors}");
    let lines = errors
        .lines()
        .filter(|line| line.starts_with("error: "))
        .count();
    assert_eq!(lines, 1, "{errors}");
    errors
}

#[test]
fn clip_trains_resumes_and_is_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let printed = succeed(
        &format!("clip --data shapes --out whole --steps 4 {TINY}"),
        folder,
    );
    assert!(printed.contains("on held-out classes"), "{printed}");
    for file in [
        "log.jsonl",
        "plot.svg",
        "report.md",
        "report.json",
        "seen.csv",
        "unseen.csv",
    ] {
        assert!(
            fs::metadata(folder.join("whole").join(file)).unwrap().len() > 100,
            "{file}"
        );
    }
    let log = fs::read_to_string(folder.join("whole/log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 2);
    assert!(
        fs::read_to_string(folder.join("whole/plot.svg"))
            .unwrap()
            .contains("<polyline")
    );
    let report = fs::read_to_string(folder.join("whole/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["seen"]["images"], 52);
    assert_eq!(report["unseen"]["images"], 12);
    assert_eq!(report["training"]["images"], 64);

    // A second training neither overwrites the first nor continues it with other hyper-parameters.
    let again = fail(
        &format!("clip --data shapes --out whole --steps 4 {TINY}"),
        folder,
    );
    assert!(again.contains("--resume"), "{again}");
    fail(
        &format!("clip --data shapes --out whole --steps 5 --resume {TINY}"),
        folder,
    );
    succeed(
        &format!("clip --data shapes --out whole --steps 4 --resume {TINY}"),
        folder,
    );

    succeed(
        "shapes --out pictures --count 52 --seed 9 --split seen",
        folder,
    );
    let captions = fs::read_to_string(folder.join("pictures/captions.tsv")).unwrap();
    assert_eq!(captions.lines().count(), 53);
    let text = "evaluate --model whole/checkpoint --images pictures --confusion table.csv";
    assert!(succeed(text, folder).contains("of 52 images"));
    assert_eq!(
        fs::read_to_string(folder.join("table.csv"))
            .unwrap()
            .lines()
            .count(),
        53
    );
    let json = succeed(&format!("{text} --json"), folder);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["images"], 52);
    fs::write(folder.join("classes.txt"), "red circle\n").unwrap();
    let error = fail(&format!("{text} --classes classes.txt"), folder);
    assert!(error.contains("is not among the 1 classes"), "{error}");

    // The images are also a data set for training, as a list and as a folder.
    let list = "clip --data pictures/captions.tsv --out list --epochs 1";
    succeed(&format!("{list} {TINY}"), folder);
    let log = fs::read_to_string(folder.join("list/log.jsonl")).unwrap();
    assert!(log.lines().last().unwrap().contains("\"step\":4,"), "{log}");
    succeed(
        &format!("clip --data pictures --out classes --steps 2 {TINY}"),
        folder,
    );
}

#[test]
fn shapes_depend_on_the_seed_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (out, threads) in [("a", 1), ("b", 3)] {
        let arguments = format!("--threads {threads} shapes --out {out} --count 12 --split unseen");
        succeed(&format!("{arguments} --size 33x20"), folder);
    }
    let captions = |out: &str| fs::read_to_string(folder.join(out).join("captions.tsv")).unwrap();
    assert_eq!(captions("a"), captions("b"));
    for line in captions("a").lines().skip(1) {
        let name = line.split('\t').next().unwrap();
        let bytes = |out: &str| fs::read(folder.join(out).join(name)).unwrap();
        assert_eq!(bytes("a"), bytes("b"));
    }
}

#[test]
fn a_closed_output_is_an_exit_code_without_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-train"));
    command
        .args(["shapes", "--count", "3", "--out"])
        .arg(folder.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"");
}

#[test]
fn errors_are_reported_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(fail("clip --data nowhere.csv", folder).contains("nowhere.csv"));
    assert!(fail("evaluate --model nowhere --images nowhere", folder).contains("nowhere"));
}

/// Options that no file can make right, found by clap or behind it. If this fails, scripts take wrong usage for an error
/// of the data.
#[test]
fn wrong_usage_is_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("bundle")).unwrap();
    fs::write(folder.join("bundle/manifest.json"), "{}").unwrap();
    fs::write(folder.join("pairs.csv"), "filepath,title\n").unwrap();
    let method = "--clip nowhere --data shapes --out a";
    for (call, part) in [
        ("clip", "Usage"),
        ("https://me:secret@example.org/a.pt", "unrecognized"),
        ("--threads 0 clip --data shapes --out a", "--threads 0"),
        (
            "clip --data shapes --out a --patch-size 7",
            "--patch-size 7",
        ),
        ("clip --data shapes --out a --width 65", "--width 65"),
        ("clip --data shapes --out a --epochs 2", "--epochs"),
        ("clip --data shapes --out a --batch-size 1", "batch size"),
        ("clip --data shapes --out a --save-every 0", "--save-every"),
        ("clip --data shapes --out a --template plain", "plain"),
        ("clip --data pairs.csv --out a --crop 2", "--crop 2"),
        (
            "clip --data pairs.csv --out a --separator ab",
            "--separator",
        ),
        ("shapes --out a --count 1 --size 10", "--size 10"),
        ("evaluate --model x --data shapes --confusion a.png", ".svg"),
        ("evaluate --model bundle --data shapes --part new", "--part"),
        ("evaluate --clip hf:x --data shapes", "hf:x"),
        (
            "evaluate --clip x --data shapes --learned y --method coop --method-option a=1",
            "option a",
        ),
        ("coop METHOD --momentum 2", "momentum"),
        ("coop METHOD --log-every 0", "--log-every"),
        ("coop METHOD --n-ctx 0", "--n-ctx 0"),
        ("linear METHOD --method-option a=1", "--method-option a"),
        ("few-shot METHOD --seeds 0", "--seeds 0"),
        (
            "few-shot METHOD --methods coop --method-option linear.decay=1",
            "--method-option linear.decay",
        ),
    ] {
        let call = call.replace("METHOD", method);
        let output = self::call(&call, folder);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{call}: {message}");
        assert!(message.contains(part), "{call}: {message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

/// A stderr that is full: the exit code is that of the error, not of a panic.
#[test]
fn a_full_stderr_does_not_panic() {
    let folder = tempfile::tempdir().unwrap();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-train"));
    command.args(["evaluate", "--model", "missing", "--data", "shapes"]);
    command.current_dir(folder.path()).stderr(full);
    assert_eq!(command.status().unwrap().code(), Some(1));
}
