//! Teaching that is killed: the bundle is whole, what was reported is there, and at most the last example is lost.

#[path = "../../tests/kill/kills.rs"]
mod kills;

use std::path::{Path, PathBuf};
use std::process::Command;

use kills::{Spread, kills, temporaries, with_small_files};
use pinhole_bundle::Bundle;

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets")
}

/// Shows the demo one example.
fn teach(bundle: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole"));
    command
        .arg("teach")
        .arg(bundle)
        .args(["--class", "red heart", "--threads", "1"])
        .arg(assets().join("samples/red-heart.png"));
    command
}

/// The number of the last change of a bundle whose files are all whole.
#[track_caller]
fn last_step(bundle: &Path) -> u64 {
    let bundle = Bundle::open(bundle).unwrap();
    bundle.examples().unwrap().map_or(0, |taught| taught.step)
}

fn copy_of_demo() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(assets().join("demo"))
        .arg(&bundle)
        .status();
    assert!(copied.unwrap().success());
    (folder, bundle)
}

#[test]
fn killed_teaching_loses_at_most_the_last_example() {
    let (folder, bundle) = copy_of_demo();
    std::fs::write(bundle.join("notes.txt"), "mine").unwrap();
    let mut spread = Spread::measure(&mut teach(&bundle));
    let mut expected = last_step(&bundle);
    assert_eq!(expected, 1);
    let (mut killed, mut kept) = (0, 0);
    let count = kills(8);
    while killed < count {
        let ended = spread.kill(&mut teach(&bundle));
        let found = last_step(&bundle);
        match ended {
            Some(output) => {
                assert!(output.status.success(), "{output:?}");
                assert_eq!(found, expected + 1, "reported as done");
            }
            None => {
                killed += 1;
                kept += u32::from(found == expected + 1);
                assert!(
                    found == expected || found == expected + 1,
                    "{found}, {expected}"
                );
            }
        }
        assert_eq!(std::fs::read(bundle.join("notes.txt")).unwrap(), b"mine");
        assert!(temporaries(folder.path()).len() <= 1);
        expected = found;
    }
    println!("{killed} kills while teaching, {kept} after the exchange");
    assert!(teach(&bundle).output().unwrap().status.success());
    assert_eq!(last_step(&bundle), expected + 1);
    assert_eq!(temporaries(folder.path()), [] as [PathBuf; 0]);
}

#[test]
fn teaching_without_space_leaves_the_bundle_as_it_was() {
    let (folder, bundle) = copy_of_demo();
    // The examples of the demo have 17 kB.
    let output = with_small_files(&teach(&bundle), 16).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.starts_with("error: ") && message.contains("cannot write"),
        "{message}"
    );
    assert_eq!(last_step(&bundle), 0);
    assert_eq!(temporaries(folder.path()), [] as [PathBuf; 0]);
}
