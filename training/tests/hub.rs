//! The command with models of a hub of the test's own.

#[path = "../../hub/tests/common/server.rs"]
mod server;

use std::path::Path;
use std::process::Command;

use server::{COMMIT, Fault, Hub, TOKEN};

/// Of a small model with CLIP's vocabulary.
const SIZES: &str = "--image-size 16 --width 64 --layers 1 --text-width 64 --text-layers 1 --patch-size 8 --embedding 16 \
                     --batch-size 16 --test-images 1 --log-every 2 --save-every 2 --steps 2";

#[test]
fn the_command_takes_models_of_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let trained = Command::new(env!("CARGO_BIN_EXE_pinhole-train"))
        .args(["clip", "--data", "shapes", "--out", "model"])
        .args(SIZES.split_whitespace())
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(trained.status.success());
    let checkpoint = folder.path().join("model/checkpoint");
    let hub = Hub::serve(&checkpoint);
    for (class, sample) in [("square", "blue-square.png"), ("star", "green-star.png")] {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/samples");
        let images = folder.path().join("images").join(class);
        std::fs::create_dir_all(&images).unwrap();
        std::fs::copy(samples.join(sample), images.join(sample)).unwrap();
    }
    let run = |clip: &str, offline: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_pinhole-train"))
            .args(["evaluate", "--images", "images", "--json", "--clip", clip])
            .current_dir(folder.path())
            .env("HF_ENDPOINT", format!("http://{}/", hub.address))
            .env("HF_HOME", folder.path().join("home"))
            .env("HF_HUB_OFFLINE", offline)
            .env("HF_TOKEN", TOKEN)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    hub.set(Fault::Refuses);
    let (code, expected, stderr) = run(checkpoint.to_str().unwrap(), "");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(expected.contains("\"accuracy\""), "{expected}");
    let note = format!("note: org/clip is commit {COMMIT} of the hub\n");
    for (offline, downloaded) in [("0", true), ("1", false)] {
        let (code, found, stderr) = run("hf:org/clip", offline);
        assert_eq!((code, found), (Some(0), expected.clone()), "{stderr}");
        assert_eq!(stderr.contains(&note), downloaded, "{stderr}");
    }
    let (code, _, stderr) = run("hf:org/other", "1");
    assert_eq!(code, Some(1));
    let reason = "error: org/other: not complete in the cache";
    assert!(stderr.contains(reason), "{stderr}");
    let (code, _, stderr) = run("hf:nothing", "0");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("expected hf:ORGANISATION/NAME"), "{stderr}");
}
