//! Temperature and thresholds for "unknown", fitted to the similarities of labelled images.

use pinhole_bundle::{Calibration, Manifest, UnknownPolicy, expected_calibration_error};
use pinhole_model::Score;

/// What an image shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalibrationLabel {
    /// The class of this index.
    Class(usize),
    /// None of the classes.
    Unknown,
}

/// A model's factor from similarity to logit, and what it makes of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logits {
    /// The manifest's `logit_scale`.
    pub scale: f32,
    /// Without what an earlier calibration added.
    pub score: Score,
}

/// The similarities of one labelled image.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledAnswer {
    /// With every class, `[C]`.
    pub similarities: Vec<f32>,
    /// With the most similar text of what is none of the classes, if there is any.
    pub negative: Option<f32>,
    /// What the image shows.
    pub label: CalibrationLabel,
}

/// What a calibration decides: the probabilities, and what is unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibratedValues {
    /// Divides the logits; 1 for a single class, whose probability is always 1.
    pub temperature: f32,
    /// With the fitted bias, if it has one.
    pub score: Score,
    /// Least similarity of the best class; none if no image was classified correctly.
    pub min_similarity: Option<f32>,
    /// Least difference of similarity between the best class and the second; none for a single class, too.
    pub min_margin: Option<f32>,
}

/// Fitted temperature and thresholds.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationFit {
    /// What was fitted.
    pub values: CalibratedValues,
    /// Their effect on the images.
    pub calibration: Calibration,
}

/// How well images are answered that a calibration was not fitted to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOutResult {
    /// Mean negative log likelihood of the labels, in nats per image; 0 without images of classes.
    pub loss: f64,
    /// Share of the correctly classified images that are not unknown; none without any.
    pub kept: Option<f32>,
    /// Share of the wrongly classified images, and of those of no class, that are unknown; none without any.
    pub rejected: Option<f32>,
}

/// A calibration beside the one before it, on images that neither was fitted to, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOutComparison {
    /// Number of images.
    pub images: usize,
    /// Of the calibration that a bundle has.
    pub before: HeldOutResult,
    /// Of new ones, each fitted to four fifths of the images and judged by the others.
    pub after: HeldOutResult,
}

impl HeldOutComparison {
    /// Whether the labels are clearly less likely: by e² in all, which chance does to a fit that is as good in one of
    /// seven cases at most.
    pub fn has_worse_probabilities(&self) -> bool {
        (self.after.loss - self.before.loss) * self.images as f64 > 2.0
    }

    /// Whether the thresholds reject more correct answers, and no more of the others.
    pub fn has_worse_thresholds(&self) -> bool {
        let (before, after) = (self.before, self.after);
        after.kept < before.kept && after.rejected <= before.rejected
    }
}

/// Least number of images of classes to fit to.
const MIN_IMAGES: usize = 8;
/// Probability, for a model that guesses, of at least as many correct answers, above which a fit is refused.
const CHANCE_LEVEL: f64 = 0.05;
/// The share that a caller keeps who was not told another one.
pub(crate) const KEEP: f32 = 0.95;

impl CalibratedValues {
    /// Those of a bundle.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            temperature: manifest.temperature,
            score: manifest.score,
            min_similarity: manifest.unknown.min_similarity,
            min_margin: manifest.unknown.min_margin,
        }
    }

    /// Whether an image is answered "unknown".
    fn rejects(&self, answer: &LabelledAnswer, none: Option<usize>) -> bool {
        let (at, similarity) = best(answer);
        Some(at) == none
            || self.min_similarity.is_some_and(|least| similarity < least)
            || self.min_margin.is_some_and(|least| margin(answer) < least)
            || answer
                .negative
                .is_some_and(|negative| negative > similarity)
    }

    /// Negative log likelihood of an image's label, in nats: of softmax for images of classes alone, of sigmoid as the mean
    /// over the classes.
    fn loss(&self, answer: &LabelledAnswer, scale: f32) -> f64 {
        // Of rounded probabilities.
        let log = |p: f64| p.max(1e-9).ln();
        let similarities = &answer.similarities;
        let probabilities = (self.score).probabilities(similarities, scale, self.temperature);
        let right = |class| answer.label == CalibrationLabel::Class(class);
        let all = probabilities.iter().map(|p| f64::from(*p)).enumerate();
        match self.score {
            Score::Softmax => -all
                .filter(|(i, _)| right(*i))
                .map(|(_, p)| log(p))
                .sum::<f64>(),
            Score::Sigmoid { .. } => {
                let losses = all.map(|(i, p)| -log(if right(i) { p } else { 1.0 - p }));
                losses.sum::<f64>() / similarities.len().max(1) as f64
            }
        }
    }
}

impl CalibrationFit {
    /// Records the fit in `manifest`; its negatives stay.
    pub fn record(&self, manifest: &mut Manifest) {
        let values = self.values;
        manifest.temperature = values.temperature;
        manifest.score = values.score;
        manifest.unknown = UnknownPolicy {
            min_similarity: values.min_similarity,
            min_margin: values.min_margin,
            ..std::mem::take(&mut manifest.unknown)
        };
        manifest.calibration = Some(self.calibration);
    }
}

/// Why images are no basis for a fit. Its text is for examples that were shown; an export speaks of folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFit {
    /// There are fewer than `least` of classes.
    #[error("expected at least {least} examples of classes, found {found}")]
    TooFew {
        /// The least number of images.
        least: usize,
        /// Images of classes.
        found: usize,
    },
    /// The classifier is no better than a guess.
    #[error(
        "expected a head that is better than a guess among {classes} classes, found {right} of {images} examples \
         recognised"
    )]
    Guess {
        /// Images whose class is the best.
        right: usize,
        /// Images of classes.
        images: usize,
        /// C
        classes: usize,
    },
}

/// Fits to `answers`. `keep` is the share of the correctly classified images that the two thresholds together keep. `none`
/// is the class of what is none of the others ([`UnknownPolicy::class`]): images of it are unknown, and it competes with
/// the others as it does in an answer.
///
/// # Errors
/// [`NoFit`].
pub fn fit_calibration(
    answers: &[LabelledAnswer],
    none: Option<usize>,
    logits: Logits,
    keep: f32,
) -> Result<CalibrationFit, NoFit> {
    let classed: Vec<_> = of_classes(answers)
        .filter(|(_, class)| Some(*class) != none)
        .collect();
    let images = classed.len();
    if images < MIN_IMAGES {
        let (least, found) = (MIN_IMAGES, images);
        return Err(NoFit::TooFew { least, found });
    }
    let right: Vec<&LabelledAnswer> = (classed.iter())
        .filter(|(answer, class)| best(answer).0 == *class)
        .map(|(answer, _)| *answer)
        .collect();
    let classes = answers.iter().map(|answer| answer.similarities.len());
    let classes = classes.max().unwrap_or(0);
    let chance = 1.0 / classes.max(1) as f64;
    if classes > 1 && at_least(right.len(), images, chance) > CHANCE_LEVEL {
        let right = right.len();
        return Err(NoFit::Guess {
            right,
            images,
            classes,
        });
    }
    let values = fit(answers, none, logits, keep);
    let CalibratedValues {
        temperature, score, ..
    } = values;
    let rejected = |answer: &LabelledAnswer| values.rejects(answer, none);
    let ece = |score: Score, temperature: f32| {
        expected_calibration_error(classed.iter().map(|(answer, class)| {
            let probabilities =
                score.probabilities(&answer.similarities, logits.scale, temperature);
            let (at, _) = best(answer);
            (f64::from(probabilities[at]), at == *class)
        })) as f32
    };
    let unknown = answers.iter().filter(|a| is_of_no_class(a, none));
    let wrong = classed
        .iter()
        .filter(|(answer, class)| best(answer).0 != *class);
    Ok(CalibrationFit {
        values,
        calibration: Calibration {
            images: classed.len(),
            accuracy: right.len() as f32 / classed.len() as f32,
            ece_before: ece(logits.score, 1.0),
            ece_after: ece(score, temperature),
            kept: share(&mut right.iter().map(|a| !rejected(a))).unwrap_or(0.0),
            wrong_rejected: share(&mut wrong.map(|(a, _)| rejected(a))),
            strangers: unknown.clone().count(),
            strangers_rejected: share(&mut unknown.map(rejected)),
        },
    })
}

/// As [`fit_calibration`], of images that are a basis for it.
fn fit(
    answers: &[LabelledAnswer],
    none: Option<usize>,
    logits: Logits,
    keep: f32,
) -> CalibratedValues {
    let (temperature, score) = temperature_and_score(answers, logits);
    // Each threshold may reject half of what is not kept.
    let rejected_share = (1.0 - keep) / 2.0;
    let quantile = |value: fn(&LabelledAnswer) -> f32| {
        let right = answers.iter().filter(|answer| is_right(answer, none));
        let mut values: Vec<f32> = right.map(value).collect();
        values.sort_by(f32::total_cmp);
        let at = (rejected_share * values.len() as f32) as usize;
        values.get(at).copied().filter(|value| value.is_finite())
    };
    CalibratedValues {
        temperature,
        score,
        min_similarity: quantile(|answer| best(answer).1),
        min_margin: quantile(margin),
    }
}

/// Judges the calibration of a bundle, `before`, and a new one by `answers`. Each fifth of them is judged by a fit to the
/// others, with the parameters of [`fit_calibration`].
pub fn compare_held_out(
    answers: &[LabelledAnswer],
    none: Option<usize>,
    logits: Logits,
    keep: f32,
    before: CalibratedValues,
) -> HeldOutComparison {
    const PARTS: usize = 5;
    // In the order of the images, those of a class are beside each other.
    let of_part = |part: usize| {
        let fitted = answers
            .iter()
            .enumerate()
            .filter(|(i, _)| i % PARTS != part);
        let fitted: Vec<LabelledAnswer> = fitted.map(|(_, answer)| answer.clone()).collect();
        fit(&fitted, none, logits, keep)
    };
    let parts: Vec<CalibratedValues> = (0..PARTS).map(of_part).collect();
    let judge = |values: &dyn Fn(usize) -> CalibratedValues| {
        let judged = || answers.iter().enumerate();
        let losses = judged().map(|(i, answer)| values(i).loss(answer, logits.scale));
        let rejected = |(i, answer)| CalibratedValues::rejects(&values(i), answer, none);
        let right = judged().filter(|(_, answer)| is_right(answer, none));
        let others = judged().filter(|(_, answer)| !is_right(answer, none));
        HeldOutResult {
            loss: losses.sum::<f64>() / answers.len().max(1) as f64,
            kept: share(&mut right.map(|of| !rejected(of))),
            rejected: share(&mut others.map(rejected)),
        }
    };
    HeldOutComparison {
        images: answers.len(),
        before: judge(&|_| before),
        after: judge(&|i| parts[i % PARTS]),
    }
}

/// Whether the image is of a class, and that is the best.
fn is_right(answer: &LabelledAnswer, none: Option<usize>) -> bool {
    !is_of_no_class(answer, none) && answer.label == CalibrationLabel::Class(best(answer).0)
}

fn is_of_no_class(answer: &LabelledAnswer, none: Option<usize>) -> bool {
    match answer.label {
        CalibrationLabel::Class(class) => Some(class) == none,
        CalibrationLabel::Unknown => true,
    }
}

/// The share of those that are true; none without any.
fn share(of: &mut dyn Iterator<Item = bool>) -> Option<f32> {
    let (mut yes, mut all) = (0, 0);
    of.for_each(|v| {
        yes += usize::from(v);
        all += 1;
    });
    (all > 0).then(|| yes as f32 / all as f32)
}

/// The temperature, and the score with its bias, under which the labels are most likely: 1 and the model's own score if
/// the answers do not determine them.
pub(crate) fn temperature_and_score(answers: &[LabelledAnswer], logits: Logits) -> (f32, Score) {
    match logits.score {
        Score::Softmax => (softmax_temperature(answers, logits.scale), logits.score),
        Score::Sigmoid { logit_bias, .. } => match sigmoid_fit(answers, logits.scale) {
            None => (1.0, logits.score),
            Some((temperature, bias)) => {
                let calibrated_bias = Some(bias);
                let score = Score::Sigmoid {
                    logit_bias,
                    calibrated_bias,
                };
                (temperature, score)
            }
        },
    }
}

/// The images of classes, with their class.
fn of_classes(answers: &[LabelledAnswer]) -> impl Iterator<Item = (&LabelledAnswer, usize)> {
    answers.iter().filter_map(|answer| match answer.label {
        CalibrationLabel::Class(class) => Some((answer, class)),
        CalibrationLabel::Unknown => None,
    })
}

/// The probability of at least `right` successes in `images` trials, each with probability `chance`.
fn at_least(right: usize, images: usize, chance: f64) -> f64 {
    let n = images as f64;
    // The logarithm of each number's probability, from that of the number before.
    let mut log = n * (1.0 - chance).ln();
    let mut sum = 0.0;
    for successes in 0..=images {
        if successes >= right {
            sum += log.exp();
        }
        let k = successes as f64;
        log += ((n - k) / (k + 1.0)).ln() + (chance / (1.0 - chance)).ln();
    }
    sum.min(1.0)
}

/// The temperature of softmax with the least mean negative log likelihood (Guo et al., 2017, section 4.2). The targets are
/// Platt's (1999) instead of 0 and 1, so that the temperature stays above 0 if all images are classified correctly. 1 without
/// images, and for a single class.
fn softmax_temperature(answers: &[LabelledAnswer], scale: f32) -> f32 {
    let answers: Vec<_> = of_classes(answers).collect();
    if answers.iter().all(|(a, _)| a.similarities.len() < 2) {
        return 1.0;
    }
    best_temperature(1e-4, |temperature| {
        softmax_loss(&answers, scale, temperature)
    })
}

/// The mean negative log likelihood of the images of classes under softmax at its best temperature, to compare heads.
pub(crate) fn mean_loss(answers: &[LabelledAnswer], scale: f32) -> f32 {
    let answers: Vec<_> = of_classes(answers).collect();
    let loss = |temperature| softmax_loss(&answers, scale, temperature);
    let temperature = best_temperature(0.05, loss);
    (loss(f64::from(temperature)) / answers.len().max(1) as f64) as f32
}

/// The negative log likelihood of the answers, with Platt's targets.
fn softmax_loss(answers: &[(&LabelledAnswer, usize)], scale: f32, temperature: f64) -> f64 {
    let right = (answers.len() as f64 + 1.0) / (answers.len() as f64 + 2.0);
    let factor = scale / temperature as f32;
    let losses = answers.iter().map(|(answer, class)| {
        let logits = || answer.similarities.iter().map(|v| f64::from(v * factor));
        let most = logits().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = most + logits().map(|l| (l - most).exp()).sum::<f64>().ln();
        let count = answer.similarities.len() as f64;
        let own = log_sum - f64::from(answer.similarities[*class] * factor);
        let others = count * log_sum - logits().sum::<f64>() - own;
        let each = (1.0 - right) / (count - 1.0).max(1.0);
        right * own + each * others
    });
    losses.sum()
}

/// Temperature T and bias b of sigmoid((scale * similarity + b) / T) with the least negative log likelihood of all pairs of
/// an image and a class, with the targets of Platt (1999); `None` if all or none of the pairs are right. Images of no class
/// count too: they are right for none.
fn sigmoid_fit(answers: &[LabelledAnswer], scale: f32) -> Option<(f32, f32)> {
    let pairs = answers.iter().flat_map(|answer| {
        let right = |class| answer.label == CalibrationLabel::Class(class);
        let all = answer.similarities.iter().enumerate();
        all.map(move |(class, s)| (f64::from(s * scale), right(class)))
    });
    let pairs: Vec<(f64, bool)> = pairs.collect();
    let right = pairs.iter().filter(|(_, right)| *right).count();
    let wrong = pairs.len() - right;
    if right == 0 || wrong == 0 {
        return None;
    }
    let high = (right as f64 + 1.0) / (right as f64 + 2.0);
    let low = 1.0 / (wrong as f64 + 2.0);
    let target = |right: bool| if right { high } else { low };
    let most = pairs.iter().map(|(l, _)| l.abs()).fold(0.0, f64::max);
    let share: f64 = pairs.iter().map(|(_, right)| target(*right)).sum();
    // The mean probability rises with the offset b / T and equals the mean target at the best one: Newton's method within
    // a bracket.
    let bias = |temperature: f64| {
        let (mut below, mut above) = (-most / temperature - 50.0, most / temperature + 50.0);
        let mut offset = (below + above) / 2.0;
        for _ in 0..60 {
            let (mut sum, mut slope) = (0.0, 0.0);
            for (logit, _) in &pairs {
                let p = sigmoid(logit / temperature + offset);
                sum += p;
                slope += p * (1.0 - p);
            }
            if sum < share {
                below = offset;
            } else {
                above = offset;
            }
            let step = (share - sum) / slope;
            let next = offset + step;
            offset = if next > below && next < above {
                next
            } else {
                (below + above) / 2.0
            };
            if step.abs() < 1e-9 {
                break;
            }
        }
        offset * temperature
    };
    let temperature = best_temperature(1e-4, |temperature| {
        let bias = bias(temperature);
        let losses = pairs.iter().map(|(l, right)| {
            let logit = (l + bias) / temperature;
            // -t ln p - (1 - t) ln (1 - p)
            logit.max(0.0) + (-logit.abs()).exp().ln_1p() - target(*right) * logit
        });
        losses.sum()
    });
    Some((temperature, bias(f64::from(temperature)) as f32))
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// The temperature T within 1/100 to 100 with the least loss, which must be convex in 1/T: golden-section search then
/// finds its one minimum in log T, to within `tolerance`.
fn best_temperature(tolerance: f64, loss: impl Fn(f64) -> f64) -> f32 {
    let loss = |log_temperature: f64| loss(log_temperature.exp());
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (0.01f64.ln(), 100f64.ln());
    while high - low > tolerance {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if loss(a) < loss(b) {
            high = b;
        } else {
            low = a;
        }
    }
    ((low + high) / 2.0).exp() as f32
}

/// The most similar class and its similarity; of equal ones the first, as in the runtime's ranking.
fn best(answer: &LabelledAnswer) -> (usize, f32) {
    let all = answer.similarities.iter().copied().enumerate();
    all.reduce(|best, next| if next.1 > best.1 { next } else { best })
        .unwrap_or((0, f32::NEG_INFINITY))
}

fn margin(answer: &LabelledAnswer) -> f32 {
    let (at, similarity) = best(answer);
    let others = answer
        .similarities
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != at);
    similarity - others.map(|(_, s)| *s).fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(similarities: &[f32], label: CalibrationLabel) -> LabelledAnswer {
        LabelledAnswer {
            similarities: similarities.to_vec(),
            negative: None,
            label,
        }
    }

    fn softmax(scale: f32) -> Logits {
        Logits {
            scale,
            score: Score::Softmax,
        }
    }

    /// If this fails, calibrated probabilities of SigLIP stay near zero.
    #[test]
    fn temperature_and_bias_of_a_sigmoid_are_found() {
        // Labels in the exact shares of sigmoid((10 s - 1.5) / 0.5): 0.9526 of s = 0.3, 0.2689 of s = 0.1.
        let mut all = vec![];
        for (similarity, right) in [(0.3, 9526), (0.1, 2689)] {
            all.extend(answers(&[similarity], CalibrationLabel::Class(0), right));
            let wrong = 10_000 - right;
            all.extend(answers(&[similarity], CalibrationLabel::Unknown, wrong));
        }
        let (temperature, bias) = sigmoid_fit(&all, 10.0).unwrap();
        assert!((temperature - 0.5).abs() < 0.01, "{temperature}");
        assert!((bias + 1.5).abs() < 0.01, "{bias}");
    }

    #[test]
    fn a_sigmoid_is_calibrated_and_keeps_its_own_bias() {
        // Nine of ten answers are right, but the model's own bias makes all probabilities nearly zero.
        let mut all = answers(&[0.15, 0.05], CalibrationLabel::Class(0), 90);
        all.extend(answers(&[0.15, 0.05], CalibrationLabel::Class(1), 10));
        let logits = Logits {
            scale: 100.0,
            score: Score::Sigmoid {
                logit_bias: -25.0,
                calibrated_bias: None,
            },
        };
        let fitted = fit_calibration(&all, None, logits, 0.95).unwrap();
        let found = fitted.calibration;
        assert!(found.ece_before > 0.89, "{found:?}");
        assert!(found.ece_after < 0.02, "{found:?}");
        assert_eq!(fitted.values.score.uncalibrated(), logits.score);
        let probabilities =
            fitted
                .values
                .score
                .probabilities(&[0.15, 0.05], 100.0, fitted.values.temperature);
        assert!((probabilities[0] - 0.9).abs() < 0.02, "{probabilities:?}");
        assert!((probabilities[1] - 0.1).abs() < 0.02, "{probabilities:?}");
        // One class is right in all images: nothing says when it is not.
        let one = answers(&[0.3], CalibrationLabel::Class(0), 8);
        let one = fit_calibration(&one, None, logits, 0.95).unwrap();
        assert_eq!(
            (one.values.temperature, one.values.score),
            (1.0, logits.score)
        );
    }

    #[test]
    fn the_temperature_of_calibrated_labels_is_found() {
        // Labels in the exact shares of softmax(10 s / 2.5), s = (0.3, 0.1): 0.6900 and 0.3100.
        let answers: Vec<LabelledAnswer> = (0..10_000)
            .map(|i| answer(&[0.3, 0.1], CalibrationLabel::Class(usize::from(i >= 6900))))
            .collect();
        let fitted = fit_calibration(&answers, None, softmax(10.0), 0.95).unwrap();
        assert!((fitted.values.temperature - 2.5).abs() < 0.01, "{fitted:?}");
        // At temperature 1 the best class gets 0.881, right in 0.69.
        let found = fitted.calibration;
        assert!((found.ece_before - 0.1908).abs() < 1e-3, "{found:?}");
        assert!(found.ece_after < 1e-3, "{found:?}");
        assert!((found.accuracy - 0.69).abs() < 1e-6);
    }

    #[test]
    fn thresholds_keep_the_share_and_reject_what_lies_below() {
        let mut answers: Vec<LabelledAnswer> = (0..100)
            .map(|i| answer(&[0.5 + i as f32 * 1e-3, 0.2], CalibrationLabel::Class(0)))
            .collect();
        answers.push(answer(&[0.30, 0.31], CalibrationLabel::Class(0)));
        answers.push(answer(&[0.25, 0.2], CalibrationLabel::Unknown));
        answers.push(answer(&[0.59, 0.1], CalibrationLabel::Unknown));
        let fitted = fit_calibration(&answers, None, softmax(100.0), 0.9).unwrap();
        assert!(
            (fitted.values.min_similarity.unwrap() - 0.505).abs() < 1e-6,
            "{fitted:?}"
        );
        assert!(
            (fitted.values.min_margin.unwrap() - 0.305).abs() < 1e-6,
            "{fitted:?}"
        );
        let found = fitted.calibration;
        assert_eq!((found.images, found.strangers), (101, 2));
        assert_eq!(found.kept, 0.95);
        assert_eq!(found.wrong_rejected, Some(1.0));
        assert_eq!(found.strangers_rejected, Some(0.5));
    }

    /// If this fails, the margin and the temperature are fitted to other numbers than those that an answer has: the class of
    /// nothing is in its ranking.
    #[test]
    fn the_class_of_nothing_competes_and_its_images_are_unknown() {
        let class = CalibrationLabel::Class;
        let mut all = answers(&[0.9, 0.3, 0.8], class(0), 10);
        all.extend(answers(&[0.2, 0.9, 0.7], class(1), 10));
        all.extend(answers(&[0.2, 0.1, 0.6], class(2), 5));
        // Nothing is the best answer.
        all.extend(answers(&[0.5, 0.1, 0.6], class(0), 1));
        let fitted = fit_calibration(&all, Some(2), softmax(10.0), 0.95).unwrap();
        assert!(
            (fitted.values.min_margin.unwrap() - 0.1).abs() < 1e-6,
            "{fitted:?}"
        );
        let found = fitted.calibration;
        assert_eq!((found.images, found.strangers), (21, 5));
        assert_eq!((found.accuracy, found.kept), (20.0 / 21.0, 1.0));
        assert_eq!(
            (found.wrong_rejected, found.strangers_rejected),
            (Some(1.0), Some(1.0))
        );
        // The temperature is that of three classes.
        let three = fit_calibration(&all, None, softmax(10.0), 0.95).unwrap();
        assert_eq!(fitted.values.temperature, three.values.temperature);
    }

    /// If this fails, a bundle gets a calibration that is worse than the one it has, and nobody hears of it.
    #[test]
    fn a_calibration_is_compared_with_the_one_before_on_images_that_it_was_not_fitted_to() {
        let class = CalibrationLabel::Class;
        // Labels in the shares of softmax(10 s / 2.5), mixed: of each five, two or one are wrong.
        let mut all: Vec<LabelledAnswer> = (0..100)
            .map(|i| answer(&[0.3, 0.1], class(usize::from(i * 31 % 100 >= 69))))
            .collect();
        all.extend(answers(&[0.2, 0.15], CalibrationLabel::Unknown, 20));
        let compare = |temperature: f32, least: Option<f32>| {
            let before = CalibratedValues {
                temperature,
                score: Score::Softmax,
                min_similarity: least,
                min_margin: None,
            };
            compare_held_out(&all, None, softmax(10.0), 0.95, before)
        };
        // 100 images, 31 of them wrong: the entropy of the shares, whatever is held out.
        let found = compare(1.0, None);
        assert_eq!(found.images, 120);
        let entropy = -(0.69 * 0.69f64.ln() + 0.31 * 0.31f64.ln()) / 1.2;
        assert!((found.after.loss - entropy).abs() < 0.01, "{found:?}");
        // -0.69 ln 0.8808 - 0.31 ln 0.1192
        assert!((found.before.loss - 0.7469 / 1.2).abs() < 1e-3, "{found:?}");
        assert!(!found.has_worse_probabilities(), "{found:?}");
        assert_eq!(
            (found.before.kept, found.after.kept),
            (Some(1.0), Some(1.0))
        );
        let rejected = (found.before.rejected, found.after.rejected);
        assert_eq!(rejected, (Some(0.0), Some(20.0 / 51.0)));
        assert!(!found.has_worse_thresholds());
        // The same again is not worse, although it was fitted to these images.
        assert!(!compare(2.5, Some(0.3)).has_worse_probabilities());
        assert!(!compare(2.5, Some(0.3)).has_worse_thresholds());
    }

    /// Labels that only the fit to all of them explains.
    #[test]
    fn a_fit_that_is_worse_on_held_out_images_is_found() {
        let class = CalibrationLabel::Class;
        // Every fifth image is of another kind: a fit to the others is sure of what is wrong in it.
        let mut all = vec![];
        for i in 0..100 {
            all.push(match i % 5 {
                0 => answer(&[0.5, 0.1], class(1)),
                _ => answer(&[0.3 + 1e-3 * i as f32, 0.1], class(0)),
            });
        }
        let before = CalibratedValues {
            temperature: 2.0,
            score: Score::Softmax,
            min_similarity: None,
            min_margin: None,
        };
        let found = compare_held_out(&all, None, softmax(10.0), 0.5, before);
        assert!(found.has_worse_probabilities(), "{found:?}");
        // A quarter of the right answers is rejected, and none of the wrong ones.
        assert!(found.after.kept < Some(0.8), "{found:?}");
        assert!(found.has_worse_thresholds(), "{found:?}");
    }

    #[test]
    fn the_temperature_is_finite_if_all_images_are_correct() {
        let answers: Vec<LabelledAnswer> = (0..20)
            .map(|_| answer(&[0.3, 0.1], CalibrationLabel::Class(0)))
            .collect();
        let fitted = fit_calibration(&answers, None, softmax(100.0), 0.95).unwrap();
        // 21/22 = 1 / (1 + exp(-20 / T))
        assert!(
            (fitted.values.temperature - 20.0 / 21f32.ln()).abs() < 0.01,
            "{fitted:?}"
        );
    }

    fn answers(similarities: &[f32], label: CalibrationLabel, count: usize) -> Vec<LabelledAnswer> {
        (0..count).map(|_| answer(similarities, label)).collect()
    }

    #[test]
    fn of_a_single_class_only_the_threshold_is_fitted() {
        let one = answers(&[0.3], CalibrationLabel::Class(0), 8);
        let one = fit_calibration(&one, None, softmax(100.0), 0.95).unwrap();
        assert_eq!((one.values.temperature, one.values.min_margin), (1.0, None));
        assert_eq!(one.values.min_similarity, Some(0.3));
    }

    /// If this fails, a bundle claims a measured temperature and threshold that nothing was measured for.
    #[test]
    fn few_images_and_guesses_are_no_basis_for_a_fit() {
        let refused = |answers: &[LabelledAnswer]| {
            fit_calibration(answers, None, softmax(100.0), 0.95).unwrap_err()
        };
        let class = CalibrationLabel::Class;
        let unknown = answers(&[0.3, 0.1], CalibrationLabel::Unknown, 20);
        let too_few = |found| NoFit::TooFew { least: 8, found };
        assert_eq!(refused(&unknown), too_few(0));
        let mut few = answers(&[0.3, 0.1], class(0), 7);
        few.extend(unknown);
        assert_eq!(refused(&few), too_few(7));
        few.extend(answers(&[0.3, 0.1], class(0), 1));
        assert!(fit_calibration(&few, None, softmax(100.0), 0.95).is_ok());
        // 13 of 20 are a guess between two classes with probability 0.13, 15 of 20 with 0.02.
        let half = |right: usize| {
            let mut all = answers(&[0.3, 0.1], class(0), right);
            all.extend(answers(&[0.3, 0.1], class(1), 20 - right));
            all
        };
        let guess = |right, images, classes| NoFit::Guess {
            right,
            images,
            classes,
        };
        assert_eq!(refused(&half(13)), guess(13, 20, 2));
        assert!(fit_calibration(&half(15), None, softmax(100.0), 0.95).is_ok());
        let wrong = answers(&[0.3, 0.1], class(1), 1000);
        assert_eq!(refused(&wrong), guess(0, 1000, 2));
    }

    #[test]
    fn the_probability_of_a_guess_by_hand() {
        // (20 + 15 + 6 + 1) / 64, and of 8 of 8 and 7 of 8 with one half.
        assert!((at_least(3, 6, 0.5) - 42.0 / 64.0).abs() < 1e-12);
        assert!((at_least(8, 8, 0.5) - 1.0 / 256.0).abs() < 1e-12);
        assert!((at_least(7, 8, 0.5) - 9.0 / 256.0).abs() < 1e-12);
        assert!((at_least(0, 50_000, 0.001) - 1.0).abs() < 1e-6);
        assert!(at_least(500, 50_000, 0.001) < 1e-9);
    }
}
