//! `pinhole bench --compare`: a table of two results of `pinhole bench --json`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// Name in the table, JSON pointer, decimals in the table, divisor for the table.
const METRICS: [(&str, &str, usize, f64); 12] = [
    ("p50 ms", "/latency_ms/p50", 3, 1.0),
    ("p90 ms", "/latency_ms/p90", 3, 1.0),
    ("p99 ms", "/latency_ms/p99", 3, 1.0),
    ("mean ms", "/latency_ms/mean", 3, 1.0),
    ("min ms", "/latency_ms/min", 3, 1.0),
    ("decode p50 ms", "/stages_ms/decode/p50", 3, 1.0),
    ("preprocess p50 ms", "/stages_ms/preprocess/p50", 3, 1.0),
    ("encode p50 ms", "/stages_ms/encode/p50", 3, 1.0),
    ("head p50 ms", "/stages_ms/head/p50", 3, 1.0),
    ("frames/s", "/frames_per_second", 2, 1.0),
    ("load ms", "/load_ms", 1, 1.0),
    ("peak memory MB", "/peak_rss_bytes", 1, 1e6),
];

/// What a machine does not report, or a short run does not have.
const NULLABLE: [&str; 3] = ["/peak_rss_bytes", "/latency_ms/p90", "/latency_ms/p99"];

/// Two runs that differ in one of these cannot be compared. Hashes instead of paths, which differ between machines.
const CONDITIONS: [(&str, &str); 9] = [
    ("bundle", "bundle_sha256"),
    ("precision", "precision"),
    ("conditional mode", "conditional"),
    ("budget of mode auto, ms", "budget_ms"),
    ("machine", "machine"),
    ("threads", "threads"),
    ("kernels", "kernels"),
    ("image", "image_sha256"),
    ("throttled", "throttled"),
];

/// Far above the size of a result, which is some kilobytes.
const MAX_BYTES: u64 = 16 << 20;

/// A result read from a file.
struct Run {
    path: PathBuf,
    json: Value,
}

/// The table, and warnings about different conditions.
pub(super) struct Comparison {
    pub(super) table: String,
    pub(super) warnings: Vec<String>,
    /// Whether the conditions are the same.
    pub(super) comparable: bool,
    /// Percentage by which the p50 latency of the second is above that of the first; negative if it is faster.
    pub(super) slower_percent: f64,
}

/// Compares the results in two files.
///
/// # Errors
/// For a file that cannot be read or is not such a result.
pub(super) fn compare(a: &Path, b: &Path) -> Result<Comparison> {
    let [a, b] = [Run::read(a)?, Run::read(b)?];
    let mut table = format!("{:<20} {:>12} {:>12} {:>8}\n", "", "a", "b", "b / a");
    for (name, pointer, decimals, divisor) in METRICS {
        let [x, y] = [a.number(pointer)?, b.number(pointer)?].map(|v| v.map(|v| v / divisor));
        let cell = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.decimals$}"));
        let ratio = match (x, y) {
            (Some(x), Some(y)) if x > 0.0 => format!("{:.3}", y / x),
            _ => "-".into(),
        };
        table += &format!("{name:<20} {:>12} {:>12} {ratio:>8}\n", cell(x), cell(y));
    }
    let mut warnings: Vec<String> = CONDITIONS
        .iter()
        .filter_map(|(name, field)| {
            let [x, y] = [&a.json[*field], &b.json[*field]];
            (x != y).then(|| format!("not comparable: {name}: a {}, b {}", shown(x), shown(y)))
        })
        .collect();
    let comparable = warnings.is_empty();
    for run in [&a, &b] {
        if run.json["busy"] == true {
            let path = run.path.display();
            warnings.push(format!(
                "{path}: other programs used the processors, so that its times are too long"
            ));
        }
    }
    let slower_percent = 100.0 * (b.median()? / a.median()? - 1.0);
    Ok(Comparison {
        table,
        warnings,
        comparable,
        slower_percent,
    })
}

impl Run {
    fn read(path: &Path) -> Result<Self> {
        let named = || path.display().to_string();
        let mut bytes = vec![];
        let file = File::open(path).with_context(named)?;
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .with_context(named)?;
        if bytes.len() as u64 > MAX_BYTES {
            bail!(
                "{}: expected the output of `pinhole bench --json`, found more than {MAX_BYTES} bytes",
                path.display()
            );
        }
        let json: Value = serde_json::from_slice(&bytes).map_err(|e| {
            anyhow!(
                "{}: expected the output of `pinhole bench --json`, found invalid JSON: {e}",
                path.display()
            )
        })?;
        let path = path.to_owned();
        let run = Self { path, json };
        if !run.json.is_object() {
            return Err(run.wrong("/", "an object", Some(&run.json)));
        }
        for field in ["bundle", "precision", "kernels"] {
            let value = &run.json[field];
            if !value.is_string() {
                return Err(run.wrong(field, "a string", run.json.get(field)));
            }
        }
        if !run.json["threads"].is_u64() {
            return Err(run.wrong("threads", "a whole number", run.json.get("threads")));
        }
        Ok(run)
    }

    /// A measured value. The peak memory may be null, and percentiles of few images.
    fn number(&self, pointer: &str) -> Result<Option<f64>> {
        let value = self.json.pointer(pointer);
        match value {
            Some(Value::Null) if NULLABLE.contains(&pointer) => Ok(None),
            _ => match value.and_then(Value::as_f64) {
                Some(number) if number >= 0.0 => Ok(Some(number)),
                _ => Err(self.wrong(pointer, "a number, 0 or more", value)),
            },
        }
    }

    /// The p50 latency, above 0 because it is a divisor.
    fn median(&self) -> Result<f64> {
        let pointer = "/latency_ms/p50";
        match self.number(pointer)? {
            Some(number) if number > 0.0 => Ok(number),
            _ => Err(self.wrong(pointer, "a number above 0", self.json.pointer(pointer))),
        }
    }

    fn wrong(&self, field: &str, expected: &str, found: Option<&Value>) -> anyhow::Error {
        anyhow!(
            "{}: {}: expected {expected}, found {}; write it with `pinhole bench --json`",
            self.path.display(),
            field.trim_start_matches('/').replace('/', "."),
            found.map_or("nothing".into(), shown)
        )
    }
}

/// A value for a message: one short line.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "not known".into(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        other => other.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
