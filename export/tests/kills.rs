//! Exports and changes of classes that are killed, run out of space or may not write: what is there is whole, and what
//! was reported as done is there.

mod common;
#[path = "../../tests/kill/kills.rs"]
mod kills;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{INT8, Scene, checkpoint};
use kills::{Spread, kills, temporaries, with_mounts, with_small_files, without_privileges};
use pinhole::{Bundle, Classes, Classifier, LockedBundle, change_classes};
use pinhole_bundle::BundleWriter;

fn export(scene: &Scene, extra: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-export"));
    command
        .arg("bundle")
        .arg("--clip")
        .arg(checkpoint())
        .arg("--classes")
        .arg(scene.path("classes.txt"))
        .arg("--out")
        .arg(scene.path("bundle"))
        .arg("--with-text")
        .args(extra);
    command
}

/// A bundle with its text encoder, and a user's notes in its folder.
fn scene_with_bundle() -> Scene {
    let scene = Scene::new("cat\ndog\n");
    let output = export(&scene, &[]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::write(scene.path("bundle/notes.txt"), "mine").unwrap();
    scene
}

/// Every file is whole, the text encoder too.
#[track_caller]
fn open_whole(folder: &Path) -> Bundle {
    let bundle = Bundle::open(folder).unwrap();
    bundle.check_text_encoder().unwrap();
    bundle
}

/// Adds a class to those that the bundle has.
fn add(folder: &Path, name: &str) -> Result<(), pinhole::Error> {
    let locked = LockedBundle::open(folder, &mut |_| {})?;
    let mut names = locked.bundle().manifest().classes.clone();
    names.push(name.into());
    change_classes(locked, &Classes::new(names)?, Some(1), &mut |_, _| {})?;
    Ok(())
}

#[test]
fn a_killed_export_leaves_a_whole_bundle_or_none() {
    let scene = Scene::new("cat\ndog\n");
    // int8 writes a second encoder, to compare with.
    let command = || export(&scene, &INT8);
    let bundle = scene.path("bundle");
    let mut spread = Spread::measure(&mut command());
    let (mut killed, mut left) = (0, 0);
    let count = kills(4);
    while killed < count {
        if bundle.exists() {
            fs::remove_dir_all(&bundle).unwrap();
        }
        match spread.kill(&mut command()) {
            Some(output) => assert!(output.status.success(), "{output:?}"),
            None => killed += 1,
        }
        if bundle.exists() {
            open_whole(&bundle);
        }
        // The next export removes what the last one left.
        let temporaries = temporaries(scene.folder.path());
        assert!(temporaries.len() <= 1, "{temporaries:?}");
        left += temporaries.len();
    }
    println!("{killed} kills of an export, {left} left a temporary folder");
    if bundle.exists() {
        fs::remove_dir_all(&bundle).unwrap();
    }
    assert!(command().output().unwrap().status.success());
    assert_eq!(temporaries(scene.folder.path()), [] as [PathBuf; 0]);
    let files = fs::read_dir(&bundle).unwrap();
    let files: BTreeSet<_> = files.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !files
            .iter()
            .any(|name| name.to_string_lossy().starts_with('.')),
        "{files:?}"
    );
}

const FOLDER: &str = "PINHOLE_TEST_BUNDLE";
const NAME: &str = "PINHOLE_TEST_CLASS";

/// This program, to add a class.
fn adding(folder: &Path, name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "adds_a_class", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(NAME, name);
    command
}

#[test]
#[ignore = "started by tests of this file"]
fn adds_a_class() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("started by a test"));
    let name = std::env::var(NAME).unwrap();
    add(&folder, &name).unwrap();
    println!("added {name}.");
}

#[test]
#[ignore = "started by tests of this file"]
fn prints_classes() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("started by a test"));
    println!("classes: {:?}", open_whole(&folder).manifest().classes);
}

#[test]
fn a_killed_change_of_classes_leaves_the_old_bundle_or_the_new_one() {
    let scene = scene_with_bundle();
    let bundle = scene.path("bundle");
    let mut spread = Spread::measure(&mut adding(&bundle, "first"));
    let mut expected = open_whole(&bundle).manifest().classes.clone();
    assert_eq!(expected, ["cat", "dog", "first"]);
    let (mut killed, mut changed) = (0, 0);
    let count = kills(8);
    for round in 0.. {
        if killed == count {
            break;
        }
        let name = format!("class {round}");
        let ended = spread.kill(&mut adding(&bundle, &name));
        let found = open_whole(&bundle).manifest().classes.clone();
        let mut with_new = expected.clone();
        with_new.push(name);
        match ended {
            Some(output) => {
                assert!(output.status.success(), "{output:?}");
                assert_eq!(found, with_new, "reported as done");
            }
            None => {
                killed += 1;
                changed += u32::from(found == with_new);
                assert!(found == expected || found == with_new, "{found:?}");
            }
        }
        assert_eq!(fs::read(bundle.join("notes.txt")).unwrap(), b"mine");
        assert!(temporaries(scene.folder.path()).len() <= 1);
        // Few classes, so that each round takes as long as the first.
        expected = found;
        if expected.len() > 8 {
            fs::remove_dir_all(&bundle).unwrap();
            assert!(export(&scene, &[]).output().unwrap().status.success());
            fs::write(bundle.join("notes.txt"), "mine").unwrap();
            expected = open_whole(&bundle).manifest().classes.clone();
        }
    }
    println!("{killed} kills of a change of classes, {changed} after the exchange");
    add(&bundle, "last").unwrap();
    assert_eq!(temporaries(scene.folder.path()), [] as [PathBuf; 0]);
}

/// Eight reported success, and one class was there.
#[test]
fn classes_that_are_added_at_once_are_all_there() {
    let scene = scene_with_bundle();
    let bundle = scene.path("bundle");
    let names: Vec<String> = (0..8).map(|i| format!("class {i}")).collect();
    let children: Vec<_> = names
        .iter()
        .map(|name| adding(&bundle, name).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let found: BTreeSet<String> = (open_whole(&bundle).manifest().classes)
        .iter()
        .cloned()
        .collect();
    let expected = names.into_iter().chain(["cat".into(), "dog".into()]);
    assert_eq!(found, expected.collect());
    assert_eq!(temporaries(scene.folder.path()), [] as [PathBuf; 0]);
}

/// 4 of 134 failed: with a manifest of one bundle and a head of the next, or files that were gone.
#[test]
fn readers_do_not_fail_while_a_bundle_is_replaced() {
    let scene = scene_with_bundle();
    let path = scene.path("bundle");
    let first = open_whole(&path);
    add(&path, "owl").unwrap();
    let second = open_whole(&path);
    let done = AtomicBool::new(false);
    let until_done = |read: &dyn Fn()| {
        let mut reads = 0;
        while !done.load(Ordering::Relaxed) {
            read();
            reads += 1;
        }
        reads
    };
    let classify = || {
        let classifier = Classifier::builder().threads(1).open(&path).unwrap();
        assert!(classifier.self_test().unwrap().passed());
    };
    let open = || drop(Bundle::open(&path).unwrap());
    std::thread::scope(|scope| {
        let classified = scope.spawn(|| until_done(&classify));
        let opened = [(); 2].map(|()| scope.spawn(|| until_done(&open)));
        for round in 0..100 {
            let next = [&first, &second][round % 2];
            let locked = LockedBundle::open(&path, &mut |_| {}).unwrap();
            let writer = BundleWriter::succeed(&locked).unwrap();
            writer.add_head(next.head()).unwrap();
            writer.replace(&mut next.manifest().clone()).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let classified = classified.join().unwrap();
        let opened: i32 = opened.map(|reader| reader.join().unwrap()).iter().sum();
        println!("{classified} classifiers and {opened} bundles opened during 100 replacements");
        assert!(classified > 0 && opened > 0);
    });
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The text encoder was written with 0600: another user could not open a bundle exported with --with-text.
#[test]
fn a_bundle_has_the_permissions_of_new_files_and_keeps_those_it_was_given() {
    let scene = scene_with_bundle();
    let bundle = scene.path("bundle");
    fs::write(scene.path("plain"), "").unwrap();
    fs::create_dir(scene.path("folder")).unwrap();
    let (file, folder) = (mode(&scene.path("plain")), mode(&scene.path("folder")));
    let files: Vec<PathBuf> = (open_whole(&bundle).manifest().files.iter())
        .map(|file| bundle.join(&file.path))
        .chain([bundle.join("manifest.json")])
        .collect();
    for path in &files {
        assert_eq!(mode(path), file, "{path:?}");
    }
    assert_eq!(mode(&bundle), folder);
    assert_eq!(mode(&bundle.join("golden")), folder);

    for path in &files {
        fs::set_permissions(path, Permissions::from_mode(0o664)).unwrap();
    }
    fs::set_permissions(&bundle, Permissions::from_mode(0o775)).unwrap();
    // A private umask must not make the bundle unreadable for its users.
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]);
    let adding = adding(&bundle, "owl");
    command.arg(adding.get_program()).args(adding.get_args());
    for (name, value) in adding.get_envs() {
        command.env(name, value.unwrap());
    }
    assert!(command.output().unwrap().status.success());
    assert_eq!(
        open_whole(&bundle).manifest().classes.last().unwrap(),
        "owl"
    );
    for path in &files {
        assert_eq!(mode(path), 0o664, "{path:?}");
    }
    assert_eq!(mode(&bundle), 0o775);
    assert_eq!(mode(&bundle.join("notes.txt")), file);
}

/// Images are classified without the text encoder, so its state is not asked for.
#[test]
fn a_static_head_needs_no_text_encoder() {
    let scene = scene_with_bundle();
    let bundle = scene.path("bundle");
    let text_encoder = bundle.join("text_encoder.safetensors");
    let bytes = fs::read(&text_encoder).unwrap();
    fs::write(&text_encoder, &bytes[1..]).unwrap();
    Classifier::open(&bundle).unwrap();
    let error = add(&bundle, "owl").unwrap_err().to_string();
    assert!(
        error.contains("text_encoder.safetensors: field size"),
        "{error}"
    );
    fs::remove_file(&text_encoder).unwrap();
    Classifier::open(&bundle).unwrap();
    let error = add(&bundle, "owl").unwrap_err().to_string();
    assert!(error.contains("text_encoder.safetensors"), "{error}");
}

/// A full disk: nothing half-written is left, and a bundle stays as it was.
#[test]
fn a_full_disk_leaves_nothing_new_and_the_old_bundle() {
    let scene = Scene::new("cat\ndog\n");
    // Enough for the first files, but not for all.
    for blocks in [1, 100, 1000] {
        let output = with_small_files(&export(&scene, &[]), blocks)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("File too large"), "{error}");
        assert!(!scene.path("bundle").exists());
        assert_eq!(temporaries(scene.folder.path()), [] as [PathBuf; 0]);
    }
    let scene = scene_with_bundle();
    let before = open_whole(&scene.path("bundle"));
    let output = with_small_files(&adding(&scene.path("bundle"), "owl"), 1)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    let after = open_whole(&scene.path("bundle"));
    assert_eq!(after.manifest(), before.manifest());
    assert_eq!(temporaries(scene.folder.path()), [] as [PathBuf; 0]);
}

#[test]
fn a_folder_that_may_not_be_written_is_named_and_left_as_it_is() {
    let scene = scene_with_bundle();
    let bundle = scene.path("bundle");
    let before = open_whole(&bundle);
    // For the program as another user.
    fs::set_permissions(scene.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let program = scene.path("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    let adding = adding(&bundle, "owl");
    command.args(adding.get_args());
    for (name, value) in adding.get_envs() {
        command.env(name, value.unwrap());
    }
    without_privileges(&mut command, scene.folder.path());
    fs::set_permissions(scene.folder.path(), Permissions::from_mode(0o555)).unwrap();
    let output = command.output().unwrap();
    fs::set_permissions(scene.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        printed.contains("cannot create the bundle in this folder")
            && printed.contains("ermission"),
        "{printed}"
    );
    assert_eq!(open_whole(&bundle).manifest(), before.manifest());
    assert_eq!(temporaries(scene.folder.path()), [] as [PathBuf; 0]);
}

/// Real file systems: full, read-only, and mounted at the bundle itself.
#[test]
fn a_full_or_read_only_disk_or_a_mount_point_keeps_the_bundle() {
    let script = r#"
        mount -t tmpfs -o size=32m tmpfs "$DISK"
        cp -a "$BUNDLE" "$PINHOLE_TEST_BUNDLE"
        add() {
            export PINHOLE_TEST_CLASS=$1
            "$PROGRAM" --exact adds_a_class --ignored --nocapture 2>&1 && code=0 || code=$?
            echo "$1: $code"
            echo "left: $(ls -A "$DISK" | tr '\n' ' ')"
            "$PROGRAM" --exact prints_classes --ignored --nocapture
        }
        cat /dev/zero > "$DISK/fill" 2> /dev/null || true
        add full
        rm "$DISK/fill"
        mount -o remount,ro "$DISK"
        add read-only
        mount -o remount,rw "$DISK"
        mount --bind "$PINHOLE_TEST_BUNDLE" "$PINHOLE_TEST_BUNDLE"
        add mounted
        umount "$PINHOLE_TEST_BUNDLE"
        add owl
    "#;
    let scene = scene_with_bundle();
    let (disk, program) = (scene.path("disk"), std::env::current_exe().unwrap());
    fs::create_dir(&disk).unwrap();
    let environment: [(&str, &Path); 4] = [
        ("DISK", &disk),
        ("BUNDLE", &scene.path("bundle")),
        (FOLDER, &disk.join("bundle")),
        ("PROGRAM", &program),
    ];
    let Some(output) = with_mounts(script, &environment) else {
        return;
    };
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let mut at = 0;
    for (part, classes) in [
        ("No space left on device", r#"["cat", "dog"]"#),
        ("ReadOnlyFilesystem", r#"["cat", "dog"]"#),
        ("it is a mount point", r#"["cat", "dog"]"#),
        ("added owl.", r#"["cat", "dog", "owl"]"#),
    ] {
        for part in [part, &format!("classes: {classes}")] {
            let found = printed[at..].find(part);
            at += found.unwrap_or_else(|| panic!("expected {part} in {printed}"));
        }
    }
    for part in ["full: 101", "read-only: 101", "mounted: 101", "owl: 0"] {
        assert!(printed.contains(part), "{printed}");
    }
    let left = printed.lines().filter(|line| line.starts_with("left: "));
    assert!(left.map(str::trim).eq([
        "left: bundle fill",
        "left: bundle",
        "left: bundle",
        "left: bundle"
    ]));
}

/// As with a limit of the file size, on a real file system.
#[test]
fn an_export_to_a_full_disk_leaves_nothing() {
    let script = r#"
        mount -t tmpfs -o size=4m tmpfs "$DISK"
        "$PROGRAM" bundle --clip "$CLIP" --classes "$CLASSES" --with-text --out "$DISK/bundle" 2>&1 && code=0 || code=$?
        echo "code $code, left: $(ls -A "$DISK")."
    "#;
    let scene = Scene::new("cat\ndog\n");
    let disk = scene.path("disk");
    fs::create_dir(&disk).unwrap();
    let environment: [(&str, &Path); 4] = [
        ("DISK", &disk),
        ("PROGRAM", Path::new(env!("CARGO_BIN_EXE_pinhole-export"))),
        ("CLIP", &checkpoint()),
        ("CLASSES", &scene.path("classes.txt")),
    ];
    let Some(output) = with_mounts(script, &environment) else {
        return;
    };
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        printed.contains("No space left on device") && printed.contains("code 1, left: ."),
        "{output:?}"
    );
}
