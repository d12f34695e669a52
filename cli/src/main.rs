//! `pinhole`: the command for boards. `cli.rs` has the arguments, `classify.rs` and its siblings one command each.

mod bench;
mod camera_command;
mod classes;
mod classify;
mod cli;
mod inspect;
mod mistakes;
mod open;
mod output;
mod preprocess;
mod selftest;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use pinhole::internal::without_credentials;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|e| usage_error(&e));
    match run(cli.command) {
        Ok(code) => code,
        // The reader closed the pipe (`pinhole ... | head -1`) and knows it, so that no message is needed.
        Err(e) if output::output_error(&e) == Some(ErrorKind::BrokenPipe) => ExitCode::FAILURE,
        Err(e) => {
            output::error(&e);
            ExitCode::FAILURE
        }
    }
}

/// Prints an error of usage, or the help, and ends the program. The error repeats arguments, which may be URLs.
fn usage_error(error: &clap::Error) -> ! {
    let text = error.to_string();
    let safe = without_credentials(&text);
    if safe == text {
        error.exit();
    }
    let _ = std::io::stderr().write_all(safe.as_bytes());
    std::process::exit(error.exit_code());
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Classify(args) => classify::classify(&args),
        Command::Embed(args) => classify::embed(&args),
        Command::Camera(args) => camera_command::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Preprocess(args) => preprocess::run(&args),
        Command::Classes(args) => classes::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}
