//! Tip-Adapter (Zhang et al., ECCV 2022): the embeddings of the images are a cache beside the class embeddings; in
//! Tip-Adapter-F, its keys are trained.

use candle_core::{Device, Tensor as Candle, Var};
use pinhole_bundle::{CacheInfo, CacheTerms, Head, HeadForm, INITIAL_CACHE, search_cache};
use pinhole_checkpoint::MethodOption;
use pinhole_model::{ExampleCache, Learned, LearnedClasses, Tensor, dot};
use rayon::prelude::*;

use super::{
    adapter::{Adapter, Values},
    task::{Examples, Task},
};
use crate::{
    Error, Result,
    ops::{cross_entropy, read},
    optimiser::{AdamWOptions, Parameter, update},
    prompt_learning::TrainingEvent,
    random::SeededRng,
};

const ALPHA: MethodOption = MethodOption {
    name: "alpha",
    help: "weight of the cache, in logits; chosen on validation images without it (1 if there are none)",
    default: None,
    range: [0.0, 1000.0],
};
const BETA: MethodOption = MethodOption {
    name: "beta",
    help: "sharpness of the cache; chosen on validation images without it (5.5 if there are none)",
    default: None,
    range: [0.0, 1000.0],
};

pub(super) static TIP_ADAPTER: Adapter = Adapter {
    key: "tip-adapter",
    name: "Tip-Adapter",
    about: "Make a cache of labelled images beside the class embeddings (Tip-Adapter), without training",
    options: &[ALPHA, BETA],
    changes_image_encoder: false,
    train: |task, values, _| {
        finish(
            task,
            values,
            TIP_ADAPTER.name,
            task.examples.embeddings.clone(),
        )
    },
};

pub(super) static TIP_ADAPTER_F: Adapter = Adapter {
    key: "tip-adapter-f",
    name: "Tip-Adapter-F",
    about: "Train the keys of a cache of labelled images (Tip-Adapter-F), with frozen encoders",
    options: &[
        ALPHA,
        BETA,
        MethodOption {
            name: "epochs",
            help: "passes over the images",
            default: Some(20.0),
            range: [1.0, 10_000.0],
        },
        MethodOption {
            name: "learning-rate",
            help: "AdamW's rate at the start of a cosine decay",
            default: Some(0.001),
            range: [1e-8, 10.0],
        },
        MethodOption {
            name: "batch-size",
            help: "images per update",
            default: Some(256.0),
            range: [1.0, 65_536.0],
        },
    ],
    changes_image_encoder: false,
    train: |task, values, progress| {
        let training = KeyTraining {
            class_embeddings: &task.class_embeddings,
            classes: task.classes.len(),
            logit_scale: task.logit_scale,
            alpha: values.get("alpha").unwrap_or(INITIAL_CACHE.alpha),
            beta: values.get("beta").unwrap_or(INITIAL_CACHE.beta),
            epochs: values.count("epochs")?,
            batch_size: values.count("batch-size")?,
            learning_rate: values.number("learning-rate")?,
            seed: task.seed,
        };
        let keys = train_keys(&training, &task.examples, progress)?;
        finish(task, values, TIP_ADAPTER_F.name, keys)
    },
};

/// The cache with these keys, its numbers as given or chosen on the validation images.
fn finish(task: &Task, values: &Values, method: &'static str, keys: Vec<f32>) -> Result<Learned> {
    let labels = task.examples.labels.clone();
    let given = [values.get("alpha"), values.get("beta")];
    let initial = CacheInfo {
        alpha: given[0].unwrap_or(INITIAL_CACHE.alpha),
        beta: given[1].unwrap_or(INITIAL_CACHE.beta),
    };
    let head = Head {
        classes: task.classes.len(),
        embedding_size: task.dim(),
        class_embeddings: task.class_embeddings.clone(),
        form: HeadForm::Cache(CacheTerms {
            keys: keys.clone(),
            labels: labels.clone(),
            weight: initial.alpha / task.logit_scale,
            sharpness: initial.beta,
        }),
        ..Head::default()
    };
    let images: Vec<(&[f32], usize)> = task.validation.iter().collect();
    let chosen = match images.as_slice() {
        [] => None,
        images => search_cache(&head, given, images, task.logit_scale),
    };
    let numbers = chosen.unwrap_or(initial);
    let shape = vec![labels.len(), task.dim()];
    let cache = ExampleCache {
        keys: Tensor { shape, data: keys },
        labels,
        classes: task.classes.len(),
        alpha: Some(numbers.alpha),
        beta: Some(numbers.beta),
    };
    Ok(Learned::new(method, LearnedClasses::Cache(cache)))
}

/// What determines the keys of Tip-Adapter-F beside the images.
#[derive(Clone, Debug)]
pub struct KeyTraining<'a> {
    /// Class embeddings [C, D], L2-normalised.
    pub class_embeddings: &'a [f32],
    /// C.
    pub classes: usize,
    /// Factor from cosine similarity to logit.
    pub logit_scale: f32,
    /// Weight of the cache during the training, in logits.
    pub alpha: f32,
    /// Sharpness of the cache during the training.
    pub beta: f32,
    /// Passes over the images.
    pub epochs: usize,
    /// Images per update; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// AdamW's rate at the start of a cosine decay.
    pub learning_rate: f32,
    /// Seed of the order of images.
    pub seed: u64,
}

/// Trains the keys of a cache, which start as the embeddings of the images, as `run_tip_adapter_F` of
/// gaopengcuhk/Tip-Adapter: cross-entropy of s f . t + alpha sum exp(-beta (1 - k . f)), AdamW with epsilon 1e-4 and weight
/// decay 0.01, the rate on a cosine by update. The last keys are returned; the reference keeps those of the epoch that is best
/// on the test images.
///
/// # Errors
/// [`Error::Config`] without images or updates; [`Error::Diverged`].
pub fn train_keys(
    training: &KeyTraining,
    examples: &Examples,
    progress: &mut dyn FnMut(TrainingEvent),
) -> Result<Vec<f32>> {
    let (count, dim) = (
        examples.labels.len(),
        training.class_embeddings.len() / training.classes.max(1),
    );
    if count == 0 || training.batch_size == 0 || examples.embeddings.len() != count * dim {
        return Err(Error::Config(format!(
            "expected images with embeddings of length {dim} in batches, found {count} images"
        )));
    }
    let initial = Candle::from_slice(&examples.embeddings, (count, dim), &Device::Cpu)?;
    let mut keys = [Parameter::new("keys".into(), Var::from_tensor(&initial)?)];
    let adam = AdamWOptions {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-4,
        weight_decay: 0.01,
    };
    let updates = training.epochs * count.div_ceil(training.batch_size);
    let mut done = 0;
    for epoch in 0..training.epochs {
        let mut order: Vec<usize> = (0..count).collect();
        SeededRng::new(training.seed ^ 0x6b65_7973, epoch as u64).shuffle(&mut order);
        for batch in order.chunks(training.batch_size) {
            let values = read(keys[0].var.as_tensor(), <[f32]>::to_vec)?;
            let (loss, gradient) = loss_and_gradient(training, examples, &values, batch);
            if !loss.is_finite() {
                let step = done as u64;
                return Err(Error::Diverged { step, loss });
            }
            let progressed = done as f64 / updates as f64;
            let rate = 0.5 * f64::from(training.learning_rate);
            let rate = rate * (1.0 + (std::f64::consts::PI * progressed).cos());
            update(&mut keys, &[gradient], &adam, rate, done as u64)?;
            done += 1;
            progress(TrainingEvent::Updated {
                done: done as u64,
                total: updates as u64,
                loss,
            });
        }
    }
    Ok(read(keys[0].var.as_tensor(), <[f32]>::to_vec)?)
}

/// Mean cross-entropy of a batch, and its gradient by the keys.
fn loss_and_gradient(
    training: &KeyTraining,
    examples: &Examples,
    keys: &[f32],
    batch: &[usize],
) -> (f32, Vec<f32>) {
    let dim = training.class_embeddings.len() / training.classes;
    let (alpha, beta) = (training.alpha, training.beta);
    // Of each image: the loss, and the factor of its embedding in the gradient of each key.
    let parts: Vec<(f64, Vec<f32>)> = (batch.par_iter())
        .map(|&image| {
            let embedding = &examples.embeddings[image * dim..][..dim];
            let mut logits: Vec<f64> = (training.class_embeddings.chunks_exact(dim))
                .map(|class| f64::from(training.logit_scale * dot(class, embedding)))
                .collect();
            let affinities: Vec<f32> = (keys.chunks_exact(dim))
                .map(|key| (beta * (dot(key, embedding) - 1.0)).exp())
                .collect();
            for (affinity, &label) in affinities.iter().zip(&examples.labels) {
                logits[label] += f64::from(alpha * affinity);
            }
            let (loss, slopes) = cross_entropy(&logits, examples.labels[image]);
            let factors = (affinities.iter().zip(&examples.labels))
                .map(|(affinity, &label)| slopes[label] as f32 * alpha * beta * affinity);
            (loss, factors.collect())
        })
        .collect();
    let loss = parts.iter().map(|(loss, _)| loss).sum::<f64>() / batch.len() as f64;
    let scale = 1.0 / batch.len() as f32;
    let mut gradient = vec![0.0; keys.len()];
    (gradient.par_chunks_exact_mut(dim).enumerate()).for_each(|(key, gradient)| {
        for (&image, (_, factors)) in batch.iter().zip(&parts) {
            let embedding = &examples.embeddings[image * dim..][..dim];
            let factor = scale * factors[key];
            let pairs = gradient.iter_mut().zip(embedding);
            pairs.for_each(|(g, value)| *g += factor * value);
        }
    });
    (loss as f32, gradient)
}
