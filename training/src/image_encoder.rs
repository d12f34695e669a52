//! Embeddings of labelled images.

use std::path::Path;

use candle_core::{Device, Tensor};
use pinhole::Classifier;
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{ClipConfig, Tail, Tensor as Values};
use pinhole_preprocessing::{RgbImage, preprocess};
use rayon::prelude::*;

use crate::{
    Error, Result,
    contrastive::encode_images,
    dataset::LabelledImage,
    model::{VisionTransformer, normalise},
    ops::{linear, read},
};

/// Embeds images, with a checkpoint's image encoder or a bundle's.
pub struct ImageEncoder {
    backend: Backend,
    config: ClipConfig,
    /// What a learned method adds behind the checkpoint's encoder.
    tail: Option<Tail>,
}

enum Backend {
    Checkpoint(Box<VisionTransformer>),
    Bundle(Box<Classifier>),
}

/// share relu(W2 relu(W1 f)) + (1 - share) f of embeddings f [images, D].
fn behind(embeddings: &Tensor, tail: &Tail) -> Result<Tensor> {
    let matrix =
        |tensor: &Values| Tensor::from_slice(&tensor.data, tensor.shape.as_slice(), &Device::Cpu);
    let hidden = linear(embeddings, &matrix(&tail.down)?, None)?.relu()?;
    let adapted = linear(&hidden, &matrix(&tail.up)?, None)?.relu()?;
    let share = f64::from(tail.share);
    Ok((adapted.affine(share, 0.0)? + embeddings.affine(1.0 - share, 0.0)?)?)
}

/// Images per batch of one thread.
pub const CHUNK: usize = 16;

impl ImageEncoder {
    /// Reads a checkpoint's image encoder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for an unreadable tensor, [`Error::Config`] for a ModifiedResNet.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config().clone();
        let encoder = VisionTransformer::new(&config, |name| {
            let tensor = checkpoint.tensor(name)?;
            Ok(Tensor::from_vec(tensor.data, tensor.shape, &Device::Cpu)?)
        })?;
        Ok(Self {
            backend: Backend::Checkpoint(Box::new(encoder)),
            config,
            tail: checkpoint.tail().cloned(),
        })
    }

    /// Opens the encoder of a bundle that was exported from the checkpoint: needed for a ModifiedResNet,
    /// and to get the embeddings of a quantised encoder.
    ///
    /// # Errors
    /// [`Error::Bundle`]; [`Error::Config`] for a bundle of another embedding length or image size.
    pub fn from_bundle(checkpoint: &Checkpoint, folder: &Path) -> Result<Self> {
        let config = checkpoint.config().clone();
        let threads = rayon::current_num_threads();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let bundle = Classifier::builder()
            .threads(threads.min(cores))
            .open(folder)?;
        let model = &bundle.manifest().model;
        let found = (model.embedding_size, model.image_size);
        let expected = (config.embedding, config.image.image_size());
        if found != expected {
            return Err(Error::Config(format!(
                "{}: expected embeddings of length {} for images of {} pixels as in the checkpoint, \
                 found {} for {}; give a bundle of the same model",
                folder.display(),
                expected.0,
                expected.1,
                found.0,
                found.1
            )));
        }
        Ok(Self {
            backend: Backend::Bundle(Box::new(bundle)),
            config,
            tail: None,
        })
    }

    /// Embeddings [images, D], each row L2-normalised, of images preprocessed as the model expects.
    /// `progress` is called from any thread with the number of images finished since the last call.
    ///
    /// # Errors
    /// [`Error::Image`] for an unreadable image; [`Error::Config`] for a non-finite embedding;
    /// [`Error::Bundle`].
    pub fn embed(
        &self,
        images: &[LabelledImage],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<f32>> {
        let parts: Vec<Vec<f32>> = images
            .par_chunks(CHUNK)
            .map(|chunk| {
                let images = chunk
                    .iter()
                    .map(LabelledImage::decode)
                    .collect::<Result<Vec<_>>>()?;
                let rows = self.embed_images(&images)?;
                self.check_finite(&rows, chunk)?;
                progress(chunk.len());
                Ok(rows)
            })
            .collect::<Result<_>>()?;
        Ok(parts.concat())
    }

    /// Embeddings [images, D], each row L2-normalised, on the calling thread.
    ///
    /// # Errors
    /// For an image that cannot be preprocessed; [`Error::Bundle`].
    pub fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<f32>> {
        let preprocessing = &self.config.preprocessing;
        match &self.backend {
            Backend::Checkpoint(encoder) => {
                let pixels = images
                    .iter()
                    .map(|image| Ok(preprocess(preprocessing, image)?));
                let pixels = pixels.collect::<Result<Vec<_>>>()?;
                let mut embeddings = encode_images(encoder, &self.config, &pixels)?;
                if let Some(tail) = &self.tail {
                    embeddings = behind(&embeddings, tail)?;
                }
                Ok(read(&normalise(&embeddings)?, <[f32]>::to_vec)?)
            }
            Backend::Bundle(bundle) => {
                let rows = images.iter().map(|image| Ok(bundle.embed(image)?.values));
                Ok(rows.collect::<Result<Vec<_>>>()?.concat())
            }
        }
    }

    /// Rejects non-finite embeddings.
    ///
    /// # Errors
    /// [`Error::Config`] naming the image.
    pub fn check_finite(&self, rows: &[f32], images: &[LabelledImage]) -> Result<()> {
        for (row, image) in rows.chunks_exact(self.config.embedding).zip(images) {
            if !row.iter().all(|value| value.is_finite()) {
                return Err(Error::Config(format!(
                    "{image}: its embedding is not finite"
                )));
            }
        }
        Ok(())
    }
}
