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
use pinhole_firmware::{app, log};
use signal_hook::consts::{SIGINT, SIGTERM};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { config } => run(&config),
        Command::Check { config } => check(&config),
        Command::Record(args) => record(&args),
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
    let config = ApplianceConfig::read(path)?;
    let stop = stop_on_signals()?;
    let display = config.display.clone();
    let open: OpenPanel = Box::new(move || display.open());
    let fonts = Fonts::new(&config.screen.fonts, config.display.is_monochrome())?;
    let counters = app::run(&config, open, fonts, System::new("/"), &stop)?;
    print_counters(&counters)
}

/// SIGTERM and the first SIGINT stop the appliance; a second SIGINT kills the program. A second SIGTERM does not: some
/// programs, such as timeout(1), send two.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 1, stop.clone())
        .and_then(|_| signal_hook::flag::register(SIGINT, stop.clone()))
        .and_then(|_| signal_hook::flag::register(SIGTERM, stop.clone()))
        .context("cannot register signal handlers")?;
    Ok(stop)
}

fn print_counters(counters: &RunCounters) -> Result<()> {
    eprintln!("{}", serde_json::to_string(counters)?);
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

fn print_log(folder: &Path) -> Result<()> {
    let mut reader = log::read(folder)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for record in reader.by_ref() {
        writeln!(out, "{}", serde_json::to_string(&record?)?)?;
    }
    out.flush()?;
    if reader.damaged() > 0 {
        eprintln!(
            "{}: skipped {} damaged lines",
            folder.display(),
            reader.damaged()
        );
    }
    Ok(())
}
