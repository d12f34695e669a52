//! One command for each prompt-learning method, such as `pinhole-train coop`.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result};
use clap::{ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};
use pinhole::internal::PrintableWriter;
use pinhole::{note, wrong_usage};
use pinhole_model::ClassPosition;
use pinhole_training::{
    counted,
    dataset::ClassSubset,
    prompt_learning::{
        Intervals, LEARNER_FILE, Method, PromptForms, PromptOptions, PromptOutput, TrainingEvent,
        train,
    },
};

use super::common::{DataArgs, ModelArgs, TrainingBar, any_case, start, warn};

/// Arguments of a method's command.
#[derive(Args)]
pub(crate) struct LearnArgs {
    /// CLIP checkpoint: a file or folder of any format that pinhole-export reads, or a model of the Hugging Face hub, hf:ORG/NAME
    /// or hf:ORG/NAME@REVISION, which is downloaded once (HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE apply)
    #[arg(long)]
    clip: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Data set: "shapes" (synthetic), a folder with one sub-folder per class, or a split_zhou_*.json
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    reading: DataArgs,
    /// Train on the first half of the classes only: the base classes of the base-to-new protocol
    #[arg(long)]
    base: bool,
    /// Training images per class
    #[arg(long, default_value_t = 16)]
    shots: usize,
    /// Seed that selects the images, their order and initial values
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Output folder for prompt learner, training state, log and plot
    #[arg(long)]
    out: PathBuf,
    /// Continue the training in the output folder; the result is bit-identical to an uninterrupted training
    #[arg(long)]
    resume: bool,
    /// Number of context vectors with random initial values
    #[arg(long, conflicts_with = "words")]
    n_ctx: Option<usize>,
    /// Words whose token embeddings are the initial context vectors
    #[arg(long)]
    words: Option<String>,
    /// Prompt learner to start from: this command's, or the reference's model.pth.tar-N, or the output folder of either
    #[arg(long, conflicts_with_all = ["words", "n_ctx"])]
    init: Option<PathBuf>,
    /// Learn class-specific contexts (CSC) instead of one for all classes
    #[arg(long)]
    class_specific: bool,
    /// Position of the class name: end, middle or front
    #[arg(long, default_value_t = ClassPosition::End, value_parser = any_case::<ClassPosition>)]
    class_position: ClassPosition,
    /// Passes over the images
    #[arg(long)]
    epochs: Option<u64>,
    /// Images per update
    #[arg(long)]
    batch_size: Option<usize>,
    /// Learning rate after the warm-up, at the start of a cosine decay by epoch
    #[arg(long, default_value_t = 0.002)]
    learning_rate: f64,
    /// SGD's momentum
    #[arg(long, default_value_t = 0.9)]
    momentum: f64,
    /// SGD's dampening of the momentum
    #[arg(long, default_value_t = 0.0)]
    dampening: f64,
    /// SGD's weight decay
    #[arg(long, default_value_t = 5e-4)]
    weight_decay: f64,
    /// Epochs of warm-up at a constant learning rate
    #[arg(long, default_value_t = 1)]
    warm_up: u64,
    /// Learning rate of the warm-up
    #[arg(long, default_value_t = 1e-5)]
    warm_up_rate: f64,
    /// Randomly cropped and mirrored views of each training image; 0 for the unaugmented image
    #[arg(long, default_value_t = 0)]
    views: usize,
    /// Minimum fraction of the image's area that a view keeps
    #[arg(long, default_value_t = 0.08)]
    crop: f32,
    /// Do not mirror views
    #[arg(long)]
    no_flip: bool,
    /// MiB for the text encoder's activations; classes that need more are run in parts, which takes 1.5
    /// times as long
    #[arg(long, default_value_t = 1024)]
    memory: usize,
    /// Updates per line of log.jsonl
    #[arg(long, default_value_t = 10)]
    log_every: u64,
    /// Updates per saved state
    #[arg(long, default_value_t = 50)]
    save_every: u64,
}

/// The arguments of a method's command.
pub(super) fn args(method: Method, matches: &ArgMatches) -> Result<LearnArgs, clap::Error> {
    let args = LearnArgs::from_arg_matches(matches)?;
    let plain = !args.class_specific && args.class_position == ClassPosition::End;
    if method.prompt_forms() == PromptForms::SharedBeforeName && !plain {
        let problem = format!(
            "{} supports neither --class-specific nor another --class-position than end",
            method.key()
        );
        return Err(clap::Error::raw(ErrorKind::ArgumentConflict, problem));
    }
    Ok(args)
}

/// A method's command, with the method's defaults in its help.
pub(super) fn command(method: Method) -> Command {
    let recipes = [1, 4, 16].map(|shots| method.recipe(shots));
    let [one, four, sixteen] = recipes.each_ref().map(|recipe| recipe.epochs);
    let epochs = if one == sixteen {
        format!("{one}")
    } else {
        format!("{one}, {four} or {sixteen} for 1, 4 or 16 shots")
    };
    let recipe = &recipes[0];
    let key = method.key();
    let command = LearnArgs::augment_args(Command::new(key))
        .about(method.about())
        .after_help(format!(
            "Example: pinhole-train {key} --clip my-clip/checkpoint --data shapes --out my-{key}"
        ))
        .mut_arg("epochs", |arg| with_default(arg, &epochs))
        .mut_arg("batch_size", |arg| {
            with_default(arg, &recipe.batch_size.to_string())
        });
    let command = match &recipe.words {
        Some(words) => command.mut_arg("words", |arg| with_default(arg, &format!("{words:?}"))),
        None => command.mut_arg("n_ctx", |arg| with_default(arg, &recipe.n_ctx.to_string())),
    };
    match method.prompt_forms() {
        PromptForms::All => command,
        PromptForms::SharedBeforeName => command
            .mut_arg("class_specific", |arg| arg.hide(true))
            .mut_arg("class_position", |arg| arg.hide(true)),
    }
}

/// Adds a default to the help of an argument whose default depends on the method.
fn with_default(arg: clap::Arg, default: &str) -> clap::Arg {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    arg.help(format!("{help} [default: {default}]"))
}

fn options(method: Method, args: &LearnArgs) -> PromptOptions {
    let defaults = PromptOptions::new(method, args.shots, args.seed);
    PromptOptions {
        // --n-ctx and --init replace the default words.
        words: match (&args.words, args.n_ctx, &args.init) {
            (Some(words), ..) => Some(words.clone()),
            (None, None, None) => defaults.words,
            _ => None,
        },
        n_ctx: args.n_ctx.unwrap_or(defaults.n_ctx),
        init: args.init.clone(),
        class_specific: args.class_specific,
        class_position: args.class_position,
        epochs: args.epochs.unwrap_or(defaults.epochs),
        batch_size: args.batch_size.unwrap_or(defaults.batch_size),
        learning_rate: args.learning_rate,
        momentum: args.momentum,
        dampening: args.dampening,
        weight_decay: args.weight_decay,
        warm_up: args.warm_up,
        warm_up_rate: args.warm_up_rate,
        views: args.views,
        crop: args.crop,
        flip: !args.no_flip,
        encoder: args.model.encoder.clone(),
        memory: args.memory,
        ..defaults
    }
}

pub(super) fn run(method: Method, args: &LearnArgs) -> Result<()> {
    let options = options(method, args);
    options.check()?;
    if args.log_every == 0 || args.save_every == 0 {
        wrong_usage!("--log-every and --save-every: expected at least 1");
    }
    let clip = args.model.open(&args.clip)?;
    let mut dataset = args.reading.open(&args.data)?;
    if args.base {
        dataset = dataset.subset(ClassSubset::Base);
    }
    warn(&dataset)?;
    let images = dataset.few_shot(args.shots, args.seed)?;
    let steps = options.epochs * options.steps_per_epoch(images.len());
    note!(
        "{}: {} of {}, {}, {}",
        dataset.name,
        counted(images.len() as u64, "image"),
        counted(dataset.classes.len() as u64, "class"),
        counted(options.epochs, "epoch"),
        counted(steps, "update")
    );
    let output = PromptOutput {
        folder: args.out.clone(),
        start: start(args.resume),
        intervals: Intervals {
            log: args.log_every,
            save: args.save_every,
        },
    };
    let mut bar = TrainingBar::default();
    let progress = &mut |event: TrainingEvent| bar.show(event);
    train(
        &clip,
        &dataset.classes,
        &images,
        &options,
        &output,
        progress,
    )?;
    bar.finish();
    let file = args.out.join(LEARNER_FILE);
    writeln!(
        PrintableWriter(std::io::stdout()),
        "wrote {}",
        file.display()
    )
    .context("stdout")?;
    Ok(())
}
