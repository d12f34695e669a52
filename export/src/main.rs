//! `pinhole-export`: the workstation's command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use pinhole_checkpoint::{Checkpoint, OpenOptions, read_prompt_learner};
use pinhole_export::graph::Encoder;
use pinhole_export::{Exported, Gate, Prompts, Request, Step, images_below};
use pinhole_model::{Activation, ClassPosition, Precision, PromptLearner};
use pinhole_prompts::{Classes, Templates, TextEncoder, Tokenizer};

/// Turn a CLIP checkpoint into a bundle that pinhole runs offline.
#[derive(Parser)]
#[command(name = "pinhole-export", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a bundle: ONNX image encoder, class embeddings, manifest
    Bundle(BundleArgs),
    /// Write a bundle around an image encoder in ONNX from elsewhere, float or quantised
    Onnx(OnnxArgs),
    /// Print the embedding of each text
    Text {
        #[command(flatten)]
        model: Model,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
        /// The texts
        #[arg(required = true, value_name = "TEXT")]
        texts: Vec<String>,
    },
}

#[derive(Args)]
struct Model {
    /// CLIP checkpoint: OpenAI's .pt, open_clip's .safetensors, .bin or .pt, or a folder of open_clip or
    /// transformers
    #[arg(long, value_name = "CHECKPOINT")]
    clip: PathBuf,
    /// Activation function, where no config file tells it
    #[arg(long)]
    activation: Option<ActivationName>,
}

#[derive(Args)]
struct BundleArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// How the weights are stored
    #[arg(long, default_value = "f32")]
    precision: PrecisionName,
    /// Fail where the mean cosine with f32 is lower, of the image embeddings or, where the text tower goes
    /// along, of its class embeddings; 0 turns it off
    #[arg(long, default_value_t = 0.98, value_parser = share)]
    min_cosine: f32,
    /// Fail where fewer images keep their best class; 0 turns it off
    #[arg(long, default_value_t = 0.9, value_parser = share)]
    min_agreement: f32,
    /// Print how each layer was written and what that does to the embedding
    #[arg(long)]
    report: bool,
    /// Write standard operators alone, for runtimes that do not expand functions
    #[arg(long)]
    flat: bool,
}

#[derive(Args)]
struct OnnxArgs {
    /// ONNX file: normalised pixels f32 [N, 3, S, S] to embeddings f32 [N, D], as torch.onnx exports an image
    /// tower, or ONNX Runtime's quantiser writes it. The text side and the preprocessing come from --clip
    #[arg(long, value_name = "FILE.onnx")]
    encoder: PathBuf,
    #[command(flatten)]
    common: CommonArgs,
}

/// What a bundle has whatever encodes the images.
#[derive(Args)]
struct CommonArgs {
    #[command(flatten)]
    model: Model,
    /// Text file with one class name a line
    #[arg(long, value_name = "FILE")]
    classes: PathBuf,
    /// A file with one template a line, the name of a built-in set, or one template with {} in it
    #[arg(long, default_value = "photo", value_name = "FILE|NAME|TEMPLATE")]
    templates: String,
    /// What CoOp or CoCoOp learned, in the templates' place: the reference's model.pth.tar-N, or a file of
    /// pinhole-train
    #[arg(long, value_name = "FILE", conflicts_with = "templates")]
    prompt_learner: Option<PathBuf>,
    /// Where the class name stands among the learned vectors; the reference's files do not say it
    /// [default: what the file says, else end]
    #[arg(long, requires = "prompt_learner")]
    class_position: Option<PositionName>,
    /// Text file with one text a line for what is none of the classes, such as "an empty room"
    #[arg(long, value_name = "FILE")]
    negatives: Option<PathBuf>,
    /// Take the text tower along, so that `pinhole classes` can name new classes on the board
    #[arg(long)]
    with_text: bool,
    /// Folder of images to measure a reduced precision on [default: generated images]; with a folder a
    /// class, also to fit the temperature and the thresholds for "unknown" to. Folders that are no class
    /// count as unknown
    #[arg(long, value_name = "DIR")]
    calibration: Option<PathBuf>,
    /// Share of the rightly classified calibration images that those thresholds keep
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    keep: f32,
    /// Text file about origin, intended use and limits, to travel in the bundle
    #[arg(long, value_name = "FILE")]
    model_card: Option<PathBuf>,
    /// The bundle's folder; it must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "lowercase")]
enum ActivationName {
    /// x * sigmoid(1.702 x): OpenAI, metaclip and *-quickgelu weights
    QuickGelu,
    /// Exact GELU: laion2b and datacomp weights
    Gelu,
}

#[derive(Clone, Copy, ValueEnum)]
enum PositionName {
    End,
    Middle,
    Front,
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionName {
    F32,
    F16,
    /// 8-bit integers, a quarter of the size, for vision transformers
    Int8,
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::F16 => Precision::F16,
            PrecisionName::Int8 => Precision::Int8,
        }
    }
}

impl BundleArgs {
    fn gate(&self) -> Gate {
        Gate {
            min_cosine: self.min_cosine,
            min_agreement: self.min_agreement,
        }
    }
}

fn share(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bundle(args) => bundle(&args.common, Images::Tower(&args)),
        Command::Onnx(args) => bundle(&args.common, Images::Encoder(&args.encoder)),
        Command::Text { model, json, texts } => text(&model, json, &texts),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn open(model: &Model) -> Result<Checkpoint> {
    let activation = model.activation.map(|a| match a {
        ActivationName::QuickGelu => Activation::QuickGelu,
        ActivationName::Gelu => Activation::Gelu,
    });
    let checkpoint = Checkpoint::open(&model.clip, &OpenOptions { activation })?;
    for assumption in checkpoint.assumptions() {
        eprintln!("note: {assumption}");
    }
    Ok(checkpoint)
}

/// What encodes the images.
#[derive(Clone, Copy)]
enum Images<'a> {
    /// The checkpoint's image tower.
    Tower(&'a BundleArgs),
    /// An ONNX file.
    Encoder(&'a Path),
}

fn bundle(args: &CommonArgs, images: Images) -> Result<()> {
    let classes = Classes::read(&args.classes)?;
    let templates = Templates::parse(&args.templates)?;
    let negatives = match &args.negatives {
        Some(file) => Classes::read(file)?.names().to_vec(),
        None => vec![],
    };
    let (calibration, strangers) = match &args.calibration {
        Some(folder) => images_below(folder, classes.names())?,
        None => (vec![], vec![]),
    };
    if !strangers.is_empty() {
        eprintln!(
            "note: --calibration: taken for none of the classes: {}",
            strangers.join(", ")
        );
    }
    if !calibration.iter().any(|image| image.label.is_some()) {
        eprintln!(
            "note: probabilities are uncalibrated, and no threshold says \"unknown\": give --calibration a \
             folder with a folder of images for each class"
        );
    }
    let checkpoint = open(&args.model)?;
    let learner = args.prompt_learner.as_deref().map(read_prompt_learner);
    let learner = learner.transpose()?;
    let prompts = match &learner {
        Some(learner) => Prompts::Learned(learner, class_position(args, learner)),
        None => Prompts::Templates(&templates),
    };
    let model_card = match &args.model_card {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot read", path.display()))?,
        None => default_model_card(match images {
            Images::Tower(_) => &args.model.clip,
            Images::Encoder(path) => path,
        }),
    };
    let encoder = match images {
        Images::Encoder(path) => Some(Encoder::open(path)?),
        Images::Tower(_) => None,
    };
    // What is fixed in a file from elsewhere has no gate.
    let (precision, flat, gate, report) = match images {
        Images::Tower(args) => (args.precision.into(), args.flat, args.gate(), args.report),
        Images::Encoder(_) => (Precision::F32, true, Gate::OFF, false),
    };
    let request = Request {
        checkpoint: &checkpoint,
        encoder: encoder.as_ref(),
        classes: &classes,
        prompts,
        with_text: args.with_text,
        negatives: &negatives,
        precision,
        flat,
        calibration: &calibration,
        keep: args.keep,
        gate,
        report,
        model_card,
        out: &args.out,
    };
    let mut bar = StepBar::default();
    let Exported { manifest, report } =
        pinhole_export::export(&request, &mut |step, done, total| {
            bar.show(step, done, total)
        })?;
    bar.finish();
    if let Some(report) = report {
        write!(std::io::stdout(), "{report}")?;
    }
    let bytes: u64 = manifest.files.iter().map(|f| f.bytes).sum();
    eprintln!(
        "{}: {} in {}, {} classes, {:.1} MB",
        args.out.display(),
        manifest.model.name,
        manifest.precision,
        manifest.classes.len(),
        bytes as f64 / 1e6
    );
    Ok(())
}

/// From the command line, else from the file, else the reference's default, which is said.
fn class_position(args: &CommonArgs, learner: &PromptLearner) -> ClassPosition {
    let asked = args.class_position.map(|position| match position {
        PositionName::End => ClassPosition::End,
        PositionName::Middle => ClassPosition::Middle,
        PositionName::Front => ClassPosition::Front,
    });
    asked.or(learner.class_position).unwrap_or_else(|| {
        eprintln!(
            "note: the prompt learner's file does not say where the class name stands: behind the context \
             (--class-position end)"
        );
        ClassPosition::End
    })
}

fn default_model_card(model: &Path) -> String {
    let name = model.file_name().map_or_else(
        || model.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    );
    format!(
        "Exported from {name}. Test the bundle on images of its own \
         surroundings before relying on it; mind the terms and limits of the model that it was made from."
    )
}

fn text(model: &Model, json: bool, texts: &[String]) -> Result<()> {
    let checkpoint = open(model)?;
    let tower = TextEncoder::load(&checkpoint)?;
    let tokenizer = Tokenizer::new();
    let context_length = checkpoint.config().text.context_length;
    let mut out = std::io::stdout().lock();
    for text in texts {
        let embedding = tower.embed_tokens(&tokenizer.tokens(text, context_length)?)?;
        if json {
            let line = serde_json::json!({ "text": text, "embedding": embedding });
            writeln!(out, "{line}")?;
        } else {
            let values: Vec<String> = embedding.iter().map(|v| v.to_string()).collect();
            writeln!(out, "{text}\t{}", values.join(" "))?;
        }
    }
    Ok(())
}

/// One bar a step; indicatif draws it on a terminal alone.
#[derive(Default)]
struct StepBar {
    current: Option<(Step, ProgressBar)>,
}

impl StepBar {
    fn show(&mut self, step: Step, done: u64, total: u64) {
        if self
            .current
            .as_ref()
            .is_none_or(|(current, _)| *current != step)
        {
            self.finish();
            let style = ProgressStyle::with_template("{msg:<16} {wide_bar} {pos}/{len}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let message = match step {
                Step::Text => "class embeddings",
                Step::Graph => "image encoder",
                Step::Reference => "f32 reference",
                Step::Layers => "layers",
                Step::Damage => "damage by layer",
                Step::Fidelity => "fidelity",
                Step::Embeddings => "embeddings",
                Step::Conditional => "conditional head",
                Step::Calibration => "calibration",
            };
            self.current = Some((
                step,
                ProgressBar::new(total)
                    .with_style(style)
                    .with_message(message),
            ));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    fn finish(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}
