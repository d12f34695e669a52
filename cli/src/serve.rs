//! `pinhole serve`: a camera's answers, pictures and settings as a page and an HTTP API.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::channel;

use anyhow::{Context, Result};
use pinhole::camera::{Camera, Pipeline, PipelineEvent};
use pinhole::internal::{UsageError, listen_address};
use pinhole::system::System;
use pinhole::{
    BoardMonitor, BundleWatcher, ClassifierBuilder, FolderState, PreprocessConfig, TestedBundle,
    note, wrong_usage,
};
use pinhole_web::{Keeper, Live, LogLevel, Server, ServerOptions, Settings, StoredPassword};

use crate::cli::{CameraSource, ServeArgs};
use crate::{frames, open, output};

pub(crate) fn run(args: &ServeArgs) -> Result<ExitCode> {
    if let Some(path) = &args.set_password {
        pinhole_web::set_password(path, |question| note!("{question}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(bundle) = &args.bundle else {
        wrong_usage!("expected the folder of a bundle, found none");
    };
    let listen =
        listen_address(&args.listen).map_err(|e| UsageError::new(format_args!("--listen: {e}")))?;
    let password = (args.password_file.as_deref()).map(StoredPassword::read);
    let mut options = ServerOptions {
        password: password.transpose()?,
        names: args.host_name.clone(),
        ..ServerOptions::new(listen)
    };
    options.decode.apply_orientation = args.decode.exif_orientation;
    options.check().map_err(UsageError::new)?;
    let tracker = frames::tracker(&args.tracker);
    let mut builder = pinhole::Classifier::builder();
    if let Some(threads) = args.threads {
        builder = builder.threads(threads);
    }
    if let Some(similarity) = args.min_similarity {
        builder = builder.min_similarity(similarity);
    }
    if let Some(margin) = args.min_margin {
        builder = builder.min_margin(margin);
    }
    let opened = FolderState::of(bundle);
    let classifier = open::with_builder(bundle, builder)?;
    let preprocessing = classifier.manifest().preprocessing.clone();
    options.decode.reduction = open::decode_options(&args.decode, &preprocessing).reduction;
    let thresholds = classifier.unknown_thresholds();
    let settings = Settings::new(&tracker, thresholds, frames::region(&args.frames));
    let board = BoardMonitor::start(System::new("/")).context("cannot start the board thread")?;
    let live = Live::new(bundle, builder, settings, Keeper::Options, Arc::new(board))?;
    live.set_classifier(Arc::new(classifier));
    let _watcher = watch(bundle, builder, opened, &live)?;
    let camera = (args.source.as_ref()).map(|source| open_camera(source, args, &preprocessing));
    let camera = camera.transpose()?;
    let (stop, stopped) = channel();
    let handle = camera.as_ref().map(Camera::stop_handle);
    frames::stop_on_signals(move || {
        if let Some(handle) = &handle {
            handle.stop();
        }
        let _ = stop.send(());
    })?;
    let server = Server::start(options, &live)?;
    writeln!(output::stdout(), "http://{}/", server.address())?;
    live.log(
        LogLevel::Info,
        &format!("listening on {}", server.address()),
    );
    match camera {
        None => live.no_camera(),
        Some(camera) => classify(camera, &live)?,
    }
    // Images are still classified, and the last answer shown, until a signal. The sender belongs to the signals' thread.
    let _ = stopped.recv();
    Ok(ExitCode::SUCCESS)
}

/// Uses the bundle again whenever another program has changed it.
fn watch(
    folder: &Path,
    builder: ClassifierBuilder,
    opened: FolderState,
    live: &Live,
) -> Result<BundleWatcher> {
    let (path, live) = (folder.to_owned(), live.clone());
    let watcher = BundleWatcher::start(
        folder.to_owned(),
        opened,
        move || TestedBundle::open(&path, builder),
        move |result| match result {
            Ok(new) => {
                live.set_classifier(new.classifier);
                live.log(LogLevel::Info, "the changed bundle is in use");
            }
            Err(refused) if refused.repeated => {}
            Err(refused) => live.log(
                LogLevel::Error,
                &format!(
                    "the changed bundle cannot be used, the old one continues: {}",
                    refused.reason
                ),
            ),
        },
    );
    watcher.context("cannot start the bundle thread")
}

/// Classifies until the source has ended or was stopped.
fn classify(camera: Camera, live: &Live) -> Result<()> {
    let handle = camera.stop_handle();
    let mut classifier = live.classifier()?;
    let tracker = live.settings().tracker();
    let mut pipeline = Pipeline::new(camera, |image| classifier.classify(image), tracker);
    let mut changes = live.changes();
    while let Some(event) = pipeline.next() {
        match event? {
            PipelineEvent::Answer(answer) => live.answer(*answer),
            PipelineEvent::Source(event) => {
                let time = humantime::format_rfc3339_millis(event.time);
                note!("{time}  {}", event.kind);
                live.source_event(&event);
            }
        }
        pipeline.set_tracker_options(live.settings().tracker());
        let now = live.changes();
        if now != changes {
            changes = now;
            handle.refresh();
        }
    }
    if !handle.is_stopped() {
        let counters = pipeline.camera().counters();
        let reason = format!("the source has ended after {} frames", counters.read);
        note!("{reason}; the page stays until Ctrl-C");
        live.ended(&reason);
    }
    Ok(())
}

/// The page shows whole frames: the region is cut out when they are classified.
fn open_camera(
    source: &CameraSource,
    args: &ServeArgs,
    preprocessing: &PreprocessConfig,
) -> Result<Camera> {
    let mut options = frames::options(source, &args.frames, &args.decode, preprocessing);
    // The region keeps enough pixels when frames are reduced.
    if let (Some(reduction), Some(region)) = (&mut options.decode.reduction, options.region.take())
    {
        reduction.part = Some((region.width, region.height));
    }
    Ok(Camera::open(
        frames::source(source, &args.frames)?,
        options,
    )?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use pinhole::UnknownThresholds;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    /// If this fails, the page prints options that the program refuses, or that change something.
    #[test]
    fn the_options_that_the_page_prints_keep_the_settings() {
        let changed = Settings {
            smoothing: 0.25,
            hysteresis: 7,
            hysteresis_seconds: 1.5,
            cool_down_seconds: 1e-3,
            margin: Some(0.9),
            min_similarity: Some(-0.5),
            min_margin: Some(2.0),
            region: Some([1, 2, 30, 40]),
        };
        let nothing = Settings {
            margin: None,
            min_similarity: None,
            min_margin: None,
            region: None,
            ..changed.clone()
        };
        for settings in [changed, nothing] {
            let options = settings.kept_by(Keeper::Options);
            let source = ["serve", "bundle", "--mjpeg", "-"].into_iter();
            let words = source.chain(options.split(' '));
            let args = Line::try_parse_from(words).unwrap_or_else(|e| panic!("{options}: {e}"));
            let thresholds = UnknownThresholds {
                min_similarity: args.serve.min_similarity,
                min_margin: args.serve.min_margin,
            };
            let tracker = frames::tracker(&args.serve.tracker);
            let kept = Settings::new(&tracker, thresholds, frames::region(&args.serve.frames));
            // In place of the bundle's threshold, one that nothing falls below.
            let expected = Settings {
                min_similarity: settings.min_similarity.or(Some(-1.0)),
                min_margin: settings.min_margin.or(Some(0.0)),
                ..settings
            };
            assert_eq!(kept, expected, "{options}");
        }
    }

    /// If this fails, options are ignored without a word.
    #[test]
    fn options_of_a_camera_need_a_source() {
        for option in [
            "--watch",
            "--live",
            "--region=0,0,9,9",
            "--every=2",
            "--still-threshold=3",
            "--timeout=3",
            "--smoothing=2",
            "--hysteresis=3",
            "--hysteresis-seconds=1",
            "--cool-down-seconds=1",
            "--margin=0.5",
        ] {
            let Err(error) = Line::try_parse_from(["serve", "bundle", option]) else {
                panic!("{option}: expected an error");
            };
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(error.to_string().contains("--folder"), "{error}");
        }
        assert!(Line::try_parse_from(["serve", "bundle", "--folder", "x", "--watch"]).is_ok());
        assert!(Line::try_parse_from(["serve", "bundle"]).is_ok());
    }
}
