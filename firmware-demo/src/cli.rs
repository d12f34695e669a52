//! The command line's grammar. `pinhole-dist` reads it too, for manual pages and completions.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Classifies what a camera sees and shows it on a small display, offline.
#[derive(Parser)]
#[command(name = "pinhole-firmware", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the appliance until the source ends, or SIGTERM or Ctrl-C
    Run {
        /// The configuration (TOML)
        config: PathBuf,
    },
    /// Check the configuration, the bundle, the fonts and the display, and say what is wrong
    Check {
        /// The configuration (TOML)
        config: PathBuf,
    },
    /// Run the appliance and write what the display shows as an animated PNG
    Record(Record),
    /// Print the log, oldest first, a JSON object a line
    Log {
        /// The log's folder
        folder: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct Record {
    /// The configuration (TOML); its display is not used
    pub(crate) config: PathBuf,
    /// File to write
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Size of the display in pixels
    #[arg(long, default_value = "240x240", value_parser = size)]
    pub(crate) display: [u32; 2],
    /// Whether a pixel is either black or lit
    #[arg(long)]
    pub(crate) monochrome: bool,
    /// How long to run, in seconds
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Write the last picture alone
    #[arg(long)]
    pub(crate) still: bool,
    /// How many times as large the pixels are written
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub(crate) scale: u32,
}

fn size(text: &str) -> Result<[u32; 2], String> {
    let sides = text.split_once('x').and_then(|(width, height)| {
        Some((width.parse::<u32>().ok()?, height.parse::<u32>().ok()?))
    });
    match sides {
        Some((width @ 64..=2000, height @ 64..=2000)) => Ok([width, height]),
        _ => Err("expected WIDTHxHEIGHT of 64 to 2000 pixels each, such as 240x240".into()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds @ 0.1..=120.0) => Ok(seconds),
        _ => Err("expected 0.1 to 120".into()),
    }
}
