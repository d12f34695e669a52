//! The command with models of a hub of the test's own.

#[path = "../../../hub/tests/common/server.rs"]
mod server;

use std::process::Command;

use server::Hub;

use crate::common;

#[test]
fn the_command_takes_models_of_the_hub_and_is_quiet_in_a_pipe() {
    let hub = Hub::serve(&common::checkpoint());
    let home = tempfile::tempdir().unwrap();
    let said = hub.check_command(&common::checkpoint(), home.path(), |clip| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-export"));
        command.args(["text", "--clip", clip, "a cat"]);
        command
    });
    assert_eq!(said, ["", ""]);
}
