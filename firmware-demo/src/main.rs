//! The appliance's command line.

mod cli;

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cli::{Cli, Command, Record};
use anyhow::{Context, Result, bail};
use clap::Parser;
use embedded_graphics::prelude::Size;
use pinhole::Classifier;
use pinhole::system::System;
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::config::{Config, Display};
use pinhole_firmware::display::Open;
use pinhole_firmware::panel::Recorder;
use pinhole_firmware::picture::write_apng;
use pinhole_firmware::screens::{Boot, Screen, Step, draw};
use pinhole_firmware::text::Fonts;
use pinhole_firmware::totals::Totals;
use pinhole_firmware::{app, bundle, log, panel};
use signal_hook::consts::{SIGINT, SIGTERM};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { config } => run(&config),
        Command::Check { config } => check(&config),
        Command::Record(record) => self::record(&record),
        Command::Log { folder } => print_log(&folder),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path) -> Result<()> {
    let config = Config::read(path)?;
    let stop = stop_on_signals()?;
    let display = config.display.clone();
    let open: Open = Box::new(move || panel::open(&display));
    let fonts = Fonts::new(&config.screen.fonts, config.display.is_monochrome())?;
    let totals = app::run(&config, open, fonts, System::new("/"), &stop)?;
    tell(&totals)
}

/// SIGTERM and the first Ctrl-C end the appliance, the second Ctrl-C the program. A second SIGTERM does not:
/// timeout(1), for one, sends two.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 1, stop.clone())
        .and_then(|_| signal_hook::flag::register(SIGINT, stop.clone()))
        .and_then(|_| signal_hook::flag::register(SIGTERM, stop.clone()))
        .context("cannot wait for signals")?;
    Ok(stop)
}

fn tell(totals: &Totals) -> Result<()> {
    eprintln!("{}", serde_json::to_string(totals)?);
    Ok(())
}

fn check(path: &Path) -> Result<()> {
    let config = Config::read(path)?;
    println!("configuration: {}", path.display());
    let mut builder = Classifier::builder();
    if let Some(threads) = config.threads {
        builder = builder.threads(threads);
    }
    let opened = bundle::open(&config.bundle, builder).map_err(anyhow::Error::msg)?;
    let manifest = opened.classifier.manifest();
    println!(
        "bundle: {}, {} classes, opened in {:.2} s, self-test {} of {}",
        manifest.model.name,
        manifest.classes.len(),
        opened.opening.as_secs_f64(),
        opened.tested,
        opened.tested
    );
    let monochrome = config.display.is_monochrome();
    let mut fonts = Fonts::new(&config.screen.fonts, monochrome)?;
    let names = &manifest.classes;
    let mut lacking: Vec<char> = names.iter().flat_map(|name| fonts.lacking(name)).collect();
    lacking.sort_unstable();
    lacking.dedup();
    match lacking.is_empty() {
        true => println!("fonts: every class name can be shown"),
        false => println!(
            "fonts: no font has {lacking:?} of the class names, which are shown as boxes; name a font that has them \
             in screen.fonts"
        ),
    }
    if let Some(log) = &config.log {
        // Not tried: a folder made here would be another user's than the appliance's.
        if log.folder.exists() && !log.folder.is_dir() {
            bail!(
                "log.folder: {}: expected a folder, found something else",
                log.folder.display()
            );
        }
        println!(
            "log: {}, at most {} MB",
            log.folder.display(),
            log.megabytes
        );
    }
    match panel::open(&config.display)? {
        None => println!("display: none"),
        Some(mut panel) => {
            let size = panel.size();
            let step = |name, result: &str| Step {
                name,
                result: Some(result.into()),
            };
            let screen = Screen::Boot(Boot {
                bundle: manifest.model.name.clone(),
                steps: vec![
                    step("bundle", &format!("{:.1} s", opened.opening.as_secs_f64())),
                    step(
                        "self-test",
                        &format!("{} of {}", opened.tested, opened.tested),
                    ),
                    step("display", "works"),
                ],
            });
            let mut canvas = Canvas::new(size);
            draw(&screen, &mut canvas, &mut fonts, monochrome, Duration::ZERO);
            panel.show(&canvas)?;
            println!(
                "display: {} x {} pixels; it shows that it works",
                size.width, size.height
            );
        }
    }
    Ok(())
}

fn record(args: &Record) -> Result<()> {
    if args.out.exists() {
        bail!(
            "{}: exists already; remove it or choose another",
            args.out.display()
        );
    }
    let config = Config {
        display: Display::None,
        ..Config::read(&args.config)?
    };
    let stop = stop_on_signals()?;
    // As many as can be shown in the time.
    let limit = (args.seconds * config.screen.rate).ceil() as usize + 1;
    let [width, height] = args.display;
    let recorder = Recorder::new(Size::new(width, height), args.monochrome, limit);
    let panel = recorder.clone();
    let open: Open = Box::new(move || Ok(Some(Box::new(panel.clone()))));
    let fonts = Fonts::new(&config.screen.fonts, args.monochrome)?;
    let timer = {
        let (stop, seconds) = (stop.clone(), args.seconds);
        move || {
            std::thread::sleep(Duration::from_secs_f64(seconds));
            stop.store(true, Ordering::Relaxed);
        }
    };
    std::thread::spawn(timer);
    let totals = app::run(&config, open, fonts, System::new("/"), &stop)?;
    let mut frames = recorder.take();
    if args.still {
        frames.drain(..frames.len().saturating_sub(1));
    }
    pinhole_fs::write_with(&args.out, |file| {
        let mut out = BufWriter::new(file);
        write_apng(&mut out, &frames, args.scale)?;
        out.flush()
    })
    .with_context(|| format!("{}: cannot write", args.out.display()))?;
    tell(&totals)
}

fn print_log(folder: &Path) -> Result<()> {
    let mut reader = log::read(folder)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for record in reader.by_ref() {
        writeln!(out, "{}", serde_json::to_string(&record?)?)?;
    }
    out.flush()?;
    if reader.damaged() > 0 {
        eprintln!(
            "{}: {} lines are damaged",
            folder.display(),
            reader.damaged()
        );
    }
    Ok(())
}
