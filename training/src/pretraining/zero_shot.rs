//! Zero-shot accuracy of a model in training, without a checkpoint.

use candle_core::{D, Tensor};
use pinhole_model::ClipConfig;
use pinhole_preprocessing::{Pixels, preprocess};
use rayon::prelude::*;

use crate::{
    Result,
    contrastive::{encode_images, encode_texts},
    metrics::ConfusionMatrix,
    model::{ClipModel, normalise},
    shapes::{self, Split},
    vocabulary::{Tokens, Vocabulary},
};

/// Images per batch of one thread.
const CHUNK: usize = 16;

/// Classifies `count` synthetic images of a split into all 64 classes, named by `template`. The images
/// are 320 x 240, generated from `seed`.
///
/// # Errors
/// For a model that does not fit its configuration.
pub fn evaluate_shapes(
    model: &ClipModel,
    config: &ClipConfig,
    vocabulary: &Vocabulary,
    template: &str,
    (split, seed, count): (Split, u64, u64),
) -> Result<ConfusionMatrix> {
    let names = shapes::class_names();
    let texts = names.iter().map(|class| {
        let text = template.replace("{}", class);
        vocabulary.tokens(&text, config.text.context_length)
    });
    let texts: Vec<Tokens> = texts.collect::<Result<_>>()?;
    let classes = normalise(&encode_texts(model, &texts)?.detach())?;
    let starts: Vec<u64> = (0..count).step_by(CHUNK).collect();
    let chunks: Vec<Vec<(usize, usize)>> = starts
        .into_par_iter()
        .map(|start| {
            let (mut images, mut labels) = (Vec::new(), Vec::new());
            for index in start..(start + CHUNK as u64).min(count) {
                let (scene, class, _) = shapes::sample(split, seed, index);
                let image = shapes::render(&scene, 320, 240);
                images.push(preprocess(&config.preprocessing, &image)?);
                labels.push(class);
            }
            let predicted = classify(model, config, &classes, &images)?;
            Ok(labels.into_iter().zip(predicted).collect())
        })
        .collect::<Result<_>>()?;
    Ok(ConfusionMatrix::new(names, chunks.into_iter().flatten()))
}

/// The index of the nearest class embedding for each image.
fn classify(
    model: &ClipModel,
    config: &ClipConfig,
    classes: &Tensor,
    images: &[Pixels],
) -> Result<Vec<usize>> {
    let embeddings = encode_images(&model.image, config, images)?;
    let best = embeddings.matmul(&classes.t()?)?.argmax(D::Minus1)?;
    Ok(best
        .to_vec1::<u32>()?
        .into_iter()
        .map(|i| i as usize)
        .collect())
}
