//! `pinhole-export`: the workstation's command line.

mod learned_args;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use learned_args::LearnedArgs;
use pinhole::internal::{
    HeldOutComparison, PrintableWriter, UsageError, end_with_usage, exit_code, text_error,
};
use pinhole::{note, wrong_usage};
use pinhole_bundle::Manifest;
use pinhole_checkpoint::{Checkpoint, Heads, OpenOptions};
use pinhole_export::graph::{GraphOptions, OnnxEncoder, OnnxOptions};
use pinhole_export::{
    CalibrationImages, CalibrationOptions, ClassPrompts, EncoderOptions, EncoderSource,
    ExportOptions, ExportStep, Exported, FidelityGate, GivenEmbeddings, Recalibrated, TextOptions,
    model_tokenizer,
};
use pinhole_model::{Activation, Learned, LearnedClasses, Precision, PreprocessConfig, Score};
use pinhole_prompts::{
    Classes, FolderNames, Templates, TextEncoder, TextList, TextTokenizer, Tokenizer,
};

/// Convert CLIP checkpoints to bundles, which pinhole runs offline.
#[derive(Parser)]
#[command(name = "pinhole-export", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a bundle from a CLIP checkpoint
    ///
    /// A bundle is a folder with the image encoder, the class embeddings and a manifest.
    #[command(after_help = BUNDLE_EXAMPLE)]
    Bundle(BundleArgs),
    /// Write a bundle with an image encoder from an ONNX file, float or quantised
    #[command(after_help = ONNX_EXAMPLE)]
    Onnx(OnnxArgs),
    /// Calibrate an existing bundle on labelled images
    ///
    /// Fits the temperature of the probabilities and the thresholds for "unknown", and replaces the bundle atomically.
    #[command(after_help = CALIBRATE_EXAMPLE)]
    Calibrate(CalibrateArgs),
    /// Print the embeddings of texts
    #[command(after_help = TEXT_EXAMPLE)]
    Text {
        #[command(flatten)]
        model: Model,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
        /// Texts to embed
        #[arg(required = true, value_name = "TEXT")]
        texts: Vec<String>,
    },
}

const BUNDLE_EXAMPLE: &str = "\
Example:
  pinhole-export bundle --clip hf:laion/CLIP-ViT-B-32-laion2B-s34B-b79K --classes classes.txt \\
      --precision int8 --calibration photos --out bundle";
const ONNX_EXAMPLE: &str = "\
Example:
  pinhole-export onnx --encoder image_encoder.onnx --clip ViT-B-32.pt --classes classes.txt --out bundle";
const CALIBRATE_EXAMPLE: &str = "\
Example, with photos in photos/cat, photos/dog and photos/other:
  pinhole-export calibrate bundle --calibration photos";
const TEXT_EXAMPLE: &str = "\
Example:
  pinhole-export text --clip ViT-B-32.pt --json \"a photo of a cat\"";

#[derive(Args)]
struct Model {
    /// CLIP or SigLIP checkpoint: OpenAI's .pt; open_clip's .safetensors, .bin or .pt; a folder of open_clip,
    /// transformers or pinhole-train; hf:ORG/NAME or hf:ORG/NAME@REVISION, a model of the Hugging Face hub, which is
    /// downloaded once (HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE apply)
    #[arg(long, value_name = "CHECKPOINT")]
    clip: PathBuf,
    #[command(flatten)]
    unstated: Unstated,
}

/// What the files of a checkpoint may not state.
#[derive(Args)]
struct Unstated {
    /// Activation function of the model [default: from the configuration file or the file format]
    #[arg(long, ignore_case = true)]
    activation: Option<ActivationName>,
    /// Attention heads of the image encoder, or of image and text encoder, such as 12,8 [default: from the
    /// configuration file, else one per 64 of width]
    #[arg(long, value_name = "IMAGE[,TEXT]")]
    heads: Option<Heads>,
    /// tokenizer.json or spiece.model of a SigLIP model, or its folder [default: beside the weights]
    #[arg(long, value_name = "FILE|FOLDER")]
    tokenizer: Option<PathBuf>,
}

#[derive(Args)]
struct BundleArgs {
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
}

/// Options of the image encoder's graph.
#[derive(Args)]
struct PrecisionArgs {
    /// Storage format of the weights
    #[arg(long, default_value = "f32", ignore_case = true)]
    precision: PrecisionName,
    /// Least mean cosine of embeddings with f32, 0 to 1; below it the export fails. Applies to the image embeddings
    /// and, with --with-text, to the class embeddings. 0 turns it off
    #[arg(long, default_value_t = 0.98, value_parser = share)]
    min_cosine: f32,
    /// Least share of images with the same best class as in f32, 0 to 1; below it the export fails. 0 turns it off
    #[arg(long, default_value_t = 0.9, value_parser = share)]
    min_agreement: f32,
    /// Print how each layer was quantised, its error and its sensitivity
    #[arg(long)]
    report: bool,
    /// Write standard ONNX operators only, for runtimes that do not expand functions
    #[arg(long)]
    flat: bool,
}

#[derive(Args)]
struct OnnxArgs {
    /// ONNX file: normalised pixels f32 or f16, [N, 3, S, S] or [N, S, S, 3], to embeddings [N, D], as exported by
    /// torch.onnx or quantised by ONNX Runtime. Text encoder and preprocessing come from --clip, and the image size too
    /// where the file leaves it open
    #[arg(long, value_name = "FILE.onnx")]
    encoder: PathBuf,
    /// The embedding, if the file has several outputs that can be one, such as image_embeds of a whole CLIP: an output or
    /// any other value of the graph [default: the only output [N, D] that depends on the pixels alone]
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// Pixels that the encoder takes
    #[arg(long, default_value = "normalised", ignore_case = true)]
    encoder_pixels: PixelRange,
    /// CLIP checkpoint whose text encoder and preprocessing belong to the encoder: OpenAI's .pt; open_clip's .safetensors,
    /// .bin or .pt; a folder of open_clip, transformers or pinhole-train; hf:ORG/NAME[@REVISION]. Its own image encoder may
    /// be one of timm, as of MobileCLIP
    #[arg(
        long,
        value_name = "CHECKPOINT",
        required_unless_present_any = ["class_embeddings", "learned"]
    )]
    clip: Option<PathBuf>,
    #[command(flatten)]
    unstated: Unstated,
    /// How images are preprocessed, if not as by --clip: open_clip_config.json, or preprocessor_config.json of transformers
    #[arg(long, value_name = "FILE.json", required_unless_present = "clip")]
    preprocessing: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
}

/// Options of the commands that write a bundle.
#[derive(Args)]
struct CommonArgs {
    /// Text file with one class name per line, or a JSON array. Lines that begin with # are comments, in every list
    #[arg(long, value_name = "FILE")]
    classes: PathBuf,
    /// Prompt templates: a file with one per line, the name of a built-in set, or one template that contains {}
    #[arg(long, default_value = DEFAULT_TEMPLATES, value_name = "FILE|NAME|TEMPLATE")]
    templates: String,
    #[command(flatten)]
    learned: LearnedArgs,
    /// Class embeddings that another program computed, instead of a text encoder: a matrix [classes, D] as .npy, or in
    /// .safetensors (the tensor class_embeddings, or the only matrix), with a row per class in the order of --classes
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["templates", "learned", "negatives", "with_text"]
    )]
    class_embeddings: Option<PathBuf>,
    /// For images of none of the classes: a text, such as "an empty room", or a file with one text per line. May be
    /// repeated
    #[arg(long, value_name = "TEXT|FILE")]
    negatives: Vec<String>,
    /// Include the text encoder, so that `pinhole classes` can name new classes on the board
    #[arg(long)]
    with_text: bool,
    /// Folder of images of what the camera will see: some hundred to fit int8 to, and to measure a reduced precision on.
    /// With one folder per class, also to fit the temperature and the thresholds for "unknown"; images in other folders
    /// count as unknown
    #[arg(long, value_name = "DIR")]
    calibration: Option<PathBuf>,
    /// File with a line per folder of --calibration that is not named after its class: folder, space, class name, such as
    /// "n01440764 tench"
    #[arg(long, value_name = "FILE", requires = "calibration")]
    folder_names: Option<PathBuf>,
    /// Share of the correctly classified calibration images that the thresholds keep, 0 to 1
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    keep: f32,
    /// What the probabilities say [default: sigmoid for a model with a logit bias, such as SigLIP, else softmax]
    #[arg(long)]
    score: Option<ScoreName>,
    /// Text file about origin, intended use and limits, to store in the bundle
    #[arg(long, value_name = "FILE")]
    model_card: Option<PathBuf>,
    /// Folder of the new bundle; it must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Args)]
struct CalibrateArgs {
    /// The bundle
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Folder with one folder of images per class; images in other folders count as unknown
    #[arg(long, value_name = "DIR")]
    calibration: PathBuf,
    /// File with a line per folder that is not named after its class: folder, space, class name, such as "n01440764 tench"
    #[arg(long, value_name = "FILE")]
    folder_names: Option<PathBuf>,
    /// Share of the correctly classified calibration images that the thresholds keep, 0 to 1
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    keep: f32,
    /// Text file that replaces the bundle's text about origin, intended use and limits
    #[arg(long, value_name = "FILE")]
    model_card: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "lowercase")]
enum ActivationName {
    /// x * sigmoid(1.702 x): OpenAI, MetaCLIP and *-quickgelu weights
    QuickGelu,
    /// Exact GELU: LAION, DataComp and SigLIP weights
    Gelu,
    /// GELU by tanh: SigLIP2 weights
    GeluTanh,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PixelRange {
    /// Normalised by mean and standard deviation of the preprocessing
    Normalised,
    /// From 0 to 1: the encoder normalises them itself
    #[value(name = "0..1")]
    Unit,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScoreName {
    /// Exactly one class is right: the probabilities add up to 1
    Softmax,
    /// Each class by itself: none or several may be right; only for models with a logit bias
    Sigmoid,
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionName {
    F32,
    F16,
    /// 8-bit integers, a quarter of the size
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

fn share(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::try_parse()
        .unwrap_or_else(|e| end_with_usage(&e.to_string(), e.exit_code(), || e.print()));
    let result = match cli.command {
        Command::Bundle(args) => bundle(&args),
        Command::Onnx(args) => onnx(&args),
        Command::Calibrate(args) => calibrate(&args),
        Command::Text { model, json, texts } => text(&model, json, &texts),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output has closed it, as `head` does, and needs no message.
        Err(e) if is_broken_pipe(&e) => ExitCode::FAILURE,
        Err(e) => {
            note!("error: {e:#}");
            exit_code(e.as_ref())
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

fn bundle(args: &BundleArgs) -> Result<()> {
    args.precision.check(&args.common)?;
    let mut checkpoint = open(&args.model.clip, &args.model.unstated)?;
    ensure!(
        checkpoint.config().image.is_in_checkpoint(),
        "{}: expected an image encoder of CLIP or SigLIP, found one of timm (visual.trunk.*); export model.visual with \
         torch.onnx.export, and pass the file to pinhole-export onnx --encoder, with this checkpoint as --clip",
        args.model.clip.display()
    );
    let learned = args.common.learned.read(Some(&checkpoint))?;
    if let Some(learned) = &learned {
        checkpoint.adapt(learned).context("--learned")?;
    }
    let encoder = (args.precision).encoder(EncoderSource::Checkpoint(&checkpoint));
    let parts = ModelParts {
        checkpoint: Some(&checkpoint),
        tokenizer: args.model.unstated.tokenizer.as_deref(),
        preprocessing: checkpoint.config().preprocessing.clone(),
        encoder,
        learned,
        origin: &args.model.clip,
    };
    export(&args.common, parts)
}

fn onnx(args: &OnnxArgs) -> Result<()> {
    args.precision.check(&args.common)?;
    let clip = args.clip.as_deref();
    if clip.is_none() && matches!(args.common.score, Some(ScoreName::Sigmoid)) {
        wrong_usage!(
            "--score sigmoid: expected --clip with a model that has a logit bias, found no --clip"
        );
    }
    let checkpoint = clip.map(|clip| open(clip, &args.unstated)).transpose()?;
    let checkpoint = checkpoint.as_ref();
    let learned = args.common.learned.read(checkpoint)?;
    if let Some(learned) = &learned
        && (learned.changes_image_encoder() || learned.changes_text_encoder())
    {
        bail!(
            "--learned: {} changes the image encoder, which --encoder has already; export with pinhole-export bundle",
            learned.method
        );
    }
    let mut preprocessing = match (&args.preprocessing, checkpoint) {
        (Some(path), _) => pinhole_checkpoint::read_preprocessing(path)?,
        (None, Some(checkpoint)) => checkpoint.config().preprocessing.clone(),
        (None, None) => {
            wrong_usage!("--preprocessing: expected a file, found neither it nor --clip")
        }
    };
    if args.encoder_pixels == PixelRange::Unit {
        preprocessing = preprocessing.unnormalised();
    }
    let options = OnnxOptions {
        image_size: preprocessing.size,
        output: args.output.clone(),
    };
    let file = OnnxEncoder::open(&args.encoder, &options)?;
    let parts = ModelParts {
        checkpoint,
        tokenizer: args.unstated.tokenizer.as_deref(),
        preprocessing,
        encoder: args.precision.encoder(EncoderSource::Onnx {
            file: &file,
            checkpoint,
        }),
        learned,
        origin: &args.encoder,
    };
    export(&args.common, parts)
}

impl PrecisionArgs {
    /// Checks what needs no file, before anything is read.
    fn check(&self, common: &CommonArgs) -> Result<(), UsageError> {
        common.learned.check()?;
        match common.calibration {
            // The images are counted once they are found.
            Some(_) => Ok(()),
            None => (self.gate().check_images(self.precision.into(), 0)).map_err(UsageError::new),
        }
    }

    fn gate(&self) -> FidelityGate {
        FidelityGate {
            min_cosine: self.min_cosine,
            min_agreement: self.min_agreement,
        }
    }

    fn encoder<'a>(&self, source: EncoderSource<'a>) -> EncoderOptions<'a> {
        EncoderOptions {
            source,
            graph: GraphOptions {
                precision: self.precision.into(),
                flat: self.flat,
            },
            gate: self.gate(),
            report: self.report,
        }
    }
}

/// What the two commands that write a bundle take from different places.
struct ModelParts<'a> {
    checkpoint: Option<&'a Checkpoint>,
    /// The file of the checkpoint's tokenizer, if it is asked for.
    tokenizer: Option<&'a Path>,
    preprocessing: PreprocessConfig,
    encoder: EncoderOptions<'a>,
    /// What a learned method saved; a checkpoint is adapted to it.
    learned: Option<Learned>,
    /// The file that the image encoder comes from.
    origin: &'a Path,
}

/// The built-in set of templates that is used without `--templates`.
const DEFAULT_TEMPLATES: &str = "photo";
/// Of a model whose checkpoint is not there; CLIPs are trained up to it.
const USUAL_LOGIT_SCALE: f32 = 100.0;

fn export(args: &CommonArgs, parts: ModelParts) -> Result<()> {
    let classes = Classes::read(&args.classes).context("--classes")?;
    let templates = Templates::parse(&args.templates);
    let templates = templates.map_err(|e| text_error::<anyhow::Error>(&args.templates, e))?;
    let mut negatives: Vec<String> = vec![];
    for argument in &args.negatives {
        let list = TextList::parse(argument);
        let list = list.map_err(|e| text_error::<anyhow::Error>(argument, e));
        negatives.extend(list.context("--negatives")?.into_texts());
    }
    let images = match &args.calibration {
        Some(folder) => calibration_images(folder, classes.names(), args.folder_names.as_deref())?,
        None => CalibrationImages::default(),
    };
    let tokenizer: Box<dyn TextTokenizer> = match parts.checkpoint {
        // Given class embeddings need none.
        Some(checkpoint) if args.class_embeddings.is_none() => {
            model_tokenizer(checkpoint, parts.tokenizer)?
        }
        _ => Box::new(Tokenizer::new()),
    };
    for warning in classes.warnings(&negatives) {
        note!("warning: {warning}");
    }
    let learned = &parts.learned;
    if let Some(learned) = learned
        && let Err(problem) = learned.check_classes(classes.names())
    {
        bail!("--classes: {problem}");
    }
    let given = match (&args.class_embeddings, learned) {
        (Some(path), _) => Some(GivenEmbeddings::read(path).context("--class-embeddings")?),
        (None, Some(learned)) => match &learned.classes {
            LearnedClasses::Embeddings(embeddings) => {
                let given = GivenEmbeddings::learned(embeddings);
                Some(given.with_context(|| format!("--learned: {}", learned.method))?)
            }
            _ => None,
        },
        (None, None) => None,
    };
    let learned_classes = learned.as_ref().map(|learned| &learned.classes);
    let prompts = match (&given, learned_classes) {
        (Some(given), _) => ClassPrompts::Given(given),
        (None, Some(LearnedClasses::Prompts { learner, names })) => ClassPrompts::Learned {
            learner,
            position: args.learned.class_position(learner),
            names: names.as_ref(),
            deep: learned.as_ref().and_then(|l| l.deep_prompts.as_ref()),
        },
        (None, Some(LearnedClasses::Linear(classifier))) => ClassPrompts::Linear(classifier),
        (None, Some(LearnedClasses::Cache(cache))) => ClassPrompts::Cache(cache, &templates),
        (None, Some(LearnedClasses::Templates | LearnedClasses::Embeddings(_)) | None) => {
            ClassPrompts::Templates(&templates)
        }
    };
    match prompts {
        ClassPrompts::Templates(_) | ClassPrompts::Cache(..) => {
            if let Some(warning) = templates.article_warning(classes.names()) {
                note!("warning: {warning}");
            }
        }
        _ => ensure!(
            args.templates == DEFAULT_TEMPLATES || learned.is_none(),
            "--templates: expected none, as --learned has the classes ({})",
            learned.as_ref().map_or("", |learned| learned.method)
        ),
    }
    let model_card = match &args.model_card {
        Some(path) => read_text(path)?,
        None => default_model_card(parts.origin),
    };
    let options = ExportOptions {
        checkpoint: parts.checkpoint,
        preprocessing: parts.preprocessing,
        logit_scale: parts
            .checkpoint
            .map_or(USUAL_LOGIT_SCALE, Checkpoint::logit_scale),
        text: TextOptions {
            tokenizer: &*tokenizer,
            classes: &classes,
            prompts,
            negatives: &negatives,
            include_text_encoder: args.with_text,
        },
        encoder: parts.encoder,
        method: learned.as_ref().map(|learned| learned.method),
        score: match prompts {
            // Its logits are those of one right class, whatever the model's are.
            ClassPrompts::Linear(_) => Score::Softmax,
            _ => score(args, parts.checkpoint)?,
        },
        calibration: CalibrationOptions {
            images: &images,
            keep: args.keep,
        },
        model_card,
        out: &args.out,
    };
    let mut bar = StepBar::default();
    let exported = pinhole_export::export(&options, &mut |step, done, total| {
        bar.show(step, done, total)
    });
    bar.finish();
    let Exported {
        manifest,
        report,
        warning,
        not_calibrated,
    } = exported?;
    if let Some(warning) = warning {
        note!("warning: {warning}");
    }
    if parts.checkpoint.is_none() {
        note!(
            "note: the logit scale is assumed to be {USUAL_LOGIT_SCALE}, as no --clip states it; calibration corrects it"
        );
    }
    if let Some(report) = report {
        write!(PrintableWriter(std::io::stdout()), "{report}")?;
    }
    let bytes: u64 = manifest.files.iter().map(|f| f.bytes).sum();
    note!(
        "{}: {} in {}, {} classes, {:.1} MB",
        args.out.display(),
        manifest.model.name,
        manifest.precision,
        manifest.classes.len(),
        bytes as f64 / 1e6
    );
    note_unknown_folders(&images);
    if manifest.calibration.is_none() {
        note_not_calibrated(&manifest, not_calibrated.as_deref());
    }
    if manifest.precision == Precision::Int8
        && let Some(fidelity) = manifest.fidelity
        && fidelity.images < FidelityGate::MIN_IMAGES
    {
        note!(
            "note: int8 was not judged: it was fitted to {} generated images or too few of yours, on which it may agree with \
             f32 where photos do not; use --calibration with some hundred images",
            fidelity.images
        );
    }
    if let Some(head) = manifest.conditional
        && head.compared_images < MIN_COMPARED_IMAGES
    {
        note!(
            "note: the cheaper modes of the conditional head were compared with the exact one on {} images, too few to \
             judge by; use --calibration with a few hundred images",
            head.compared_images
        );
    }
    Ok(())
}

/// Number of images below which a comparison says little.
const MIN_COMPARED_IMAGES: usize = 8;

/// Says what a bundle without calibration lacks. `reason` is why the calibration images were not used.
fn note_not_calibrated(manifest: &Manifest, reason: Option<&str>) {
    let reason = match reason {
        Some(reason) => format!(" (--calibration: {reason})"),
        None => String::new(),
    };
    let unknown = match manifest.unknown.negatives.len() {
        0 => "no image is answered with \"unknown\"",
        _ => "only --negatives decide which images are \"unknown\"",
    };
    note!(
        "note: the bundle is not calibrated{reason}: probabilities may be over- or underconfident, and {unknown}; \
         pinhole-export calibrate does it, with one folder of images per class"
    );
}

fn note_unknown_folders(images: &CalibrationImages) {
    let of_classes = images.labels().is_some();
    let (misspelt, others): (Vec<_>, Vec<_>) = (images.unknown_folders().iter())
        .filter(|_| of_classes)
        .partition(|folder| folder.similar_class.is_some());
    for (kind, folders) in [("warning", misspelt), ("note", others)] {
        if !folders.is_empty() {
            let folders: Vec<String> = folders.iter().map(ToString::to_string).collect();
            note!(
                "{kind}: --calibration: these folders match none of the classes, and their images count as unknown: {}",
                folders.join(", ")
            );
        }
    }
}

fn calibrate(args: &CalibrateArgs) -> Result<()> {
    let bundle = pinhole::Bundle::open(&args.bundle)?;
    let (classes, names) = (&bundle.manifest().classes, args.folder_names.as_deref());
    let images = calibration_images(&args.calibration, classes, names)?;
    let options = CalibrationOptions {
        images: &images,
        keep: args.keep,
    };
    let model_card = args.model_card.as_deref().map(read_text).transpose()?;
    let mut bar = StepBar::default();
    let recalibrated = pinhole_export::calibrate(
        &args.bundle,
        &options,
        model_card,
        &mut |holder| note!("note: {}", waiting(holder)),
        &mut |step, done, total| bar.show(step, done, total),
    );
    bar.finish();
    let Recalibrated {
        manifest,
        comparison,
    } = recalibrated?;
    if let Some(found) = manifest.calibration {
        note!(
            "{}: {}, temperature {:.3}; {} images, {:.1} % correct; calibration error {:.3} before, {:.3} after; {:.1} % of \
             the correct answers kept",
            args.bundle.display(),
            manifest.score.name(),
            manifest.temperature,
            found.images,
            100.0 * found.accuracy,
            found.ece_before,
            found.ece_after,
            100.0 * found.kept,
        );
    }
    if let Some(found) = comparison {
        note_comparison(&found);
    }
    note_unknown_folders(&images);
    Ok(())
}

/// Reports how the bundle answers images that the calibration was not fitted to, before and after.
fn note_comparison(found: &HeldOutComparison) {
    let percent = |share: Option<f32>| match share {
        Some(share) => format!("{:.1} %", 100.0 * share),
        None => "none".into(),
    };
    let (before, after) = (found.before, found.after);
    note!(
        "on held-out fifths of the {} images: mean log loss {:.3} before, {:.3} after; correct answers kept: {} before, {} \
         after; wrong answers and images of no class rejected as unknown: {} before, {} after",
        found.images,
        before.loss,
        after.loss,
        percent(before.kept),
        percent(after.kept),
        percent(before.rejected),
        percent(after.rejected)
    );
    if found.has_worse_probabilities() {
        note!(
            "warning: the probabilities are clearly worse than before on images that they were not fitted to: {} images are \
             too few, or unlike each other; use more, and calibrate a copy of the bundle before you replace it",
            found.images
        );
    }
    if found.has_worse_thresholds() {
        let advice = match after.rejected {
            Some(_) => "use more images, or a higher --keep",
            None => {
                "add folders of what is none of the classes, which they are to reject, or use a higher --keep"
            }
        };
        note!(
            "warning: the new thresholds for \"unknown\" reject more correct answers than before, and no more of the others; {advice}"
        );
    }
}

fn waiting(holder: &str) -> String {
    let minutes = pinhole_bundle::LOCK_PATIENCE.as_secs() / 60;
    format!("waiting for {holder}, which is changing this bundle, for at most {minutes} minutes")
}

fn calibration_images(
    folder: &Path,
    classes: &[String],
    names: Option<&Path>,
) -> Result<CalibrationImages> {
    let names = names
        .map(FolderNames::read)
        .transpose()?
        .unwrap_or_default();
    CalibrationImages::find(folder, classes, &names)
}

fn open(clip: &Path, unstated: &Unstated) -> Result<Checkpoint> {
    let activation = unstated.activation.map(|a| match a {
        ActivationName::QuickGelu => Activation::QuickGelu,
        ActivationName::Gelu => Activation::Gelu,
        ActivationName::GeluTanh => Activation::GeluTanh,
    });
    let options = OpenOptions {
        activation,
        heads: unstated.heads.unwrap_or_default(),
    };
    let checkpoint = Checkpoint::open(&pinhole_hub::local_path(clip)?, &options)?;
    for assumption in checkpoint.assumptions() {
        note!("note: {assumption}");
    }
    Ok(checkpoint)
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))
}

/// As asked for, else the model's.
fn score(args: &CommonArgs, checkpoint: Option<&Checkpoint>) -> Result<Score> {
    match (args.score, checkpoint.and_then(Checkpoint::logit_bias)) {
        (Some(ScoreName::Softmax), _) | (None, None) => Ok(Score::Softmax),
        (_, Some(logit_bias)) => Ok(Score::Sigmoid {
            logit_bias,
            calibrated_bias: None,
        }),
        (Some(ScoreName::Sigmoid), None) => bail!(
            "--score sigmoid: expected a model with a logit bias (SigLIP, or a CLIP trained with its loss) with \
             --clip, found none; use --score softmax"
        ),
    }
}

fn default_model_card(model: &Path) -> String {
    let name = match model.file_name() {
        Some(name) if !pinhole_hub::is_model(model) => name.to_string_lossy().into_owned(),
        _ => model.display().to_string(),
    };
    format!(
        "Exported from {name}. Test the bundle on images from where it will be used before relying on it. The terms \
         and limits of the original model apply."
    )
}

fn text(model: &Model, json: bool, texts: &[String]) -> Result<()> {
    let checkpoint = open(&model.clip, &model.unstated)?;
    let encoder = TextEncoder::load(&checkpoint)?;
    let tokenizer = model_tokenizer(&checkpoint, model.unstated.tokenizer.as_deref())?;
    let context_length = checkpoint.config().text.context_length;
    let mut out = PrintableWriter(std::io::stdout().lock());
    for text in texts {
        let embedding = encoder.embed_tokens(&tokenizer.tokens(text, context_length)?)?;
        if json {
            let line = serde_json::json!({ "text": text, "embedding": embedding });
            writeln!(out.0, "{line}")?;
        } else {
            let values: Vec<String> = embedding.iter().map(|v| v.to_string()).collect();
            writeln!(out, "{text}\t{}", values.join(" "))?;
        }
    }
    Ok(())
}

/// One progress bar per step; indicatif draws it on a terminal only.
#[derive(Default)]
struct StepBar {
    current: Option<(ExportStep, ProgressBar)>,
}

impl StepBar {
    fn show(&mut self, step: ExportStep, done: u64, total: u64) {
        if self
            .current
            .as_ref()
            .is_none_or(|(current, _)| *current != step)
        {
            self.finish();
            let style = ProgressStyle::with_template("{msg:<20} {wide_bar} {pos}/{len}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let message = match step {
                ExportStep::Text => "class embeddings",
                ExportStep::Graph => "image encoder",
                ExportStep::Reference => "f32 reference",
                ExportStep::LayerInputs => "layer inputs",
                ExportStep::Sensitivity => "sensitivity by layer",
                ExportStep::Fidelity => "fidelity",
                ExportStep::Embeddings => "embeddings",
                ExportStep::Conditional => "conditional head",
                ExportStep::Calibration => "calibration",
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
