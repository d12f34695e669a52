//! The measured loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use pinhole::system::{CpuTime, System, Throttling};
use pinhole::{Classifier, DecodeOptions};
use serde::Serialize;

use super::samples::Samples;

/// Names of the stages, in the order of [`Measured::stages`].
pub(super) const STAGES: [&str; 4] = ["decode", "preprocess", "encode", "head"];

/// Default warm-up: at least this many images, for at least this long, until caches, threads and clocks are steady.
const WARM_UP: (u64, Duration) = (5, Duration::from_millis(500));
/// Default run: at least this many images, for at least this long, but no longer than the last.
const SHORT: (u64, Duration, Duration) = (30, Duration::from_secs(3), Duration::from_secs(30));
/// Maximum number of rows over time, if that makes rows of at least [`MIN_ROW`].
const ROWS: u32 = 60;
const MIN_ROW: Duration = Duration::from_secs(1);
/// Time between two updates of the progress line.
const TICK: Duration = Duration::from_millis(500);

/// When a run ends: at the first limit reached.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) warm_up: Option<u64>,
    pub(super) iterations: Option<u64>,
    pub(super) time: Option<Duration>,
}

/// The measurements of a run.
pub(super) struct Measured {
    pub(super) warm_up: u64,
    /// From the encoded bytes to the ranking, per image.
    pub(super) latency: Samples,
    pub(super) stages: [Samples; STAGES.len()],
    /// Time spent on the images and on recording their times, without reading sensors.
    pub(super) elapsed: Duration,
    pub(super) over_time: Vec<Row>,
    /// At the end.
    pub(super) temperature_c: Option<f64>,
    /// At any time of the run.
    pub(super) throttling: Option<Throttling>,
    /// Processor time during the run.
    pub(super) cpu: Option<CpuTime>,
    pub(super) interrupted: bool,
}

/// A part of a run. `null` stands for what the machine does not report.
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
    /// Median latency of an image.
    pub(super) p50_ms: f64,
    /// 99th percentile of the latency of an image; `null` for fewer than 100.
    pub(super) p99_ms: Option<f64>,
    /// Temperature of the processor at the end, in degrees Celsius.
    pub(super) temperature_c: Option<f64>,
    /// Clock of the processors at the end, the mean where they differ.
    pub(super) frequency_mhz: Option<f64>,
    /// Whether the processor was throttled.
    pub(super) throttled: Option<bool>,
}

/// The progress line's values.
pub(super) struct Progress {
    pub(super) iterations: u64,
    pub(super) elapsed: Duration,
    pub(super) temperature_c: Option<f64>,
}

/// What is measured: one image, classified again and again.
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

    /// Minimum number of images and minimum time of a row, which keep the number of rows near [`ROWS`].
    fn row(&self) -> (u64, Duration) {
        match (self.time, self.iterations) {
            (Some(time), _) => (1, (time / ROWS).max(MIN_ROW)),
            (None, Some(iterations)) => (iterations.div_ceil(u64::from(ROWS)), MIN_ROW),
            (None, None) => (1, MIN_ROW),
        }
    }
}

/// Runs the subject until a limit is reached or `stop` is set.
///
/// # Errors
/// As decoding and [`Classifier::classify`].
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

    let mut monitor = Monitor::new(system);
    let mut run = Measured {
        warm_up,
        latency: Samples::new(),
        stages: std::array::from_fn(|_| Samples::new()),
        elapsed: Duration::ZERO,
        over_time: vec![],
        temperature_c: system.temperature_c(),
        throttling: None,
        cpu: None,
        interrupted: false,
    };
    let cpu_before = system.cpu_time();
    let (min_images, min_time) = limits.row();
    // Of the current row.
    let mut latency = Samples::new();
    let mut row_begin = Duration::ZERO;
    let begin = Instant::now();
    let mut tick = begin;
    // End of the last image, or of the sensor reading or progress update after it.
    let mut resumed = begin;
    loop {
        let done = limits.reached(run.latency.count(), begin.elapsed());
        run.interrupted = !done && stopped();
        let over = done || run.interrupted;
        let full = latency.count() >= min_images && run.elapsed - row_begin >= min_time;
        if full || over {
            // Takes up to milliseconds, which must not count as an image's.
            let sensors = monitor.read();
            run.temperature_c = sensors.temperature_c;
            let row = Row::new(&mut latency, row_begin, run.elapsed, &sensors);
            run.over_time.extend(row);
            latency.clear();
            row_begin = run.elapsed;
            resumed = Instant::now();
        }
        if over {
            run.throttling = monitor.whole_run;
            let cpu = system.cpu_time().zip(cpu_before);
            run.cpu = cpu.map(|(now, before)| now.since(before));
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

/// Times of one image.
struct Times {
    total: Duration,
    stages: [Duration; STAGES.len()],
}

impl Subject<'_> {
    /// From the file's bytes to the ranking, including the release of the memory.
    fn run(&self) -> Result<Times> {
        let start = Instant::now();
        let image = pinhole::Image::decode(self.image, &DecodeOptions::default())?;
        let decode = start.elapsed();
        // Not a stream: its conditional head would reuse the class embeddings of the identical last image.
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
    fn new(
        latency: &mut Samples,
        begin: Duration,
        end: Duration,
        sensors: &Sensors,
    ) -> Option<Self> {
        let iterations = latency.count();
        let summary = latency.summary()?;
        Some(Self {
            start_s: begin.as_secs_f64(),
            end_s: end.as_secs_f64(),
            iterations,
            frames_per_second: iterations as f64 / (end - begin).as_secs_f64(),
            p50_ms: summary.p50,
            p99_ms: summary.p99,
            temperature_c: sensors.temperature_c,
            frequency_mhz: sensors.frequency_mhz,
            throttled: sensors.throttling.map(Throttling::is_throttled),
        })
    }
}

/// Reads the sensors. Throttling between two readings is included where the firmware records it.
struct Monitor<'a> {
    system: &'a System,
    last: Option<Throttling>,
    whole_run: Option<Throttling>,
}

struct Sensors {
    temperature_c: Option<f64>,
    frequency_mhz: Option<f64>,
    /// Since the last reading.
    throttling: Option<Throttling>,
}

impl<'a> Monitor<'a> {
    fn new(system: &'a System) -> Self {
        Self {
            system,
            last: system.throttling(),
            whole_run: None,
        }
    }

    fn read(&mut self) -> Sensors {
        let now = self.system.throttling();
        let throttling = now.map(|now| now.since(self.last.unwrap_or(now)));
        self.last = now.or(self.last);
        self.whole_run = match (self.whole_run, throttling) {
            (Some(a), Some(b)) => Some(a.or(b)),
            (a, b) => a.or(b),
        };
        Sensors {
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
    fn stage_times_add_up_to_at_most_the_latency_and_the_elapsed_time() {
        let start = Instant::now();
        let mut run = run(
            Limits {
                warm_up: Some(3),
                iterations: Some(20),
                time: None,
            },
            false,
        );
        let wall_clock = start.elapsed().as_secs_f64();
        assert_eq!((run.warm_up, run.latency.count()), (3, 20));
        let whole = run.latency.summary().unwrap();
        let stages = run.stages.each_mut().map(|s| s.summary().unwrap().mean);
        let sum: f64 = stages.iter().sum();
        assert!(stages.iter().all(|s| *s > 0.0), "{stages:?}");
        // Means are rounded to nanoseconds.
        assert!(sum <= whole.mean + 1e-5, "{sum} > {}", whole.mean);
        assert!(20.0 * whole.mean <= run.elapsed.as_secs_f64() * 1e3 + 1e-4);
        assert!(run.elapsed.as_secs_f64() <= wall_clock);
        assert_eq!(whole.p99, None);
        let ordered = [whole.min, whole.p50, whole.p90.unwrap()];
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
    fn a_stopped_run_is_marked_as_interrupted() {
        let mut run = run(Limits::default(), true);
        assert!(run.interrupted);
        assert_eq!(run.latency.summary(), None);
        assert!(run.over_time.is_empty());
    }

    #[test]
    fn a_run_ends_at_the_first_limit() {
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
    fn a_long_run_has_about_sixty_rows() {
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
        assert_eq!(row(None, Some(30)), (1, MIN_ROW));
        assert_eq!(row(Some(6001), None), (101, MIN_ROW));
    }
}
