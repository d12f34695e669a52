//! The command line's grammar. It stands alone so that man pages and completions can be made from it.

use std::path::PathBuf;

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
