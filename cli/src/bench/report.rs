//! The result of `pinhole bench`, as JSON and as text.

use std::fmt::Write;

use serde::Serialize;

use super::measure::{Row, STAGES};
use super::samples::Summary;

/// The JSON of `pinhole bench --json`, one object on one line. Names and units are a contract: fields may be added, but
/// not changed. `null` stands for what the machine does not report.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BenchReport {
    /// Version of this program.
    pub(super) pinhole: &'static str,
    /// The bundle's folder, as given on the command line.
    pub(super) bundle: String,
    /// Of the bundle's manifest.json, which holds the hashes of all its files.
    pub(super) bundle_sha256: String,
    /// Precision of the weights: "f32", "f16" or "int8".
    pub(super) precision: String,
    /// Mode of a conditional head: "exact", "shortlist", "linear" or "auto"; `null` for a static one.
    pub(super) conditional: Option<String>,
    /// Budget of mode "auto"; `null` for other modes.
    pub(super) budget_ms: Option<u64>,
    /// The board's name, or else the processor's.
    pub(super) machine: Option<String>,
    /// Processors that this process may use.
    pub(super) processors: usize,
    /// Threads of the classifier.
    pub(super) threads: usize,
    /// Kernel variant.
    pub(super) kernels: &'static str,
    /// The image's file.
    pub(super) image: String,
    /// Whether it is the bundle's first golden image, not one given by `--image`.
    pub(super) image_of_bundle: bool,
    /// Of the image's file.
    pub(super) image_sha256: String,
    /// Width of the image in pixels.
    pub(super) image_width: u32,
    /// Height of the image in pixels.
    pub(super) image_height: u32,
    /// Images before the measurement.
    pub(super) warm_up: u64,
    /// Images measured.
    pub(super) iterations: u64,
    /// Measured time in seconds.
    pub(super) seconds: f64,
    /// Whether a signal ended the run early.
    pub(super) interrupted: bool,
    /// Latency of an image: decode, preprocess, encode, head, and release of the memory.
    pub(super) latency_ms: Summary,
    /// Latency of each stage.
    pub(super) stages_ms: Stages,
    /// How the percentiles were computed: "exact" from all times (nearest rank), or "histogram" with three significant
    /// digits, an error of at most 0.1 %.
    pub(super) percentiles: &'static str,
    /// Iterations divided by seconds.
    pub(super) frames_per_second: f64,
    /// Time to open the bundle: hashes, weights, threads. Its files may come from the disk or from the page cache.
    pub(super) load_ms: f64,
    /// Peak resident memory of the process.
    pub(super) peak_rss_bytes: Option<u64>,
    /// Temperature of the processor at the end, in degrees Celsius.
    pub(super) temperature_c: Option<f64>,
    /// Clock of the processors at the end, the mean where they differ.
    pub(super) frequency_mhz: Option<f64>,
    /// Highest clock of the processors.
    pub(super) max_frequency_mhz: Option<f64>,
    /// Whether the processor was throttled at any time of the run.
    pub(super) throttled: Option<bool>,
    /// Reasons: "under-voltage", "clock capped", "throttled", "soft temperature limit".
    pub(super) throttled_reasons: Option<Vec<&'static str>>,
    /// Processor time of this program during the run, in seconds.
    pub(super) cpu_seconds: Option<f64>,
    /// Processor time of all other programs during the run, in seconds.
    pub(super) other_cpu_seconds: Option<f64>,
    /// Runnable processes at the end, the mean over a minute.
    pub(super) load_average: Option<f64>,
    /// Whether other programs took processors from this one, so that the times are too long.
    pub(super) busy: Option<bool>,
    /// The run in parts of one second or of a sixtieth of the run, whichever is longer.
    pub(super) over_time: Vec<Row>,
}

/// Latency of each stage.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Stages {
    /// Encoded image to RGB.
    pub(super) decode: Summary,
    /// Resizing and cropping.
    pub(super) preprocess: Summary,
    /// The image encoder.
    pub(super) encode: Summary,
    /// Similarities, softmax and sorting; with a conditional head also its text encoder.
    pub(super) head: Summary,
}

const NOT_KNOWN: &str = "not known";

impl BenchReport {
    /// The report for people, on request with the table over time.
    pub(super) fn text(&self, over_time: bool) -> String {
        let mut out = String::new();
        self.write(&mut out, over_time)
            .expect("writing to a String cannot fail");
        out
    }

    fn write(&self, out: &mut String, over_time: bool) -> std::fmt::Result {
        let head = match (&self.conditional, self.budget_ms) {
            (Some(mode), Some(budget)) => format!(", conditional head: {mode} in {budget} ms"),
            (Some(mode), None) => format!(", conditional head: {mode}"),
            (None, _) => String::new(),
        };
        let (bundle, precision) = (&self.bundle, &self.precision);
        writeln!(out, "bundle       {bundle}, {precision}{head}")?;
        let machine = self.machine.as_deref().unwrap_or(NOT_KNOWN);
        writeln!(
            out,
            "machine      {machine}, threads {} of {}, kernels {}",
            self.threads, self.processors, self.kernels
        )?;
        writeln!(
            out,
            "image        {}{}, {} x {}",
            self.image,
            if self.image_of_bundle {
                " of the bundle"
            } else {
                ""
            },
            self.image_width,
            self.image_height
        )?;
        let interrupted = if self.interrupted {
            ", interrupted"
        } else {
            ""
        };
        writeln!(
            out,
            "iterations   {} in {:.1} s, after {} for warm-up{interrupted}",
            self.iterations, self.seconds, self.warm_up
        )?;
        writeln!(out)?;
        writeln!(
            out,
            "ms                p50        p90        p99       mean        min"
        )?;
        let stages = &self.stages_ms;
        let stages = [
            &stages.decode,
            &stages.preprocess,
            &stages.encode,
            &stages.head,
        ];
        let rows = STAGES.into_iter().zip(stages);
        for (name, s) in rows.chain([("image", &self.latency_ms)]) {
            writeln!(
                out,
                "{name:<10} {:>10.3} {:>10} {:>10} {:>10.3} {:>10.3}",
                s.p50,
                ms(s.p90),
                ms(s.p99),
                s.mean,
                s.min
            )?;
        }
        writeln!(out)?;
        writeln!(out, "frames/s     {:.2}", self.frames_per_second)?;
        writeln!(out, "load         {:.1} ms", self.load_ms)?;
        let memory = or_not_known(self.peak_rss_bytes, |b| format!("{:.1} MB", b as f64 / 1e6));
        writeln!(out, "peak memory  {memory}")?;
        let temperature = or_not_known(self.temperature_c, |t| format!("{t:.1} °C"));
        writeln!(out, "temperature  {temperature}")?;
        let clock = match (self.frequency_mhz, self.max_frequency_mhz) {
            (Some(now), Some(max)) => format!("{now:.0} MHz of {max:.0}"),
            (now, _) => or_not_known(now, |now| format!("{now:.0} MHz")),
        };
        writeln!(out, "clock        {clock}")?;
        let reasons = self.throttled_reasons.as_deref().unwrap_or_default();
        let reasons = match reasons {
            [] => String::new(),
            some => format!(" ({})", some.join(", ")),
        };
        writeln!(out, "throttled    {}{reasons}", yes_or_no(self.throttled))?;
        writeln!(out, "busy         {}", self.busy_text())?;
        if self.percentiles != "exact" {
            writeln!(out, "percentiles  from a histogram, error at most 0.1 %")?;
        }
        if over_time {
            write_over_time(out, &self.over_time)?;
        }
        Ok(())
    }
}

impl BenchReport {
    fn busy_text(&self) -> String {
        let (Some(busy), Some(own), Some(others)) =
            (self.busy, self.cpu_seconds, self.other_cpu_seconds)
        else {
            return NOT_KNOWN.into();
        };
        let per_second = |cpu_seconds: f64| cpu_seconds / self.seconds;
        let load = or_not_known(self.load_average, |load| format!("{load:.2}"));
        format!(
            "{}; of {} processors, this program used {:.2}, others {:.2}; load average {load}",
            if busy {
                "yes, the times are too long"
            } else {
                "no"
            },
            self.processors,
            per_second(own),
            per_second(others)
        )
    }
}

fn write_over_time(out: &mut String, rows: &[Row]) -> std::fmt::Result {
    writeln!(
        out,
        "\n  from s     to s   frames/s     p50 ms     p99 ms    °C    MHz  throttled"
    )?;
    for row in rows {
        writeln!(
            out,
            "{:>8.1} {:>8.1} {:>10.2} {:>10.3} {:>10} {:>5} {:>6}  {}",
            row.start_s,
            row.end_s,
            row.frames_per_second,
            row.p50_ms,
            ms(row.p99_ms),
            row.temperature_c.map_or("-".into(), |t| format!("{t:.1}")),
            row.frequency_mhz.map_or("-".into(), |f| format!("{f:.0}")),
            row.throttled.map_or("-", |t| if t { "yes" } else { "no" })
        )?;
    }
    Ok(())
}

/// "-" for a percentile of too few images.
fn ms(value: Option<f64>) -> String {
    value.map_or("-".into(), |ms| format!("{ms:.3}"))
}

fn yes_or_no(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => NOT_KNOWN,
    }
}

fn or_not_known<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or(NOT_KNOWN.into(), text)
}
