//! The integration tests in one program. `tests/kills.rs` needs an undisturbed machine.

mod bench;
mod camera_command;
mod command_line;
mod teach;
