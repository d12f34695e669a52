//! The command `pinhole-train`.

mod base_to_new_command;
mod evaluate_command;
mod prompt_command;

use std::{
    fs,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pinhole_training::{
    data::{Files, ListOptions, Source, check_templates},
    plot::plot,
    report::Report,
    shapes::{self, Split},
    state,
    train::{ModelOptions, Output, TrainOptions, Training, run},
    vocabulary::Vocabulary,
};
use rayon::prelude::*;

/// Trains and evaluates CLIP models.
#[derive(Parser)]
#[command(name = "pinhole-train", version)]
struct Cli {
    /// Threads; by default one per processor core.
    #[arg(long, global = true)]
    threads: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a CLIP model from the start by contrastive pre-training.
    Clip(Box<ClipArgs>),
    /// Learn context vectors for class names (CoOp), the towers being frozen.
    Coop(Box<prompt_command::CoopArgs>),
    /// Learn context vectors that the image shifts (CoCoOp), the towers being frozen.
    Cocoop(Box<prompt_command::CocoopArgs>),
    /// Learn from half of the classes with CoOp and CoCoOp, and test on both halves.
    BaseToNew(Box<base_to_new_command::BaseToNewArgs>),
    /// Accuracy of a checkpoint with zero-shot and learned prompts, or of a bundle.
    Evaluate(Box<evaluate_command::EvaluateArgs>),
    /// Write pictures of the generated world, a folder per class, with captions.
    Shapes(ShapesArgs),
}

#[derive(Args)]
struct ClipArgs {
    /// "shapes" (the generated world), a CSV or TSV list of images and captions, or a folder with
    /// one sub-folder of images per class.
    #[arg(long)]
    data: String,
    /// Folder for the checkpoint, the training state, log, plot and report.
    #[arg(long, default_value = "clip-out")]
    out: PathBuf,
    /// Continue from the state in the output folder, bit for bit as if never interrupted.
    #[arg(long)]
    resume: bool,
    /// Heading of a list's column of image paths.
    #[arg(long, default_value = "filepath")]
    image_column: String,
    /// Heading of a list's column of captions.
    #[arg(long, default_value = "title")]
    caption_column: String,
    /// Character between a list's columns.
    #[arg(long, default_value = "\\t")]
    separator: String,
    /// Caption of a class folder's images, "{}" being the class; may be repeated.
    #[arg(long = "template", default_value = "a photo of a {}.")]
    templates: Vec<String>,
    /// Least share of each image's area that a random crop keeps; 1 for no crops. (Not for shapes.)
    #[arg(long, default_value_t = 0.8)]
    crop: f32,
    /// Side of the square image in pixels.
    #[arg(long, default_value_t = 96)]
    image_size: u32,
    /// Side of a patch in pixels.
    #[arg(long, default_value_t = 16)]
    patch_size: u32,
    /// Width of the image tower, a multiple of 64.
    #[arg(long, default_value_t = 128)]
    width: usize,
    /// Blocks of the image tower.
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Width of the text tower, a multiple of 64.
    #[arg(long, default_value_t = 128)]
    text_width: usize,
    /// Blocks of the text tower.
    #[arg(long, default_value_t = 3)]
    text_layers: usize,
    /// Longest text in tokens, with start and end.
    #[arg(long, default_value_t = 32)]
    context_length: usize,
    /// Length of the embeddings.
    #[arg(long, default_value_t = 64)]
    embedding: usize,
    /// Pairs per update.
    #[arg(long, default_value_t = 128)]
    batch_size: usize,
    /// Updates.
    #[arg(long, default_value_t = 8000, conflicts_with = "epochs")]
    steps: u64,
    /// Passes over the files, instead of --steps.
    #[arg(long)]
    epochs: Option<f64>,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// Updates of linear warm-up, before half a cosine down to 0.
    #[arg(long, default_value_t = 200)]
    warm_up: u64,
    /// AdamW's decay of the mean of gradients.
    #[arg(long, default_value_t = 0.9)]
    beta1: f64,
    /// AdamW's decay of the mean of squared gradients.
    #[arg(long, default_value_t = 0.98)]
    beta2: f64,
    /// AdamW's epsilon.
    #[arg(long, default_value_t = 1e-6)]
    epsilon: f64,
    /// Decoupled weight decay; gains, biases and the logit scale are spared.
    #[arg(long, default_value_t = 0.1)]
    weight_decay: f64,
    /// Longest gradient of all weights together; 0 for any.
    #[arg(long, default_value_t = 1.0)]
    clip_gradient: f64,
    /// Decides first weights, and order and variation of the data.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Updates per line of log.jsonl.
    #[arg(long, default_value_t = 50)]
    log_every: u64,
    /// Updates per saved state and checkpoint.
    #[arg(long, default_value_t = 500)]
    save_every: u64,
    /// Pictures of each class in the final test on the generated world.
    #[arg(long, default_value_t = 100)]
    test_images: u64,
}

#[derive(Args)]
struct ShapesArgs {
    /// Folder to make.
    #[arg(long)]
    out: PathBuf,
    /// Number of pictures.
    #[arg(long)]
    count: u64,
    /// Decides the pictures: the same seed gives the same bytes everywhere.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// train and seen: pairs that training shows; unseen: those held out.
    #[arg(long, value_enum, default_value_t = SplitArg::Train)]
    split: SplitArg,
    /// Width x height in pixels.
    #[arg(long, default_value = "320x240")]
    size: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitArg {
    Train,
    Seen,
    Unseen,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(code) = single_threaded_candle() {
        return code;
    }
    let done = pool(cli.threads).and_then(|()| match cli.command {
        Command::Clip(args) => clip(&args),
        Command::Coop(args) => prompt_command::coop(&args),
        Command::Cocoop(args) => prompt_command::cocoop(&args),
        Command::BaseToNew(args) => base_to_new_command::base_to_new(&args),
        Command::Evaluate(args) => evaluate_command::evaluate(&args, cli.threads),
        Command::Shapes(args) => write_shapes(&args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads the results has seen enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Runs this command once more with an environment in which candle keeps to the calling thread,
/// and returns its exit code; `None` in that second run.
///
/// We split batches over threads ourselves. Candle would start threads of its own inside each part,
/// wait for them in busy loops and look up the number of cores in /proc for every matrix product:
/// training would take three times the processor time. Candle reads its number of threads from the
/// environment only, and a process cannot change its own environment safely. The GNU allocator, for
/// the same reason, is told here to keep freed memory instead of giving it back to the system and
/// asking for it again in every update.
fn single_threaded_candle() -> Option<ExitCode> {
    const MARK: &str = "PINHOLE_TRAIN_CHILD";
    if std::env::var_os(MARK).is_some() {
        return None;
    }
    let mut command = std::process::Command::new(std::env::current_exe().ok()?);
    command
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .env("RAYON_NUM_THREADS", "1")
        .env("MALLOC_MMAP_THRESHOLD_", "1073741824")
        .env("MALLOC_TRIM_THRESHOLD_", "8589934592")
        .env("MALLOC_TOP_PAD_", "67108864");
    #[cfg(unix)]
    {
        // Only returns where it fails; then this process does the work, if more slowly.
        let _ = std::os::unix::process::CommandExt::exec(&mut command);
        None
    }
    #[cfg(not(unix))]
    {
        let status = command.status().ok()?;
        Some(match status.code() {
            Some(0) => ExitCode::SUCCESS,
            Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            None => ExitCode::FAILURE,
        })
    }
}

fn pool(threads: Option<usize>) -> Result<()> {
    let threads = match threads {
        Some(0) => bail!("--threads 0: expected at least 1"),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    pinhole_kernels::check()?;
    // Matrix products stay on the thread that asks for them: the parts of a batch are what runs in
    // parallel.
    gemm::set_threading_threshold(usize::MAX);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().context("cannot start threads")
}

fn clip(args: &ClipArgs) -> Result<()> {
    check_templates(&args.templates)?;
    let source = source(args)?;
    let steps = match (args.epochs, source.len()) {
        (None, _) => args.steps,
        (Some(_), None) => bail!("--epochs: the generated world has no end; use --steps"),
        (Some(epochs), Some(_)) if !(epochs > 0.0 && epochs < 1e9) => {
            bail!("--epochs {epochs}: expected more than 0")
        }
        (Some(epochs), Some(images)) => {
            ((epochs * images as f64 / args.batch_size.max(1) as f64).ceil() as u64).max(1)
        }
    };
    let options = TrainOptions {
        model: ModelOptions {
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
    };
    if args.log_every == 0 || args.save_every == 0 {
        bail!("--log-every and --save-every: expected at least 1");
    }
    let texts = source.texts();
    let vocabulary = Vocabulary::of(texts.iter().map(String::as_str));
    let mut training = Training::new(options, vocabulary)?;
    let output = Output {
        folder: args.out.clone(),
        log_every: args.log_every,
        save_every: args.save_every,
    };
    if args.resume {
        state::load(&mut training, &source, &output.state())?;
    } else if output.state().exists() {
        bail!(
            "{} holds a training; continue it with --resume or choose another --out",
            args.out.display()
        );
    }
    eprintln!(
        "{}: {steps} updates of {} pairs, {} tokens in use",
        source.description(),
        args.batch_size,
        training.vocabulary.ids().len()
    );
    let bar = progress(steps);
    bar.set_position(training.done);
    let log = run(
        &mut training,
        &source,
        &output,
        steps,
        |training, record| {
            bar.set_position(record.step);
            bar.set_message(format!(
                "loss {:.3}, accuracy {:.3}",
                record.loss, record.accuracy
            ));
            if training.done.is_multiple_of(args.save_every) {
                training.write(&output.checkpoint())?;
            }
            Ok(())
        },
    )?;
    bar.finish();
    training.write(&output.checkpoint())?;
    plot(&log, &args.out.join("plot.svg"))?;
    if matches!(source, Source::Shapes) {
        let command = std::env::args().collect::<Vec<_>>();
        let command = ["pinhole-train"]
            .into_iter()
            .chain(command.iter().skip(1).map(|a| &**a));
        let command = command.collect::<Vec<_>>().join(" ");
        let template = args.templates.first().map_or("a photo of a {}.", |t| t);
        let report = Report::new(&training, &log, command, template, args.test_images)?;
        report.write(&args.out)?;
        writeln!(
            std::io::stdout(),
            "zero-shot accuracy among 64 classes: {:.2} % on pairs seen in training, {:.2} % on \
             pairs never seen or named",
            100.0 * report.seen.accuracy,
            100.0 * report.unseen.accuracy
        )?;
    }
    writeln!(std::io::stdout(), "wrote {}", output.checkpoint().display())?;
    Ok(())
}

fn source(args: &ClipArgs) -> Result<Source> {
    if args.data == "shapes" {
        return Ok(Source::Shapes);
    }
    if !(args.crop > 0.0 && args.crop <= 1.0) {
        bail!("--crop {}: expected more than 0, at most 1", args.crop);
    }
    let path = Path::new(&args.data);
    if path.is_dir() {
        return Ok(Source::Files(Files::from_folder(
            path,
            &args.templates,
            args.crop,
        )?));
    }
    let separator = match args.separator.as_str() {
        "\\t" | "tab" => b'\t',
        one if one.len() == 1 => one.as_bytes()[0],
        other => bail!("--separator {other:?}: expected one character or \\t"),
    };
    let options = ListOptions {
        separator,
        image_column: args.image_column.clone(),
        caption_column: args.caption_column.clone(),
    };
    Ok(Source::Files(Files::from_list(path, &options, args.crop)?))
}

/// A bar on a terminal, silence elsewhere.
fn progress(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} (left {eta}) {msg}");
    let bar = ProgressBar::new(length);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn write_shapes(args: &ShapesArgs) -> Result<()> {
    let split = match args.split {
        SplitArg::Train => Split::Train,
        SplitArg::Seen => Split::Seen,
        SplitArg::Unseen => Split::Unseen,
    };
    let sides = args.size.split_once('x');
    let sides = sides.and_then(|(w, h)| Some((w.parse::<u32>().ok()?, h.parse::<u32>().ok()?)));
    let Some((width, height)) =
        sides.filter(|&(w, h)| (1..=8192).contains(&w.min(h)) && w.max(h) <= 8192)
    else {
        bail!(
            "--size {}: expected WIDTHxHEIGHT, each 1 to 8192",
            args.size
        );
    };
    let captions: Vec<(String, String)> = (0..args.count)
        .into_par_iter()
        .map(|index| {
            let (scene, class, caption) = shapes::sample(split, args.seed, index);
            let name = format!("{}/{index:06}.png", shapes::class_name(class));
            let path = args.out.join(&name);
            let folder = path.parent().unwrap_or(&args.out);
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            let image = shapes::render(&scene, width, height);
            let colour = image::ExtendedColorType::Rgb8;
            image::save_buffer(&path, &image.data, width, height, colour)
                .with_context(|| path.display().to_string())?;
            Ok((name, caption))
        })
        .collect::<Result<_>>()?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let path = args.out.join("captions.tsv");
    let mut list = String::from("filepath\ttitle\n");
    for (name, caption) in captions {
        list.push_str(&format!("{name}\t{caption}\n"));
    }
    fs::write(&path, list).with_context(|| path.display().to_string())?;
    let (count, path) = (args.count, path.display());
    writeln!(std::io::stdout(), "wrote {count} pictures and {path}")?;
    Ok(())
}
