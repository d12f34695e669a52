//! The command line's grammar. It stands alone so that man pages and completions can be made from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Classify images offline with a bundle that pinhole-export wrote.
#[derive(Parser)]
#[command(name = "pinhole", version, max_term_width = 100)]
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
    /// Classify what a camera sees, until it ends or Ctrl-C
    Camera(Box<CameraArgs>),
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

#[derive(Args)]
pub(crate) struct CameraArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) source: CameraSource,
    /// With --folder: go on with images that are added or rewritten, once each is whole
    #[arg(long, conflicts_with_all = ["mjpeg", "y4m", "device"])]
    pub(crate) watch: bool,
    /// Let the newest frame of a file win too, as of pipes and devices, rather than use every frame
    #[arg(long, conflicts_with_all = ["folder", "device"])]
    pub(crate) live: bool,
    /// How many classes to give
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    pub(crate) top: usize,
    #[command(flatten)]
    pub(crate) conditional: Conditional,
    /// Look at this part of each frame alone, in pixels
    #[arg(long, value_name = "X,Y,W,H", value_parser = rectangle)]
    pub(crate) region: Option<[u32; 4]>,
    /// Use every N-th frame
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) every: u64,
    /// Keep the last answer while no cell of 16 x 16 changes its brightness (0 to 255) by more than T
    #[arg(long, value_name = "T", value_parser = luma)]
    pub(crate) still_threshold: Option<f32>,
    /// Time constant of the mean of the probabilities, in answered frames; 0 for none, as for pictures that
    /// have nothing to do with each other
    #[arg(long, default_value_t = 1.0, value_name = "FRAMES", value_parser = at_least_zero)]
    pub(crate) smoothing: f32,
    /// Answered frames for which a class must lead before it becomes the state
    #[arg(long, default_value_t = 2, value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) hysteresis: u32,
    /// Lead in probability (0 to 1) with which a class becomes the state at once [default: never]
    #[arg(long, value_name = "P", value_parser = share)]
    pub(crate) margin: Option<f32>,
    /// Report a stall after this time without a frame [default: 5; never for --folder]
    #[arg(long, value_name = "SECONDS", value_parser = time_out)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct CameraSource {
    /// JPEG frames one after the other, from a file, a named pipe, or "-" for standard input:
    /// rpicam-vid --codec mjpeg -o - -t 0 | pinhole camera BUNDLE --mjpeg -
    #[arg(long, value_name = "FILE")]
    pub(crate) mjpeg: Option<PathBuf>,
    /// Raw frames as ffmpeg -f yuv4mpegpipe writes them, from a file, a named pipe, or "-"
    #[arg(long, value_name = "FILE")]
    pub(crate) y4m: Option<PathBuf>,
    /// A folder of images, in the order of their names
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// A camera by V4L2, such as /dev/video0 (if built with the feature v4l)
    #[arg(long, value_name = "FILE")]
    pub(crate) device: Option<PathBuf>,
}

fn number(text: &str, range: std::ops::RangeInclusive<f32>) -> Result<f32, String> {
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ if *range.end() == f32::MAX => Err(format!("expected a number from {}", range.start())),
        _ => Err(format!(
            "expected a number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

fn luma(text: &str) -> Result<f32, String> {
    number(text, 0.0..=255.0)
}

fn share(text: &str) -> Result<f32, String> {
    number(text, 0.0..=1.0)
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    number(text, 0.0..=f32::MAX)
}

/// x, y, width, height
fn rectangle(text: &str) -> Result<[u32; 4], String> {
    let numbers = text.split(',').map(|n| n.trim().parse().ok());
    let numbers: Option<Vec<u32>> = numbers.collect();
    match numbers.as_deref() {
        Some(&[x, y, width, height]) if width > 0 && height > 0 => Ok([x, y, width, height]),
        _ => Err("expected X,Y,WIDTH,HEIGHT in pixels, the sides 1 or more".into()),
    }
}

fn time_out(text: &str) -> Result<Duration, String> {
    // A day: more is no time-out.
    number(text, 0.001..=86_400.0).map(Duration::from_secs_f32)
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
