//! CLIP's contrastive loss and its gradients.

use candle_core::{D, DType, Device, Tensor, Var, backprop::GradStore};
use pinhole_model::{ClipConfig, ImageEncoderConfig};
use pinhole_preprocessing::Pixels;
use rayon::prelude::*;

use crate::{
    Error, Result,
    model::{ClipModel, VisionTransformer, normalise, patches},
    ops::read,
    optimiser::Parameter,
    vocabulary::{Tokens, stack},
};

/// Matching pairs of images and texts.
pub struct Batch {
    /// Preprocessed images.
    pub images: Vec<Pixels>,
    /// The text of each image.
    pub texts: Vec<Tokens>,
}

/// Loss and gradients of a batch.
pub struct LossAndGradients {
    /// The loss.
    pub loss: f32,
    /// Fraction of images whose own text is the nearest in the batch.
    pub accuracy: f32,
    /// Gradients in the order of the parameters.
    pub gradients: Vec<Vec<f32>>,
}

/// Images per chunk. A chunk's activations fit a core's cache and chunks run on all cores. Gradients are
/// summed in the order of chunks, so the result does not depend on the number of threads.
const IMAGES: usize = 16;
/// Texts per chunk.
const TEXTS: usize = 64;

enum Chunk<'a> {
    Images(&'a [Pixels]),
    Texts(&'a [Tokens]),
}

/// Loss and gradients of a batch.
///
/// # Errors
/// For unequal numbers of images and texts, or an image of another size than the model's.
pub fn loss_and_gradients(
    model: &ClipModel,
    config: &ClipConfig,
    parameters: &[Parameter],
    batch: &Batch,
) -> Result<LossAndGradients> {
    if batch.images.len() != batch.texts.len() || batch.images.is_empty() {
        return Err(Error::Config(format!(
            "batch: expected as many images as texts, found {} and {}",
            batch.images.len(),
            batch.texts.len()
        )));
    }
    let chunks: Vec<Chunk> = (batch.images.chunks(IMAGES).map(Chunk::Images))
        .chain(batch.texts.chunks(TEXTS).map(Chunk::Texts))
        .collect();
    let embeddings: Vec<Tensor> = chunks
        .par_iter()
        .map(|chunk| match chunk {
            Chunk::Images(images) => encode_images(&model.image, config, images),
            Chunk::Texts(texts) => encode_texts(model, texts),
        })
        .collect::<Result<_>>()?;

    // The embeddings become variables: the loss is differentiated up to them, then each chunk's graph.
    let split = batch.images.len().div_ceil(IMAGES);
    let images = Var::from_tensor(&Tensor::cat(&embeddings[..split], 0)?)?;
    let texts = Var::from_tensor(&Tensor::cat(&embeddings[split..], 0)?)?;
    let (loss, accuracy) = loss(&images, &texts, &model.logit_scale)?;
    let gradients = loss.backward()?;
    let gradient = |of: &Tensor| {
        let found = gradients.get(of).cloned();
        found.map_or_else(|| of.zeros_like(), Ok)
    };
    let (image_gradient, text_gradient) = (gradient(&images)?, gradient(&texts)?);

    let mut start = [0usize, 0];
    let mut jobs = Vec::new();
    for (chunk, embedding) in chunks.iter().zip(&embeddings) {
        let (side, whole) = match chunk {
            Chunk::Images(_) => (0, &image_gradient),
            Chunk::Texts(_) => (1, &text_gradient),
        };
        let count = embedding.dim(0)?;
        jobs.push((embedding, whole.narrow(0, start[side], count)?));
        start[side] += count;
    }
    let parts: Vec<Vec<Option<Vec<f32>>>> = jobs
        .into_par_iter()
        .map(|(embedding, gradient)| {
            let store = (embedding * gradient)?.sum_all()?.backward()?;
            collect(&store, parameters)
        })
        .collect::<Result<_>>()?;
    let own = collect(&gradients, parameters)?;
    let sums = (parameters.par_iter().enumerate())
        .map(|(i, parameter)| {
            let mut sum = vec![0f32; parameter.var.elem_count()];
            for part in parts.iter().chain([&own]) {
                for (s, g) in sum.iter_mut().zip(part[i].iter().flatten()) {
                    *s += g;
                }
            }
            sum
        })
        .collect();
    Ok(LossAndGradients {
        loss: loss.to_scalar()?,
        accuracy,
        gradients: sums,
    })
}

/// Embeddings of images [images, embedding], not normalised.
///
/// # Errors
/// Those of [`patches`].
pub fn encode_images(
    encoder: &VisionTransformer,
    config: &ClipConfig,
    images: &[Pixels],
) -> Result<Tensor> {
    let ImageEncoderConfig::VisionTransformer { patch_size, .. } = config.image else {
        return Err(Error::Config(format!(
            "image encoder: expected a vision transformer, found a {}",
            config.image.family()
        )));
    };
    let patches = patches(images, &config.preprocessing, patch_size as usize)?;
    Ok(encoder.forward(&patches)?)
}

/// Embeddings of texts [texts, embedding], not normalised.
///
/// # Errors
/// For no texts.
pub fn encode_texts(model: &ClipModel, texts: &[Tokens]) -> Result<Tensor> {
    let (ids, ends) = stack(texts)?;
    Ok(model.text.forward(&model.text.embed(&ids)?, &ends)?)
}

/// CLIP's symmetric loss (Radford et al., "Learning transferable visual models from natural language
/// supervision", figure 3): the mean of the cross-entropies over the rows and over the columns of
/// exp(logit_scale) * image . text, with the matching pairs on the diagonal. Also the accuracy of the
/// rows.
fn loss(images: &Tensor, texts: &Tensor, logit_scale: &Tensor) -> Result<(Tensor, f32)> {
    let count = images.dim(0)?;
    let similarity = normalise(images)?.matmul(&normalise(texts)?.t()?)?;
    let logits = similarity.broadcast_mul(&logit_scale.exp()?)?;
    let eye = Tensor::eye(count, DType::F32, &Device::Cpu)?;
    let entropy = |axis: usize| -> Result<Tensor> {
        let most = logits.max_keepdim(axis)?.detach();
        let total = logits
            .broadcast_sub(&most)?
            .exp()?
            .sum_keepdim(axis)?
            .log()?;
        let normaliser = (total + most)?.sum_all()?;
        Ok((normaliser - (&logits * &eye)?.sum_all()?)?)
    };
    let loss = ((entropy(0)? + entropy(1)?)? / (2 * count) as f64)?;
    let best = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let right = best.iter().zip(0u32..).filter(|(b, i)| **b == *i).count();
    Ok((loss, right as f32 / count as f32))
}

fn collect(store: &GradStore, parameters: &[Parameter]) -> Result<Vec<Option<Vec<f32>>>> {
    let one = |p: &Parameter| match store.get(p.var.as_tensor()) {
        Some(gradient) => Ok(Some(read(gradient, <[f32]>::to_vec)?)),
        None => Ok(None),
    };
    parameters.iter().map(one).collect()
}
