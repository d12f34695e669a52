//! The command line's grammar. It stands alone so that man pages and completions can be made from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Classify images offline with a bundle that pinhole-export wrote.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Rank the bundle's classes for each image
    Classify {
        #[command(flatten)]
        common: Common,
        /// JPEG, PNG, WebP, BMP or GIF files
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<PathBuf>,
        /// How many classes to show
        #[arg(long, default_value_t = 5, value_parser = at_least_one)]
        top: usize,
        #[command(flatten)]
        conditional: Conditional,
        #[command(flatten)]
        output: Output,
    },
    /// Print the embedding of each image
    Embed {
        #[command(flatten)]
        common: Common,
        /// JPEG, PNG, WebP, BMP or GIF files
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Show what a bundle is
    Inspect {
        #[command(flatten)]
        common: Common,
        /// List the network's operators and who computes them
        #[arg(long)]
        operators: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write the crop exactly as the encoder sees it, to check a camera's set-up
    Preprocess {
        /// The bundle's folder
        bundle: PathBuf,
        /// JPEG, PNG, WebP, BMP or GIF file
        image: PathBuf,
        /// PNG file to write; it must not exist
        #[arg(long)]
        out: PathBuf,
        /// Turn the image as its EXIF orientation says (CLIP's own preprocessing does not)
        #[arg(long)]
        exif_orientation: bool,
    },
    /// Show the bundle's classes, or give it others (if it was exported --with-text)
    Classes {
        #[command(flatten)]
        common: Common,
        /// Text file with the new classes, one a line
        #[arg(long, value_name = "FILE", conflicts_with = "add")]
        set: Option<PathBuf>,
        /// Classes to add to those there are
        #[arg(long, value_name = "NAME", num_args = 1..)]
        add: Vec<String>,
    },
    /// Check that this machine computes what the exporter's did
    Selftest {
        #[command(flatten)]
        common: Common,
    },
    /// Time this machine: the whole way of an image and its stages, memory, temperature
    Bench(Bench),
}

#[derive(Args)]
pub(crate) struct Common {
    /// The bundle's folder
    pub(crate) bundle: PathBuf,
    /// Threads to compute with [default: all processors]
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

#[derive(Args)]
pub(crate) struct Bench {
    /// The bundle's folder
    #[arg(required_unless_present = "compare")]
    pub(crate) bundle: Option<PathBuf>,
    /// Threads to compute with [default: all processors]
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// End after so long; shows a table over time. Whichever of --seconds and --iterations comes first
    /// [default: 3 s and 30 images, at most 30 s]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: Option<Duration>,
    /// End after so many images
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) iterations: Option<usize>,
    /// Images to run before the measurement [default: 5 and half a second]
    #[arg(long, value_name = "N")]
    pub(crate) warm_up: Option<u64>,
    /// Image file to measure with [default: the first golden image of the bundle]
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) conditional: Conditional,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// SVG file to write, frame rate and temperature over time; it must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Compare two results of --json instead: a table of b beside a
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = [
        "bundle", "threads", "seconds", "iterations", "warm_up", "image", "conditional", "budget_ms", "json", "plot",
    ])]
    pub(crate) compare: Vec<PathBuf>,
    /// With --compare: exit code 1 where the p50 of b is more than so many per cent above that of a
    #[arg(long, value_name = "PERCENT", requires = "compare", conflicts_with = "bundle",
        value_parser = per_cent)]
    pub(crate) fail_above: Option<f64>,
}

#[derive(Args)]
pub(crate) struct Conditional {
    /// How a conditional head (CoCoOp) computes; `pinhole inspect` tells how faithful each is to exact
    /// [default: exact]
    #[arg(long, value_enum)]
    pub(crate) conditional: Option<ConditionalMode>,
    /// Time for the text side of an image, in mode auto
    #[arg(long, default_value_t = 50, value_name = "MILLISECONDS")]
    pub(crate) budget_ms: u64,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ConditionalMode {
    /// The text tower for every class
    Exact,
    /// A first-order head picks a few classes, the text tower ranks them
    Shortlist,
    /// The first-order head alone
    Linear,
    /// Exact, or the longest shortlist that --budget-ms allows
    Auto,
}

#[derive(Args)]
pub(crate) struct Output {
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Turn each image as its EXIF orientation says (CLIP's own preprocessing does not)
    #[arg(long)]
    pub(crate) exif_orientation: bool,
}

pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err("expected a whole number, 1 or more".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    let time = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    time.filter(|time| !time.is_zero())
        .ok_or("expected a number of seconds above 0".into())
}

fn per_cent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(n) if (0.0..f64::INFINITY).contains(&n) => Ok(n),
        _ => Err("expected a number, 0 or more".into()),
    }
}
