//! A linear head that starts at the class embeddings: a row for class c is w_c + alpha_c t_c, with a bias, as in LP++
//! (Huang et al., "LP++: a surprisingly strong linear probe for few-shot CLIP", CVPR 2024, equation 3).
//!
//! LP++ minimises the cross-entropy from a starting point, by steps whose sizes it derives. Here the same head is fitted to the
//! minimum of the cross-entropy plus a quadratic term that pulls it to zero-shot, w_c = 0 and alpha_c = the logit scale. The
//! sum is strictly convex, so there is one minimum, and no learning rate, seed or number of steps to choose.

use pinhole_checkpoint::MethodOption;
use pinhole_model::{Learned, LearnedClasses, LinearClassifier, Tensor};
use rayon::prelude::*;

use super::{
    adapter::Adapter,
    minimise::minimise,
    task::{Examples, Task},
};
use crate::{ops::cross_entropy, prompt_learning::TrainingEvent};

/// Weights of the quadratic term that are tried on the validation images, from that nearest to zero-shot.
const DECAYS: [f64; 8] = [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5];
/// Without validation images.
const DECAY: f64 = 1e-3;
/// Norm of the gradient at which the minimum is reached.
const TOLERANCE: f64 = 1e-7;
const ITERATIONS: usize = 2000;

pub(super) static LINEAR: Adapter = Adapter {
    key: "linear",
    name: "linear head",
    about: "Fit a linear head that starts at the class embeddings (LP++'s form), with frozen encoders",
    options: &[MethodOption {
        name: "decay",
        help: "weight of the quadratic term that pulls the head to zero-shot; chosen on validation images without it \
               (0.001 if there are none)",
        default: None,
        range: [1e-8, 1e4],
    }],
    changes_image_encoder: false,
    train: |task, values, progress| {
        let classifier = match values.get("decay") {
            Some(decay) => fit(task, f64::from(decay), None).1,
            None if task.validation.labels.is_empty() => fit(task, DECAY, None).1,
            None => search(task, progress),
        };
        Ok(Learned::new(
            LINEAR.name,
            LearnedClasses::Linear(classifier),
        ))
    },
};

/// The head that classifies most validation images correctly; of several, that nearest to zero-shot.
fn search(task: &Task, progress: &mut dyn FnMut(TrainingEvent)) -> LinearClassifier {
    let mut best: Option<(usize, LinearClassifier)> = None;
    let mut start = None;
    for (i, decay) in DECAYS.into_iter().enumerate() {
        // Each fit starts at the last.
        let (point, classifier) = fit(task, decay, start);
        let right = correct(&classifier, &task.validation);
        progress(TrainingEvent::Updated {
            done: i as u64 + 1,
            total: DECAYS.len() as u64,
            loss: 1.0 - right as f32 / task.validation.labels.len() as f32,
        });
        if best.as_ref().is_none_or(|(most, _)| right > *most) {
            best = Some((right, classifier));
        }
        start = Some(point);
    }
    // DECAYS is not empty.
    best.map_or_else(|| fit(task, DECAY, None).1, |(_, classifier)| classifier)
}

fn correct(classifier: &LinearClassifier, examples: &Examples) -> usize {
    let dim = classifier.weight.shape[1];
    let bias = classifier.bias.as_ref().map_or(&[][..], |bias| &bias.data);
    let predicted = |embedding: &[f32]| {
        let rows = classifier.weight.data.chunks_exact(dim).zip(bias);
        let logits = rows.map(|(row, bias)| pinhole_model::dot(row, embedding) + bias);
        let best = logits
            .enumerate()
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map(|(class, _)| class)
    };
    let right = examples
        .iter()
        .filter(|(e, label)| predicted(e) == Some(*label));
    right.count()
}

fn fit(task: &Task, decay: f64, start: Option<Vec<f64>>) -> (Vec<f64>, LinearClassifier) {
    fit_from(
        &task.class_embeddings,
        &task.examples,
        task.logit_scale,
        decay,
        start,
    )
}

/// The head with rows w_c + alpha_c t_c and biases b_c, of class embeddings t [C, D], that minimises
///
/// mean cross-entropy + decay / 2 (|w|^2 + |b|^2 + sum (alpha_c - scale)^2).
pub fn fit_linear(
    class_embeddings: &[f32],
    examples: &Examples,
    scale: f32,
    decay: f64,
) -> LinearClassifier {
    fit_from(class_embeddings, examples, scale, decay, None).1
}

/// As [`fit_linear`], with the parameters [w, alpha - scale, b], from which the next fit may start.
fn fit_from(
    class_embeddings: &[f32],
    examples: &Examples,
    scale: f32,
    decay: f64,
    start: Option<Vec<f64>>,
) -> (Vec<f64>, LinearClassifier) {
    let dim = examples.embeddings.len() / examples.labels.len().max(1);
    let classes = class_embeddings.len() / dim.max(1);
    let texts: Vec<f64> = class_embeddings.iter().map(|v| f64::from(*v)).collect();
    let images: Vec<f64> = examples.embeddings.iter().map(|v| f64::from(*v)).collect();
    let scale = f64::from(scale);
    let head = |x: &[f64]| -> (Vec<f64>, Vec<f64>) {
        let (w, rest) = x.split_at(classes * dim);
        let (alpha, bias) = rest.split_at(classes);
        let rows = w.iter().zip(&texts).enumerate();
        let rows = rows.map(|(i, (w, t))| w + (scale + alpha[i / dim]) * t);
        (rows.collect(), bias.to_vec())
    };
    let function = |x: &[f64]| -> (f64, Vec<f64>) {
        let (rows, bias) = head(x);
        // Of each image: the loss, and its gradient by the logits.
        let parts: Vec<(f64, Vec<f64>)> = (images.par_chunks_exact(dim))
            .zip(&examples.labels)
            .map(|(image, &label)| {
                let logits: Vec<f64> = (rows.chunks_exact(dim).zip(&bias))
                    .map(|(row, bias)| {
                        row.iter().zip(image).map(|(a, b)| a * b).sum::<f64>() + bias
                    })
                    .collect();
                cross_entropy(&logits, label)
            })
            .collect();
        let count = parts.len() as f64;
        let squares: f64 = x.iter().map(|v| v * v).sum();
        let value = parts.iter().map(|(loss, _)| loss).sum::<f64>() / count + 0.5 * decay * squares;
        let mut gradient: Vec<f64> = x.iter().map(|v| decay * v).collect();
        let (of_w, of_rest) = gradient.split_at_mut(classes * dim);
        let (of_alpha, of_bias) = of_rest.split_at_mut(classes);
        let by_class = (of_w.par_chunks_exact_mut(dim).zip(of_alpha).zip(of_bias)).enumerate();
        by_class.for_each(|(class, ((of_w, of_alpha), of_bias))| {
            let mut sum = vec![0.0; dim];
            for (image, (_, slopes)) in images.chunks_exact(dim).zip(&parts) {
                let slope = slopes[class] / count;
                sum.iter_mut().zip(image).for_each(|(s, v)| *s += slope * v);
                *of_bias += slope;
            }
            let text = &texts[class * dim..][..dim];
            *of_alpha += sum.iter().zip(text).map(|(s, t)| s * t).sum::<f64>();
            of_w.iter_mut().zip(&sum).for_each(|(g, s)| *g += s);
        });
        (value, gradient)
    };
    let start = start.unwrap_or_else(|| vec![0.0; classes * (dim + 2)]);
    let (x, _) = minimise(start, function, TOLERANCE, ITERATIONS);
    let (rows, bias) = head(&x);
    let tensor = |shape: &[usize], data: &[f64]| Tensor {
        shape: shape.to_vec(),
        data: data.iter().map(|v| *v as f32).collect(),
    };
    let classifier = LinearClassifier {
        weight: tensor(&[classes, dim], &rows),
        bias: Some(tensor(&[classes], &bias)),
    };
    (x, classifier)
}
