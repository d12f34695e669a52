//! The integration tests in one program, except those that need a process or a machine of their own: `tests/mqtt/`,
//! `tests/log_failures.rs` and `tests/soak.rs`.

#[path = "../log_support/mod.rs"]
mod log_support;
#[path = "../support/mod.rs"]
mod support;

mod appliance;
mod command;
mod config;
mod log;
mod panels;
mod screens;
mod standard_streams;
mod text;
