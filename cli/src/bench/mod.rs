//! `pinhole bench`: time per image and stage, memory and temperature.

mod compare;
mod measure;
mod plot;
mod report;
mod samples;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use pinhole::system::{CpuTime, System, Throttling};
use pinhole::{Classifier, DecodeOptions, RgbImage, note, wrong_usage};
use sha2::{Digest, Sha256};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::{BenchArgs, BundleArgs, ConditionalArgs, ModeName};
use crate::{mistakes, open, output};
use measure::{Limits, Measured, Progress, Subject, measure};
use plot::PlotFile;
use report::{BenchReport, Stages};

pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    if let [a, b] = &args.compare[..] {
        return compare(a, b, args.fail_above);
    }
    let Some(bundle) = &args.bundle else {
        wrong_usage!("expected a bundle's folder, found none");
    };
    // Errors that can be found at the start must not appear after a run of ten minutes.
    let plot = args.plot.as_deref().map(PlotFile::create).transpose()?;
    let own_image = args.image.as_deref().map(Image::open).transpose()?;

    let bundle_args = BundleArgs {
        bundle: bundle.clone(),
        threads: args.threads,
    };
    let start = Instant::now();
    let classifier = open::conditional(&bundle_args, &args.conditional)?;
    let load = start.elapsed();
    check_answers(&classifier)?;
    let image = match own_image {
        Some(image) => image,
        // Every bundle has at least one.
        None => {
            let first = &classifier.bundle().golden().images[0].file;
            (classifier.bundle()).read_files(|folder| Image::open(&folder.join(first)))?
        }
    };

    let system = System::new("/");
    let limits = Limits {
        warm_up: args.warm_up,
        iterations: args.iterations.map(|n| n as u64),
        time: args.seconds,
    };
    let subject = Subject {
        classifier: &classifier,
        image: &image.bytes,
    };
    let stop = stop_on_signals()?;
    let line = ProgressLine::new(args.seconds);
    let measured = measure(&subject, &limits, &system, &stop, &mut |p| line.show(p));
    line.clear();
    let report = report(args, &classifier, &image, load, &system, measured?)?;
    if report.interrupted {
        note!("note: interrupted; these are the results so far");
    }

    let mut out = output::stdout();
    if args.json {
        out.json(&report)?;
    } else {
        write!(out, "{}", report.text(args.seconds.is_some()))?;
    }
    if let Some(plot) = plot {
        let title = format!(
            "{}, {}, threads: {}",
            report.bundle, report.precision, report.threads
        );
        plot.write(&title, &report.over_time)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(a: &Path, b: &Path, fail_above: Option<f64>) -> Result<ExitCode> {
    let comparison = compare::compare(a, b)?;
    for warning in &comparison.warnings {
        note!("warning: {warning}");
    }
    write!(output::stdout(), "{}", comparison.table)?;
    let slower = comparison.slower_percent;
    match fail_above {
        Some(_) if !comparison.comparable => bail!(
            "--fail-above: expected results of the same conditions, found others in {} and {}; measure both with the same \
             bundle, image and machine",
            a.display(),
            b.display()
        ),
        Some(most) if slower > most => bail!(
            "p50 of {}: expected at most {most} % above that of {}, found {slower:.1} %",
            b.display(),
            a.display()
        ),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Refuses to measure a machine whose answers are wrong.
fn check_answers(classifier: &Classifier) -> Result<()> {
    let result = classifier.self_test()?;
    let cosines = result.images.iter().map(|i| i.cosine);
    // NaN counts as the worst.
    let worst = cosines.fold(1.0, |a: f32, b| if b >= a { a } else { b });
    if !result.passed() {
        bail!(
            "{}: self-test: expected cosines of at least {}, found {worst} with kernels {}; run \
             `pinhole selftest` to see which images differ, and with PINHOLE_KERNELS=scalar to see whether a kernel is \
             at fault",
            classifier.bundle().folder().display(),
            result.min_cosine,
            classifier.kernels()
        );
    }
    Ok(())
}

/// An image file in memory that was decoded once, as a check.
struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
    size: (u32, u32),
}

impl Image {
    fn open(path: &Path) -> Result<Self> {
        mistakes::check_file(path, "an image file")?;
        let options = DecodeOptions::default();
        let bytes = pinhole_preprocessing::read(path, &options)?;
        let image: RgbImage = pinhole_preprocessing::decode(&bytes, &options)
            .with_context(|| path.display().to_string())?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            size: (image.width, image.height),
        })
    }
}

/// A flag that the first Ctrl-C or SIGTERM sets; the second ends the program.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .context("cannot install signal handlers")?;
    }
    Ok(stop)
}

fn report(
    args: &BenchArgs,
    classifier: &Classifier,
    image: &Image,
    load: Duration,
    system: &System,
    mut run: Measured,
) -> Result<BenchReport> {
    // Before the report itself allocates memory.
    let peak_rss_bytes = system.peak_rss_bytes();
    let folder = classifier.bundle().folder();
    let Some(latency_ms) = run.latency.summary() else {
        bail!(
            "{}: interrupted before an image was measured",
            folder.display()
        );
    };
    let mut stages = run.stages.iter_mut().map(|s| s.summary());
    let mut stage = || stages.next().flatten().unwrap_or(latency_ms);
    let stages_ms = Stages {
        decode: stage(),
        preprocess: stage(),
        encode: stage(),
        head: stage(),
    };
    let manifest = folder.join("manifest.json");
    let bytes = std::fs::read(&manifest).with_context(|| manifest.display().to_string())?;
    let ConditionalArgs {
        conditional: mode,
        budget_ms,
    } = args.conditional;
    Ok(BenchReport {
        pinhole: env!("CARGO_PKG_VERSION"),
        bundle: folder.display().to_string(),
        bundle_sha256: sha256(&bytes),
        precision: classifier.manifest().precision.to_string(),
        conditional: classifier.manifest().conditional.as_ref().map(|_| {
            let mode = mode.and_then(|m| m.to_possible_value());
            mode.map_or("exact".into(), |m| m.get_name().to_owned())
        }),
        budget_ms: match mode {
            Some(ModeName::Auto) => Some(budget_ms),
            _ => None,
        },
        machine: system.machine(),
        processors: std::thread::available_parallelism().map_or(1, |n| n.get()),
        threads: classifier.threads(),
        kernels: classifier.kernels(),
        image: image.path.display().to_string(),
        image_of_bundle: args.image.is_none(),
        image_sha256: sha256(&image.bytes),
        image_width: image.size.0,
        image_height: image.size.1,
        warm_up: run.warm_up,
        iterations: run.latency.count(),
        seconds: run.elapsed.as_secs_f64(),
        interrupted: run.interrupted,
        latency_ms,
        stages_ms,
        percentiles: if run.latency.is_exact() {
            "exact"
        } else {
            "histogram"
        },
        frames_per_second: run.latency.count() as f64 / run.elapsed.as_secs_f64(),
        load_ms: load.as_secs_f64() * 1e3,
        peak_rss_bytes,
        temperature_c: run.temperature_c,
        frequency_mhz: system.frequency_mhz(),
        max_frequency_mhz: system.max_frequency_mhz(),
        cpu_seconds: run.cpu.map(|cpu| cpu.own),
        other_cpu_seconds: run.cpu.map(|cpu| cpu.others),
        load_average: system.load_average(),
        busy: run
            .cpu
            .and_then(|cpu| is_busy(&cpu, run.elapsed, classifier.threads())),
        throttled: run.throttling.map(Throttling::is_throttled),
        throttled_reasons: run.throttling.map(Throttling::reasons),
        over_time: run.over_time,
    })
}

/// Whether other programs used processors that this one needs; `None` for runs that are too short for the system's
/// clock of 10 ms.
fn is_busy(cpu: &CpuTime, elapsed: Duration, threads: usize) -> Option<bool> {
    /// Of one processor: what an idle system uses.
    const IDLE: f64 = 0.25;
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    let free = processors as f64 - threads as f64 + IDLE;
    let seconds = elapsed.as_secs_f64();
    (seconds >= 0.2).then(|| cpu.others / seconds > free)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Progress on one line of a terminal; nothing in a pipe.
struct ProgressLine {
    terminal: bool,
    /// The time limit.
    limit: Option<Duration>,
}

impl ProgressLine {
    fn new(limit: Option<Duration>) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            limit,
        }
    }

    fn show(&self, progress: &Progress) {
        if !self.terminal {
            return;
        }
        let seconds = progress.elapsed.as_secs_f64();
        let limit = self.limit.map_or(String::new(), |limit| {
            format!(" of {:.0}", limit.as_secs_f64())
        });
        let rate = progress.iterations as f64 / seconds.max(1e-9);
        let temperature = progress
            .temperature_c
            .map_or(String::new(), |t| format!(", {t:.0} °C"));
        // The run continues without its terminal.
        let _ = write!(
            std::io::stderr(),
            "\r{seconds:.0}{limit} s, {} images, {rate:.1} frames/s{temperature}\x1b[K",
            progress.iterations
        );
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
