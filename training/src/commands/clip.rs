//! `pinhole-train clip`.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::Args;
use pinhole::internal::PrintableWriter;
use pinhole::{note, wrong_usage};
use pinhole_training::{
    counted,
    log_plot::plot_log,
    pairs::{ListOptions, PairFiles, PairSource, check_templates},
    pretraining::{
        ModelSizes, Pretraining, PretrainingOptions, PretrainingOutput, PretrainingReport, pretrain,
    },
    vocabulary::Vocabulary,
};

use super::common::{FolderNamesArg, progress_bar};

/// Arguments of `clip`.
#[derive(Args)]
#[command(after_help = "Example: pinhole-train clip --data shapes --out my-clip")]
pub(crate) struct ClipArgs {
    /// Training data: "shapes" (synthetic), a CSV or TSV list of images and captions, or a folder with one
    /// sub-folder of images per class
    #[arg(long)]
    data: String,
    #[command(flatten)]
    folder_names: FolderNamesArg,
    /// Output folder for checkpoint, training state, log, plot and report
    #[arg(long, default_value = "clip-out")]
    out: PathBuf,
    /// Continue the training in the output folder; the result is bit-identical to an uninterrupted training
    #[arg(long)]
    resume: bool,
    /// Heading of a list's column of image paths
    #[arg(long, default_value = "filepath")]
    image_column: String,
    /// Heading of a list's column of captions
    #[arg(long, default_value = "title")]
    caption_column: String,
    /// Column separator of a list
    #[arg(long, default_value = "\\t")]
    separator: String,
    /// Caption of a class folder's images, with "{}" for the class; may be repeated
    #[arg(long = "template", default_value = "a photo of a {}.")]
    templates: Vec<String>,
    /// Minimum fraction of each image's area that a random crop keeps; 1 for no crops. No effect on shapes
    #[arg(long, default_value_t = 0.8)]
    crop: f32,
    /// Side of the square image in pixels
    #[arg(long, default_value_t = 96)]
    image_size: u32,
    /// Side of a patch in pixels
    #[arg(long, default_value_t = 16)]
    patch_size: u32,
    /// Width of the image encoder, a multiple of 64
    #[arg(long, default_value_t = 128)]
    width: usize,
    /// Transformer blocks of the image encoder
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Width of the text encoder, a multiple of 64
    #[arg(long, default_value_t = 128)]
    text_width: usize,
    /// Transformer blocks of the text encoder
    #[arg(long, default_value_t = 3)]
    text_layers: usize,
    /// Maximum length of a text in tokens, with start and end of text
    #[arg(long, default_value_t = 32)]
    context_length: usize,
    /// Length of the embeddings
    #[arg(long, default_value_t = 64)]
    embedding: usize,
    /// Image-text pairs per update
    #[arg(long, default_value_t = 128)]
    batch_size: usize,
    /// Number of updates
    #[arg(long, default_value_t = 8000, conflicts_with = "epochs")]
    steps: u64,
    /// Passes over the files, instead of --steps
    #[arg(long)]
    epochs: Option<f64>,
    /// Peak learning rate
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// Updates of linear warm-up, before a cosine decay to 0
    #[arg(long, default_value_t = 200)]
    warm_up: u64,
    /// Decay rate of AdamW's first moment
    #[arg(long, default_value_t = 0.9)]
    beta1: f64,
    /// Decay rate of AdamW's second moment
    #[arg(long, default_value_t = 0.98)]
    beta2: f64,
    /// AdamW's epsilon
    #[arg(long, default_value_t = 1e-6)]
    epsilon: f64,
    /// Decoupled weight decay, except for gains, biases and the logit scale
    #[arg(long, default_value_t = 0.1)]
    weight_decay: f64,
    /// Maximum global norm of the gradient; 0 for no limit
    #[arg(long, default_value_t = 1.0)]
    clip_gradient: f64,
    /// Seed of initial weights, and of order and augmentation of the data
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Updates per line of log.jsonl
    #[arg(long, default_value_t = 50)]
    log_every: u64,
    /// Updates per saved state and checkpoint
    #[arg(long, default_value_t = 500)]
    save_every: u64,
    /// Images of each class in the final test on the shapes
    #[arg(long, default_value_t = 100)]
    test_images: u64,
}

pub(crate) fn run(args: &ClipArgs) -> Result<()> {
    check_templates(&args.templates)?;
    let source = source(args)?;
    let steps = match (args.epochs, source.epoch_images()) {
        (None, _) => args.steps,
        (Some(_), None) => wrong_usage!("--epochs: the shapes never repeat; use --steps"),
        (Some(epochs), Some(_)) if !(epochs > 0.0 && epochs < 1e9) => {
            wrong_usage!("--epochs {epochs}: expected more than 0")
        }
        (Some(epochs), Some(images)) => {
            ((epochs * images as f64 / args.batch_size.max(1) as f64).ceil() as u64).max(1)
        }
    };
    if args.log_every == 0 || args.save_every == 0 {
        wrong_usage!("--log-every and --save-every: expected at least 1");
    }
    let texts = source.texts();
    let vocabulary = Vocabulary::of(texts.iter().map(String::as_str));
    let mut training = Pretraining::new(options(args, steps), vocabulary)?;
    let output = PretrainingOutput {
        folder: args.out.clone(),
        log_every: args.log_every,
        save_every: args.save_every,
    };
    if args.resume {
        training.load(&source, &output.state())?;
    } else if output.state().exists() {
        bail!(
            "{}: already contains a training; continue it with --resume or choose another --out",
            args.out.display()
        );
    }
    note!(
        "{}: {} of {}, {} in use",
        source.description(),
        counted(steps, "update"),
        counted(args.batch_size as u64, "pair"),
        counted(training.vocabulary.ids().len() as u64, "token")
    );
    let bar = progress_bar(steps);
    bar.set_position(training.done);
    let log = pretrain(&mut training, &source, &output, steps, |record| {
        bar.set_position(record.step);
        bar.set_message(format!(
            "loss {:.3}, accuracy {:.3}",
            record.loss, record.accuracy
        ));
        Ok(())
    })?;
    bar.finish();
    plot_log(&log, &args.out.join("plot.svg"))?;
    if matches!(source, PairSource::Shapes) {
        let arguments = std::env::args().skip(1);
        let command: Vec<String> = ["pinhole-train".into()]
            .into_iter()
            .chain(arguments)
            .collect();
        let template = args.templates.first().map_or("a photo of a {}.", |t| t);
        let report = PretrainingReport::new(
            &training,
            &log,
            command.join(" "),
            template,
            args.test_images,
        )?;
        report.write(&args.out)?;
        writeln!(
            std::io::stdout(),
            "zero-shot accuracy among 64 classes: {:.2} % on classes seen in training, {:.2} % on \
             held-out classes",
            100.0 * report.seen.accuracy,
            100.0 * report.unseen.accuracy
        )?;
    }
    writeln!(
        PrintableWriter(std::io::stdout()),
        "wrote {}",
        output.checkpoint().display()
    )?;
    Ok(())
}

fn options(args: &ClipArgs, steps: u64) -> PretrainingOptions {
    PretrainingOptions {
        model: ModelSizes {
            image_size: args.image_size,
            patch_size: args.patch_size,
            width: args.width,
            layers: args.layers,
            text_width: args.text_width,
            text_layers: args.text_layers,
            context_length: args.context_length,
            embedding: args.embedding,
        },
        steps,
        batch_size: args.batch_size,
        learning_rate: args.learning_rate,
        warm_up: args.warm_up,
        beta1: args.beta1,
        beta2: args.beta2,
        epsilon: args.epsilon,
        weight_decay: args.weight_decay,
        clip_gradient: args.clip_gradient,
        seed: args.seed,
    }
}

fn source(args: &ClipArgs) -> Result<PairSource> {
    if args.data == "shapes" {
        return Ok(PairSource::Shapes);
    }
    if !(args.crop > 0.0 && args.crop <= 1.0) {
        wrong_usage!("--crop {}: expected more than 0, at most 1", args.crop);
    }
    let path = Path::new(&args.data);
    if path.is_dir() {
        let files =
            PairFiles::from_folder(path, &args.templates, &args.folder_names.read()?, args.crop)?;
        return Ok(PairSource::Files(files));
    }
    let separator = match args.separator.as_str() {
        "\\t" | "tab" => b'\t',
        one if one.len() == 1 => one.as_bytes()[0],
        other => wrong_usage!("--separator {other:?}: expected one character or \\t"),
    };
    let options = ListOptions {
        separator,
        image_column: args.image_column.clone(),
        caption_column: args.caption_column.clone(),
    };
    let files = PairFiles::from_list(path, &options, args.crop)?;
    Ok(PairSource::Files(files))
}
