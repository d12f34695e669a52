//! The command `pinhole-train`.

mod commands;

use std::process::ExitCode;

use anyhow::{Context, Error, Result};
use clap::{Parser, Subcommand};

use pinhole::internal::{UsageError, end_with_usage, exit_code};
use pinhole::{note, wrong_usage};

use commands::{base_to_new, clip, evaluate, few_shot, method, shapes};

/// Trains and evaluates CLIP models and learned methods.
#[derive(Parser)]
#[command(name = "pinhole-train", version)]
struct Cli {
    /// Number of threads [default: one per processor core]
    #[arg(long, global = true)]
    threads: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pre-train a CLIP model from random weights on image-text pairs
    Clip(Box<clip::ClipArgs>),
    #[command(flatten)]
    Method(Box<method::MethodCommand>),
    /// Run the few-shot protocol: learn from 1 to 16 images of each class, and plot accuracy over their number
    FewShot(Box<few_shot::FewShotArgs>),
    /// Run the base-to-new protocol: learn half of the classes, test on both halves
    BaseToNew(Box<base_to_new::BaseToNewArgs>),
    /// Measure accuracy and calibration of zero-shot and learned methods, or of a bundle
    Evaluate(Box<evaluate::EvaluateArgs>),
    /// Write images of the synthetic shapes with captions, in one folder per class
    Shapes(shapes::ShapesArgs),
}

fn main() -> ExitCode {
    let cli = Cli::try_parse()
        .unwrap_or_else(|e| end_with_usage(&e.to_string(), e.exit_code(), || e.print()));
    if let Some(code) = run_with_single_threaded_candle() {
        return code;
    }
    let result = start_threads(cli.threads).and_then(|()| match cli.command {
        Command::Clip(args) => clip::run(&args),
        Command::Method(command) => method::run(&command),
        Command::FewShot(args) => few_shot::run(&args),
        Command::BaseToNew(args) => base_to_new::run(&args),
        Command::Evaluate(args) => evaluate::run(&args, cli.threads),
        Command::Shapes(args) => shapes::run(&args),
    });
    match result.map_err(of_options) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output has closed it, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            note!("error: {error:#}");
            exit_code(error.as_ref())
        }
    }
}

/// The library's errors that options alone have caused, as wrong usage.
fn of_options(error: Error) -> Error {
    use pinhole_training::Error::{Bundle, Options};
    match error.downcast_ref() {
        Some(Options(_) | Bundle(pinhole::Error::Threads { .. })) => UsageError::new(error).into(),
        _ => error,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Runs this command again with an environment in which candle uses only the calling thread, and returns
/// its exit code; `None` in that second run.
///
/// Batches are split over threads here. Candle would start threads of its own in each part, wait for them in
/// busy loops and read the number of cores from /proc for every matrix product: training would take three
/// times the processor time. Candle's number of threads comes from the environment only, and a process cannot
/// change its own environment safely. For the same reason the environment tells the GNU allocator to keep
/// freed memory for the next update.
fn run_with_single_threaded_candle() -> Option<ExitCode> {
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
        // Returns only on failure; then this process does the work, more slowly.
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

fn start_threads(threads: Option<usize>) -> Result<()> {
    let threads = match threads {
        Some(0) => wrong_usage!("--threads 0: expected at least 1"),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    pinhole_kernels::check()?;
    // Matrix products stay on their calling thread: the parts of a batch run in parallel.
    gemm::set_threading_threshold(usize::MAX);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().context("cannot start threads")
}
