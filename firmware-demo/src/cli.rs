//! The command line. `pinhole-dist` reads it too, for manual pages and completions.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Classify what a camera sees and show it on a small display, offline
///
/// Example: pinhole-firmware run /etc/pinhole/firmware.toml
#[derive(Parser)]
#[command(name = "pinhole-firmware", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the appliance until the source ends, or SIGTERM, SIGHUP or Ctrl-C
    ///
    /// Prints each change of state to standard output, and errors and final counters (JSON) to standard error.
    ///
    /// Example: pinhole-firmware run firmware.toml
    Run {
        /// Configuration file (TOML)
        config: PathBuf,
    },
    /// Check the configuration and everything that it names, and report every error
    ///
    /// Tries what `run` will use: bundle, camera program or path, fonts, the log's folder, the broker's fields and password
    /// file, and the display, which shows a test screen. Run it as the user that will run the appliance.
    ///
    /// Example: pinhole-firmware check firmware.toml
    Check {
        /// Configuration file (TOML)
        config: PathBuf,
    },
    /// Run the appliance and record what the display shows as an animated PNG
    ///
    /// Example: pinhole-firmware record firmware.toml --out live.png --display 128x64 --monochrome
    Record(RecordArgs),
    /// Read a password for the page from a line of standard input, and write its hash to a file
    ///
    /// The password is at least 8 bytes long. Only the file's owner may read it, so run this as the user that runs the
    /// appliance.
    ///
    /// Example: sudo -u pinhole pinhole-firmware set-password /var/lib/pinhole/web-password
    SetPassword {
        /// File to write or replace, `password_file` in the table `[web]`
        file: PathBuf,
    },
    /// Print the log as JSON lines, oldest first
    ///
    /// Example: pinhole-firmware log /var/lib/pinhole/log
    Log {
        /// Folder of the log
        folder: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct RecordArgs {
    /// Configuration file (TOML); its `display` table is ignored
    pub(crate) config: PathBuf,
    /// PNG file to write; it must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Size of the display in pixels, 64 to 2000 each way
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "240x240", value_parser = size)]
    pub(crate) display: [u32; 2],
    /// Record a monochrome display, such as an OLED
    #[arg(long)]
    pub(crate) monochrome: bool,
    /// Duration in seconds, 0.1 to 120
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Write only the last picture
    #[arg(long)]
    pub(crate) still: bool,
    /// Enlarge the picture this many times, 1 to 8
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
