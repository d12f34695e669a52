//! `pinhole teach` on the demo bundle.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn assets(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../assets")
        .join(path)
}

fn sample(name: &str) -> PathBuf {
    assets("samples").join(format!("{name}.png"))
}

struct Scene {
    folder: tempfile::TempDir,
    bundle: PathBuf,
}

impl Scene {
    /// A copy of the demo bundle.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("bundle");
        let copied = Command::new("cp")
            .arg("-r")
            .arg(assets("demo"))
            .arg(&bundle)
            .status();
        assert!(copied.unwrap().success());
        Self { folder, bundle }
    }

    fn teach(&self, arguments: &[&str], images: &[PathBuf]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_pinhole"))
            .arg("teach")
            .arg(&self.bundle)
            .args(arguments)
            .args(images)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn taught(&self, arguments: &[&str], images: &[PathBuf]) -> String {
        let output = self.teach(arguments, images);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str], images: &[PathBuf]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.taught(&arguments, images)).unwrap()
    }

    #[track_caller]
    fn refused(&self, code: i32, arguments: &[&str], images: &[PathBuf], parts: &[&str]) {
        let before = fs::read(self.bundle.join("manifest.json")).unwrap();
        let output = self.teach(arguments, images);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert_eq!(output.stdout, b"");
        for part in parts {
            assert!(message.contains(part), "expected {part:?} in: {message}");
        }
        assert_eq!(fs::read(self.bundle.join("manifest.json")).unwrap(), before);
    }
}

#[test]
fn classes_are_taught_listed_evaluated_removed_and_undone() {
    let scene = Scene::new();
    let hearts = [sample("red-heart"), sample("white-heart")];
    let line = scene.taught(&["--class", "any heart"], &hearts);
    assert!(
        line.contains("65 classes") && line.contains("2 examples"),
        "{line}"
    );
    assert!(line.contains("leave-one-out accuracy"), "{line}");
    let stars = [
        sample("red-star"),
        sample("green-star"),
        sample("purple-star"),
    ];
    let json = scene.json(&["--class", "any star"], &stars);
    let classes = json["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 66);
    assert_eq!(classes[65]["class"], "any star");
    let examples = classes[65]["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 3);
    assert!(examples[0]["time"].as_str().unwrap().ends_with('Z'));
    assert!(classes[65]["accuracy"].is_number() && json["accuracy"].is_number());
    assert_eq!(json["accuracies"].as_array().unwrap().len(), 2);
    assert_eq!(json["undo_steps"], 2);
    // Other classes are known by their text alone.
    let list = scene.taught(&["--list"], &[]);
    assert!(list.contains("64 classes by their text alone"), "{list}");

    let photos = scene.folder.path().join("photos");
    for (class, files) in [("any_star", &stars[..]), ("red heart", &hearts[..1])] {
        fs::create_dir_all(photos.join(class)).unwrap();
        for file in files {
            fs::copy(file, photos.join(class).join(file.file_name().unwrap())).unwrap();
        }
    }
    fs::create_dir(photos.join("other")).unwrap();
    fs::copy(sample("blue-square"), photos.join("other/a.png")).unwrap();
    let found = scene.json(&["--evaluate", photos.to_str().unwrap()], &[]);
    assert_eq!(
        (&found["images"], &found["strangers"]),
        (&4.into(), &1.into())
    );
    assert_eq!(found["classes"].as_array().unwrap().len(), 2);
    assert!(found["accuracy"].as_f64().unwrap() > 0.5, "{found}");

    let id = examples[1]["id"].to_string();
    let json = scene.json(&["--remove-example", &id], &[]);
    assert_eq!(json["classes"][65]["examples"].as_array().unwrap().len(), 2);
    let json = scene.json(&["--remove", "any star"], &[]);
    assert_eq!(json["classes"].as_array().unwrap().len(), 65);
    let json = scene.json(&["--undo"], &[]);
    assert_eq!(json["classes"][65]["examples"].as_array().unwrap().len(), 2);
    for _ in 0..3 {
        scene.taught(&["--undo"], &[]);
    }
    let list = scene.taught(&["--list"], &[]);
    assert!(list.contains("64 classes, zero-shot head\n"), "{list}");
    scene.refused(1, &["--undo"], &[], &["a step to undo"]);
}

#[test]
fn photos_are_kept_on_request_only() {
    let scene = Scene::new();
    let photos = scene.folder.path().join("photos");
    let keep = [
        "--class",
        "../a/b",
        "--keep-photos",
        photos.to_str().unwrap(),
    ];
    for _ in 0..2 {
        scene.taught(&keep, &[sample("red-heart")]);
    }
    let kept = photos.join("_._a_b");
    let mut names: Vec<_> = fs::read_dir(&kept)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["2-red-heart.png", "red-heart.png"]);
    let bundle = fs::read_dir(&scene.bundle).unwrap();
    let images = bundle.filter(|e| e.as_ref().unwrap().path().extension() == Some("png".as_ref()));
    assert_eq!(images.count(), 0);
    // What fails changes nothing.
    let taken = scene.folder.path().join("taken");
    fs::write(&taken, "a file").unwrap();
    let keep = ["--class", "c", "--keep-photos", taken.to_str().unwrap()];
    scene.refused(
        1,
        &keep,
        &[sample("red-heart")],
        &["--keep-photos", "taken"],
    );
    let list = scene.taught(&["--list"], &[]);
    assert!(list.contains("65 classes"), "{list}");
}

#[test]
fn what_is_none_of_the_classes_is_unknown() {
    let scene = Scene::new();
    let shown = ["blue-square", "blue-square", "orange-cross", "orange-cross"].map(sample);
    scene.taught(&["--none"], &shown);
    let output = Command::new(env!("CARGO_BIN_EXE_pinhole"))
        .arg("classify")
        .arg(&scene.bundle)
        .arg(sample("blue-square"))
        .arg("--json")
        .output()
        .unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["unknown"], true, "{line}");
}

#[test]
fn mistakes_are_errors_and_the_bundle_stays() {
    let scene = Scene::new();
    let heart = [sample("red-heart")];
    scene.refused(2, &[], &[], &["--class"]);
    scene.refused(2, &["--list"], &heart, &["--list"]);
    scene.refused(2, &["--none"], &[], &["IMAGE"]);
    scene.refused(2, &["--undo", "--list"], &[], &["cannot be used with"]);
    scene.refused(
        1,
        &["--remove", "mug"],
        &[],
        &["\"mug\"", "one of its classes"],
    );
    scene.refused(1, &["--remove-example", "7"], &[], &["found 7"]);
    scene.refused(
        1,
        &["--class", "red heart"],
        &[],
        &["\"red heart\" among its classes"],
    );
    scene.refused(2, &["--class", "unknown"], &heart, &["reserved"]);
    scene.refused(
        1,
        &["--class", "mug", "--text", "cup"],
        &heart,
        &["--with-text"],
    );
    let known = ["--class", "red heart", "--text", "cup"];
    scene.refused(1, &known, &heart, &["--text: expected a new class"]);
    let missing = [sample("red-heart"), "missing.png".into()];
    scene.refused(1, &["--class", "mug"], &missing, &["missing.png"]);
    let empty = scene.folder.path().to_str().unwrap();
    scene.refused(
        1,
        &["--evaluate", empty],
        &[],
        &["folders named after classes"],
    );
    let no_bundle = Command::new(env!("CARGO_BIN_EXE_pinhole"))
        .args(["teach", "missing", "--list"])
        .output()
        .unwrap();
    assert_eq!(no_bundle.status.code(), Some(1));
}
