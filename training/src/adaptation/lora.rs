//! CLIP-LoRA (Zanella and Ben Ayed, CVPRW 2024) on the image encoder: W + alpha / sqrt(r) B A in place of the matrices W of
//! queries, keys and values, with frozen class embeddings.
//!
//! Unlike the reference, the text encoder does not change, images are neither cropped nor mirrored, and there is no dropout.
//! The reference makes 500 updates per shot, a GPU's work; here the number of passes is an option.

use candle_core::{Device, Tensor as Candle, Var};
use pinhole_checkpoint::{CLIP_LORA_LAYERS, Checkpoint, MethodOption};
use pinhole_model::{
    ClipConfig, ImageEncoderConfig, Learned, LearnedClasses, PreprocessConfig, Tensor, WeightUpdate,
};
use pinhole_preprocessing::{Pixels, preprocess};
use rayon::prelude::*;

use super::{adapter::Adapter, task::Task};
use crate::{
    Error, Result,
    contrastive::encode_images,
    dataset::LabelledImage,
    model::{VisionTransformer, normalise},
    ops::{cross_entropies, read},
    optimiser::{AdamWOptions, Parameter, update},
    prompt_learning::TrainingEvent,
    random::SeededRng,
};

/// Images per chunk. The gradients of chunks are summed in their order, so the result does not depend on the number of
/// threads.
const CHUNK: usize = 8;
/// Bytes of decoded images that are kept from pass to pass; if there are more, each pass decodes them again.
const KEPT: usize = 1 << 30;

pub(super) static CLIP_LORA: Adapter = Adapter {
    key: "clip-lora",
    name: "CLIP-LoRA",
    about: "Learn low-rank changes of the image encoder's attention (CLIP-LoRA); for small encoders",
    options: &[
        MethodOption {
            name: "rank",
            help: "rank r of the changes",
            default: Some(2.0),
            range: [1.0, 64.0],
        },
        MethodOption {
            name: "alpha",
            help: "the change is alpha / sqrt(r) B A",
            default: Some(1.0),
            range: [1e-3, 1e3],
        },
        MethodOption {
            name: "epochs",
            help: "passes over the images",
            default: Some(50.0),
            range: [1.0, 10_000.0],
        },
        MethodOption {
            name: "learning-rate",
            help: "AdamW's rate at the start of a cosine decay",
            default: Some(2e-4),
            range: [1e-8, 10.0],
        },
        MethodOption {
            name: "batch-size",
            help: "images per update",
            default: Some(32.0),
            range: [1.0, 65_536.0],
        },
    ],
    changes_image_encoder: true,
    train: |task, values, progress| {
        let options = LoraOptions {
            rank: values.count("rank")?,
            alpha: values.number("alpha")?,
            learning_rate: values.number("learning-rate")?,
            updates: 0,
        };
        learn(
            task,
            options,
            values.count("epochs")?,
            values.count("batch-size")?,
            progress,
        )
    },
};

fn learn(
    task: &Task,
    mut options: LoraOptions,
    epochs: usize,
    batch_size: usize,
    progress: &mut dyn FnMut(TrainingEvent),
) -> Result<Learned> {
    let preprocessing = &task.clip.config().preprocessing;
    let pixels = pixels_of(task.images, preprocessing, KEPT)?;
    options.updates = epochs * task.images.len().div_ceil(batch_size);
    let mut training = LoraTraining::new(task.clip, &options, |name, shape| {
        initial(task.seed, name, shape)
    })?;
    for epoch in 0..epochs {
        let mut order: Vec<usize> = (0..task.images.len()).collect();
        SeededRng::new(task.seed ^ 0x6c6f_7261, epoch as u64).shuffle(&mut order);
        for batch in order.chunks(batch_size) {
            let labels: Vec<usize> = batch.iter().map(|&i| task.examples.labels[i]).collect();
            let loss = training.update(batch, &pixels, &labels, &task.class_embeddings)?;
            progress(TrainingEvent::Updated {
                done: training.done as u64,
                total: options.updates as u64,
                loss,
            });
        }
    }
    Ok(Learned {
        weights: training.weights()?,
        ..Learned::new(CLIP_LORA.name, LearnedClasses::Templates)
    })
}

/// The pixels of an image by its index: decoded once if those of all images take at most `most` bytes.
fn pixels_of<'a>(
    images: &'a [LabelledImage],
    preprocessing: &'a PreprocessConfig,
    most: usize,
) -> Result<impl Fn(&usize) -> Result<Pixels> + Sync + 'a> {
    let decode = |image: &LabelledImage| Ok(preprocess(preprocessing, &image.decode()?)?);
    let side = preprocessing.size as usize;
    let kept: Vec<Pixels> = match images.len().saturating_mul(side * side * 3) <= most {
        true => images.par_iter().map(decode).collect::<Result<_>>()?,
        false => vec![],
    };
    Ok(move |image: &usize| match kept.get(*image) {
        Some(pixels) => Ok(pixels.clone()),
        None => decode(&images[*image]),
    })
}

/// PyTorch's `kaiming_uniform_` with a = sqrt(5) for A: uniform within 1 / sqrt(inputs); B is zero, so that the training
/// starts at CLIP.
fn initial(seed: u64, matrix: LoraMatrix, [rows, columns]: [usize; 2]) -> Vec<f32> {
    let count = rows * columns;
    let LoraMatrix::Down { layer, part } = matrix else {
        return vec![0.0; count];
    };
    let mut rng = SeededRng::new(seed ^ 0x6c6f_7261_4100, (layer * 3 + part) as u64);
    let bound = (columns as f32).sqrt().recip();
    (0..count).map(|_| rng.range(-bound, bound)).collect()
}

/// Hyper-parameters of CLIP-LoRA.
#[derive(Clone, Debug)]
pub struct LoraOptions {
    /// Rank r of the changes.
    pub rank: usize,
    /// The change is alpha / sqrt(r) B A.
    pub alpha: f32,
    /// AdamW's rate at the start of a cosine decay.
    pub learning_rate: f32,
    /// Updates of the whole training, over which the rate decays.
    pub updates: usize,
}

/// One of the two factors of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraMatrix {
    /// A, [r, width].
    Down {
        /// The block of the image encoder.
        layer: usize,
        /// 0 for queries, 1 for keys, 2 for values.
        part: usize,
    },
    /// B, [width, r].
    Up {
        /// The block of the image encoder.
        layer: usize,
        /// 0 for queries, 1 for keys, 2 for values.
        part: usize,
    },
}

/// An image encoder with low-rank changes in training.
pub struct LoraTraining {
    config: ClipConfig,
    /// The checkpoint's tensors by name.
    frozen: Vec<(String, Candle)>,
    /// A and B of queries, keys and values, for each layer.
    parameters: Vec<Parameter>,
    layers: usize,
    logit_scale: f32,
    options: LoraOptions,
    /// Updates so far.
    done: usize,
}

impl LoraTraining {
    /// A training from `initial` values of the factors, given their shapes.
    ///
    /// # Errors
    /// [`Error::Config`] for another image encoder than a vision transformer; an unreadable tensor.
    pub fn new(
        clip: &Checkpoint,
        options: &LoraOptions,
        initial: impl Fn(LoraMatrix, [usize; 2]) -> Vec<f32>,
    ) -> Result<Self> {
        let config = clip.config().clone();
        let mut frozen = vec![];
        // Also the check that it is a vision transformer.
        VisionTransformer::new(&config, |name| {
            let tensor = clip.tensor(name)?;
            let tensor = Candle::from_vec(tensor.data, tensor.shape, &Device::Cpu)?;
            frozen.push((name.to_owned(), tensor.clone()));
            Ok(tensor)
        })?;
        let width = match config.image {
            ImageEncoderConfig::VisionTransformer { width, .. } => width,
            _ => 0,
        };
        let (rank, layers) = (options.rank, config.image.layers().min(CLIP_LORA_LAYERS));
        let mut parameters = vec![];
        for (layer, part) in (0..layers).flat_map(|layer| (0..3).map(move |part| (layer, part))) {
            let halves = [
                (LoraMatrix::Down { layer, part }, [rank, width]),
                (LoraMatrix::Up { layer, part }, [width, rank]),
            ];
            for (matrix, shape) in halves {
                let values = Candle::from_vec(initial(matrix, shape), &shape, &Device::Cpu)?;
                parameters.push(Parameter::new(
                    format!("{matrix:?}"),
                    Var::from_tensor(&values)?,
                ));
            }
        }
        Ok(Self {
            config,
            frozen,
            parameters,
            layers,
            logit_scale: clip.logit_scale(),
            options: options.clone(),
            done: 0,
        })
    }

    fn scale(&self) -> f32 {
        self.options.alpha / (self.options.rank as f32).sqrt()
    }

    /// The encoder with the changes, as functions of the parameters.
    fn encoder(&self) -> Result<VisionTransformer> {
        VisionTransformer::new(&self.config, |name| {
            let found = self.frozen.iter().find(|(known, _)| known == name);
            let Some((_, tensor)) = found else {
                return Err(Error::Config(format!("no tensor {name}")));
            };
            let layer = (0..self.layers).find(|layer| name == in_proj(*layer));
            let Some(layer) = layer else {
                return Ok(tensor.clone());
            };
            let products = self.parameters[layer * 6..][..6]
                .chunks_exact(2)
                .map(|pair| {
                    let product = pair[1].var.as_tensor().matmul(pair[0].var.as_tensor())?;
                    product.affine(f64::from(self.scale()), 0.0)
                });
            let products = products.collect::<candle_core::Result<Vec<_>>>()?;
            Ok((tensor + Candle::cat(&products, 0)?)?)
        })
    }

    /// One update on a batch of images, whose `pixels` are asked for when they are needed, for class embeddings [C, D],
    /// L2-normalised. Returns the mean cross-entropy before it.
    ///
    /// # Errors
    /// [`Error::Config`] for no images or a label out of range; [`Error::Diverged`]; those of `pixels`.
    pub fn update<I: Sync>(
        &mut self,
        images: &[I],
        pixels: impl Fn(&I) -> Result<Pixels> + Sync,
        labels: &[usize],
        class_embeddings: &[f32],
    ) -> Result<f32> {
        let dim = self.config.embedding;
        let classes = class_embeddings.len() / dim;
        if images.is_empty() || labels.len() != images.len() || labels.iter().any(|l| *l >= classes)
        {
            return Err(Error::Config(format!(
                "batch: expected images labelled below {classes}, found {} images with labels {labels:?}",
                images.len()
            )));
        }
        let texts = Candle::from_slice(class_embeddings, (classes, dim), &Device::Cpu)?;
        let texts = texts.t()?.contiguous()?;
        let encoder = self.encoder()?;
        let parts: Vec<(f32, Vec<Option<Vec<f32>>>)> = (images.par_chunks(CHUNK))
            .zip(labels.par_chunks(CHUNK))
            .map(|(images, labels)| {
                let images: Vec<Pixels> = images.iter().map(&pixels).collect::<Result<_>>()?;
                let embeddings = normalise(&encode_images(&encoder, &self.config, &images)?)?;
                let logits = embeddings
                    .matmul(&texts)?
                    .affine(f64::from(self.logit_scale), 0.0)?;
                let loss = cross_entropies(&logits, labels)?.sum_all()?;
                let store = loss.backward()?;
                let gradients = self.parameters.iter().map(|parameter| {
                    let gradient = store.get(parameter.var.as_tensor());
                    gradient
                        .map(|gradient| read(gradient, <[f32]>::to_vec))
                        .transpose()
                });
                let gradients = gradients.collect::<candle_core::Result<Vec<_>>>()?;
                Ok((loss.to_scalar::<f32>()?, gradients))
            })
            .collect::<Result<_>>()?;
        let count = images.len() as f32;
        let loss = parts.iter().map(|(loss, _)| loss).sum::<f32>() / count;
        if !loss.is_finite() {
            let step = self.done as u64;
            return Err(Error::Diverged { step, loss });
        }
        let gradients: Vec<Vec<f32>> = (self.parameters.iter().enumerate())
            .map(|(i, parameter)| {
                let mut sum = vec![0.0; parameter.var.elem_count()];
                for (_, gradients) in &parts {
                    let pairs = sum.iter_mut().zip(gradients[i].iter().flatten());
                    pairs.for_each(|(s, g)| *s += g / count);
                }
                sum
            })
            .collect();
        let adam = AdamWOptions {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
        };
        // PyTorch's CosineAnnealingLR down to 1e-6.
        let (most, least) = (f64::from(self.options.learning_rate), 1e-6);
        let progressed = self.done as f64 / self.options.updates.max(1) as f64;
        let cosine = (std::f64::consts::PI * progressed).cos();
        let rate = least + 0.5 * (most - least) * (1.0 + cosine);
        update(
            &mut self.parameters,
            &gradients,
            &adam,
            rate,
            self.done as u64,
        )?;
        self.done += 1;
        Ok(loss)
    }

    /// What was learned so far.
    ///
    /// # Errors
    /// None are known.
    pub fn weights(&self) -> Result<Vec<WeightUpdate>> {
        let tensor = |parameter: &Parameter| -> Result<Tensor> {
            Ok(Tensor {
                shape: parameter.var.dims().to_vec(),
                data: read(parameter.var.as_tensor(), <[f32]>::to_vec)?,
            })
        };
        let pairs = self.parameters.chunks_exact(2).enumerate();
        pairs
            .map(|(i, pair)| {
                let (down, up) = (tensor(&pair[0])?, tensor(&pair[1])?);
                Ok(WeightUpdate {
                    name: in_proj(i / 3),
                    first_row: i % 3 * up.shape[0],
                    scale: self.scale(),
                    down,
                    up,
                })
            })
            .collect()
    }
}

/// The matrix of queries, keys and values of a block.
fn in_proj(layer: usize) -> String {
    format!("visual.transformer.resblocks.{layer}.attn.in_proj_weight")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataset::ImageSource,
        shapes::{Split, Style},
    };

    /// If this fails, what is learned depends on whether the images fit into memory.
    #[test]
    fn images_that_are_not_kept_are_decoded_again() {
        let images: Vec<LabelledImage> = (0..3)
            .map(|index| LabelledImage {
                source: ImageSource::Shapes {
                    split: Split::Seen,
                    seed: 1,
                    index,
                    style: Style::Filled,
                },
                label: 0,
            })
            .collect();
        let preprocessing = PreprocessConfig::openai(32);
        let pixels = |most| {
            let pixels = pixels_of(&images, &preprocessing, most).unwrap();
            [0, 1, 2].map(|image| pixels(&image).unwrap().data)
        };
        let all = 3 * 32 * 32 * 3;
        assert_eq!(pixels(all), pixels(all - 1));
        assert_ne!(pixels(0)[0], pixels(0)[1]);
    }
}
