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
use pinhole::internal::{PrintableWriter, end_with_usage, exit_code, ignores_hang_up};
use pinhole::system::System;
use pinhole_firmware::check::{self, Finding};
use pinhole_firmware::config::ApplianceConfig;
use pinhole_firmware::counters::RunCounters;
use pinhole_firmware::display::OpenPanel;
use pinhole_firmware::image_file::write_apng;
use pinhole_firmware::panel::{DisplayConfig, RecordingPanel};
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
    let cli = Cli::try_parse()
        .unwrap_or_else(|e| end_with_usage(&e.to_string(), e.exit_code(), || e.print()));
    let result = match cli.command {
        Command::Run { config } => run(&config),
        Command::Check { config } => check(&config),
        Command::Record(args) => record(&args),
        Command::SetPassword { file } => set_password(&file),
        Command::Log { folder } => print_log(&folder),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            console::err(&format!("error: {e:#}"));
            exit_code(e.as_ref())
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
    let fonts = usable_fonts(&config, config.display.is_monochrome());
    let counters = app::run(&config, open, fonts, System::new("/"), &stop)?;
    print_counters(&counters)
}

/// The fonts without those that cannot be used: a missing font is no reason to show nothing.
fn usable_fonts(config: &ApplianceConfig, monochrome: bool) -> Fonts {
    let (fonts, errors) = Fonts::load_usable(&config.screen.fonts, monochrome);
    for error in errors {
        console::err(&format!("{error}; continuing without this font"));
    }
    fonts
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

fn print_counters(counters: &RunCounters) -> Result<()> {
    console::err(&serde_json::to_string(counters)?);
    Ok(())
}

#[cfg(feature = "web")]
fn set_password(path: &Path) -> Result<()> {
    Ok(pinhole_firmware::set_password(path, console::err)?)
}

#[cfg(not(feature = "web"))]
fn set_password(_: &Path) -> Result<()> {
    bail!("set-password: this pinhole-firmware was built without the Cargo feature web")
}

fn check(path: &Path) -> Result<()> {
    let config = ApplianceConfig::read(path)?;
    print_line(&format!("configuration: {}", path.display()))?;
    let mut printed = Ok(());
    let mut errors = 0;
    check::check(&config, &mut |finding| match finding {
        Finding::Note(note) if printed.is_ok() => printed = print_line(&note),
        Finding::Note(_) => {}
        Finding::Error(error) => {
            errors += 1;
            console::err(&format!("error: {error}"));
        }
    });
    printed?;
    match errors {
        0 => Ok(()),
        1 => bail!("{}: correct the field above", path.display()),
        _ => bail!("{}: correct the {errors} fields above", path.display()),
    }
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
    let fonts = usable_fonts(&config, args.monochrome);
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
    writeln!(PrintableWriter(std::io::stdout()), "{line}").map_err(StdoutError)
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<StdoutError>();
    error.is_some_and(|e| e.0.kind() == std::io::ErrorKind::BrokenPipe)
}

fn print_log(folder: &Path) -> Result<()> {
    let mut reader = log::read(folder)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut records = 0u64;
    let mut print = || -> Result<()> {
        for record in reader.by_ref() {
            records += 1;
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
    anyhow::ensure!(
        records > 0 || reader.damaged() > 0,
        "{}: expected a log (results-*.jsonl), found none; it is the folder of the table [log]",
        folder.display()
    );
    if reader.damaged() > 0 {
        console::err(&format!(
            "{}: skipped {} damaged lines",
            folder.display(),
            reader.damaged()
        ));
    }
    Ok(())
}
