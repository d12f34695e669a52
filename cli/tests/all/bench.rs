//! `pinhole bench`: JSON, plot, comparison and errors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use pinhole_bundle::{Bundle, BundleWriter};
use serde_json::{Value, json};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo")
}

fn bench(bundle: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole"));
    command.arg("bench").arg(bundle);
    command
}

fn compare(a: &Path, b: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole"));
    command.args(["bench", "--compare"]).args([a, b]);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The JSON of a successful run, which prints nothing on stderr because that is a pipe.
#[track_caller]
fn result(command: &mut Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success());
    assert_eq!(text(&output.stdout).lines().count(), 1);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Exit code 1, and one line on stderr that contains all `parts`.
#[track_caller]
fn assert_error(output: &Output, parts: &[&str]) {
    assert_fails(output, 1, parts);
}

/// The exit code, and one line on stderr that contains all `parts`.
#[track_caller]
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.starts_with("error: "), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

#[test]
fn json_has_the_documented_fields() {
    let started = Instant::now();
    let result =
        result(bench(&demo()).args(["--threads", "1", "--iterations", "12", "--warm-up", "2"]));
    let passed = started.elapsed().as_secs_f64();

    assert!(result["bundle"].as_str().unwrap().ends_with("demo"));
    assert_eq!(result["precision"], "f16");
    assert_eq!(result["threads"], 1);
    assert!(!result["kernels"].as_str().unwrap().is_empty());
    assert_eq!(
        (&result["iterations"], &result["warm_up"]),
        (&json!(12), &json!(2))
    );
    assert_eq!(result["percentiles"], "exact");
    assert_eq!(result["interrupted"], false);
    assert!(
        result["image"]
            .as_str()
            .unwrap()
            .ends_with("golden/bars.png")
    );
    assert_eq!(
        (&result["image_width"], &result["image_height"]),
        (&json!(160), &json!(120))
    );
    for field in ["temperature_c", "throttled", "machine", "busy"] {
        // Present, but `null` if this machine does not report it.
        assert!(result.get(field).is_some(), "{field}");
    }
    if cfg!(target_os = "linux") {
        assert!(result["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
        for field in ["cpu_seconds", "other_cpu_seconds", "load_average"] {
            assert!(result[field].as_f64().unwrap() >= 0.0, "{field}");
        }
    }
    let seconds = result["seconds"].as_f64().unwrap();
    assert!(seconds < passed);
    let rate = result["frames_per_second"].as_f64().unwrap();
    assert!((rate * seconds / 12.0 - 1.0).abs() < 1e-6);
    assert!(result["load_ms"].as_f64().unwrap() > 0.0);

    let summary = |value: &Value| ["min", "p50", "p90", "mean"].map(|k| value[k].as_f64().unwrap());
    let whole = summary(&result["latency_ms"]);
    assert!(whole[..3].is_sorted() && whole[0] > 0.0, "{whole:?}");
    // The 99th percentile of 12 images would be their maximum.
    assert!(result["latency_ms"]["p99"].is_null());
    assert!(whole[0] <= whole[3] && whole[3] * 12.0 <= seconds * 1e3 + 1e-4);
    let stages =
        ["decode", "preprocess", "encode", "head"].map(|s| summary(&result["stages_ms"][s])[3]);
    assert!(stages.iter().all(|s| *s > 0.0));
    assert!(
        stages.iter().sum::<f64>() <= whole[3] + 1e-5,
        "{stages:?} {whole:?}"
    );
    let rows = result["over_time"].as_array().unwrap();
    let images: u64 = rows.iter().map(|r| r["iterations"].as_u64().unwrap()).sum();
    assert_eq!(images, 12);
}

#[test]
fn a_run_of_seconds_ends_in_time_with_a_table_and_a_plot() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("out.svg");
    let start = Instant::now();
    let output = bench(&demo())
        .args(["--seconds", "2.2", "--warm-up", "1", "--plot"])
        .arg(&plot)
        .output()
        .unwrap();
    let passed = start.elapsed();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    assert!(passed >= Duration::from_millis(2200));
    assert!(passed < Duration::from_secs(60), "{passed:?}");
    let out = text(&output.stdout);
    for part in [
        "golden/bars.png of the bundle",
        "frames/s",
        "temperature",
        "throttled",
        "busy ",
        "  from s",
    ] {
        assert!(out.contains(part), "expected {part:?} in: {out}");
    }

    let svg = fs::read_to_string(&plot).unwrap();
    assert_well_formed(&svg);
    for label in ["time (s)", "frames per second", "demo, f16"] {
        assert!(svg.contains(label), "{label}");
    }
    // No temporary file is left.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Elements are properly nested, attributes are quoted, and special characters in text are escaped.
#[track_caller]
fn assert_well_formed(svg: &str) {
    let mut open = vec![];
    let mut rest = svg;
    let mut texts = 0;
    while let Some(start) = rest.find('<') {
        let (before, tag) = rest.split_at(start);
        assert!(!before.contains('>'), "{before}");
        for part in before.split('&').skip(1) {
            assert!(part.contains(';'), "{before}");
        }
        texts += usize::from(!before.trim().is_empty());
        let end = tag.find('>').expect("a tag ends");
        let (tag, after) = (&tag[1..end], &tag[end + 1..]);
        rest = after;
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name.trim())),
            None if tag.ends_with('/') || tag.starts_with(['?', '!']) => {}
            None => open.extend(tag.split_whitespace().next()),
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
    assert!(svg.contains("<svg ") && texts > 5);
}

#[test]
fn image_measures_the_given_image() {
    let image = demo().join("../samples/red-star.png");
    let result = result(
        bench(&demo())
            .args(["--iterations", "1", "--warm-up", "0", "--image"])
            .arg(&image),
    );
    assert!(result["image"].as_str().unwrap().ends_with("red-star.png"));
    assert_eq!(result["image_width"], 320);
    assert_eq!(
        (&result["iterations"], &result["warm_up"]),
        (&json!(1), &json!(0))
    );
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let cases: [&[&str]; 13] = [
        &[],
        &["x", "--seconds", "0"],
        &["x", "--seconds", "-1"],
        &["x", "--seconds", "nan"],
        &["x", "--seconds", "1e300"],
        &["x", "--iterations", "0"],
        &["x", "--iterations", "99999999999999999999999"],
        &["x", "--warm-up", "-1"],
        &["x", "--fail-above", "5"],
        &["--compare", "a.json"],
        &["x", "--compare", "a.json", "b.json"],
        &["--compare", "a.json", "b.json", "--seconds", "1"],
        &["--compare", "a.json", "b.json", "--fail-above", "-1"],
    ];
    for arguments in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_pinhole"))
            .arg("bench")
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

/// The error names the flag, the machine's limit, the value found, and what to do; for other commands too.
#[test]
fn numbers_of_threads_out_of_range_are_errors() {
    let processors = std::thread::available_parallelism().unwrap().to_string();
    for threads in [0, 1 + processors.parse::<usize>().unwrap()] {
        let found = format!("found {threads};");
        let parts = [
            "--threads: expected 1 to ",
            &*processors,
            &found,
            "leave it out to use all",
        ];
        let flag = format!("--threads={threads}");
        assert_fails(&bench(&demo()).arg(&flag).output().unwrap(), 2, &parts);
        for other in ["selftest", "classes"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole"));
            command.arg(other).arg(demo()).arg(&flag);
            if other == "classes" {
                command.args(["--add", "black dot"]);
            }
            assert_fails(&command.output().unwrap(), 2, &parts);
        }
    }
}

#[test]
fn a_bundle_that_fails_its_self_test_is_not_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle");
    let bundle = Bundle::open(&demo()).unwrap();
    let mut manifest = bundle.manifest().clone();
    let writer = BundleWriter::create(&path).unwrap();
    for entry in &bundle.manifest().files {
        let mut bytes = fs::read(demo().join(&entry.path)).unwrap();
        if entry.path == "golden/embeddings.json" {
            let mut golden: Value = serde_json::from_slice(&bytes).unwrap();
            let first = golden["images"][1]["embedding"][0].as_f64().unwrap();
            golden["images"][1]["embedding"][0] = (first + 0.5).into();
            bytes = golden.to_string().into_bytes();
        }
        writer.add(&entry.path, &bytes).unwrap();
    }
    writer.finish(&mut manifest).unwrap();
    let output = bench(&path).output().unwrap();
    assert_error(
        &output,
        &[
            "bundle: self-test: expected",
            "found 0.",
            "pinhole selftest",
        ],
    );
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn unusable_paths_are_errors_before_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken.svg");
    fs::write(&taken, "mine").unwrap();
    let no_image = folder.path().join("no-image.jpg");
    fs::write(&no_image, "no image").unwrap();
    let no_folder = folder.path().join("no-folder/out.svg");
    let cases: [(&str, &Path, &[&str]); 4] = [
        ("--plot", &taken, &["taken.svg", "does not exist"]),
        (
            "--plot",
            &no_folder,
            &["no-folder/out.svg", "cannot create"],
        ),
        ("--image", &no_image, &["no-image.jpg", "not an image"]),
        (
            "--image",
            &no_folder,
            &["no-folder/out.svg", "found no folder"],
        ),
    ];
    for (flag, path, parts) in cases {
        let output = bench(&demo())
            .args(["--seconds", "20", flag])
            .arg(path)
            .output()
            .unwrap();
        assert_error(&output, parts);
        // No results: the error came before the run.
        assert_eq!(text(&output.stdout), "");
    }
    assert_eq!(fs::read_to_string(&taken).unwrap(), "mine");

    let output = bench(&demo())
        .args(["--conditional", "linear"])
        .output()
        .unwrap();
    assert_error(&output, &["demo", "--conditional", "static"]);
    let output = bench(&folder.path().join("nowhere")).output().unwrap();
    assert_error(&output, &["nowhere"]);
}

/// Ctrl-C prints the results so far and writes their plot.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_run_prints_its_results() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("out.svg");
    let child = bench(&demo())
        .args([
            "--seconds",
            "100",
            "--warm-up",
            "0",
            "--threads",
            "1",
            "--json",
            "--plot",
        ])
        .arg(&plot)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let process = child.id().to_string();
    // Bit 1 of the caught signals: SIGINT no longer ends the program.
    let catches = || {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("SigCgt:"))
            .unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap() & 2 != 0
    };
    let start = Instant::now();
    while !catches() {
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_secs(1));
    let status = Command::new("kill")
        .args(["-INT", &process])
        .status()
        .unwrap();
    assert!(status.success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).starts_with("note: interrupted"));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["interrupted"], true);
    assert!(result["iterations"].as_u64().unwrap() > 0);
    assert!(result["seconds"].as_f64().unwrap() < 99.0);
    assert_well_formed(&fs::read_to_string(&plot).unwrap());
}

/// A result of `pinhole bench --json` with a change.
fn sample(folder: &Path, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let five = json!({"p50": 20.0, "p90": 22.0, "p99": 25.0, "mean": 20.5, "min": 19.0});
    let mut result = json!({
        "bundle": "demo", "bundle_sha256": "00", "precision": "int8", "threads": 4, "kernels": "dotprod",
        "machine": "Raspberry Pi 5", "iterations": 100, "latency_ms": five,
        "stages_ms": {"decode": five, "preprocess": five, "encode": five, "head": five},
        "frames_per_second": 50.0, "load_ms": 80.0, "peak_rss_bytes": 112000000, "temperature_c": null,
        "throttled": null,
    });
    change(&mut result);
    let path = folder.join(name);
    fs::write(&path, result.to_string()).unwrap();
    path
}

#[test]
fn comparison_shows_ratios_and_fails_above_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let a = sample(folder.path(), "a.json", |_| {});
    let b = sample(folder.path(), "b.json", |r| {
        r["latency_ms"]["p50"] = json!(21.2);
        r["peak_rss_bytes"] = Value::Null;
    });
    let output = compare(&a, &b).output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stderr), "");
    let table: Vec<Vec<&str>> = text(&output.stdout)
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert!(
        table.contains(&vec!["p50", "ms", "20.000", "21.200", "1.060"]),
        "{table:?}"
    );
    assert!(
        table.contains(&vec!["p99", "ms", "25.000", "25.000", "1.000"]),
        "{table:?}"
    );
    assert!(
        table.contains(&vec!["peak", "memory", "MB", "112.0", "-", "-"]),
        "{table:?}"
    );

    assert!(
        compare(&a, &b)
            .args(["--fail-above", "6.1"])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(
        compare(&b, &a)
            .args(["--fail-above", "0"])
            .output()
            .unwrap()
            .status
            .success()
    );
    let output = compare(&a, &b)
        .args(["--fail-above", "5"])
        .output()
        .unwrap();
    assert_error(&output, &["b.json", "at most 5 %", "found 6.0 %"]);
    assert!(text(&output.stdout).contains("21.200"));
}

#[test]
fn comparison_warns_about_different_conditions() {
    let folder = tempfile::tempdir().unwrap();
    let a = sample(folder.path(), "a.json", |_| {});
    for (field, other) in [
        ("bundle_sha256", json!("01")),
        ("precision", json!("f16")),
        ("threads", json!(2)),
        ("kernels", json!("neon")),
        ("machine", Value::Null),
        ("throttled", json!(true)),
    ] {
        let b = sample(folder.path(), "b.json", |r| r[field] = other);
        let output = compare(&a, &b).output().unwrap();
        assert!(output.status.success());
        let warning = text(&output.stderr);
        assert!(
            warning.starts_with("warning: not comparable: "),
            "{field}: {warning}"
        );
        assert_eq!(warning.lines().count(), 1, "{warning}");
        // A pipeline that checks for regressions must not pass because it measured something else.
        let output = compare(&a, &b)
            .args(["--fail-above", "50"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{field}");
        assert!(text(&output.stderr).contains("error: --fail-above: expected results"));
    }
    let busy = sample(folder.path(), "b.json", |r| r["busy"] = json!(true));
    let output = compare(&a, &busy)
        .args(["--fail-above", "5"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("b.json: other programs used the processors"));
}

#[test]
fn percentiles_of_few_images_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let few = sample(folder.path(), "few.json", |r| {
        r["latency_ms"]["p99"] = Value::Null;
        r["latency_ms"]["p90"] = Value::Null;
    });
    let output = compare(&few, &few).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let row = |name: &str| {
        text(&output.stdout)
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap()
            .to_owned()
    };
    assert!(
        row("p99 ms")
            .split_whitespace()
            .skip(2)
            .all(|cell| cell == "-")
    );
    assert!(row("p50 ms").contains("1.000"));
    let output = bench(&demo())
        .args(["--iterations", "3", "--warm-up", "0"])
        .output()
        .unwrap();
    let out = text(&output.stdout);
    let image = out
        .lines()
        .find(|l| l.starts_with("image  ") && l.contains(" - "))
        .unwrap();
    assert_eq!(
        image.split_whitespace().filter(|cell| *cell == "-").count(),
        2,
        "{out}"
    );
}

#[test]
fn malformed_results_are_errors_that_name_file_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let a = sample(folder.path(), "a.json", |_| {});
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 8] = [
        (|r| r["latency_ms"] = json!({}), "latency_ms.p50"),
        (|r| r["latency_ms"]["p99"] = json!("fast"), "latency_ms.p99"),
        (|r| r["latency_ms"]["p50"] = json!(0), "latency_ms.p50"),
        (
            |r| r["stages_ms"]["head"]["p50"] = json!(-1),
            "stages_ms.head.p50",
        ),
        (|r| r["load_ms"] = Value::Null, "load_ms"),
        (|r| r["threads"] = json!(1.5), "threads"),
        (|r| r["kernels"] = json!(["a"]), "kernels"),
        (|r| *r = json!([1]), "an object"),
    ];
    for (change, field) in cases {
        let b = sample(folder.path(), "bad.json", change);
        for order in [[&a, &b], [&b, &a]] {
            let output = compare(order[0], order[1]).output().unwrap();
            assert_error(&output, &["bad.json", field, "expected", "found"]);
            assert_eq!(text(&output.stdout), "");
        }
    }
    for content in ["", "{\"bundle\":", "\u{0}", "[[[[", "{} {}"] {
        let b = folder.path().join("bad.json");
        fs::write(&b, content).unwrap();
        assert_error(&compare(&a, &b).output().unwrap(), &["bad.json", "JSON"]);
    }
    fs::write(folder.path().join("deep.json"), "[".repeat(1 << 20)).unwrap();
    assert_error(
        &compare(&a, &folder.path().join("deep.json"))
            .output()
            .unwrap(),
        &["deep.json"],
    );
    assert_error(
        &compare(&a, &folder.path().join("none.json"))
            .output()
            .unwrap(),
        &["none.json"],
    );
}
