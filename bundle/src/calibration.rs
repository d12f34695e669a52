//! The quality of a bundle's probabilities.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Measurements of the exported bundle on labelled calibration images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Number of images of the bundle's classes.
    pub images: usize,
    /// Share of them with the right class, 0..1.
    pub accuracy: f32,
    /// Expected calibration error at temperature 1 (15 equal bins; Guo et al., 2017), 0..1.
    pub ece_before: f32,
    /// The same at the manifest's temperature.
    pub ece_after: f32,
    /// Share of the correctly classified images that the unknown policy accepts.
    pub kept: f32,
    /// Share of the wrongly classified images that it rejects as unknown; absent if none was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_rejected: Option<f32>,
    /// Number of images of classes that the bundle does not have.
    #[serde(default)]
    pub strangers: usize,
    /// Share of those that it rejects as unknown; absent if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strangers_rejected: Option<f32>,
}

impl Calibration {
    /// Checks that shares are from 0 to 1; `path` is the manifest's, for errors.
    pub(crate) fn validate(&self, path: &Path) -> Result<(), Error> {
        for (field, value) in [
            ("accuracy", Some(self.accuracy)),
            ("ece_before", Some(self.ece_before)),
            ("ece_after", Some(self.ece_after)),
            ("kept", Some(self.kept)),
            ("wrong_rejected", self.wrong_rejected),
            ("strangers_rejected", self.strangers_rejected),
        ] {
            if let Some(v) = value
                && !(0.0..=1.0).contains(&v)
            {
                let field = format!("calibration.{field}");
                return Err(Error::field(path, field, "a share from 0 to 1", v));
            }
        }
        Ok(())
    }
}

/// Bins of the expected calibration error, as in Guo et al.
const BINS: usize = 15;

/// The expected calibration error, 0..1, of answers (probability of the answer, whether it was correct).
///
/// Answers are put in 15 bins of equal width by probability, ((m - 1) / 15, m / 15]. The result is the mean over
/// the bins, weighted by their numbers of answers, of |accuracy - mean probability| (Guo et al., 2017,
/// equation 3); 0 without answers.
pub fn expected_calibration_error(answers: impl IntoIterator<Item = (f64, bool)>) -> f64 {
    let (mut right, mut probability, mut all) = ([0.0; BINS], [0.0; BINS], 0usize);
    for (given, is_right) in answers {
        let bin = (given * BINS as f64).ceil() as usize;
        let bin = bin.clamp(1, BINS) - 1;
        right[bin] += f64::from(u8::from(is_right));
        probability[bin] += given;
        all += 1;
    }
    // Numbers of answers cancel: n_m / n * |right_m / n_m - probability_m / n_m|.
    let distances = right.iter().zip(probability).map(|(r, p)| (r - p).abs());
    distances.sum::<f64>() / all.max(1) as f64
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
        assert!((found - 1.27 / 6.0).abs() < 1e-12, "{found}");
        assert_eq!(expected_calibration_error([]), 0.0);
    }
}
