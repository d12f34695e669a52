//! `pinhole-train coop` and `pinhole-train cocoop`.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use pinhole_checkpoint::{Checkpoint, OpenOptions};
use pinhole_model::{Activation, ClassPosition};
use pinhole_training::{
    dataset::{Dataset, DatasetOptions, Part},
    prompt_learning::{Intervals, LEARNER_FILE, Progress, PromptOptions, train_with},
};

/// What both methods take.
#[derive(Args)]
struct Common {
    /// CLIP checkpoint: a file or a folder of any format that pinhole-checkpoint reads.
    #[arg(long)]
    clip: PathBuf,
    /// Activation function of the checkpoint's MLPs, where no file says it: quickgelu or gelu.
    #[arg(long, value_parser = activation)]
    activation: Option<Activation>,
    /// "shapes" (the generated world), a folder of class folders, or a split_zhou_*.json.
    #[arg(long)]
    data: PathBuf,
    /// Folder that the paths in a split_zhou_*.json are relative to.
    #[arg(long)]
    images_root: Option<PathBuf>,
    /// Train on the first half of the classes only, the base classes of the base-to-new protocol.
    #[arg(long)]
    base: bool,
    /// Images of each class to train on.
    #[arg(long, default_value_t = 16)]
    shots: usize,
    /// Decides which images are drawn, first values, and the order of the images.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for what was learned, the training state, log and plot.
    #[arg(long)]
    out: PathBuf,
    /// Continue from the state in the output folder, bit for bit as if never interrupted.
    #[arg(long)]
    resume: bool,
    /// Context vectors of a prompt that start at random: CoOp's default is 16. Where they start as
    /// words, their tokens are counted instead.
    #[arg(long, conflicts_with = "words")]
    n_ctx: Option<usize>,
    /// Words whose token embeddings the context starts from. CoCoOp's default is "a photo of a".
    #[arg(long)]
    words: Option<String>,
    /// A prompt learner (this command's, or the reference's model.pth.tar-N) to start from.
    #[arg(long, conflicts_with_all = ["words", "n_ctx"])]
    init: Option<PathBuf>,
    /// Learning rate after the warm-up, from where it falls as a cosine, epoch by epoch.
    #[arg(long, default_value_t = 0.002)]
    learning_rate: f64,
    /// SGD's momentum.
    #[arg(long, default_value_t = 0.9)]
    momentum: f64,
    /// SGD's dampening of the momentum.
    #[arg(long, default_value_t = 0.0)]
    dampening: f64,
    /// SGD's weight decay.
    #[arg(long, default_value_t = 5e-4)]
    weight_decay: f64,
    /// Epochs of warm-up at a constant rate.
    #[arg(long, default_value_t = 1)]
    warm_up: u64,
    /// Learning rate of the warm-up.
    #[arg(long, default_value_t = 1e-5)]
    warm_up_rate: f64,
    /// Randomly cropped and mirrored views of each image to train on; 0 for the image as it is.
    #[arg(long, default_value_t = 0)]
    views: usize,
    /// Least share of the image's area that a view keeps.
    #[arg(long, default_value_t = 0.08)]
    crop: f32,
    /// Do not mirror views.
    #[arg(long)]
    no_flip: bool,
    /// Bundle of the same model whose image encoder is used instead of the checkpoint's; needed for
    /// a ModifiedResNet.
    #[arg(long)]
    encoder: Option<PathBuf>,
    /// MiB that the text tower may keep between its way forward and back; more classes than that
    /// takes are run in parts, which takes half as long again.
    #[arg(long, default_value_t = 1024)]
    memory: usize,
    /// Updates per line of log.jsonl.
    #[arg(long, default_value_t = 10)]
    log_every: u64,
    /// Updates per saved state.
    #[arg(long, default_value_t = 50)]
    save_every: u64,
}

/// Arguments of `coop`.
#[derive(Args)]
pub(crate) struct CoopArgs {
    #[command(flatten)]
    common: Common,
    /// Passes over the images; by default 50 for one shot, 100 for two to four, 200 for more.
    #[arg(long)]
    epochs: Option<u64>,
    /// Images per update.
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// A context for each class (CSC) instead of one for all.
    #[arg(long)]
    class_specific: bool,
    /// Where the class name stands: end, middle or front.
    #[arg(long, default_value_t = ClassPosition::End)]
    class_position: ClassPosition,
}

/// Arguments of `cocoop`.
#[derive(Args)]
pub(crate) struct CocoopArgs {
    #[command(flatten)]
    common: Common,
    /// Passes over the images.
    #[arg(long, default_value_t = 10)]
    epochs: u64,
    /// Images per update.
    #[arg(long, default_value_t = 1)]
    batch_size: usize,
}

pub(crate) fn activation(text: &str) -> Result<Activation, String> {
    match text {
        "quickgelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::Gelu),
        _ => Err("expected quickgelu or gelu".into()),
    }
}

pub(crate) fn coop(args: &CoopArgs) -> Result<()> {
    let (common, defaults) = (
        &args.common,
        PromptOptions::coop(args.common.shots, args.common.seed),
    );
    let options = PromptOptions {
        epochs: args.epochs.unwrap_or(defaults.epochs),
        batch_size: args.batch_size,
        class_specific: args.class_specific,
        class_position: args.class_position,
        ..options(common, defaults)
    };
    run(common, &options)
}

pub(crate) fn cocoop(args: &CocoopArgs) -> Result<()> {
    let (common, defaults) = (&args.common, PromptOptions::cocoop(args.common.seed));
    let options = PromptOptions {
        epochs: args.epochs,
        batch_size: args.batch_size,
        ..options(common, defaults)
    };
    run(common, &options)
}

fn options(args: &Common, defaults: PromptOptions) -> PromptOptions {
    PromptOptions {
        // An asked-for number of vectors, or a file, takes the place of the default words.
        words: match (&args.words, args.n_ctx, &args.init) {
            (Some(words), ..) => Some(words.clone()),
            (None, None, None) => defaults.words,
            _ => None,
        },
        n_ctx: args.n_ctx.unwrap_or(defaults.n_ctx),
        init: args.init.clone(),
        learning_rate: args.learning_rate,
        momentum: args.momentum,
        dampening: args.dampening,
        weight_decay: args.weight_decay,
        warm_up: args.warm_up,
        warm_up_rate: args.warm_up_rate,
        views: args.views,
        crop: args.crop,
        flip: !args.no_flip,
        encoder: args.encoder.clone(),
        memory: args.memory,
        ..defaults
    }
}

fn run(args: &Common, options: &PromptOptions) -> Result<()> {
    options.check()?;
    if args.log_every == 0 || args.save_every == 0 {
        bail!("--log-every and --save-every: expected at least 1");
    }
    let open = OpenOptions {
        activation: args.activation,
    };
    let clip = Checkpoint::open(&args.clip, &open)?;
    for assumption in clip.assumptions() {
        eprintln!("{}: {assumption}", args.clip.display());
    }
    let dataset = DatasetOptions {
        images_root: args.images_root.clone(),
        ..Default::default()
    };
    let mut dataset = Dataset::open(&args.data, &dataset)?;
    for note in &dataset.notes {
        eprintln!("{}: {note}", dataset.name);
    }
    if args.base {
        dataset = dataset.part(Part::Base);
    }
    let items = dataset.few_shot(args.shots, args.seed)?;
    let steps = options.epochs * options.steps_per_epoch(items.len());
    eprintln!(
        "{}: {} images of {} classes, {} epochs, {steps} updates",
        dataset.name,
        items.len(),
        dataset.classes.len(),
        options.epochs
    );
    let intervals = Intervals {
        log: args.log_every,
        save: args.save_every,
    };
    let mut bar = Bar::default();
    let mut progress = |event: Progress| bar.show(event);
    let (classes, out) = (&dataset.classes, Path::new(&args.out));
    train_with(
        &clip,
        classes,
        &items,
        options,
        intervals,
        out,
        args.resume,
        &mut progress,
    )?;
    bar.finish();
    let file = out.join(LEARNER_FILE);
    writeln!(std::io::stdout(), "wrote {}", file.display()).context("stdout")?;
    Ok(())
}

/// First the images encoded, then the updates.
#[derive(Default)]
pub(crate) struct Bar {
    bar: Option<indicatif::ProgressBar>,
    training: bool,
}

impl Bar {
    pub(crate) fn show(&mut self, event: Progress) {
        let training = matches!(event, Progress::Training { .. });
        let (done, all, message) = match event {
            Progress::Encoding { done, all } => (done as u64, all as u64, "images".to_owned()),
            Progress::Training { record, steps } => {
                let (loss, accuracy) = (record.loss, record.accuracy);
                let message = format!("loss {loss:.3}, accuracy {accuracy:.3}");
                (record.step, steps, message)
            }
        };
        if training != self.training {
            self.finish();
            self.training = training;
        }
        let bar = self.bar.get_or_insert_with(|| crate::progress(all));
        bar.set_message(message);
        bar.set_position(done);
    }

    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}
