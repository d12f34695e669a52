//! Temperature and thresholds from labelled images, on the encoder as exported.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pinhole::{Classifier, DecodeOptions};
use pinhole_bundle::{Calibration, UnknownPolicy, expected_calibration_error};

/// An image to measure on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalibrationImage {
    /// The file.
    pub path: PathBuf,
    /// What it shows, where the folders say it.
    pub label: Option<Label>,
}

/// What a calibration image shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// The class of this index.
    Class(usize),
    /// None of the classes.
    Stranger,
}

/// What was fitted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fitted {
    /// Divides the logits.
    pub temperature: f32,
    /// Least similarity of the best class; none if no image was classified rightly.
    pub min_similarity: Option<f32>,
    /// Least difference of similarity between the best class and the second; none for one class, too.
    pub min_margin: Option<f32>,
    /// What they do.
    pub calibration: Calibration,
}

/// The answer for one labelled image.
struct Answer {
    similarities: Vec<f32>,
    /// Of the most similar negative text.
    negative: Option<f32>,
    label: Label,
}

/// The images below `folder`, sorted. If any folder in it bears the name of a class (an underscore
/// stands for a space), the images of each such folder are of that class, and those of the others of
/// none; the second value lists the names of those.
///
/// # Errors
/// A folder that cannot be read; no images.
pub fn images_below(
    folder: &Path,
    classes: &[String],
) -> Result<(Vec<CalibrationImage>, Vec<String>)> {
    let plain = |name: &str| name.replace('_', " ");
    let class_of = |name: &str| classes.iter().position(|class| plain(class) == plain(name));
    let mut images = vec![];
    let mut pending = vec![(folder.to_owned(), None::<String>)];
    while let Some((next, top)) = pending.pop() {
        let cannot = |action: &str| format!("{}: cannot {action}", next.display());
        for entry in std::fs::read_dir(&next).with_context(|| cannot("list"))? {
            let entry = entry.with_context(|| cannot("list"))?;
            let path = entry.path();
            // Links to folders are not followed: they may lead back.
            let kind = entry.file_type().with_context(|| cannot("read"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if kind.is_dir() {
                pending.push((path, Some(top.clone().unwrap_or(name))));
            } else if path
                .extension()
                .is_some_and(|e| is_image(&e.to_string_lossy()))
            {
                images.push((path, top.clone()));
            }
        }
    }
    ensure!(
        !images.is_empty(),
        "{}: expected images (jpg, png, webp, bmp, gif), found none",
        folder.display()
    );
    images.sort();
    let labelled = (images.iter()).any(|(_, top)| top.as_deref().and_then(class_of).is_some());
    let mut strangers = std::collections::BTreeSet::new();
    let images = images.into_iter().map(|(path, top)| {
        let label = labelled.then(|| match top.as_deref().and_then(class_of) {
            Some(class) => Label::Class(class),
            None => {
                strangers.insert(top.unwrap_or_else(|| ".".into()));
                Label::Stranger
            }
        });
        CalibrationImage { path, label }
    });
    let images = images.collect();
    Ok((images, strangers.into_iter().collect()))
}

fn is_image(extension: &str) -> bool {
    ["jpg", "jpeg", "png", "webp", "bmp", "gif"].contains(&extension.to_ascii_lowercase().as_str())
}

/// Fits the temperature and the thresholds to the labelled images among `images`; `None` if there are
/// none. `keep` is the share of the rightly classified images that the two thresholds together are to
/// keep. `progress` is called with images done and all images.
///
/// # Errors
/// An image that cannot be read; labels for strangers alone.
pub(crate) fn calibrate(
    classifier: &Classifier,
    images: &[CalibrationImage],
    keep: f32,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<Fitted>> {
    let mut answers = vec![];
    for (i, image) in images.iter().enumerate() {
        progress(i as u64, images.len() as u64);
        let Some(label) = image.label else {
            continue;
        };
        let pixels = pinhole::open_image(&image.path, &DecodeOptions::default())?;
        let embedding = classifier.embed(&pixels)?.values;
        answers.push(Answer {
            similarities: classifier.similarities(&embedding)?,
            negative: classifier.bundle().head().negative_similarity(&embedding),
            label,
        });
    }
    progress(images.len() as u64, images.len() as u64);
    if answers.is_empty() {
        return Ok(None);
    }
    let scale = classifier.manifest().logit_scale;
    Ok(Some(fit(&answers, scale, keep)?))
}

fn fit(answers: &[Answer], scale: f32, keep: f32) -> Result<Fitted> {
    let classed: Vec<(&Answer, usize)> = (answers.iter())
        .filter_map(|answer| match answer.label {
            Label::Class(class) => Some((answer, class)),
            Label::Stranger => None,
        })
        .collect();
    ensure!(!classed.is_empty(), "calibration: no image of any class");
    let temperature = temperature(&classed, scale);
    let right: Vec<&Answer> = (classed.iter())
        .filter(|(answer, class)| best(answer).0 == *class)
        .map(|(answer, _)| *answer)
        .collect();
    // Each threshold may cost half of what may be lost.
    let lost = (1.0 - keep) / 2.0;
    let quantile = |value: fn(&Answer) -> f32| {
        let mut values: Vec<f32> = right.iter().map(|answer| value(answer)).collect();
        values.sort_by(f32::total_cmp);
        let at = (lost * values.len() as f32) as usize;
        values.get(at).copied().filter(|value| value.is_finite())
    };
    let min_similarity = quantile(|answer| best(answer).1);
    let min_margin = quantile(margin);
    let rejected = |answer: &Answer| {
        let (_, similarity) = best(answer);
        min_similarity.is_some_and(|least| similarity < least)
            || min_margin.is_some_and(|least| margin(answer) < least)
            || answer
                .negative
                .is_some_and(|negative| negative > similarity)
    };
    let share = |of: &mut dyn Iterator<Item = bool>| {
        let (mut yes, mut all) = (0, 0);
        of.for_each(|v| {
            yes += usize::from(v);
            all += 1;
        });
        (all > 0).then(|| yes as f32 / all as f32)
    };
    let ece = |temperature: f32| {
        expected_calibration_error(classed.iter().map(|(answer, class)| {
            let probabilities = softmax(&answer.similarities, scale / temperature);
            let (at, _) = best(answer);
            (probabilities[at], at == *class)
        })) as f32
    };
    let strangers = answers.iter().filter(|a| a.label == Label::Stranger);
    let wrong = classed
        .iter()
        .filter(|(answer, class)| best(answer).0 != *class);
    Ok(Fitted {
        temperature,
        min_similarity,
        min_margin,
        calibration: Calibration {
            images: classed.len(),
            accuracy: right.len() as f32 / classed.len() as f32,
            ece_before: ece(1.0),
            ece_after: ece(temperature),
            kept: share(&mut right.iter().map(|a| !rejected(a))).unwrap_or(0.0),
            wrong_rejected: share(&mut wrong.map(|(a, _)| rejected(a))),
            strangers: strangers.clone().count(),
            strangers_rejected: share(&mut strangers.map(rejected)),
        },
    })
}

impl Fitted {
    /// Its thresholds beside the negative texts of `policy`.
    pub(crate) fn policy(&self, policy: &UnknownPolicy) -> UnknownPolicy {
        UnknownPolicy {
            min_similarity: self.min_similarity,
            min_margin: self.min_margin,
            negatives: policy.negatives.clone(),
        }
    }
}

/// The temperature of the least mean negative log likelihood (Guo et al., 2017, section 4.2), within
/// 1/100 to 100. The targets are Platt's (1999), not 0 and 1, so that images that are all classified
/// rightly do not ask for a temperature of nought.
fn temperature(answers: &[(&Answer, usize)], scale: f32) -> f32 {
    let right = (answers.len() as f64 + 1.0) / (answers.len() as f64 + 2.0);
    let loss = |log_temperature: f64| {
        let factor = scale / log_temperature.exp() as f32;
        let losses = answers.iter().map(|(answer, class)| {
            let s = &answer.similarities;
            let logits: Vec<f64> = s.iter().map(|v| f64::from(v * factor)).collect();
            let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|l| (l - most).exp()).sum();
            let log_sum = most + sum.ln();
            let own = log_sum - logits[*class];
            let others = logits.len() as f64 * log_sum - logits.iter().sum::<f64>() - own;
            let each = (1.0 - right) / (logits.len() as f64 - 1.0).max(1.0);
            right * own + each * others
        });
        losses.sum::<f64>()
    };
    // The loss is convex in 1/T, so it has one minimum in log T, and golden section finds it.
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (0.01f64.ln(), 100f64.ln());
    while high - low > 1e-4 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if loss(a) < loss(b) {
            high = b;
        } else {
            low = a;
        }
    }
    ((low + high) / 2.0).exp() as f32
}

fn softmax(similarities: &[f32], factor: f32) -> Vec<f64> {
    let most = similarities
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    let exponentials = similarities
        .iter()
        .map(|s| f64::from((s - most) * factor).exp());
    let exponentials: Vec<f64> = exponentials.collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}

/// The most similar class and its similarity; the first of equal ones, as the runtime ranks them.
fn best(answer: &Answer) -> (usize, f32) {
    let all = answer.similarities.iter().copied().enumerate();
    all.reduce(|best, next| if next.1 > best.1 { next } else { best })
        .unwrap_or((0, f32::NEG_INFINITY))
}

fn margin(answer: &Answer) -> f32 {
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

    fn answer(similarities: &[f32], label: Label) -> Answer {
        Answer {
            similarities: similarities.to_vec(),
            negative: None,
            label,
        }
    }

    #[test]
    fn the_temperature_that_made_the_labels_is_found() {
        // Labels in exactly the shares of softmax(10 s / 2.5), s = (0.3, 0.1): 0.6900 and 0.3100.
        let answers: Vec<Answer> = (0..10_000)
            .map(|i| answer(&[0.3, 0.1], Label::Class(usize::from(i >= 6900))))
            .collect();
        let fitted = fit(&answers, 10.0, 0.95).unwrap();
        assert!((fitted.temperature - 2.5).abs() < 0.01, "{fitted:?}");
        // At temperature 1 the best class gets 0.881, right in 0.69.
        let found = fitted.calibration;
        assert!((found.ece_before - 0.1908).abs() < 1e-3, "{found:?}");
        assert!(found.ece_after < 1e-3, "{found:?}");
        assert!((found.accuracy - 0.69).abs() < 1e-6);
    }

    #[test]
    fn thresholds_keep_the_asked_share_and_reject_what_lies_below() {
        let mut answers: Vec<Answer> = (0..100)
            .map(|i| answer(&[0.5 + i as f32 * 1e-3, 0.2], Label::Class(0)))
            .collect();
        answers.push(answer(&[0.30, 0.31], Label::Class(0)));
        answers.push(answer(&[0.25, 0.2], Label::Stranger));
        answers.push(answer(&[0.59, 0.1], Label::Stranger));
        let fitted = fit(&answers, 100.0, 0.9).unwrap();
        assert!(
            (fitted.min_similarity.unwrap() - 0.505).abs() < 1e-6,
            "{fitted:?}"
        );
        assert!(
            (fitted.min_margin.unwrap() - 0.305).abs() < 1e-6,
            "{fitted:?}"
        );
        let found = fitted.calibration;
        assert_eq!((found.images, found.strangers), (101, 2));
        assert_eq!(found.kept, 0.95);
        assert_eq!(found.wrong_rejected, Some(1.0));
        assert_eq!(found.strangers_rejected, Some(0.5));
    }

    #[test]
    fn all_right_does_not_mean_infinitely_sure() {
        let answers: Vec<Answer> = (0..20)
            .map(|_| answer(&[0.3, 0.1], Label::Class(0)))
            .collect();
        let fitted = fit(&answers, 100.0, 0.95).unwrap();
        // 21/22 = 1 / (1 + exp(-20 / T))
        assert!(
            (fitted.temperature - 20.0 / 21f32.ln()).abs() < 0.01,
            "{fitted:?}"
        );
    }

    #[test]
    fn one_class_and_strangers_alone_are_answered() {
        assert!(fit(&[answer(&[0.3], Label::Stranger)], 100.0, 0.95).is_err());
        let one = fit(&[answer(&[0.3], Label::Class(0))], 100.0, 0.95).unwrap();
        assert!(one.temperature.is_finite() && one.min_margin.is_none());
    }
}
