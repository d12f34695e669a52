//! The program `pinhole-firmware`.

mod cli;

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cli::{Cli, Command, RecordArgs};
use anyhow::{Context, Result, bail};
use clap::Parser;
use embedded_graphics::prelude::Size;
use pinhole::system::System;
use pinhole_firmware::bundle::{self, TestedBundle};
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::config::{ApplianceConfig, LogConfig};
use pinhole_firmware::counters::RunCounters;
use pinhole_firmware::display::OpenPanel;
use pinhole_firmware::image_file::write_apng;
use pinhole_firmware::panel::{DisplayConfig, RecordingPanel};
use pinhole_firmware::screens::{BootScreen, BootStep, Screen, draw};
use pinhole_firmware::text::Fonts;
use pinhole_firmware::{app, console, log};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long stopping may take before the program ends without finishing its work. Every wait in it is shorter.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long ending the program waits for the readers of standard output and standard error.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    console::report_panics();
    let result = match Cli::parse().command {
        Command::Run { config } => run(&config),
        Command::Check { config } => check(&config),
        Command::Record(args) => record(&args),
        Command::Log { folder } => print_log(&folder),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            console::err(&format!("error: {e:#}"));
            ExitCode::FAILURE
        }
    };
    console::flush(FLUSH_LIMIT);
    code
}

fn run(path: &Path) -> Result<()> {
    let config = ApplianceConfig::read(path)?;
    let stop = stop_on_signals()?;
    let display = config.display.clone();
    let open: OpenPanel = Box::new(move || display.open());
    let fonts = Fonts::new(&config.screen.fonts, config.display.is_monochrome())?;
    let counters = app::run(&config, open, fonts, System::new("/"), &stop)?;
    print_counters(&counters)
}

/// SIGTERM, SIGHUP and the first SIGINT stop the appliance; a second SIGINT kills the program. A second SIGTERM does not:
/// some programs, such as timeout(1), send two. If the appliance does not stop in time, the program ends without it.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = vec![SIGTERM, SIGINT];
    // nohup(1) means that a closed terminal does not end the program.
    if !ignores_hang_up() {
        signals.push(SIGHUP);
    }
    let register = || -> std::io::Result<()> {
        signal_hook::flag::register_conditional_shutdown(SIGINT, 1, stop.clone())?;
        for signal in &signals {
            signal_hook::flag::register(*signal, stop.clone())?;
        }
        let mut received = Signals::new(&signals)?;
        let limit = move || {
            received.forever().next();
            std::thread::sleep(STOP_LIMIT);
            console::err("error: the appliance does not stop; ending without it");
            console::flush(FLUSH_LIMIT);
            std::process::exit(1);
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(limit)?;
        Ok(())
    };
    register().context("cannot register signal handlers")?;
    Ok(stop)
}

/// Whether SIGHUP was ignored when the program started: bit 0 of the mask in /proc (proc_pid_status(5)).
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

fn print_counters(counters: &RunCounters) -> Result<()> {
    console::err(&serde_json::to_string(counters)?);
    Ok(())
}

fn check(path: &Path) -> Result<()> {
    let config = ApplianceConfig::read(path)?;
    println!("configuration: {}", path.display());
    let bundle = check_bundle(&config)?;
    let mut fonts = Fonts::new(&config.screen.fonts, config.display.is_monochrome())?;
    check_fonts(&mut fonts, &bundle.classifier.manifest().classes);
    if let Some(log) = &config.log {
        check_log(log)?;
    }
    check_display(&config.display, &bundle, &mut fonts)
}

fn check_bundle(config: &ApplianceConfig) -> Result<TestedBundle> {
    let builder = config.classifier_builder();
    let bundle = bundle::open(&config.bundle, builder).map_err(anyhow::Error::msg)?;
    let manifest = bundle.classifier.manifest();
    println!(
        "bundle: {}, {} classes, opened in {:.2} s, self-test {} of {}",
        manifest.model.name,
        manifest.classes.len(),
        bundle.load_time.as_secs_f64(),
        bundle.tested,
        bundle.tested
    );
    Ok(bundle)
}

fn check_fonts(fonts: &mut Fonts, classes: &[String]) {
    let mut missing: Vec<char> = (classes.iter())
        .flat_map(|name| fonts.missing_characters(name))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        println!("fonts: every class name can be shown");
    } else {
        println!(
            "fonts: no font has the characters {missing:?} of the class names, so they are shown as boxes; add a font \
             to screen.fonts"
        );
    }
}

/// Does not create the folder: it would belong to the current user instead of the appliance's.
fn check_log(log: &LogConfig) -> Result<()> {
    let folder = &log.folder;
    if folder.exists() && !folder.is_dir() {
        bail!(
            "log.folder: {}: expected a folder, found a file",
            folder.display()
        );
    }
    println!("log: {}, at most {} MB", folder.display(), log.megabytes);
    Ok(())
}

fn check_display(display: &DisplayConfig, bundle: &TestedBundle, fonts: &mut Fonts) -> Result<()> {
    let Some(mut panel) = display.open()? else {
        println!("display: none");
        return Ok(());
    };
    let step = |name, result: String| BootStep {
        name,
        result: Some(result),
    };
    let screen = Screen::Boot(BootScreen {
        bundle: bundle.classifier.manifest().model.name.clone(),
        steps: vec![
            step("bundle", format!("{:.1} s", bundle.load_time.as_secs_f64())),
            step(
                "self-test",
                format!("{} of {}", bundle.tested, bundle.tested),
            ),
            step("display", "works".into()),
        ],
    });
    let size = panel.size();
    let mut canvas = Canvas::new(size);
    let monochrome = panel.is_monochrome();
    draw(&screen, &mut canvas, fonts, monochrome, Duration::ZERO);
    panel.show(&canvas)?;
    println!(
        "display: {} x {} pixels; it shows a test screen",
        size.width, size.height
    );
    Ok(())
}

fn record(args: &RecordArgs) -> Result<()> {
    if args.out.exists() {
        bail!(
            "{}: exists already; remove it or choose another name",
            args.out.display()
        );
    }
    let config = ApplianceConfig {
        display: DisplayConfig::None,
        ..ApplianceConfig::read(&args.config)?
    };
    let stop = stop_on_signals()?;
    // The display thread shows no more pictures in this time.
    let limit = (args.seconds * config.screen.rate).ceil() as usize + 1;
    let [width, height] = args.display;
    let recording = RecordingPanel::new(Size::new(width, height), args.monochrome, limit);
    let panel = recording.clone();
    let open: OpenPanel = Box::new(move || Ok(Some(Box::new(panel.clone()))));
    let fonts = Fonts::new(&config.screen.fonts, args.monochrome)?;
    let timer = {
        let (stop, seconds) = (stop.clone(), args.seconds);
        move || {
            std::thread::sleep(Duration::from_secs_f64(seconds));
            stop.store(true, Ordering::Relaxed);
        }
    };
    std::thread::spawn(timer);
    let counters = app::run(&config, open, fonts, System::new("/"), &stop)?;
    let mut frames = recording.take();
    if args.still {
        frames.drain(..frames.len().saturating_sub(1));
    }
    pinhole_fs::write_with(&args.out, |file| {
        let mut out = BufWriter::new(file);
        write_apng(&mut out, &frames, args.scale)?;
        out.flush()
    })
    .with_context(|| format!("{}: cannot write", args.out.display()))?;
    print_counters(&counters)
}

/// Standard output does not take what is printed.
#[derive(Debug, thiserror::Error)]
#[error("standard output: cannot write: {0}")]
struct StdoutError(std::io::Error);

/// Prints a line to standard output.
fn print_line(line: &str) -> Result<(), StdoutError> {
    writeln!(std::io::stdout(), "{line}").map_err(StdoutError)
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<StdoutError>();
    error.is_some_and(|e| e.0.kind() == std::io::ErrorKind::BrokenPipe)
}

fn print_log(folder: &Path) -> Result<()> {
    let mut reader = log::read(folder)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut print = || -> Result<()> {
        for record in reader.by_ref() {
            let line = serde_json::to_string(&record?)?;
            writeln!(out, "{line}").map_err(StdoutError)?;
        }
        Ok(out.flush().map_err(StdoutError)?)
    };
    match print() {
        // The reader has seen enough: `log | head`.
        Err(e) if is_closed_pipe(&e) => return Ok(()),
        printed => printed?,
    }
    if reader.damaged() > 0 {
        console::err(&format!(
            "{}: skipped {} damaged lines",
            folder.display(),
            reader.damaged()
        ));
    }
    Ok(())
}
