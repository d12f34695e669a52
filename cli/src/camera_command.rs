//! `pinhole camera`: answers as JSON lines, as one line that is rewritten (terminal), or as one line per change of the
//! state (pipe).
//!
//! A line of `--json` has these fields:
//!
//! | field | meaning |
//! |---|---|
//! | `frame` | number of the frame, from 0; frames that were not used count too |
//! | `image` | the file, only for `--folder`; bytes that are not UTF-8 as `\xff`, then backslashes doubled |
//! | `time` | when the frame was captured, RFC 3339 in UTC |
//! | `captured_ms` | when the frame was captured, in milliseconds since the start |
//! | `age_ms` | age of the frame when its answer was ready |
//! | `top` | the most probable classes: `class`, `index`, and `probability` and `similarity`, both smoothed |
//! | `score` | what the probabilities are: `"softmax"`, one of the classes, or `"sigmoid"`, each class by itself |
//! | `unknown` | whether more than half of the smoothed frames show none of the classes |
//! | `state` | the current class, `"unknown"`, or null until a class has led for `--hysteresis` frames |
//! | `state_index` | index of that class in the bundle's list, which may have its name several times; else null |
//! | `event` | null, or `{"from", "from_index", "to", "to_index"}` in the frame in which the state changes |
//! | `still` | the scene has not changed: the last answer is repeated, not computed again |
//! | `dropped` | number of frames so far that a newer one replaced |
//! | `latency_ms` | `decode`, `preprocess`, `encode`, `head`, `total` |

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pinhole::Score;
use pinhole::camera::{
    Camera, CameraOptions, FrameAnswer, FrameCounters, FrameSource, Pipeline, PipelineEvent,
    Region, SceneState, SourceEvent, StopHandle, StreamInput, TrackerOptions,
};
use pinhole::internal::{
    UnblockedStdout, ignores_hang_up, json_path, note_within, printable, printable_path,
};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::cli::CameraArgs;
use crate::output::{LatencyMs, Output, TopClass, output_error, top_classes};
use crate::{mistakes, open};

/// How long a message waits for a reader of stderr that is slow or has stopped reading.
const NOTE_WAIT: Duration = Duration::from_millis(20);

pub(crate) fn run(args: &CameraArgs) -> Result<ExitCode> {
    let classifier = open::conditional(&args.bundle, &args.conditional)?;
    let source = source(args)?;
    let defaults = CameraOptions::default();
    let options = CameraOptions {
        live: args.live.then_some(true),
        every: args.every,
        region: (args.region).map(|[x, y, width, height]| Region {
            x,
            y,
            width,
            height,
        }),
        still_threshold: args.still_threshold,
        // A folder has no frame rate, so that it cannot stall.
        timeout: match args.source.folder {
            Some(_) => args.timeout,
            None => args.timeout.or(defaults.timeout),
        },
        decode: open::decode_options(&args.output.decode),
        ..defaults
    };
    let tracker = TrackerOptions {
        smoothing: args.smoothing,
        hysteresis: args.hysteresis,
        hysteresis_time: args.hysteresis_seconds,
        margin: args.margin,
        cool_down: args.cool_down_seconds,
    };
    let mut stream = classifier.stream()?;
    let camera = Camera::open(source, options)?;
    let stop_handle = camera.stop_handle();
    stop_on_signals(stop_handle.clone())?;
    let mut pipeline = Pipeline::new(camera, |image| stream.classify(image), tracker);
    let stopped = stop_handle.clone();
    let out = UnblockedStdout::new(move || stopped.is_stopped())?;
    let mut printer = Printer::new(args, out);
    let result = pipeline.by_ref().try_for_each(|update| {
        match update? {
            PipelineEvent::Answer(answer) => printer.answer(&answer)?,
            PipelineEvent::Source(event) => printer.report(&event),
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

fn source(args: &CameraArgs) -> Result<FrameSource> {
    let input = |path: &Path| {
        if path.as_os_str() == "-" {
            StreamInput::Stdin
        } else {
            StreamInput::Path(path.to_owned())
        }
    };
    let from = &args.source;
    for (flag, path) in [
        ("--mjpeg", &from.mjpeg),
        ("--y4m", &from.y4m),
        ("--folder", &from.folder),
        ("--device", &from.device),
    ] {
        path.as_deref()
            .map_or(Ok(()), |path| mistakes::check_stream(path, flag))?;
    }
    Ok(match (&from.mjpeg, &from.y4m, &from.folder, &from.device) {
        (Some(path), ..) => FrameSource::mjpeg(input(path)),
        (_, Some(path), ..) => FrameSource::y4m(input(path)),
        (_, _, Some(path), _) if args.watch => FrameSource::watched_folder(path),
        (_, _, Some(path), _) => FrameSource::folder(path),
        (_, _, _, Some(path)) => device(path)?,
        _ => bail!("expected --mjpeg, --y4m, --folder or --device, found none"),
    })
}

#[cfg(feature = "v4l")]
fn device(path: &Path) -> Result<FrameSource> {
    Ok(FrameSource::device(path))
}

#[cfg(not(feature = "v4l"))]
fn device(path: &Path) -> Result<FrameSource> {
    let path = path.display();
    bail!(
        "--device {path}: this build lacks the feature v4l; build with `--features v4l`, or use \
         `ffmpeg -f v4l2 -i {path} -c:v mjpeg -f mjpeg - | pinhole camera BUNDLE --mjpeg -`"
    )
}

/// The first Ctrl-C, SIGTERM or SIGHUP ends the stream and prints the summary, the second ends the program at once.
/// `nohup` has SIGHUP ignored, which remains.
fn stop_on_signals(stopper: StopHandle) -> Result<()> {
    let signals = [SIGINT, SIGTERM, SIGHUP].into_iter();
    let signals = signals.filter(|signal| *signal != SIGHUP || !ignores_hang_up());
    let mut signals = Signals::new(signals).context("cannot install signal handlers")?;
    std::thread::spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            stopper.stop();
        }
        if let Some(signal) = signals.next() {
            // Does not return for these signals.
            let _ = emulate_default_handler(signal);
        }
    });
    Ok(())
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

#[derive(Serialize)]
struct Line<'a> {
    frame: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Cow<'a, str>>,
    time: String,
    captured_ms: f64,
    age_ms: f64,
    top: Vec<TopClass<'a>>,
    score: &'static str,
    unknown: bool,
    state: Option<&'a str>,
    state_index: Option<usize>,
    event: Option<Event<'a>>,
    still: bool,
    dropped: u64,
    latency_ms: LatencyMs,
}

#[derive(Serialize)]
struct Event<'a> {
    from: Option<&'a str>,
    from_index: Option<usize>,
    to: &'a str,
    to_index: Option<usize>,
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
            let captured = answer.captured.saturating_duration_since(self.start);
            let line = Line {
                frame: answer.frame,
                image: answer.file.as_deref().map(json_path),
                time: time.to_string(),
                captured_ms: captured.as_secs_f64() * 1e3,
                age_ms,
                top: top_classes(&answer.tracked.ranking, self.top),
                score: answer.tracked.score.name(),
                unknown: answer.tracked.unknown,
                state,
                state_index: answer.state.as_ref().and_then(SceneState::index),
                event: change.map(|change| Event {
                    from: change.from.as_ref().map(SceneState::name),
                    from_index: change.from.as_ref().and_then(SceneState::index),
                    to: change.to.name(),
                    to_index: change.to.index(),
                }),
                still: answer.still,
                dropped: answer.counters.dropped,
                latency_ms: LatencyMs::new(answer.decode, &answer.latency),
            };
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

    fn report(&mut self, event: &SourceEvent) {
        if self.live {
            // Clears the line. A terminal that is gone is noticed by the next answer.
            let _ = self.out.raw(b"\r\x1b[2K");
        }
        let time = humantime::format_rfc3339_millis(event.time);
        self.note(format_args!("{time}  {}", event.kind));
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
