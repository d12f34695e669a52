//! `pinhole camera`: answers as JSON lines, as one line that is rewritten (terminal), or as one line per change of the
//! state (pipe).
//!
//! [`FrameLine`] has the fields of `--json`.

use std::cell::RefCell;
use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use pinhole::camera::{
    Camera, FrameAnswer, FrameCounters, Pipeline, PipelineEvent, SceneState, StopHandle,
};
use pinhole::internal::{FrameLine, UnblockedStdout, note_within, printable, printable_path};
use pinhole::{BundleWatcher, FolderState, Image, RefusedBundle, Score, Stream, TestedBundle};

use crate::cli::CameraArgs;
use crate::output::{Output, output_error};
use crate::{frames, open};

/// How long a message waits for a reader of stderr that is slow or has stopped reading.
const NOTE_WAIT: Duration = Duration::from_millis(20);

pub(crate) fn run(args: &CameraArgs) -> Result<ExitCode> {
    let opened = FolderState::of(&args.bundle.bundle);
    let mut stream = Stream::new(Arc::new(open::conditional(
        &args.bundle,
        &args.conditional,
    )?))?;
    let preprocessing = &stream.classifier().manifest().preprocessing;
    let options = frames::options(
        &args.source,
        &args.frames,
        &args.output.decode,
        preprocessing,
    );
    let camera = Camera::open(frames::source(&args.source, &args.frames)?, options)?;
    let stop_handle = camera.stop_handle();
    let stopper = stop_handle.clone();
    // The summary is still printed.
    frames::stop_on_signals(move || stopper.stop())?;
    let tracker = frames::tracker(&args.tracker);
    let (_watcher, exchanged) = watch(args, opened, stop_handle.clone())?;
    let notes = RefCell::new(vec![]);
    let classify = |image: &Image| {
        // A new bundle answers from the next frame on.
        for exchanged in exchanged.try_iter() {
            match exchanged {
                Ok(new) => {
                    let classes = new.classifier.manifest().classes.len();
                    stream = Stream::new(new.classifier)?;
                    notes
                        .borrow_mut()
                        .push(format!("using the new bundle, {classes} classes"));
                }
                Err(refused) if refused.repeated => {}
                Err(refused) => notes.borrow_mut().push(format!(
                    "the new bundle cannot be used, the old one continues: {}",
                    refused.reason
                )),
            }
        }
        stream.classify(image)
    };
    let mut pipeline = Pipeline::new(camera, classify, tracker);
    let stopped = stop_handle.clone();
    let out = UnblockedStdout::new(move || stopped.is_stopped())?;
    let mut printer = Printer::new(args, out);
    let result = pipeline.by_ref().try_for_each(|update| {
        for note in notes.take() {
            printer.report(SystemTime::now(), format_args!("{note}"));
        }
        match update? {
            PipelineEvent::Answer(answer) => printer.answer(&answer)?,
            PipelineEvent::Source(event) => {
                printer.report(event.time, format_args!("{}", event.kind));
            }
        }
        Ok(())
    });
    let interrupted = stop_handle.is_stopped();
    // After an error of the output the source still runs: the counters add up once it has ended.
    stop_handle.stop();
    pipeline.by_ref().for_each(drop);
    let counters = pipeline.camera().counters();
    printer.end(&counters);
    match result {
        Ok(()) if counters.classified + counters.still == 0 => {
            // Nothing could be read, or the user did not wait for it.
            if counters.corrupt > 0 || !interrupted {
                bail!(
                    "expected frames, found none that can be decoded ({} corrupt)",
                    counters.corrupt
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        // Stopped by a signal while nobody read the output.
        Err(e) if output_error(&e) == Some(ErrorKind::TimedOut) => Ok(ExitCode::SUCCESS),
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

/// What a changed bundle was found to be.
type Exchanged = Receiver<Result<TestedBundle, RefusedBundle>>;

/// Opens the bundle again whenever it has changed since it was `opened`.
fn watch(
    args: &CameraArgs,
    opened: FolderState,
    camera: StopHandle,
) -> Result<(BundleWatcher, Exchanged)> {
    let folder = args.bundle.bundle.clone();
    let builder = open::builder(&args.bundle, &args.conditional);
    let (sender, exchanged) = channel();
    let watcher = BundleWatcher::start(
        folder.clone(),
        opened,
        move || TestedBundle::open(&folder, builder),
        // There is no receiver once the command ends.
        move |result| {
            drop(sender.send(result));
            camera.refresh();
        },
    );
    Ok((
        watcher.context("cannot start the bundle thread")?,
        exchanged,
    ))
}

/// Prints answers on stdout and events of the source on stderr. Neither waits for ever for a reader.
struct Printer<W> {
    out: Output<W>,
    start: Instant,
    top: usize,
    json: bool,
    /// Rewrite one line of the terminal.
    live: bool,
    last: Option<Instant>,
    /// Answers per second, smoothed.
    rate: f64,
    /// Events that could not be printed.
    lost_events: u64,
    /// Whether the last one could be.
    stderr_is_read: bool,
}

impl<W: Write> Printer<W> {
    fn new(args: &CameraArgs, out: W) -> Self {
        Self {
            out: Output::new(out),
            start: Instant::now(),
            top: args.top,
            json: args.output.json,
            live: !args.output.json && std::io::stdout().is_terminal(),
            last: None,
            rate: 0.0,
            lost_events: 0,
            stderr_is_read: true,
        }
    }

    fn answer(&mut self, answer: &FrameAnswer) -> Result<()> {
        let change = answer.tracked.change.as_ref();
        let state = answer.state.as_ref().map(SceneState::name);
        let age_ms = answer.age.as_secs_f64() * 1e3;
        let time = humantime::format_rfc3339_millis(answer.time);
        if self.json {
            let line = FrameLine::new(answer, self.top, time.to_string(), self.start);
            self.out.json(&line)?;
        } else if self.live {
            self.measure_rate();
            let probability = (answer.tracked.ranking.first()).map_or(String::new(), |best| {
                let kind = match answer.tracked.score {
                    Score::Softmax => "",
                    Score::Sigmoid { .. } => " by itself",
                };
                format!("{:3.0} %{kind}", 100.0 * best.probability)
            });
            // The line must not wrap.
            let name: String = printable(state.unwrap_or("...")).chars().take(32).collect();
            let line = format!(
                "\r\x1b[2K{name:<24} {probability}  {age_ms:4.0} ms old  {:5.1}/s  {} dropped{}",
                self.rate,
                answer.counters.dropped,
                if answer.still { "  still" } else { "" }
            );
            self.out.raw(line.as_bytes())?;
        } else if let Some(change) = change {
            let file = (answer.file.as_ref())
                .map_or(String::new(), |file| format!("  {}", printable_path(file)));
            let from = change.from.as_ref().map_or("nothing", SceneState::name);
            let to = change.to.name();
            let line = format!("{time}  frame {}{file}  {from} -> {to}\n", answer.frame);
            self.out.write_all(line.as_bytes())?;
        }
        Ok(())
    }

    fn measure_rate(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            let seconds = (now - last).as_secs_f64().max(1e-6);
            self.rate += 0.1 * (1.0 / seconds - self.rate);
        }
    }

    fn report(&mut self, time: SystemTime, event: Arguments) {
        if self.live {
            // Clears the line. A terminal that is gone is noticed by the next answer.
            let _ = self.out.raw(b"\r\x1b[2K");
        }
        let time = humantime::format_rfc3339_millis(time);
        self.note(format_args!("{time}  {event}"));
    }

    fn note(&mut self, line: Arguments) {
        let wait = match self.stderr_is_read {
            true => NOTE_WAIT,
            false => Duration::ZERO,
        };
        self.stderr_is_read = note_within(wait, line);
        self.lost_events += u64::from(!self.stderr_is_read);
    }

    /// Prints the summary.
    fn end(&mut self, c: &FrameCounters) {
        if self.live {
            let _ = self.out.raw(b"\n");
        }
        let discarded = c.unreported + self.lost_events;
        self.note(format_args!(
            "frames: {} read = {} classified + {} still + {} skipped + {} dropped + {} corrupt; {} bytes skipped, \
             {} stalls, reopened {} times, {} events discarded",
            c.read,
            c.classified,
            c.still,
            c.skipped,
            c.dropped,
            c.corrupt,
            c.skipped_bytes,
            c.stalls,
            c.reopened,
            discarded
        ));
    }
}
