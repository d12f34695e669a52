//! Zero-shot accuracy of a model in training, without a checkpoint of it.

use candle_core::{D, Tensor};
use pinhole_model::ClipConfig;
use pinhole_preprocessing::{Pixels, preprocess};
use rayon::prelude::*;

use crate::{
    Result,
    contrastive::{encode_images, encode_texts},
    metrics::Evaluation,
    model::{Clip, normalise},
    shapes::{self, Split},
    vocabulary::{Tokens, Vocabulary},
};

/// Accuracy on `count` generated pictures of a split, chosen from all 64 classes by `template`.
/// The pictures are 320 x 240, drawn with `seed`.
///
/// # Errors
/// Where the model does not fit its configuration.
pub fn evaluate_shapes(
    model: &Clip,
    config: &ClipConfig,
    vocabulary: &Vocabulary,
    template: &str,
    (split, seed, count): (Split, u64, u64),
) -> Result<Evaluation> {
    let names = shapes::class_names();
    let texts: Vec<Vec<String>> = (names.iter().map(|c| vec![template.replace("{}", c)])).collect();
    let classes = class_embeddings(model, config, vocabulary, &texts)?;
    let starts: Vec<u64> = (0..count).step_by(16).collect();
    let parts: Vec<Vec<(usize, usize)>> = starts
        .into_par_iter()
        .map(|start| {
            let (mut images, mut truth) = (Vec::new(), Vec::new());
            for index in start..(start + 16).min(count) {
                let (scene, class, _) = shapes::sample(split, seed, index);
                let image = shapes::render(&scene, 320, 240);
                images.push(preprocess(&config.preprocessing, &image)?);
                truth.push(class);
            }
            let given = classify(model, config, &classes, &images)?;
            Ok(truth.into_iter().zip(given).collect())
        })
        .collect::<Result<_>>()?;
    Ok(Evaluation::new(names, parts.into_iter().flatten()))
}

/// Embeddings of classes [classes, embedding], normalised, from texts per class.
///
/// # Errors
/// Where a text has tokens that are not in the vocabulary.
pub fn class_embeddings(
    model: &Clip,
    config: &ClipConfig,
    vocabulary: &Vocabulary,
    texts: &[Vec<String>],
) -> Result<Tensor> {
    let mut rows = Vec::with_capacity(texts.len());
    for texts in texts {
        let tokens = texts
            .iter()
            .map(|t| vocabulary.tokens(t, config.text.context_length));
        let tokens: Vec<Tokens> = tokens.collect::<Result<_>>()?;
        let embeddings = normalise(&encode_texts(model, &tokens)?.detach())?;
        rows.push(normalise(&embeddings.mean_keepdim(0)?)?);
    }
    Ok(Tensor::cat(&rows, 0)?)
}

/// The index of the nearest class embedding for each image.
///
/// # Errors
/// Where an image has another size than the model's.
pub fn classify(
    model: &Clip,
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
