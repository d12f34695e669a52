//! Trainings that are killed or run out of space: the log and the saved state stay whole, and a resumed training is
//! bit-identical to an uninterrupted one.

#[path = "../../tests/kill/kills.rs"]
mod kills;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kills::{Spread, kills, temporaries, with_mounts, with_small_files};

const TRAINING: &str = "--threads 1 clip --data shapes --steps 8 --image-size 16 --width 64 --layers 1 \
                        --text-width 64 --text-layers 1 --patch-size 8 --embedding 16 --batch-size 16 \
                        --test-images 1 --log-every 1 --save-every 2";

/// The training in `out`, resumed if it has saved a state.
fn training(folder: &Path, out: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-train"));
    command
        .args(TRAINING.split_whitespace())
        .arg("--out")
        .arg(folder.join(out));
    if folder.join(out).join("state.safetensors").exists() {
        command.arg("--resume");
    }
    command
}

/// The update of each line of a log. A last line that is torn is left out.
#[track_caller]
fn steps(log: &Path) -> Vec<u64> {
    let text = fs::read(log).unwrap_or_default();
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    let whole = lines.filter(|line| line.ends_with(b"\n"));
    whole
        .map(|line| {
            let record: serde_json::Value = serde_json::from_slice(line).unwrap();
            record["step"].as_u64().unwrap()
        })
        .collect()
}

/// Updates of the saved state, from its header.
fn saved(state: &Path) -> u64 {
    let Ok(bytes) = fs::read(state) else {
        return 0;
    };
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let header = &header.metadata().as_ref().unwrap()["training"];
    let header: serde_json::Value = serde_json::from_str(header).unwrap();
    header["done"].as_u64().unwrap()
}

#[test]
fn a_killed_training_is_resumed_without_a_trace() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let mut spread = Spread::measure(&mut training(root, "whole"));
    let result = Path::new("checkpoint/open_clip_model.safetensors");
    let expected = fs::read(root.join("whole").join(result)).unwrap();
    let count = kills(4);
    let (mut killed, mut trainings) = (0, 0);
    while killed < count {
        trainings += 1;
        let out = format!("out-{trainings}");
        let folder = root.join(&out);
        loop {
            let before = saved(&folder.join("state.safetensors"));
            let ended = spread.kill(&mut training(root, &out));
            if folder.exists() {
                let done = saved(&folder.join("state.safetensors"));
                assert!(done >= before, "{done} after {before}");
                let steps = steps(&folder.join("log.jsonl"));
                let last = steps.last().copied().unwrap_or(0);
                assert_eq!(steps, (1..=last).collect::<Vec<_>>());
                assert!(last >= done, "the log ends at {last}, the state at {done}");
                // At most one for each file, which its next writer removes.
                let left = temporaries(&folder);
                let of = |path: &PathBuf| path.file_stem().map(OsStr::to_owned);
                let files: BTreeSet<_> = left.iter().map(of).collect();
                assert_eq!(files.len(), left.len(), "{left:?}");
            }
            match ended {
                Some(output) => {
                    assert!(output.status.success(), "{output:?}");
                    break;
                }
                None => killed += 1,
            }
            // What a power cut may leave at the end.
            if killed % 3 == 0 && folder.join("log.jsonl").exists() {
                let log = fs::read_to_string(folder.join("log.jsonl")).unwrap();
                fs::write(folder.join("log.jsonl"), log + "{\"step\":9").unwrap();
            }
            if killed >= count {
                let output = training(root, &out).output().unwrap();
                assert!(output.status.success(), "{output:?}");
                break;
            }
        }
        assert_eq!(
            steps(&folder.join("log.jsonl")),
            (1..=8).collect::<Vec<_>>()
        );
        assert!(
            fs::read(folder.join(result)).unwrap() == expected,
            "other weights"
        );
        assert_eq!(temporaries(&folder).len(), 0);
        fs::remove_dir_all(&folder).unwrap();
    }
    println!("{killed} kills of {trainings} trainings");
}

/// A full disk stops a training with an error; what was saved is whole, and it is resumed when there is space.
#[test]
fn a_training_without_space_keeps_what_it_saved() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    assert!(training(root, "whole").output().unwrap().status.success());
    let result = "checkpoint/open_clip_model.safetensors";
    let expected = fs::read(root.join("whole").join(result)).unwrap();
    let state = root.join("out/state.safetensors");
    // A checkpoint has 12 MB.
    let fail = || {
        let output = with_small_files(&training(root, "out"), 10)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("File too large"), "{error}");
        assert_eq!(temporaries(&root.join("out")).len(), 0);
    };
    fail();
    assert!(!state.exists());
    let mut child = training(root, "out").spawn().unwrap();
    while !state.exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let saved = fs::read(&state).unwrap();
    fail();
    assert!(fs::read(&state).unwrap() == saved, "another state");
    let output = training(root, "out").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        fs::read(root.join("out").join(result)).unwrap() == expected,
        "other weights"
    );
}

/// A disk that is read-only, as after an error of an SD card: the training ends at once, and keeps what it saved.
#[test]
fn a_training_on_a_read_only_disk_is_an_error() {
    let script = r#"
        mount -t tmpfs tmpfs "$DISK"
        run() {
            "$PROGRAM" $TRAINING --out "$DISK/$1" $2 2>&1 >/dev/null && code=0 || code=$?
            echo "$1: $code"
        }
        run out
        sums() { find "$DISK" -type f -exec sha256sum {} +; }
        before=$(sums)
        mount -o remount,ro "$DISK"
        run out --resume
        run new
        [ "$before" = "$(sums)" ] && echo unchanged
        ls -A "$DISK"
    "#;
    let root = tempfile::tempdir().unwrap();
    let disk = root.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let environment = [
        ("DISK", disk.as_path()),
        ("PROGRAM", Path::new(env!("CARGO_BIN_EXE_pinhole-train"))),
        ("TRAINING", Path::new(TRAINING)),
    ];
    let Some(output) = with_mounts(script, &environment) else {
        return;
    };
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = printed.lines().collect();
    let errors: Vec<&&str> = lines.iter().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 2, "{printed}");
    for (error, folder) in errors.iter().zip(["out", "new"]) {
        let named = error.contains(&*disk.join(folder).to_string_lossy());
        assert!(
            named && error.contains("Read-only file system"),
            "{printed}"
        );
    }
    for part in ["out: 0", "out: 1", "new: 1", "unchanged"] {
        assert!(lines.contains(&part), "{printed}");
    }
    assert!(printed.ends_with("unchanged\nout\n"), "{printed}");
}

/// Two trainings in one folder would mix the lines of their logs and replace each other's states.
#[test]
fn a_folder_in_which_another_training_runs_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    let now = std::time::Duration::ZERO;
    let lock = pinhole_fs::FolderLock::acquire(&out, now, &mut |_| {}).unwrap();
    let output = training(root.path(), "out").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("is training in this folder"), "{error}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "written to");
    drop(lock);
    assert!(
        training(root.path(), "out")
            .output()
            .unwrap()
            .status
            .success()
    );
}
