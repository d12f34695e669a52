//! The loop that is measured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use pinhole::system::{System, Throttling};
use pinhole::{Classifier, DecodeOptions};
use serde::Serialize;

use super::samples::Samples;

/// Names of the stages, in the order of [`Measured::stages`].
pub(super) const STAGES: [&str; 4] = ["decode", "preprocess", "encode", "head"];

/// Without `--warm-up`: so many images and so long, for caches, threads and the clock of the processor.
const WARM_UP: (u64, Duration) = (5, Duration::from_millis(500));
/// Without `--seconds` and `--iterations`: so many images and so long, but no longer than the last.
const SHORT: (u64, Duration, Duration) = (30, Duration::from_secs(3), Duration::from_secs(30));
/// Rows over time at most, unless a row is below [`LEAST_ROW`].
const ROWS: u32 = 60;
const LEAST_ROW: Duration = Duration::from_secs(1);
/// Between two calls of the progress line.
const TICK: Duration = Duration::from_millis(500);

/// When a run ends: at the first limit that is reached.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) warm_up: Option<u64>,
    pub(super) iterations: Option<u64>,
    pub(super) time: Option<Duration>,
}

/// A run.
pub(super) struct Measured {
    pub(super) warm_up: u64,
    /// The whole way of each image.
    pub(super) latency: Samples,
    pub(super) stages: [Samples; STAGES.len()],
    /// Time spent on the images, with what it takes to write the times down, without looks at the machine.
    pub(super) elapsed: Duration,
    pub(super) over_time: Vec<Row>,
    /// At the end.
    pub(super) temperature_c: Option<f64>,
    /// Of the whole run.
    pub(super) throttling: Option<Throttling>,
    pub(super) interrupted: bool,
}

/// A part of a run. `null` is what the machine does not tell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// From the start of the run, in seconds.
    pub(super) start_s: f64,
    /// From the start of the run, in seconds.
    pub(super) end_s: f64,
    /// Images.
    pub(super) iterations: u64,
    /// Images divided by the time between start and end.
    pub(super) frames_per_second: f64,
    /// Median of the whole way of an image.
    pub(super) p50_ms: f64,
    /// 99th percentile of the whole way of an image.
    pub(super) p99_ms: f64,
    /// Temperature of the processor at the end, in degrees Celsius.
    pub(super) temperature_c: Option<f64>,
    /// Clock of the processors at the end, the mean where they differ.
    pub(super) frequency_mhz: Option<f64>,
    /// Whether the processor was held back.
    pub(super) throttled: Option<bool>,
}

/// What the progress line shows.
pub(super) struct Progress {
    pub(super) iterations: u64,
    pub(super) elapsed: Duration,
    pub(super) temperature_c: Option<f64>,
}

/// What is run: always the same image.
pub(super) struct Subject<'a> {
    pub(super) classifier: &'a Classifier,
    /// The file's content.
    pub(super) image: &'a [u8],
}

impl Limits {
    fn warmed_up(&self, done: u64, elapsed: Duration) -> bool {
        match self.warm_up {
            Some(count) => done >= count,
            None => done >= WARM_UP.0 && elapsed >= WARM_UP.1,
        }
    }

    fn reached(&self, done: u64, elapsed: Duration) -> bool {
        if (self.iterations, self.time) == (None, None) {
            return (done >= SHORT.0 && elapsed >= SHORT.1) || elapsed >= SHORT.2;
        }
        self.iterations.is_some_and(|n| done >= n) || self.time.is_some_and(|t| elapsed >= t)
    }

    /// Least images and least time of a row, so that there are not many more than [`ROWS`].
    fn row(&self) -> (u64, Duration) {
        match (self.time, self.iterations) {
            (Some(time), _) => (1, (time / ROWS).max(LEAST_ROW)),
            (None, Some(iterations)) => (iterations.div_ceil(u64::from(ROWS)), LEAST_ROW),
            (None, None) => (1, LEAST_ROW),
        }
    }
}

/// Runs the subject until a limit is reached or `stop` is set.
///
/// # Errors
/// Those of decoding and classifying.
pub(super) fn measure(
    subject: &Subject,
    limits: &Limits,
    system: &System,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Measured> {
    let stopped = || stop.load(Ordering::Relaxed);
    let begin = Instant::now();
    let mut warm_up = 0;
    while !limits.warmed_up(warm_up, begin.elapsed()) && !stopped() {
        subject.run()?;
        warm_up += 1;
    }

    let mut watch = Watch::new(system);
    let mut run = Measured {
        warm_up,
        latency: Samples::new(),
        stages: std::array::from_fn(|_| Samples::new()),
        elapsed: Duration::ZERO,
        over_time: vec![],
        temperature_c: system.temperature_c(),
        throttling: None,
        interrupted: false,
    };
    let (least_images, least_time) = limits.row();
    // Of the row that is under way.
    let mut latency = Samples::new();
    let mut row_begin = Duration::ZERO;
    let begin = Instant::now();
    let mut tick = begin;
    // When the last image ended, or what came between it and the next.
    let mut resumed = begin;
    loop {
        let done = limits.reached(run.latency.count(), begin.elapsed());
        run.interrupted = !done && stopped();
        let over = done || run.interrupted;
        let full = latency.count() >= least_images && run.elapsed - row_begin >= least_time;
        if full || over {
            // A look at the machine takes up to milliseconds, which are no image's.
            let look = watch.look();
            run.temperature_c = look.temperature_c;
            let row = Row::new(&mut latency, row_begin, run.elapsed, &look);
            run.over_time.extend(row);
            latency.clear();
            row_begin = run.elapsed;
            resumed = Instant::now();
        }
        if over {
            run.throttling = watch.whole;
            return Ok(run);
        }
        if tick.elapsed() >= TICK {
            progress(&Progress {
                iterations: run.latency.count(),
                elapsed: run.elapsed,
                temperature_c: run.temperature_c,
            });
            tick = Instant::now();
            resumed = tick;
        }
        let times = subject.run()?;
        run.latency.record(times.total);
        latency.record(times.total);
        for (samples, time) in run.stages.iter_mut().zip(times.stages) {
            samples.record(time);
        }
        let now = Instant::now();
        run.elapsed += now - resumed;
        resumed = now;
    }
}

/// One image's.
struct Times {
    total: Duration,
    stages: [Duration; STAGES.len()],
}

impl Subject<'_> {
    /// From the file's bytes to the ranking, memory given back.
    fn run(&self) -> Result<Times> {
        let start = Instant::now();
        let image = pinhole_preprocessing::decode(self.image, &DecodeOptions::default())?;
        let decode = start.elapsed();
        // Not as a stream, whose conditional head would find that the image did not change.
        let latency = self.classifier.classify(&image)?.latency;
        drop(image);
        Ok(Times {
            total: start.elapsed(),
            stages: [decode, latency.preprocess, latency.encode, latency.head],
        })
    }
}

impl Row {
    /// `None` without images.
    fn new(latency: &mut Samples, begin: Duration, end: Duration, look: &Look) -> Option<Self> {
        let iterations = latency.count();
        let summary = latency.summary()?;
        Some(Self {
            start_s: begin.as_secs_f64(),
            end_s: end.as_secs_f64(),
            iterations,
            frames_per_second: iterations as f64 / (end - begin).as_secs_f64(),
            p50_ms: summary.p50,
            p99_ms: summary.p99,
            temperature_c: look.temperature_c,
            frequency_mhz: look.frequency_mhz,
            throttled: look.throttling.map(Throttling::is_throttled),
        })
    }
}

/// Looks at the machine, so that what held it back between two looks is not missed where it was noted.
struct Watch<'a> {
    system: &'a System,
    last: Option<Throttling>,
    /// Of all looks.
    whole: Option<Throttling>,
}

struct Look {
    temperature_c: Option<f64>,
    frequency_mhz: Option<f64>,
    /// Since the last look.
    throttling: Option<Throttling>,
}

impl<'a> Watch<'a> {
    fn new(system: &'a System) -> Self {
        Self {
            system,
            last: system.throttling(),
            whole: None,
        }
    }

    fn look(&mut self) -> Look {
        let now = self.system.throttling();
        let throttling = now.map(|now| now.since(self.last.unwrap_or(now)));
        self.last = now.or(self.last);
        self.whole = match (self.whole, throttling) {
            (Some(a), Some(b)) => Some(a.or(b)),
            (a, b) => a.or(b),
        };
        Look {
            temperature_c: self.system.temperature_c(),
            frequency_mhz: self.system.frequency_mhz(),
            throttling,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(limits: Limits, stop: bool) -> Measured {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/demo");
        let classifier = Classifier::builder().threads(1).open(folder).unwrap();
        let image = std::fs::read(format!("{folder}/golden/bars.png")).unwrap();
        let subject = Subject {
            classifier: &classifier,
            image: &image,
        };
        let system = System::new("/no-such-root");
        measure(
            &subject,
            &limits,
            &system,
            &AtomicBool::new(stop),
            &mut |_| {},
        )
        .unwrap()
    }

    #[test]
    fn the_stages_are_within_the_whole_and_both_within_the_time_that_passed() {
        let start = Instant::now();
        let mut run = run(
            Limits {
                warm_up: Some(3),
                iterations: Some(20),
                time: None,
            },
            false,
        );
        let passed = start.elapsed().as_secs_f64();
        assert_eq!((run.warm_up, run.latency.count()), (3, 20));
        let whole = run.latency.summary().unwrap();
        let stages = run.stages.each_mut().map(|s| s.summary().unwrap().mean);
        let sum: f64 = stages.iter().sum();
        assert!(stages.iter().all(|s| *s > 0.0), "{stages:?}");
        // Means are given to the nanosecond.
        assert!(sum <= whole.mean + 1e-5, "{sum} > {}", whole.mean);
        assert!(20.0 * whole.mean <= run.elapsed.as_secs_f64() * 1e3 + 1e-4);
        assert!(run.elapsed.as_secs_f64() <= passed);
        let ordered = [whole.min, whole.p50, whole.p90, whole.p99];
        assert!(ordered.is_sorted(), "{ordered:?}");
    }

    #[test]
    fn rows_cover_the_run_without_gaps() {
        let run = run(
            Limits {
                warm_up: Some(0),
                iterations: None,
                time: Some(Duration::from_millis(2500)),
            },
            false,
        );
        let rows = &run.over_time;
        assert!((2..=3).contains(&rows.len()), "{rows:?}");
        assert_eq!(rows[0].start_s, 0.0);
        assert!(rows.windows(2).all(|w| w[0].end_s == w[1].start_s));
        assert_eq!(rows.last().unwrap().end_s, run.elapsed.as_secs_f64());
        let images: u64 = rows.iter().map(|r| r.iterations).sum();
        assert_eq!(images, run.latency.count());
        assert!(run.throttling.is_none() && run.temperature_c.is_none());
    }

    #[test]
    fn a_run_that_is_stopped_says_so() {
        let mut run = run(Limits::default(), true);
        assert!(run.interrupted);
        assert_eq!(run.latency.summary(), None);
        assert!(run.over_time.is_empty());
    }

    #[test]
    fn the_first_limit_ends_a_run() {
        let limits = |iterations, seconds| Limits {
            warm_up: None,
            iterations,
            time: Option::map(seconds, Duration::from_secs),
        };
        let second = Duration::from_secs(1);
        assert!(limits(Some(5), Some(9)).reached(5, second));
        assert!(limits(Some(5), Some(9)).reached(1, 9 * second));
        assert!(!limits(Some(5), Some(9)).reached(4, 8 * second));
        assert!(!limits(Some(5), None).reached(4, 1_000_000 * second));
        // Without any: 3 s and 30 images, at most 30 s.
        assert!(!limits(None, None).reached(29, 29 * second));
        assert!(!limits(None, None).reached(1000, 2 * second));
        assert!(limits(None, None).reached(30, 3 * second));
        assert!(limits(None, None).reached(1, 30 * second));
    }

    #[test]
    fn a_long_run_has_sixty_rows() {
        let row = |iterations, seconds| {
            let time = Option::map(seconds, Duration::from_secs);
            Limits {
                warm_up: None,
                iterations,
                time,
            }
            .row()
        };
        assert_eq!(row(None, Some(600)), (1, Duration::from_secs(10)));
        assert_eq!(row(None, Some(30)), (1, LEAST_ROW));
        assert_eq!(row(Some(6001), None), (101, LEAST_ROW));
    }
}
