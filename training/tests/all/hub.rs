//! The command with models of a hub of the test's own.

#[path = "../../../hub/tests/common/server.rs"]
mod server;

use std::path::Path;
use std::process::Command;

use server::Hub;

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
    hub.check_command(&checkpoint, &folder.path().join("home"), |clip| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-train"));
        command
            .args(["evaluate", "--images", "images", "--json", "--clip", clip])
            .current_dir(folder.path());
        command
    });
}
