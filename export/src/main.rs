//! `pinhole-export`: the workstation's command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use pinhole_bundle::Precision;
use pinhole_checkpoint::{Activation, Checkpoint, OpenOptions};
use pinhole_export::{Gate, Request, Step};
use pinhole_prompts::{Classes, Templates, TextTower, Tokenizer};

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
    model: Model,
    /// Text file with one class name a line
    #[arg(long, value_name = "FILE")]
    classes: PathBuf,
    /// A file with one template a line, the name of a built-in set, or one template with {} in it
    #[arg(long, default_value = "photo", value_name = "FILE|NAME|TEMPLATE")]
    templates: String,
    /// How the weights are stored
    #[arg(long, default_value = "f32")]
    precision: PrecisionName,
    /// Folder of images to measure a reduced precision on [default: generated images]
    #[arg(long, value_name = "DIR")]
    calibration: Option<PathBuf>,
    /// Fail where the mean cosine with f32 is lower; 0 turns it off
    #[arg(long, default_value_t = 0.98, value_parser = share)]
    min_cosine: f32,
    /// Fail where fewer images keep their best class; 0 turns it off
    #[arg(long, default_value_t = 0.9, value_parser = share)]
    min_agreement: f32,
    /// Write standard operators alone, for runtimes that do not expand functions
    #[arg(long)]
    flat: bool,
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
enum PrecisionName {
    F32,
    F16,
}

fn share(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bundle(args) => bundle(&args),
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

fn bundle(args: &BundleArgs) -> Result<()> {
    let classes = Classes::read(&args.classes)?;
    let templates = Templates::parse(&args.templates)?;
    let calibration = match &args.calibration {
        Some(folder) => images_below(folder)?,
        None => vec![],
    };
    let checkpoint = open(&args.model)?;
    let model_card = match &args.model_card {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot read", path.display()))?,
        None => default_model_card(&args.model.clip),
    };
    let request = Request {
        checkpoint: &checkpoint,
        classes: &classes,
        templates: &templates,
        precision: match args.precision {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::F16 => Precision::F16,
        },
        flat: args.flat,
        calibration: &calibration,
        gate: Gate {
            min_cosine: args.min_cosine,
            min_agreement: args.min_agreement,
        },
        model_card,
        out: &args.out,
    };
    let mut bar = StepBar::default();
    let manifest = pinhole_export::export(&request, &mut |step, done, total| {
        bar.show(step, done, total)
    })?;
    bar.finish();
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

fn default_model_card(clip: &Path) -> String {
    let name = clip.file_name().map_or_else(
        || clip.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    );
    format!(
        "Exported from {name}. Probabilities are uncalibrated. Test the bundle on images of its own \
         surroundings before relying on it; mind the terms and limits of the model that it was made from."
    )
}

/// The image files below `folder`, sorted.
fn images_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        let entries =
            std::fs::read_dir(&next).with_context(|| format!("{}: cannot list", next.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("{}: cannot list", next.display()))?;
            let path = entry.path();
            // Links to folders are not followed: they may lead back.
            let kind = entry
                .file_type()
                .with_context(|| format!("{}: cannot read", path.display()))?;
            if kind.is_dir() {
                pending.push(path);
            } else if path
                .extension()
                .is_some_and(|e| is_image(&e.to_string_lossy()))
            {
                found.push(path);
            }
        }
    }
    ensure!(
        !found.is_empty(),
        "{}: expected images (jpg, png, webp, bmp, gif), found none",
        folder.display()
    );
    found.sort();
    Ok(found)
}

fn is_image(extension: &str) -> bool {
    ["jpg", "jpeg", "png", "webp", "bmp", "gif"].contains(&extension.to_ascii_lowercase().as_str())
}

fn text(model: &Model, json: bool, texts: &[String]) -> Result<()> {
    let checkpoint = open(model)?;
    let tower = TextTower::load(&checkpoint)?;
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
                Step::Fidelity => "fidelity",
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
