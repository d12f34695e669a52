//! `pinhole`: the command for boards. `cli.rs` has the arguments, `classify.rs` and its siblings one command each.

mod bench;
mod camera_command;
mod classes;
mod classify;
mod cli;
mod frames;
mod inspect;
mod mistakes;
mod open;
mod output;
mod preprocess;
mod selftest;
#[cfg(feature = "serve")]
mod serve;
mod teach;

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use pinhole::internal::{end_with_usage, exit_code};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::try_parse()
        .unwrap_or_else(|e| end_with_usage(&e.to_string(), e.exit_code(), || e.print()));
    match run(cli.command) {
        Ok(code) => code,
        // The reader closed the pipe (`pinhole ... | head -1`) and knows it, so that no message is needed.
        Err(e) if output::output_error(&e) == Some(ErrorKind::BrokenPipe) => ExitCode::FAILURE,
        Err(e) => {
            output::error(&e);
            exit_code(e.as_ref())
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Classify(args) => classify::classify(&args),
        Command::Embed(args) => classify::embed(&args),
        Command::Camera(args) => camera_command::run(&args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(&args),
        #[cfg(not(feature = "serve"))]
        Command::Serve(_) => anyhow::bail!(
            "serve: this build lacks the feature serve; build with `--features serve`"
        ),
        Command::Inspect(args) => inspect::run(&args),
        Command::Preprocess(args) => preprocess::run(&args),
        Command::Classes(args) => classes::run(&args),
        Command::Teach(args) => teach::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}
