//! The command with models of a hub of the test's own.

mod common;
#[path = "../../hub/tests/common/server.rs"]
mod server;

use std::process::Command;

use server::{COMMIT, Fault, Hub, TOKEN};

#[test]
fn the_command_takes_models_of_the_hub_and_is_quiet_in_a_pipe() {
    let hub = Hub::serve(&common::checkpoint());
    let home = tempfile::tempdir().unwrap();
    let run = |clip: &str, offline: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_pinhole-export"))
            .args(["text", "--clip", clip, "a cat"])
            .env("HF_ENDPOINT", format!("http://{}/", hub.address))
            .env("HF_HOME", home.path())
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
    let expected = run(common::checkpoint().to_str().unwrap(), "");
    let note = format!("note: org/clip is commit {COMMIT} of the hub\n");
    for (offline, stderr) in [("0", note.as_str()), ("1", "")] {
        let found = run("hf:org/clip", offline);
        assert_eq!(found, (Some(0), expected.1.clone(), stderr.to_owned()));
    }
    let (code, _, stderr) = run("hf:org/other", "1");
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("error: org/other: not complete in the cache"),
        "{stderr}"
    );
    let (code, _, stderr) = run("hf:nothing", "0");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("expected hf:ORGANISATION/NAME"), "{stderr}");
}
