//! From similarities to the probabilities that users see.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a class's probability says, and how it is computed from the logits
/// `(logit_scale * similarity + bias) / temperature`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Score {
    /// Exactly one class is right: softmax over all classes, without a bias (CLIP). The probabilities add up to 1.
    #[default]
    Softmax,
    /// Each class by itself: the logistic function of its own logit (SigLIP, Zhai et al., 2023). The probabilities do
    /// not add up to 1: none or several classes may be right.
    Sigmoid {
        /// The model's, added to scaled similarities (SigLIP: about -13).
        logit_bias: f32,
        /// Replaces `logit_bias`, if the bundle was calibrated (Platt, 1999).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        calibrated_bias: Option<f32>,
    },
}

impl Score {
    /// "softmax" or "sigmoid".
    pub fn name(&self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::Sigmoid { .. } => "sigmoid",
        }
    }

    /// Whether this is [`Score::Softmax`], which manifests leave out so that earlier versions can read them.
    pub fn is_softmax(&self) -> bool {
        *self == Self::Softmax
    }

    /// The model's own score, without what a calibration added.
    pub fn uncalibrated(self) -> Self {
        match self {
            Self::Softmax => self,
            Self::Sigmoid { logit_bias, .. } => Self::Sigmoid {
                logit_bias,
                calibrated_bias: None,
            },
        }
    }

    /// The probability of each class, 0 to 1, from its cosine similarity. `logit_scale` and `temperature` are positive.
    pub fn probabilities(
        &self,
        similarities: &[f32],
        logit_scale: f32,
        temperature: f32,
    ) -> Vec<f32> {
        match *self {
            Self::Softmax => {
                let factor = logit_scale / temperature;
                let best = similarities
                    .iter()
                    .copied()
                    .fold(f32::NEG_INFINITY, f32::max);
                let exponentials = similarities.iter().map(|s| ((s - best) * factor).exp());
                let exponentials: Vec<f32> = exponentials.collect();
                let sum: f32 = exponentials.iter().sum();
                exponentials.iter().map(|e| e / sum).collect()
            }
            Self::Sigmoid {
                logit_bias,
                calibrated_bias,
            } => {
                let bias = calibrated_bias.unwrap_or(logit_bias);
                let logits = similarities
                    .iter()
                    .map(|s| (logit_scale * s + bias) / temperature);
                logits.map(|logit| 1.0 / (1.0 + (-logit).exp())).collect()
            }
        }
    }
}

impl fmt::Display for Score {
    /// The name and what it means.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Softmax => "softmax, one of the classes",
            Self::Sigmoid { .. } => "sigmoid, each class by itself",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn probabilities_by_hand() {
        // exp(1) and exp(0) of logits 10 * (0.3, 0.1) at temperature 2.
        let softmax = Score::Softmax.probabilities(&[0.3, 0.1], 10.0, 2.0);
        close(&softmax, &[0.731_058_6, 0.268_941_43]);
        // Logits (3 - 2) / 2 and (1 - 2) / 2; with the calibrated bias (3 - 3) / 2 and (1 - 3) / 2.
        let sigmoid = |calibrated_bias| Score::Sigmoid {
            logit_bias: -2.0,
            calibrated_bias,
        };
        let own = sigmoid(None).probabilities(&[0.3, 0.1], 10.0, 2.0);
        close(&own, &[0.622_459_35, 0.377_540_65]);
        let calibrated = sigmoid(Some(-3.0));
        close(
            &calibrated.probabilities(&[0.3, 0.1], 10.0, 2.0),
            &[0.5, 0.268_941_43],
        );
        assert_eq!(calibrated.uncalibrated(), sigmoid(None));
    }

    /// If this fails, an extreme similarity gives NaN, which JSON cannot hold.
    #[test]
    fn extreme_logits_stay_probabilities() {
        let sigmoid = Score::Sigmoid {
            logit_bias: 0.0,
            calibrated_bias: None,
        };
        let found = sigmoid.probabilities(&[1.0, -1.0], f32::MAX, 1e-6);
        assert_eq!(found, [1.0, 0.0]);
        let found = Score::Softmax.probabilities(&[1.0, -1.0], 1e30, 1e-6);
        assert_eq!(found, [1.0, 0.0]);
    }
}
