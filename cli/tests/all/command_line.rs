//! `pinhole` on the demo bundle: answers, JSON, exit codes, damaged bundles and images. Each bad input must give exit
//! code 1 and one `error:` line that names the file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pinhole_bundle::{Bundle, BundleWriter, Manifest};
use serde_json::Value;

fn assets(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../assets")
        .join(path)
}

fn samples() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(assets("samples"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    found.sort();
    found
}

fn pinhole<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pinhole"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Exit code 1, and the rest of [`assert_fails`].
#[track_caller]
fn assert_error(output: &Output, parts: &[&str]) {
    assert_fails(output, 1, parts);
}

/// The exit code, nothing on stdout, and exactly one line on stderr, which contains all `parts`.
#[track_caller]
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert_eq!(stdout(output), "", "{message}");
    assert!(message.starts_with("error: "), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

/// A copy of the demo bundle for tests to damage.
fn copy_of_demo() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    fs::create_dir_all(bundle.join("golden")).unwrap();
    fs::copy(assets("demo/manifest.json"), bundle.join("manifest.json")).unwrap();
    for file in Bundle::open(&assets("demo"))
        .unwrap()
        .manifest()
        .files
        .iter()
    {
        fs::copy(assets("demo").join(&file.path), bundle.join(&file.path)).unwrap();
    }
    (folder, bundle)
}

/// The demo bundle with one file and the manifest changed, and with correct sizes and hashes.
fn rewritten(
    file: &str,
    change: impl FnOnce(&mut Vec<u8>),
    edit: impl FnOnce(&mut Manifest),
) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle");
    let demo = Bundle::open(&assets("demo")).unwrap();
    let mut manifest = demo.manifest().clone();
    let writer = BundleWriter::create(&path).unwrap();
    let mut change = Some(change);
    for entry in &demo.manifest().files {
        let mut bytes = fs::read(assets("demo").join(&entry.path)).unwrap();
        if entry.path == file {
            (change.take().unwrap())(&mut bytes);
        }
        writer.add(&entry.path, &bytes).unwrap();
    }
    edit(&mut manifest);
    writer.finish(&mut manifest).unwrap();
    (folder, path)
}

fn classify(bundle: &Path) -> Output {
    pinhole([Path::new("classify"), bundle, &samples()[0]])
}

/// Sample files are named after their class, such as `red-circle.png`. Four of them show pairs of colour and shape that
/// were not in the training set.
#[test]
fn every_sample_gets_the_class_in_its_file_name() {
    assert!(samples().len() >= 12);
    for image in samples() {
        let output = pinhole([
            Path::new("classify"),
            &assets("demo"),
            &image,
            Path::new("--json"),
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        let line: Value = serde_json::from_slice(&output.stdout).unwrap();
        let best = line["top"][0]["class"].as_str().unwrap().replace(' ', "-");
        let name = image.file_stem().unwrap().to_str().unwrap();
        assert!(name.starts_with(&best), "{name}: {best}");
    }
}

#[test]
fn json_of_classify_has_the_documented_fields() {
    let output = pinhole([
        Path::new("classify"),
        &assets("demo"),
        &samples()[0],
        Path::new("--json"),
        Path::new("--top"),
        Path::new("3"),
    ]);
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["image"], samples()[0].display().to_string());
    let top = line["top"].as_array().unwrap();
    assert_eq!(top.len(), 3);
    let probability = |i: usize| top[i]["probability"].as_f64().unwrap();
    assert!(probability(0) >= probability(1) && probability(1) >= probability(2));
    assert!((-1.0..=1.0).contains(&top[0]["similarity"].as_f64().unwrap()));
    let classes = Bundle::open(&assets("demo"))
        .unwrap()
        .manifest()
        .classes
        .clone();
    let index = top[0]["index"].as_u64().unwrap() as usize;
    assert_eq!(top[0]["class"], classes[index]);
    assert_eq!(line["unknown"], false);
    assert_eq!(line["score"], "softmax");
    let latency = &line["latency_ms"];
    let parts: f64 = ["decode", "preprocess", "encode", "head"]
        .iter()
        .map(|k| latency[k].as_f64().unwrap())
        .sum();
    assert!((parts - latency["total"].as_f64().unwrap()).abs() < 1e-6);
}

#[test]
fn probabilities_of_all_classes_sum_to_one() {
    let output = pinhole([
        Path::new("classify"),
        &assets("demo"),
        &samples()[0],
        Path::new("--json"),
        Path::new("--top"),
        Path::new("100000"),
    ]);
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sum: f64 = line["top"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["probability"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");
}

#[test]
fn embed_gives_the_same_unit_vector_with_one_thread_and_all() {
    let embed = |extra: &[&str]| {
        let mut arguments = vec![
            "embed".into(),
            assets("demo"),
            samples()[1].clone(),
            "--json".into(),
        ];
        arguments.extend(extra.iter().map(PathBuf::from));
        let output = pinhole(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let line: Value = serde_json::from_slice(&output.stdout).unwrap();
        line["embedding"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect::<Vec<f64>>()
    };
    let all = embed(&[]);
    let norm: f64 = all.iter().map(|v| v * v).sum::<f64>().sqrt();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    assert_eq!(all, embed(&["--threads", "1"]));
}

#[test]
fn a_bad_image_does_not_stop_the_others() {
    let output = pinhole([
        Path::new("classify"),
        &assets("demo"),
        Path::new("no-such.jpg"),
        &samples()[0],
        Path::new("--json"),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output).lines().count(), 1);
    assert!(
        stderr(&output).contains("no-such.jpg"),
        "{}",
        stderr(&output)
    );
}

/// If this fails, a typing error in a path ends with "No such file or directory".
#[test]
fn missing_images_and_folders_are_errors_that_say_what_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("heart.png"), "").unwrap();
    // Similar, and no image.
    fs::write(path("harts.txt"), "").unwrap();
    fs::create_dir(path("photos")).unwrap();
    let heart = format!("found no such file; did you mean {}?", path("heart.png"));
    let photos = format!("found no such file; did you mean {}?", path("photos"));
    let unlike = "found no such file; check the path";
    let no_folder = format!("found no folder {}; check the path", path("no"));
    let demo = assets("demo").display().to_string();
    for (command, flags, given, expected, found) in [
        ("classify", &[][..], "hart.png", "an image file", &*heart),
        ("classify", &[], "photo/", "an image file", &photos),
        ("embed", &[], "other.jpg", "an image file", unlike),
        ("embed", &[], "no/heart.png", "an image file", &no_folder),
        (
            "preprocess",
            &["--out", "x.png"],
            "hart.png",
            "an image file",
            &heart,
        ),
        ("bench", &["--image"], "hart.png", "an image file", &heart),
        (
            "teach",
            &["--class", "mug"],
            "hart.png",
            "an image file",
            &heart,
        ),
        (
            "teach",
            &["--evaluate"],
            "photo",
            "one folder of images per class",
            &photos,
        ),
        (
            "camera",
            &["--folder"],
            "photo",
            "a folder of images",
            &photos,
        ),
        (
            "camera",
            &["--watch", "--folder"],
            "no/photos",
            "a folder of images",
            &no_folder,
        ),
    ] {
        let given = path(given);
        let output = pinhole([&[command, &*demo][..], flags, &[&*given]].concat());
        assert_error(
            &output,
            &[&format!("error: {given}: expected {expected}"), found],
        );
    }
}

/// If this fails, `curl ... | pinhole classify BUNDLE -` looks for a file of this name.
#[test]
fn an_image_is_read_from_standard_input() {
    let run = |arguments: &[&str], input: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole"));
        command.arg(arguments[0]).arg(assets("demo"));
        command.args(&arguments[1..]);
        command.stdin(fs::File::open(input).unwrap());
        command.output().unwrap()
    };
    let image = &samples()[0];
    let ranking = |output: &Output| {
        assert!(output.status.success(), "{}", stderr(output));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (
            answer["image"].as_str().unwrap().to_owned(),
            answer["top"].clone(),
        )
    };
    let (name, from_stdin) = ranking(&run(&["classify", "-", "--json"], image));
    assert_eq!(name, "-");
    let path = image.to_str().unwrap();
    let (_, from_file) = ranking(&run(&["classify", path, "--json"], image));
    assert_eq!(from_stdin, from_file);
    let embedded = |argument: &str| {
        let output = stdout(&run(&["embed", argument], image));
        output.split_once('\t').unwrap().1.to_owned()
    };
    assert_eq!(embedded("-"), embedded(path));
    // As much as of a file.
    for (input, part) in [
        ("/dev/null", "standard input: "),
        ("/dev/zero", "standard input: the file has more than 1 MiB"),
    ] {
        let output = run(
            &["classify", "-", "--max-image-memory", "1"],
            Path::new(input),
        );
        assert_error(&output, &[part]);
    }
}

/// Arguments that no file can make right, found by clap or behind it. If this fails, scripts take wrong usage for an
/// error of the files or of the camera, and try again.
#[test]
fn wrong_usage_is_exit_code_2() {
    let demo = assets("demo").display().to_string();
    let url = "https://me:s3cret@cam/photo.jpg";
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["classify"], "BUNDLE"),
        (&["classify", "x", "y", "--top", "0"], "--top"),
        (&["frobnicate"], "frobnicate"),
        (&["classify", url, "y"], "found a URL"),
        (&["classify", &demo, url], "found a URL"),
        (&["embed", &demo, "y.jpg", url], "found a URL"),
        (&["classify", &demo, "y", "--threads", "0"], "--threads"),
        (&["selftest", &demo, "--threads", "99999"], "--threads"),
        (&["preprocess", &demo, url, "--out", "x"], "found a URL"),
        (&["bench", &demo, "--image", url], "found a URL"),
        (&["bench", &demo, "--threads", "0"], "--threads"),
        (&["camera", &demo, "--mjpeg", url], "--url"),
        (&["camera", &demo, "--url", "cam/stream"], "expected a URL"),
        (
            &["camera", &demo, "--url", "gopher://cam/"],
            "expected a URL",
        ),
        (&["serve", &demo, "--listen", "0.0.0.0:0"], "password"),
        (
            &["serve", &demo, "--listen", "board.lan:1"],
            "localhost:8642",
        ),
        (&["serve", &demo, "--listen", "8642"], "localhost:8642"),
        (&["serve", &demo, "--host-name", "http://a"], "http://a"),
        (
            &["teach", &demo, "--none", "-", "--keep-photos", "x"],
            "standard input",
        ),
        (&["classes", &demo, "--add", " "], "empty"),
        (&["classes", &demo, "--add", "unknown"], "reserved"),
        (&["teach", &demo, "--class", ""], "empty"),
        (&["teach", &demo, "--class", "mug", "--text", ""], "empty"),
        (
            &["teach", &demo, "--class", "none of these", "--text", "x"],
            "--text",
        ),
        (&["teach", &demo, "--class", "mug", url], "found a URL"),
        (&["teach", &demo, "--evaluate", url], "found a URL"),
    ];
    for (arguments, part) in cases {
        let output = pinhole(*arguments);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert!(message.contains(part), "{arguments:?}: {message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
}

#[test]
fn numbers_of_threads_out_of_range_are_errors() {
    for threads in ["0", "100000"] {
        let output = pinhole([
            Path::new("selftest"),
            &assets("demo"),
            Path::new("--threads"),
            Path::new(threads),
        ]);
        assert_fails(&output, 2, &["threads", threads]);
    }
}

#[test]
fn selftest_passes_and_detects_a_wrong_embedding() {
    let output = pinhole([Path::new("selftest"), &assets("demo")]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("passed"));

    let (_folder, bundle) = rewritten(
        "golden/embeddings.json",
        |bytes| {
            let mut golden: Value = serde_json::from_slice(bytes).unwrap();
            let first = golden["images"][0]["embedding"][0].as_f64().unwrap();
            golden["images"][0]["embedding"][0] = (first + 0.5).into();
            *bytes = golden.to_string().into_bytes();
        },
        |_| {},
    );
    let output = pinhole([Path::new("selftest"), &bundle]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("DIFFERS") && stderr(&output).contains("self-test"));
}

#[test]
fn preprocess_writes_a_png_of_the_encoders_size_and_does_not_overwrite() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("crop.png");
    let arguments = [
        Path::new("preprocess"),
        &assets("demo"),
        &samples()[0],
        Path::new("--out"),
        &out,
    ];
    let output = pinhole(arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let crop = pinhole::open_image(&out, &Default::default()).unwrap();
    let size = Bundle::open(&assets("demo"))
        .unwrap()
        .manifest()
        .model
        .image_size;
    assert_eq!((crop.width, crop.height), (size, size));
    assert_error(&pinhole(arguments), &["crop.png", "exists"]);
}

#[test]
fn inspect_lists_the_manifest_and_the_kernel_of_each_operator() {
    let output = pinhole([
        Path::new("inspect"),
        &assets("demo"),
        Path::new("--operators"),
        Path::new("--json"),
    ]);
    let inspection: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(inspection["manifest"]["format"], "pinhole-bundle");
    let operators: Vec<&str> = inspection["operators"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["operator"].as_str().unwrap())
        .collect();
    for operator in inspection["operators"].as_array().unwrap() {
        let (name, kernel) = (&operator["operator"], operator["kernel"].as_str().unwrap());
        let ours = kernel.starts_with("f32 ");
        assert_eq!(kernel == "tract", !ours, "{operator}");
        assert!(
            ours || (name != "LayerNorm" && name != "Attention"),
            "{operator}"
        );
    }
    for ours in [
        "PatchEmbedding",
        "LinearQuickGelu",
        "Attention",
        "LayerNorm",
        "L2Normalize",
    ] {
        assert!(operators.contains(&ours), "no {ours} in {operators:?}");
    }
}

/// If this fails, a SigLIP's probabilities are shown as if exactly one class were right, or not named as what they are.
#[test]
fn a_bundle_with_a_sigmoid_shows_each_class_by_itself() {
    let (_folder, bundle) = copy_of_demo();
    let path = bundle.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        !text.contains("\"score\""),
        "demo bundle of an earlier version"
    );
    let score = "{\"sigmoid\": {\"logit_bias\": -9.0, \"calibrated_bias\": -10.0}}";
    let text = text.replacen(
        "\"classes\":",
        &format!("\"score\": {score}, \"classes\":"),
        1,
    );
    fs::write(&path, text).unwrap();
    let manifest = Bundle::open(&bundle).unwrap().manifest().clone();
    let output = pinhole([
        Path::new("classify"),
        &bundle,
        &samples()[0],
        Path::new("--json"),
        Path::new("--top"),
        Path::new("100000"),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["score"], "sigmoid");
    for class in line["top"].as_array().unwrap() {
        let similarity = class["similarity"].as_f64().unwrap();
        let logit =
            (f64::from(manifest.logit_scale) * similarity - 10.0) / f64::from(manifest.temperature);
        let expected = 1.0 / (1.0 + (-logit).exp());
        let found = class["probability"].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-5, "{class}: {expected}");
    }
    let text = stdout(&classify(&bundle));
    assert!(text.contains("; sigmoid, each class by itself)"), "{text}");
    let inspected = stdout(&pinhole([Path::new("inspect"), &bundle]));
    assert!(
        inspected.contains("sigmoid, each class by itself; logit bias -9, calibrated -10"),
        "{inspected}"
    );
}

#[test]
fn unknown_policy_is_applied() {
    let (_folder, bundle) = rewritten(
        "",
        |_| {},
        |manifest| manifest.unknown.min_similarity = Some(0.9999),
    );
    let output = pinhole([
        Path::new("classify"),
        &bundle,
        &samples()[0],
        Path::new("--json"),
    ]);
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["unknown"], true);
}

#[test]
fn paths_that_are_no_bundle_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let missing = classify(&folder.path().join("nowhere"));
    assert_error(&missing, &["nowhere", "found no such folder"]);
    assert_error(&classify(folder.path()), &["manifest.json"]);
    assert_error(
        &classify(&samples()[0]),
        &["expected a folder with", "found a file"],
    );
    let misspelt = classify(&assets("dmo"));
    assert_error(
        &misspelt,
        &["dmo: not a pinhole bundle", "did you mean", "demo?"],
    );
    let locked = pinhole([Path::new("teach"), &assets("dmo"), Path::new("--undo")]);
    assert_error(&locked, &["dmo: not a pinhole bundle", "demo?"]);
}

#[test]
fn truncated_changed_and_missing_files_are_errors_that_name_the_file() {
    let files: Vec<String> = Bundle::open(&assets("demo"))
        .unwrap()
        .manifest()
        .files
        .iter()
        .map(|f| f.path.clone())
        .collect();
    for file in files {
        let (_folder, bundle) = copy_of_demo();
        let path = bundle.join(&file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_error(&classify(&bundle), &[&file, "size"]);
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert_error(&classify(&bundle), &[&file, "sha256"]);
        fs::remove_file(&path).unwrap();
        assert_error(&classify(&bundle), &[&file]);
    }
}

/// Opening a named pipe would block until a writer opens it.
#[test]
#[cfg(unix)]
fn a_named_pipe_in_place_of_a_file_does_not_hang() {
    let (_folder, bundle) = copy_of_demo();
    let path = bundle.join("head.safetensors");
    fs::remove_file(&path).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    assert_error(&classify(&bundle), &["head.safetensors", "regular file"]);
}

#[test]
fn manifest_fields_are_checked() {
    let change = |from: &str, to: &str, parts: &[&str]| {
        let (_folder, bundle) = copy_of_demo();
        let path = bundle.join("manifest.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        assert_error(&classify(&bundle), &[&["manifest.json"], parts].concat());
    };
    change(
        "\"version\": 1",
        "\"version\": 2",
        &["version", "expected 1", "found 2"],
    );
    change("\"pinhole-bundle\"", "\"other\"", &["format"]);
    change(
        "\"temperature\": ",
        "\"temperature\": -",
        &["temperature", "above 0"],
    );
    change("\"logit_scale\"", "\"logit_skale\"", &["logit_skale"]);
    let scored = |score: &str| format!("\"score\": {score}, \"classes\"");
    for (score, parts) in [
        ("\"tanh\"", ["score", "tanh"]),
        ("{\"sigmoid\": {}}", ["score", "logit_bias"]),
        (
            "{\"sigmoid\": {\"logit_bias\": 1e39}}",
            ["score.sigmoid.logit_bias", "a finite number"],
        ),
        (
            "{\"sigmoid\": {\"logit_bias\": 0, \"x\": 0}}",
            ["score", "unknown field `x`"],
        ),
    ] {
        change("\"classes\"", &scored(score), &parts);
    }
    change(
        "\"logit_scale\": ",
        "\"logit_scale\": true, \"x\": ",
        &["field logit_scale: invalid type: boolean"],
    );
    change(
        "\"bytes\": ",
        "\"bytes\": -",
        &["field files[0].bytes: invalid value"],
    );
    change(
        "\"head.safetensors\"",
        "\"../head.safetensors\"",
        &["files", "inside the bundle"],
    );
    change("{", "[", &["valid manifest"]);
}

#[test]
fn contents_are_checked_even_if_the_hashes_are_correct() {
    let no_name = |manifest: &mut Manifest| manifest.classes[1] = " ".into();
    let folder = tempfile::tempdir().unwrap();
    let writer = BundleWriter::create(&folder.path().join("bundle")).unwrap();
    let mut manifest = Bundle::open(&assets("demo")).unwrap().manifest().clone();
    no_name(&mut manifest);
    let message = writer.finish(&mut manifest).unwrap_err().to_string();
    assert!(message.contains("classes[1]"), "{message}");

    // A NaN in a class embedding: the last four bytes of the head.
    let (_folder, bundle) = rewritten(
        "head.safetensors",
        |bytes| {
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        },
        |_| {},
    );
    assert_error(
        &classify(&bundle),
        &["head.safetensors", "class_embeddings", "norm"],
    );

    // One class fewer than the head has rows.
    let (_folder, bundle) = rewritten("", |_| {}, |manifest| drop(manifest.classes.pop()));
    assert_error(
        &classify(&bundle),
        &["head.safetensors", "class_embeddings"],
    );

    // Not ONNX, truncated ONNX, and another image size than in the manifest.
    let (_folder, bundle) = rewritten(
        "image_encoder.onnx",
        |bytes| *bytes = b"hello".to_vec(),
        |_| {},
    );
    assert_error(&classify(&bundle), &["image_encoder.onnx"]);
    let (_folder, bundle) = rewritten(
        "image_encoder.onnx",
        |bytes| bytes.truncate(bytes.len() / 2),
        |_| {},
    );
    assert_error(&classify(&bundle), &["image_encoder.onnx"]);
    let (_folder, bundle) = rewritten(
        "",
        |_| {},
        |manifest| {
            manifest.model.image_size += 8;
            manifest.preprocessing.size += 8;
        },
    );
    assert_error(&classify(&bundle), &["image_encoder.onnx", "pixels"]);
}

#[test]
fn bad_images_are_errors_that_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    // A PNG of 60,000 x 60,000 pixels with correct checksums and no pixel data.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xea\x60\0\0\xea\x60\x08\x02\0\0\0".to_vec();
    png.extend(crc32(&png[12..29]).to_be_bytes());
    png.extend(b"\0\0\0\0IDAT");
    png.extend(crc32(b"IDAT").to_be_bytes());
    for (name, bytes, part) in [
        ("empty.jpg", &b""[..], "empty"),
        ("text.jpg", b"plain text, not an image", "text.jpg"),
        ("huge.png", &png, "60000"),
        ("cut.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0", "cut.jpg"),
    ] {
        let path = file(name, bytes);
        assert_error(
            &pinhole([Path::new("classify"), &assets("demo"), &path]),
            &[name, part],
        );
    }
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_error(
        &pinhole([Path::new("classify"), &assets("demo"), &empty]),
        &["empty: expected JPEG", "found none"],
    );
}

#[test]
fn a_folder_stands_for_its_images() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("day")).unwrap();
    for name in ["b.png", "a.PNG", "day/c.png"] {
        fs::copy(&samples()[0], folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("notes.txt"), "not an image").unwrap();
    for command in ["classify", "embed"] {
        let arguments = [
            Path::new(command),
            &assets("demo"),
            folder.path(),
            &samples()[0],
            Path::new("--json"),
        ];
        let output = pinhole(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let images: Vec<String> = (stdout(&output).lines())
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| line["image"].as_str().unwrap().to_owned())
            .collect();
        let found = |name: &str| folder.path().join(name).display().to_string();
        let sample = samples()[0].display().to_string();
        assert_eq!(
            images,
            [found("a.PNG"), found("b.png"), found("day/c.png"), sample]
        );
    }
}

/// Each error says what was given, and what to do.
#[test]
fn natural_mistakes_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("model.onnx"), b"\x08\x08\x12\x07pytorch").unwrap();
    fs::write(path("ViT-B-32.pt"), b"PK\x03\x04").unwrap();
    fs::write(path("weights"), b"PK\x03\x04").unwrap();
    for sub in ["hub", "photos", "bundles"] {
        fs::create_dir(path(sub)).unwrap();
    }
    fs::write(path("hub/model.safetensors"), b"").unwrap();
    fs::copy(&samples()[0], path("photos/a.png")).unwrap();
    std::os::unix::fs::symlink(
        fs::canonicalize(assets("demo")).unwrap(),
        path("bundles/demo"),
    )
    .unwrap();
    let order = "the bundle comes first: `pinhole classify BUNDLE IMAGE...`";
    for (bundle, parts) in [
        (samples()[0].clone(), &["found a file", order][..]),
        (path("photos"), &["it holds images", order]),
        (
            path("model.onnx"),
            &["this is an ONNX file", "pinhole-export onnx --encoder"],
        ),
        (
            path("ViT-B-32.pt"),
            &["this is a checkpoint", "pinhole-export bundle --clip"],
        ),
        (
            path("weights"),
            &["may be a checkpoint", "pinhole-export bundle --clip"],
        ),
        (
            path("hub"),
            &["it holds a checkpoint", "pinhole-export bundle --clip"],
        ),
        (path("bundles"), &["bundles/demo is a bundle"]),
        (
            assets("demo/manifest.json"),
            &["give the folder that holds it"],
        ),
        ("openai/clip-vit-base-patch32".into(), &["Hugging Face hub"]),
        (
            "hf:openai/clip-vit-base-patch32".into(),
            &["Hugging Face hub"],
        ),
    ] {
        let output = classify(&bundle);
        assert_error(&output, parts);
        let output = pinhole([Path::new("classes"), &bundle]);
        assert_error(&output, parts);
    }
    let classify =
        |image: &str| pinhole([Path::new("classify"), &assets("demo"), Path::new(image)]);
    let demo = assets("demo").display().to_string();
    assert_error(
        &classify(&demo),
        &["expected an image, found a bundle", order],
    );
    let output = classify("http://cam/still?pwd=s3cret");
    assert_fails(
        &output,
        2,
        &["http://cam/still?...: expected an image file, found a URL"],
    );
    let output = pinhole(["classify", "bundle", "photo.jpg", "--threshold", "0.5"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("pinhole-export calibrate"),
        "{}",
        stderr(&output)
    );
}

/// Stderr and stdout that are full or closed.
#[test]
fn broken_standard_streams_do_not_panic() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let closed = || std::io::pipe().unwrap().1;
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole"));
        command.arg("classify").arg(assets("demo"));
        command.arg("no-such.jpg").args(samples()).arg("--json");
        command
    };
    for stderr in [std::process::Stdio::from(full()), closed().into()] {
        let output = command().stderr(stderr).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stdout(&output).lines().count(), samples().len());
    }
    let output = command().stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(
        message.ends_with(
            "error: standard output: cannot write: No space left on device (os error 28)\n"
        ),
        "{message}"
    );
    assert_eq!(message.lines().count(), 2, "{message}");
    let output = command().stdout(closed()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
}

/// Class names and model cards come from files of others.
#[test]
fn a_bundle_cannot_control_the_terminal() {
    let (_folder, bundle) = rewritten(
        "",
        |_| {},
        |manifest| {
            manifest
                .classes
                .iter_mut()
                .for_each(|class| class.push_str("\x1b[31m\u{9b}2J"));
            manifest.model_card = "two\nlines\x1b]0;title\x07".into();
        },
    );
    let run = |command: &[&str]| {
        let mut arguments = vec![Path::new(command[0]), &bundle];
        arguments.extend(command[1..].iter().map(Path::new));
        let output = pinhole(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n'),
            "{text:?}"
        );
        text
    };
    let sample = samples()[0].display().to_string();
    assert!(run(&["classify", &sample]).contains("\\x1b[31m\\xc2\\x9b2J"));
    let line: Value = serde_json::from_str(&run(&["classify", &sample, "--json"])).unwrap();
    assert!(
        line["top"][0]["class"]
            .as_str()
            .unwrap()
            .ends_with("\x1b[31m\u{9b}2J")
    );
    assert!(run(&["inspect"]).contains("two\nlines\\x1b]0;title\\x07\n"));
    run(&["classes"]);
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| {
            if c & 1 == 1 {
                c >> 1 ^ 0xedb8_8320
            } else {
                c >> 1
            }
        })
    })
}

#[test]
fn classes_are_listed_and_need_a_text_encoder_to_change() {
    let output = pinhole([Path::new("classes"), &assets("demo")]);
    let names = String::from_utf8(output.stdout).unwrap();
    assert_eq!(names.lines().count(), 64);
    assert!(names.lines().any(|name| name == "red circle"));
    let output = pinhole([
        Path::new("classes"),
        &assets("demo"),
        Path::new("--add"),
        Path::new("black dot"),
    ]);
    assert_error(&output, &["demo", "--with-text"]);
    let output = pinhole([
        Path::new("classes"),
        &assets("demo"),
        Path::new("--add"),
        Path::new("unknown"),
    ]);
    assert_fails(&output, 2, &["\"unknown\" is reserved"]);
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.txt");
    fs::write(&list, "red circle\nblue\x1b[31m dot\n").unwrap();
    let set = |list: &Path| {
        pinhole([
            Path::new("classes"),
            &assets("demo"),
            Path::new("--set"),
            list,
        ])
    };
    assert_error(&set(&list), &["list.txt:2", "U+001B"]);
    assert_error(
        &set(Path::new("red,blue")),
        &["red,blue: no such file", "printf"],
    );
}

/// A class is its index, not its name.
#[test]
fn a_bundle_with_equal_class_names_is_read() {
    let same = |manifest: &mut Manifest| manifest.classes.fill("circle".into());
    let (_folder, bundle) = rewritten("", |_| {}, same);
    let output = pinhole([
        Path::new("classify"),
        &bundle,
        &samples()[0],
        Path::new("--json"),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    let top = line["top"].as_array().unwrap();
    assert!(top.iter().all(|entry| entry["class"] == "circle"));
    assert_ne!(top[0]["index"], top[1]["index"]);
}

#[test]
fn a_static_head_has_no_conditional_modes() {
    let output = pinhole([
        Path::new("classify"),
        &assets("demo"),
        &samples()[0],
        Path::new("--conditional"),
        Path::new("linear"),
    ]);
    assert_error(&output, &["demo", "--conditional", "static"]);
}
