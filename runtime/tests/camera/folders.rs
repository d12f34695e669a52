//! Folders of images: what is one image, which files are read, and files that change often. The classifier is a stub.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pinhole::camera::{Camera, CameraOptions, FrameSource, SourceEventKind};

use crate::support::{CameraRun, by_grey, jpeg, run, run_with};

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Watches `folder` while `change` runs, and a moment longer.
fn watch(folder: &Path, change: impl FnOnce() + Send) -> CameraRun {
    let options = CameraOptions {
        timeout: None,
        ..Default::default()
    };
    let camera = Camera::open(FrameSource::watched_folder(folder), options).unwrap();
    let stop_handle = camera.stop_handle();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            pause(300);
            change();
            pause(700);
            stop_handle.stop();
        });
        run_with(camera, by_grey)
    })
}

fn files(ran: &CameraRun, folder: &Path) -> Vec<String> {
    (ran.answers.iter())
        .map(|answer| answer.file.clone().unwrap())
        .map(|file| file.strip_prefix(folder).unwrap().display().to_string())
        .collect()
}

/// A snapshot that a camera program replaces ten times a second, by a rename or in place.
#[test]
fn a_file_that_changes_ten_times_a_second_is_read() {
    for rename in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let ran = watch(path, || {
            for version in 0..20 {
                let image = jpeg(if version == 19 { 200 } else { 40 }, 320, 240 + version);
                if rename {
                    std::fs::write(path.join(".snapshot"), image).unwrap();
                    std::fs::rename(path.join(".snapshot"), path.join("cam.jpg")).unwrap();
                } else {
                    std::fs::write(path.join("cam.jpg"), image).unwrap();
                }
                pause(100);
            }
        });
        let classes = ran.classes();
        // A busy machine may miss some, but not the last.
        assert!(
            classes.len() > 10 && classes.len() <= 20,
            "rename {rename}: {classes:?}"
        );
        assert_eq!(classes.last(), Some(&"white"), "rename {rename}");
        assert_eq!(ran.counters.corrupt, 0, "{}", ran.reasons());
    }
}

/// The same bytes again, with times that look old: it is another file.
#[test]
fn a_copy_with_the_old_times_is_a_new_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    std::fs::write(&path, jpeg(40, 64, 64)).unwrap();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let ran = watch(folder.path(), || {
        let other = jpeg(44, 64, 64);
        assert_eq!(other.len() as u64, std::fs::metadata(&path).unwrap().len());
        std::fs::write(&path, other).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(modified).unwrap();
    });
    assert!(ran.answers.len() >= 2, "{:?}", files(&ran, folder.path()));
}

/// Names, links and permissions of a file change without a new image.
#[test]
fn a_file_is_one_image_under_all_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("cam1.jpg"), jpeg(40, 64, 64)).unwrap();
    std::os::unix::fs::symlink("cam1.jpg", path("Latest.jpg")).unwrap();
    std::fs::hard_link(path("cam1.jpg"), path("hard.jpg")).unwrap();
    let ran = run(FrameSource::folder(folder.path()), CameraOptions::default());
    assert_eq!(files(&ran, folder.path()), ["cam1.jpg"]);
    let ran = watch(folder.path(), || {
        std::fs::rename(path("hard.jpg"), path("renamed.jpg")).unwrap();
        let mut read_only = std::fs::metadata(path("cam1.jpg")).unwrap().permissions();
        read_only.set_readonly(true);
        std::fs::set_permissions(path("cam1.jpg"), read_only).unwrap();
        std::fs::hard_link(path("cam1.jpg"), path("again.jpg")).unwrap();
        std::fs::write(path("cam2.jpg"), jpeg(200, 64, 64)).unwrap();
        std::fs::remove_file(path("Latest.jpg")).unwrap();
        std::os::unix::fs::symlink("cam2.jpg", path("Latest.jpg")).unwrap();
    });
    assert_eq!(files(&ran, folder.path()), ["cam1.jpg", "cam2.jpg"]);
}

/// A link to a file elsewhere is read when it points to another file, and when that file changes.
#[test]
fn a_link_to_a_file_elsewhere_is_followed() {
    let (folder, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stored = |name: &str| store.path().join(name);
    std::fs::write(stored("1.jpg"), jpeg(40, 64, 64)).unwrap();
    std::fs::write(stored("2.jpg"), jpeg(100, 64, 64)).unwrap();
    let link = |name: &str| {
        std::os::unix::fs::symlink(stored(name), folder.path().join(".new")).unwrap();
        std::fs::rename(folder.path().join(".new"), folder.path().join("latest.jpg")).unwrap();
    };
    link("1.jpg");
    let ran = watch(folder.path(), || {
        link("2.jpg");
        pause(500);
        std::fs::write(stored("2.jpg"), jpeg(200, 64, 64)).unwrap();
        pause(500);
    });
    assert_eq!(ran.classes(), ["black", "dark", "white"]);
}

/// A folder per day.
/// Opening it would wait for a writer.
#[test]
fn a_named_pipe_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let ran = watch(path, || {
        let made = std::process::Command::new("mkfifo")
            .arg(path.join("pipe.jpg"))
            .status();
        assert!(made.unwrap().success());
        pause(500);
        std::fs::write(path.join("file.jpg"), jpeg(40, 64, 64)).unwrap();
    });
    assert_eq!(files(&ran, path), ["file.jpg"]);
}

#[test]
fn a_link_to_a_folder_is_followed_when_it_appears() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(other.path().join("a.jpg"), jpeg(40, 64, 64)).unwrap();
    let link = folder.path().join("today");
    let ran = watch(folder.path(), || {
        std::os::unix::fs::symlink(other.path(), &link).unwrap();
    });
    assert_eq!(files(&ran, folder.path()), ["today/a.jpg"]);
}

#[test]
fn subfolders_are_read_and_watched() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, grey: u8| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, jpeg(grey, 64, 64)).unwrap();
    };
    write("2026-01-02/b.jpg", 100);
    write("2026-01-01/c.jpg", 40);
    write("z.jpg", 200);
    write(".thumbnails/hidden.jpg", 200);
    write("2026-01-02/night/deep/a.jpg", 160);
    std::os::unix::fs::symlink("2026-01-02", folder.path().join("1-today")).unwrap();
    std::os::unix::fs::symlink("..", folder.path().join("2026-01-01/loop")).unwrap();
    let before = [
        "2026-01-01/c.jpg",
        "2026-01-02/b.jpg",
        "2026-01-02/night/deep/a.jpg",
        "z.jpg",
    ];
    let ran = run(FrameSource::folder(folder.path()), CameraOptions::default());
    assert_eq!(files(&ran, folder.path()), before);
    let ran = watch(folder.path(), || {
        write("2026-01-03/07/new.jpg", 100);
        pause(300);
        write("2026-01-03/07/later.jpg", 100);
        pause(300);
        std::fs::rename(
            folder.path().join("2026-01-03"),
            folder.path().join("moved"),
        )
        .unwrap();
        pause(300);
        write("moved/07/last.jpg", 200);
    });
    let added = [
        "2026-01-03/07/new.jpg",
        "2026-01-03/07/later.jpg",
        "moved/07/last.jpg",
    ];
    assert_eq!(files(&ran, folder.path()), [&before[..], &added].concat());
}

/// What is not read is said once per kind of file.
#[test]
fn other_files_are_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    for name in ["a.jfif", "b.JPE", "c.jif"] {
        std::fs::write(path(name), jpeg(40, 64, 64)).unwrap();
    }
    for name in ["1.heic", "2.heic", "3.txt", "README", ".hidden", "4.HEIC"] {
        std::fs::write(path(name), "not an image").unwrap();
    }
    let skipped = |ran: &CameraRun| -> Vec<String> {
        let events = ran.events.iter().filter_map(|event| match event {
            SourceEventKind::SkippedFile { file, .. } => file.extension().map(|e| e.to_owned()),
            _ => None,
        });
        let mut events: Vec<String> = events.map(|e| e.display().to_string()).collect();
        events.sort();
        events
    };
    let ran = run(FrameSource::folder(folder.path()), CameraOptions::default());
    assert_eq!(files(&ran, folder.path()), ["a.jfif", "b.JPE", "c.jif"]);
    assert_eq!(skipped(&ran), ["HEIC", "heic", "txt"], "{}", ran.reasons());
    assert!(
        ran.reasons().contains("README: skipped: expected jpg"),
        "{}",
        ran.reasons()
    );
    let ran = watch(folder.path(), || {
        for name in ["5.heic", "6.tiff", "7.tiff"] {
            std::fs::write(path(name), "not an image").unwrap();
        }
    });
    assert_eq!(
        skipped(&ran),
        ["HEIC", "heic", "tiff", "txt"],
        "{}",
        ran.reasons()
    );
}

#[test]
fn a_file_as_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    std::fs::write(&path, jpeg(40, 64, 64)).unwrap();
    for source in [
        FrameSource::folder(&path),
        FrameSource::watched_folder(&path),
    ] {
        let error = Camera::open(source, CameraOptions::default())
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("a.jpg: cannot open: expected a folder, found a file"),
            "{error}"
        );
    }
}
