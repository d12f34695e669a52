//! The arguments of `pinhole`. This file uses nothing else of the crate: dist/ makes manual pages and completions from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

/// Classify images and camera frames offline with a bundle
///
/// A bundle is a folder that pinhole-export makes from a CLIP checkpoint and a list of class names.
#[derive(Parser)]
#[command(name = "pinhole", version, max_term_width = 100)]
#[command(after_help = "Example: pinhole classify assets/demo photo.jpg
Exit code: 0; 1 after an error; 2 for wrong usage.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Each variant's help is the documentation of its arguments.
#[derive(Subcommand)]
pub(crate) enum Command {
    Classify(ClassifyArgs),
    Embed(EmbedArgs),
    Camera(Box<CameraArgs>),
    Serve(Box<ServeArgs>),
    Inspect(InspectArgs),
    Preprocess(PreprocessArgs),
    Classes(ClassesArgs),
    Teach(TeachArgs),
    Selftest(SelftestArgs),
    Bench(BenchArgs),
}

#[derive(Args)]
pub(crate) struct BundleArgs {
    /// Folder of the bundle
    pub(crate) bundle: PathBuf,
    /// Number of threads [default: all processors]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

#[derive(Args)]
pub(crate) struct OutputArgs {
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) decode: DecodeArgs,
}

#[derive(Args)]
pub(crate) struct DecodeArgs {
    /// Rotate each image by its EXIF orientation, which CLIP's own preprocessing ignores
    #[arg(long)]
    pub(crate) exif_orientation: bool,
    /// Most memory that decoding one image may use, in MiB; a larger image is an error
    ///
    /// A JPEG needs 3 bytes per pixel, a progressive one 6 to 9: 256 MiB are enough for 89 megapixels, or 30.
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    pub(crate) max_image_memory: u32,
    /// Decode JPEG images and frames faster, at 1/2, 1/4 or 1/8 of their size where that leaves enough pixels
    ///
    /// The smallest at which both sides have at least as many pixels as the image is scaled to for the encoder, as with
    /// Pillow's draft(). Answers differ slightly from those of whole images. Other formats, Y4M and raw video of devices
    /// are not affected. Damaged images are refused all the same.
    #[arg(long)]
    pub(crate) fast_decode: bool,
}

/// A flag that other programs have, refused with the way to do it here.
#[derive(Args)]
pub(crate) struct NoThreshold {
    #[arg(
        long,
        hide = true,
        num_args = 0..=1,
        default_missing_value = "",
        value_parser = no_threshold,
        allow_hyphen_values = true
    )]
    #[allow(dead_code, reason = "it always fails to parse")]
    threshold: Option<String>,
}

fn no_threshold(_: &str) -> Result<String, &'static str> {
    Err(
        "there is no --threshold. The thresholds for \"unknown\" belong to the bundle: `pinhole-export calibrate BUNDLE \
         --calibration DIR` sets them, `pinhole inspect BUNDLE` shows them. `pinhole camera` has --margin and --hysteresis \
         for changes of the state, and --still-threshold for still scenes",
    )
}

#[derive(Args)]
pub(crate) struct ConditionalArgs {
    /// How a conditional head (CoCoOp) computes; `pinhole inspect` shows how well each mode agrees with exact
    /// [default: exact]
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) conditional: Option<ModeName>,
    /// In mode auto: time for the text encoder, per image
    #[arg(long, default_value_t = 50, value_name = "MILLISECONDS")]
    pub(crate) budget_ms: u64,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ModeName {
    /// Run the text encoder for every class
    Exact,
    /// Select a few classes with a linear approximation, and run the text encoder for those
    Shortlist,
    /// Use the linear approximation alone
    Linear,
    /// Exact, or the longest shortlist that fits --budget-ms
    Auto,
}

/// Rank the bundle's classes for each image
///
/// An image that cannot be read is an error on stderr; the others are still classified, and the exit code is 1. A folder
/// stands for the images in it and in its subfolders.
#[derive(Args)]
#[command(after_help = "Example: pinhole classify assets/demo photo.jpg --top 3
         pinhole classify my-bundle photos/*.jpg --json
         curl -s http://camera.local/still.jpg | pinhole classify my-bundle -")]
pub(crate) struct ClassifyArgs {
    #[command(flatten)]
    pub(crate) bundle: BundleArgs,
    /// JPEG, PNG, WebP, BMP or GIF files, or folders of them; "-" is one image from standard input
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<PathBuf>,
    /// Number of classes to print
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one)]
    pub(crate) top: usize,
    #[command(flatten)]
    pub(crate) threshold: NoThreshold,
    #[command(flatten)]
    pub(crate) conditional: ConditionalArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Print the embedding of each image
///
/// Embeddings are L2-normalised: the dot product of two of them is their cosine similarity. Without --json, a line is the
/// path, a tab, and the values separated by spaces.
#[derive(Args)]
#[command(after_help = "Example: pinhole embed assets/demo photo.jpg --json")]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    pub(crate) bundle: BundleArgs,
    /// JPEG, PNG, WebP, BMP or GIF files, or folders of them; "-" is one image from standard input
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Show what a bundle contains: model, precision, classes, thresholds, measured fidelity
#[derive(Args)]
#[command(after_help = "Example: pinhole inspect assets/demo")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) bundle: BundleArgs,
    /// List the network's operators and the kernel that runs each
    #[arg(long)]
    pub(crate) operators: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Write the pixels that the encoder sees of an image, as PNG
///
/// Use it to check how a camera is aimed: what the resize and crop leave out, the model does not see.
#[derive(Args)]
#[command(after_help = "Example: pinhole preprocess assets/demo photo.jpg --out crop.png")]
pub(crate) struct PreprocessArgs {
    /// Folder of the bundle
    pub(crate) bundle: PathBuf,
    /// JPEG, PNG, WebP, BMP or GIF file, or "-" for standard input
    pub(crate) image: PathBuf,
    /// PNG file to write; it must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) decode: DecodeArgs,
}

/// List the bundle's classes, or change them
///
/// Without --set and --add it lists the classes. To change them the bundle must have been exported --with-text. The
/// bundle is replaced as a whole: after a power cut it is the old one or the new one. Classes that stay keep their
/// embeddings. The temperature and the thresholds for "unknown" are reset, because they were calibrated on the old
/// classes. Other files in the folder, permissions and owner stay. If another process is changing the bundle, this waits
/// for it, for at most 10 minutes.
#[derive(Args)]
#[command(after_help = "Example: pinhole classes my-bundle
         pinhole classes my-bundle --add \"red mug\" \"blue mug\"")]
pub(crate) struct ClassesArgs {
    #[command(flatten)]
    pub(crate) bundle: BundleArgs,
    /// Replace all classes by those of a text file, one per line (lines that begin with # are comments), or a JSON array
    #[arg(long, value_name = "FILE", conflicts_with = "add")]
    pub(crate) set: Option<PathBuf>,
    /// Add classes to the existing ones, each name an argument of its own
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(crate) add: Vec<String>,
}

/// Teach the bundle classes by showing images, and list, remove, undo and evaluate what it was taught
///
/// Images are kept in the bundle as embeddings, at most 64 of a class: of more, the oldest are removed. The head that
/// recognises each example best without having seen it is chosen among zero-shot, prototypes, cache and linear; the answer
/// says by how many examples each class is known, and with what leave-one-out accuracy. The temperature and the thresholds
/// for "unknown" are fitted to the examples, once every class has some. The bundle is replaced as a whole: after a power
/// cut it is the old one or the new one. An image that cannot be read is an error, and the bundle stays as it was.
#[derive(Args)]
#[command(
    after_help = "Example: pinhole teach my-bundle --class \"my mug\" mug1.jpg mug2.jpg mug3.jpg
         pinhole teach my-bundle --none table.jpg
         pinhole teach my-bundle --list
         pinhole teach my-bundle --evaluate photos"
)]
pub(crate) struct TeachArgs {
    #[command(flatten)]
    pub(crate) bundle: BundleArgs,
    /// JPEG, PNG, WebP, BMP or GIF files that show the class, or folders of them
    #[arg(value_name = "IMAGE", requires = "shown")]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) action: TeachAction,
    /// With --class, for a new class: what the text encoder reads in place of the name, such as "small brown dog" for a
    /// dog's name [default: the name, if the bundle was exported --with-text]
    #[arg(long, value_name = "TEXT", requires = "class")]
    pub(crate) text: Option<String>,
    /// Also copy the images to this folder, each into a subfolder with the name of its class [default: images are not
    /// kept]
    #[arg(long, value_name = "DIR", requires = "images")]
    pub(crate) keep_photos: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TeachAction {
    /// Show examples of this class, which is added if the bundle does not have it; without images, only add the class
    #[arg(long, value_name = "NAME", group = "shown")]
    pub(crate) class: Option<String>,
    /// Show examples of what is none of the classes: images most like them are answered "unknown"
    #[arg(long, requires = "images", group = "shown")]
    pub(crate) none: bool,
    /// Remove classes with their examples, each name an argument of its own
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(crate) remove: Vec<String>,
    /// Remove examples by their numbers in --list --json
    #[arg(long, value_name = "ID", num_args = 1..)]
    pub(crate) remove_example: Vec<u64>,
    /// Take the last change back; the last 16 can be taken back one by one
    #[arg(long)]
    pub(crate) undo: bool,
    /// List the classes with their numbers of examples and leave-one-out accuracies
    #[arg(long)]
    pub(crate) list: bool,
    /// Measure the accuracy on other images, in one folder per class; those in other folders are to be "unknown"
    #[arg(long, value_name = "DIR")]
    pub(crate) evaluate: Option<PathBuf>,
}

/// Check that this machine computes the embeddings that the exporter computed
///
/// Embeds the bundle's golden images and compares with the embeddings stored beside them. The exit code is 1 if one
/// differs.
#[derive(Args)]
#[command(after_help = "Example: pinhole selftest assets/demo
         PINHOLE_KERNELS=scalar pinhole selftest assets/demo")]
pub(crate) struct SelftestArgs {
    #[command(flatten)]
    pub(crate) bundle: BundleArgs,
}

/// Measure the time per image and per stage, memory and temperature
///
/// Classifies one image again and again, from its encoded bytes to the ranking, in one process. Without --seconds and
/// --iterations it runs for 3 s and at least 30 images, but no longer than 30 s. Ctrl-C ends the run and prints the
/// results so far.
#[derive(Args)]
#[command(after_help = "Example: pinhole bench assets/demo --threads 2
         pinhole bench my-bundle --seconds 600 --plot heat.svg
         pinhole bench my-bundle --json > now.json && pinhole bench --compare before.json now.json --fail-above 5")]
pub(crate) struct BenchArgs {
    /// Folder of the bundle
    #[arg(required_unless_present = "compare")]
    pub(crate) bundle: Option<PathBuf>,
    /// Number of threads [default: all processors]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Stop after this time, and print a table over time. With --iterations, the first limit reached stops the run
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: Option<Duration>,
    /// Stop after this number of images
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) iterations: Option<usize>,
    /// Images to run before the measurement [default: at least 5, for at least 0.5 s]
    #[arg(long, value_name = "N")]
    pub(crate) warm_up: Option<u64>,
    /// Image file to classify [default: the bundle's first golden image]
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) conditional: ConditionalArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Plot frame rate and temperature over time into this SVG file; it must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Measure nothing; print a table of two results of --json and of their ratios
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = [
        "bundle", "threads", "seconds", "iterations", "warm_up", "image", "conditional", "budget_ms", "json", "plot",
    ])]
    pub(crate) compare: Vec<PathBuf>,
    /// With --compare: exit code 1 if the p50 latency of B is more than this percentage above that of A
    #[arg(long, value_name = "PERCENT", requires = "compare", conflicts_with = "bundle",
        value_parser = percentage)]
    pub(crate) fail_above: Option<f64>,
}

/// Classify the frames of a camera, a stream or a folder
///
/// Runs until the source ends or Ctrl-C; the exit code is 1 if nothing could be decoded. On a terminal, one line shows the current answer. In a pipe, a line is printed
/// when the state changes; with --json, for every frame. Give exactly one of --url, --mjpeg, --y4m, --folder and --device.
/// A bundle that is changed meanwhile (`pinhole teach`, `pinhole classes`, or a copy over it) is opened and tested beside the
/// old one, and answers from the next frame on.
#[derive(Args)]
#[command(
    after_help = "Example: rpicam-vid --codec mjpeg -o - -t 0 | pinhole camera my-bundle --mjpeg -
         pinhole camera my-bundle --folder incoming --watch --json",
    group = ArgGroup::new("a source").required(true).args(["url", "mjpeg", "y4m", "folder", "device"])
)]
pub(crate) struct CameraArgs {
    #[command(flatten)]
    pub(crate) bundle: BundleArgs,
    #[command(flatten)]
    pub(crate) source: CameraSource,
    #[command(flatten)]
    pub(crate) frames: FrameArgs,
    /// Number of classes to print
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one)]
    pub(crate) top: usize,
    #[command(flatten)]
    pub(crate) conditional: ConditionalArgs,
    #[command(flatten)]
    pub(crate) tracker: TrackerArgs,
    #[command(flatten)]
    pub(crate) threshold: NoThreshold,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Which frames are classified.
#[derive(Args)]
pub(crate) struct FrameArgs {
    /// With --url of a JPEG image: seconds between two requests
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds, requires = "url")]
    pub(crate) interval: Duration,
    /// With --folder: wait for images that are added or rewritten, and classify each once it is complete
    #[arg(long, requires = "folder", conflicts_with_all = ["url", "mjpeg", "y4m", "device"])]
    pub(crate) watch: bool,
    /// Drop frames of a file when the classifier is slower, as for pipes and devices; by default every frame of a file
    /// is used
    #[arg(long, requires = "CameraSource", conflicts_with_all = ["url", "folder", "device"])]
    pub(crate) live: bool,
    /// Region of interest in pixels: classify this part of each frame [default: the whole frame]
    #[arg(long, value_name = "X,Y,W,H", value_parser = rectangle, requires = "CameraSource")]
    pub(crate) region: Option<[u32; 4]>,
    /// Use every N-th frame
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), requires = "CameraSource")]
    pub(crate) every: u64,
    /// Skip frames of a still scene: those in which no cell of a 16 x 16 grid changes its mean brightness (0 to 255) by
    /// more than T [default: classify every frame]
    #[arg(long, value_name = "T", value_parser = luma, requires = "CameraSource")]
    pub(crate) still_threshold: Option<f32>,
    /// Report a stall after this time without a frame [default: 5; never for --folder]
    #[arg(long, value_name = "SECONDS", value_parser = time_out, requires = "CameraSource")]
    pub(crate) timeout: Option<Duration>,
}

/// How answers become a state.
#[derive(Args)]
pub(crate) struct TrackerArgs {
    /// Time constant of the exponential smoothing of the probabilities, in classified frames; 0 turns it off, for
    /// unrelated images
    #[arg(long, default_value_t = 1.0, value_name = "FRAMES", value_parser = at_least_zero, requires = "CameraSource")]
    pub(crate) smoothing: f32,
    /// Number of classified frames in a row that a class must lead to become the state
    #[arg(long, default_value_t = 2, value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..), requires = "CameraSource")]
    pub(crate) hysteresis: u32,
    /// Time for which a class must lead to become the state, in addition to --hysteresis
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = pause, requires = "CameraSource")]
    pub(crate) hysteresis_seconds: Duration,
    /// Minimum time between two changes of the state, also with --margin
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = pause, requires = "CameraSource")]
    pub(crate) cool_down_seconds: Duration,
    /// Lead in probability (0 to 1) with which a class becomes the state at once [default: never]
    #[arg(long, value_name = "P", value_parser = share, requires = "CameraSource")]
    pub(crate) margin: Option<f32>,
}

/// Show a camera's answers on a page, and to programs by HTTP
///
/// Prints the page's address, and runs until Ctrl-C. The page has the live picture, the ranking, the history of the last
/// hour, and the settings. Programs classify images (POST /api/classify), and read the state, pictures and metrics;
/// docs/web.md describes them. Without a source, only images that are sent are classified. Other machines reach the page
/// with --listen and a password.
#[derive(Args)]
#[command(
    after_help = "Example: rpicam-vid --codec mjpeg -o - -t 0 | pinhole serve my-bundle --mjpeg -
         pinhole serve --set-password web-password.txt
         pinhole serve my-bundle --url rtsp://camera.local/stream1 --listen 0.0.0.0:8642 --password-file web-password.txt"
)]
pub(crate) struct ServeArgs {
    /// Folder of the bundle
    #[arg(required_unless_present = "set_password")]
    pub(crate) bundle: Option<PathBuf>,
    /// Number of threads [default: all processors]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) source: Option<CameraSource>,
    /// Address and port to listen on, or localhost:PORT; 0.0.0.0 is every network of this machine, for which a password is
    /// needed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8642")]
    pub(crate) listen: String,
    /// File with the hash of the password that browsers and programs must send, as --set-password writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Read a password, at least 8 bytes long, from a line of standard input, write its hash to FILE, and end
    #[arg(long, value_name = "FILE", exclusive = true)]
    pub(crate) set_password: Option<PathBuf>,
    /// Name by which browsers may reach this server, besides addresses, localhost and this machine's name; can be
    /// repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) host_name: Vec<String>,
    #[command(flatten)]
    pub(crate) frames: FrameArgs,
    #[command(flatten)]
    pub(crate) tracker: TrackerArgs,
    /// Cosine similarity (-1 to 1) below which the best class is "unknown" [default: the bundle's]
    #[arg(long, value_name = "S", value_parser = cosine, allow_negative_numbers = true)]
    pub(crate) min_similarity: Option<f32>,
    /// Lead in cosine similarity (0 to 2) below which the best class is "unknown" [default: the bundle's]
    #[arg(long, value_name = "S", value_parser = difference)]
    pub(crate) min_margin: Option<f32>,
    #[command(flatten)]
    pub(crate) decode: DecodeArgs,
}

#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct CameraSource {
    /// Network camera: http:// and https:// with MJPEG or with a JPEG image that is fetched again and again; rtsp:// and
    /// others through ffmpeg. User and password may be in the URL, and are not shown
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Concatenated JPEG frames (MJPEG) from a file, a named pipe, or "-" for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) mjpeg: Option<PathBuf>,
    /// YUV4MPEG2 stream (ffmpeg -f yuv4mpegpipe) from a file, a named pipe, or "-" for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) y4m: Option<PathBuf>,
    /// Folder of images, with its subfolders, in the order of their paths
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// V4L2 camera, such as /dev/video0 (only in builds with the feature v4l)
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

fn cosine(text: &str) -> Result<f32, String> {
    number(text, -1.0..=1.0)
}

/// Of two cosines.
fn difference(text: &str) -> Result<f32, String> {
    number(text, 0.0..=2.0)
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

/// A time that may be zero.
fn pause(text: &str) -> Result<Duration, String> {
    number(text, 0.0..=86_400.0).map(Duration::from_secs_f32)
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

fn percentage(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(n) if (0.0..f64::INFINITY).contains(&n) => Ok(n),
        _ => Err("expected a number, 0 or more".into()),
    }
}
