//! What goes into the packages beside the program, from the command line's grammar and the crates' own files: see
//! `dist/common.sh`, which runs this.

// Read as text of another crate: the program's own package would bring tract along, for minutes.
#[allow(dead_code)]
#[path = "../../runtime/src/cli.rs"]
mod cli;
mod licences;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use clap_complete::Shell;

/// Write manual pages (man/), shell completions (completions/) and the licences of the crates inside each program
/// (pinhole/third-party-licences.txt, pinhole-firmware/third-party-licences.txt).
#[derive(Parser)]
struct Arguments {
    /// Folder to write into
    out: PathBuf,
    /// Target whose crates are listed
    #[arg(long)]
    target: String,
}

fn main() -> Result<()> {
    let Arguments { out, target } = Arguments::parse();
    manual(&out.join("man"))?;
    completions(&out.join("completions"))?;
    for package in ["pinhole", "pinhole-firmware"] {
        let file = out.join(package).join("third-party-licences.txt");
        folder(&out.join(package))?;
        fs::write(&file, licences::of_program(package, &target)?)
            .with_context(|| format!("{}: expected to write it", file.display()))?;
    }
    Ok(())
}

fn program() -> clap::Command {
    // Derived from the package that compiles it, which is this one.
    cli::Cli::command().name("pinhole").bin_name("pinhole")
}

fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("{}: expected a folder", path.display()))
}

/// A page for the program and one for each subcommand.
fn manual(out: &Path) -> Result<()> {
    folder(out)?;
    clap_mangen::generate_to(program(), out)
        .with_context(|| format!("{}: expected to write manual pages", out.display()))
}

fn completions(out: &Path) -> Result<()> {
    folder(out)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut program(), "pinhole", out)
            .with_context(|| format!("{}: expected to write completions", out.display()))?;
    }
    Ok(())
}
