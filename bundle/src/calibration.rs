//! How far the probabilities of a bundle can be trusted.

use serde::{Deserialize, Serialize};

/// What the labelled calibration images said of the encoder as exported.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// How many images of the bundle's classes.
    pub images: usize,
    /// Share of them with the right class, 0..1.
    pub accuracy: f32,
    /// Expected calibration error at temperature 1 (15 equal bins; Guo et al., 2017), 0..1.
    pub ece_before: f32,
    /// The same at the manifest's temperature.
    pub ece_after: f32,
    /// Share of the rightly classified images that the unknown policy keeps.
    pub kept: f32,
    /// Share of the wrongly classified images that it calls unknown; absent if none was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_rejected: Option<f32>,
    /// Images of other classes than the bundle's.
    #[serde(default)]
    pub strangers: usize,
    /// Share of those that it calls unknown; absent if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strangers_rejected: Option<f32>,
}

/// Bins of the expected calibration error.
const BINS: usize = 15;

/// The expected calibration error, 0..1, of answers (probability of the best class, whether it was
/// right): over 15 equally wide bins of probability, the mean difference between a bin's accuracy and
/// its mean probability, weighted by its answers (Guo et al., 2017, equation 5). 0 without answers.
pub fn expected_calibration_error(answers: impl IntoIterator<Item = (f32, bool)>) -> f32 {
    let mut bins = [(0usize, 0.0f64, 0usize); BINS];
    let mut all = 0;
    for (probability, right) in answers {
        // Bins are open below and closed above, as the paper has them.
        let bin = (f64::from(probability) * BINS as f64).ceil() as usize;
        let (count, sum, rights) = &mut bins[bin.clamp(1, BINS) - 1];
        *count += 1;
        *sum += f64::from(probability);
        *rights += usize::from(right);
        all += 1;
    }
    let gaps = bins
        .iter()
        .map(|(_, sum, rights)| (*rights as f64 - sum).abs());
    (gaps.sum::<f64>() / all.max(1) as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_the_weighted_gap_of_each_bin() {
        // Three answers in (0.8, 0.867], one in (0.2, 0.267]; one of 0 and one of 1 at the ends.
        let answers = [
            (0.81, true),
            (0.85, false),
            (0.86, true),
            (0.25, true),
            (0.0, false),
            (1.0, true),
        ];
        // |2 - 2.52| + |1 - 0.25| + 0 + 0, of six.
        let found = expected_calibration_error(answers);
        assert!((found - 1.27 / 6.0).abs() < 1e-6, "{found}");
        assert_eq!(expected_calibration_error([]), 0.0);
    }
}
