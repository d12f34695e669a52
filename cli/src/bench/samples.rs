//! Latencies of many images in bounded memory.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Number of times that are kept exactly, in 80 kB: an hour at 360 ms per image.
const EXACT: usize = 10_000;
/// Of the histogram after that: the error of a percentile is at most 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Times: the first [`EXACT`] exactly, then as a histogram.
pub(super) struct Samples {
    exact: Vec<u64>,
    histogram: Option<Histogram<u64>>,
    count: u64,
    sum_ns: u128,
    min_ns: u64,
}

/// Percentiles (nearest rank), mean and minimum of times, in milliseconds. Part of the JSON of `pinhole bench`. A
/// percentile is `null` if it would be the maximum: p90 needs 10 times, p99 needs 100.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) p50: f64,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) mean: f64,
    pub(super) min: f64,
}

impl Samples {
    pub(super) fn new() -> Self {
        Self {
            // No allocation during the measurement.
            exact: Vec::with_capacity(EXACT),
            histogram: None,
            count: 0,
            sum_ns: 0,
            min_ns: u64::MAX,
        }
    }

    pub(super) fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum_ns += u128::from(ns);
        self.min_ns = self.min_ns.min(ns);
        if self.histogram.is_none() {
            if self.exact.len() < EXACT {
                self.exact.push(ns);
                return;
            }
            let mut histogram = empty_histogram();
            for &ns in &self.exact {
                histogram.saturating_record(ns);
            }
            self.histogram = Some(histogram);
        }
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(ns);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Whether all times are kept exactly.
    pub(super) fn is_exact(&self) -> bool {
        self.histogram.is_none()
    }

    pub(super) fn clear(&mut self) {
        self.exact.clear();
        self.histogram = None;
        (self.count, self.sum_ns, self.min_ns) = (0, 0, u64::MAX);
    }

    /// `None` if nothing was recorded.
    pub(super) fn summary(&mut self) -> Option<Summary> {
        if self.count == 0 {
            return None;
        }
        self.exact.sort_unstable();
        Some(Summary {
            p50: self.percentile(50),
            p90: self.upper_percentile(90),
            p99: self.upper_percentile(99),
            mean: ms(self.sum_ns as f64 / self.count as f64),
            min: ms(self.min_ns as f64),
        })
    }

    /// `None` if no time would be above it.
    fn upper_percentile(&self, percent: u64) -> Option<f64> {
        (self.count * (100 - percent) >= 100).then(|| self.percentile(percent))
    }

    /// `exact` must be sorted, and not all empty.
    fn percentile(&self, percent: u64) -> f64 {
        let ns = match &self.histogram {
            Some(histogram) => histogram.value_at_quantile(percent as f64 / 100.0),
            None => {
                let rank = (self.count * percent).div_ceil(100).max(1);
                self.exact[rank as usize - 1]
            }
        };
        // The histogram returns a bound of a bucket, which may lie below the minimum.
        ms(ns.max(self.min_ns) as f64)
    }
}

/// From 1 ns to an hour, saturating above; 250 kB.
fn empty_histogram() -> Histogram<u64> {
    let hour = 3_600_000_000_000;
    Histogram::new_with_bounds(1, hour, SIGNIFICANT_DIGITS).expect("the bounds are in order")
}

/// Nanoseconds to milliseconds, rounded to nanoseconds.
fn ms(ns: f64) -> f64 {
    ns.round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reproducible times in nanoseconds, from a distribution with a long tail.
    fn times(count: usize) -> Vec<u64> {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            state >> 33
        };
        (0..count)
            .map(|_| {
                2_000_000
                    + next() % 500_000
                    + if next() % 50 == 0 {
                        next() % 90_000_000
                    } else {
                        0
                    }
            })
            .collect()
    }

    /// The definition of nearest rank: the smallest value with at least this percentage of all values at or below it.
    fn reference(times: &[u64], percent: u64) -> u64 {
        let share = |value: u64| times.iter().filter(|t| **t <= value).count() as u64;
        let enough = |value: &u64| 100 * share(*value) >= percent * times.len() as u64;
        times.iter().copied().filter(enough).min().unwrap()
    }

    fn summary(times: &[u64]) -> (Summary, bool) {
        let mut samples = Samples::new();
        times
            .iter()
            .for_each(|t| samples.record(Duration::from_nanos(*t)));
        (samples.summary().unwrap(), samples.is_exact())
    }

    #[test]
    fn short_runs_have_exact_percentiles() {
        for count in [1, 2, 3, 9, 10, 99, 100, 101, 1000] {
            let times = times(count);
            let (summary, exact) = summary(&times);
            assert!(exact);
            let expected = |percent| reference(&times, percent) as f64 / 1e6;
            assert_eq!(summary.p50, expected(50), "{count}");
            assert_eq!(summary.p90, (count >= 10).then(|| expected(90)), "{count}");
            assert_eq!(summary.p99, (count >= 100).then(|| expected(99)), "{count}");
            let mean = times.iter().sum::<u64>() as f64 / count as f64 / 1e6;
            assert!((summary.mean - mean).abs() < 1e-6);
            assert_eq!(summary.min, *times.iter().min().unwrap() as f64 / 1e6);
        }
    }

    #[test]
    fn percentiles_of_long_runs_are_within_a_thousandth() {
        let mut times = times(EXACT + 1);
        // A time below a microsecond, and one above the histogram's upper end.
        times[7] = 3;
        times[8] = u64::MAX;
        let (summary, exact) = summary(&times);
        assert!(!exact);
        times.sort_unstable();
        let percentiles = [Some(summary.p50), summary.p90, summary.p99].map(Option::unwrap);
        for (percent, found) in [50, 90, 99].into_iter().zip(percentiles) {
            let rank = (times.len() * percent).div_ceil(100);
            let expected = times[rank - 1] as f64 / 1e6;
            let off = (found / expected - 1.0).abs();
            assert!(
                off <= 1e-3,
                "p{percent}: expected {expected}, found {found}"
            );
        }
        assert_eq!(summary.min, 3e-6);
    }

    #[test]
    fn without_times_there_is_no_summary() {
        let mut samples = Samples::new();
        assert_eq!(samples.summary(), None);
        (0..=EXACT).for_each(|_| samples.record(Duration::from_millis(5)));
        samples.clear();
        assert!(samples.is_exact() && samples.count() == 0);
        assert_eq!(samples.summary(), None);
        samples.record(Duration::from_millis(2));
        assert_eq!(samples.summary().map(|s| (s.min, s.p50)), Some((2.0, 2.0)));
    }
}
