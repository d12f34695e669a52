//! Generates the files of the packages other than the programs; `dist/common.sh` runs it.

// Included as source: a dependency on the programs' packages would build tract.
#[allow(dead_code)]
#[path = "../../cli/src/cli.rs"]
mod cli;
#[allow(dead_code)]
#[path = "../../firmware-demo/src/cli.rs"]
mod firmware_cli;
mod licences;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use clap_complete::Shell;

/// Write the manual pages (man/), shell completions (completions/) and the licences of the linked crates
/// (third-party-licences.txt) of each program into pinhole/ and pinhole-firmware/, and the licences of the Python package
/// into python/.
#[derive(Parser)]
struct Arguments {
    /// Folder to write into
    out: PathBuf,
    /// Target triple whose crates are listed
    #[arg(long)]
    target: String,
}

fn main() -> Result<()> {
    let Arguments { out, target } = Arguments::parse();
    let programs = [
        ("pinhole", "pinhole-cli", cli::Cli::command()),
        (
            "pinhole-firmware",
            "pinhole-firmware",
            firmware_cli::Cli::command(),
        ),
    ];
    for (name, package, program) in programs {
        // clap derives the name from the package that compiles it, which is this one.
        let program = program.name(name).bin_name(name);
        let out = out.join(name);
        manual(&program, &out.join("man"))?;
        completions(&program, &out.join("completions"))?;
        third_party_licences(name, package, &target, &out)?;
    }
    third_party_licences("pinhole", "pinhole-python", &target, &out.join("python"))
}

fn third_party_licences(name: &str, package: &str, target: &str, out: &Path) -> Result<()> {
    folder(out)?;
    let file = out.join("third-party-licences.txt");
    fs::write(&file, licences::of_program(name, package, target)?)
        .with_context(|| format!("{}: expected to write it", file.display()))
}

fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("{}: expected a folder", path.display()))
}

/// Writes a manual page for the program and one for each subcommand.
fn manual(program: &clap::Command, out: &Path) -> Result<()> {
    folder(out)?;
    let failed = || format!("{}: expected to write manual pages", out.display());
    clap_mangen::generate_to(program.clone(), out).with_context(failed)?;
    for page in fs::read_dir(out).with_context(failed)? {
        let page = page.with_context(failed)?.path();
        let text = fs::read_to_string(&page).with_context(failed)?;
        // Lines of the synopsis may break between alternatives, and are not stretched to the margin.
        let text = text.replace(r"\fR|\fB", r"\fR|\:\fB");
        let text = text.replace(".SH SYNOPSIS\n", ".SH SYNOPSIS\n.ad l\n");
        let text = text.replace(".SH DESCRIPTION\n", ".ad\n.SH DESCRIPTION\n");
        fs::write(&page, text).with_context(failed)?;
    }
    Ok(())
}

fn completions(program: &clap::Command, out: &Path) -> Result<()> {
    folder(out)?;
    let name = program.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut program.clone(), &name, out)
            .with_context(|| format!("{}: expected to write completions", out.display()))?;
    }
    Ok(())
}
