//! Image embeddings of labelled images.

use std::path::Path;

use candle_core::{Device, Tensor};
use pinhole::Classifier;
use pinhole_checkpoint::Checkpoint;
use pinhole_model::ClipConfig;
use pinhole_preprocessing::{RgbImage, preprocess};
use rayon::prelude::*;

use crate::{
    Error, Result,
    contrastive::encode_images,
    dataset::Item,
    model::{VisionTransformer, normalise},
    ops::read,
};

/// What embeds images.
pub struct ImageEncoder {
    kind: Kind,
    config: ClipConfig,
}

enum Kind {
    Tower(Box<VisionTransformer>),
    Bundle(Box<Classifier>),
}

/// Images that one thread embeds together.
pub const CHUNK: usize = 16;

impl ImageEncoder {
    /// Reads a checkpoint's image tower.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where a tensor cannot be read, [`Error::Config`] for a ModifiedResNet.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config().clone();
        let tower = VisionTransformer::new(&config, |name| {
            let tensor = checkpoint.tensor(name)?;
            Ok(Tensor::from_vec(tensor.data, tensor.shape, &Device::Cpu)?)
        })?;
        let kind = Kind::Tower(Box::new(tower));
        Ok(Self { kind, config })
    }

    /// Opens the encoder of a bundle that was exported from the checkpoint: the way for a
    /// ModifiedResNet, and for what a board's encoder sees.
    ///
    /// # Errors
    /// [`Error::Bundle`]; [`Error::Config`] for a bundle with embeddings of another length or images
    /// of another size.
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
                "{}: embeddings of {} for images of {} pixels where the checkpoint has {} for {}; give \
                 a bundle of the same model",
                folder.display(),
                found.0,
                found.1,
                expected.0,
                expected.1
            )));
        }
        let kind = Kind::Bundle(Box::new(bundle));
        Ok(Self { kind, config })
    }

    /// Embeddings [items, D], each row L2-normalised, of the images as the model's preprocessing
    /// makes them. `progress` is called with the number of images that have been done since the last
    /// call, from any thread.
    ///
    /// # Errors
    /// [`Error::Image`] for an image that cannot be read; [`Error::Config`] for one whose embedding is
    /// not a number; [`Error::Bundle`].
    pub fn embed(&self, items: &[Item], progress: &(dyn Fn(usize) + Sync)) -> Result<Vec<f32>> {
        let parts: Vec<Vec<f32>> = items
            .par_chunks(CHUNK)
            .map(|items| {
                let images = items.iter().map(Item::image).collect::<Result<Vec<_>>>()?;
                let rows = self.embed_images(&images)?;
                self.check(&rows, items)?;
                progress(items.len());
                Ok(rows)
            })
            .collect::<Result<_>>()?;
        Ok(parts.concat())
    }

    /// Embeddings [images, D], each row L2-normalised, on the calling thread.
    ///
    /// # Errors
    /// Where an image cannot be preprocessed; [`Error::Bundle`].
    pub fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<f32>> {
        let rule = &self.config.preprocessing;
        match &self.kind {
            Kind::Tower(tower) => {
                let pixels = images.iter().map(|image| Ok(preprocess(rule, image)?));
                let pixels = pixels.collect::<Result<Vec<_>>>()?;
                let embeddings = encode_images(tower, &self.config, &pixels)?;
                Ok(read(&normalise(&embeddings)?, <[f32]>::to_vec)?)
            }
            Kind::Bundle(bundle) => {
                let rows = images.iter().map(|image| Ok(bundle.embed(image)?.values));
                Ok(rows.collect::<Result<Vec<_>>>()?.concat())
            }
        }
    }

    /// Refuses rows that are not numbers.
    ///
    /// # Errors
    /// [`Error::Config`] naming the item.
    pub fn check(&self, rows: &[f32], items: &[Item]) -> Result<()> {
        for (row, item) in rows.chunks_exact(self.config.embedding).zip(items) {
            if !row.iter().all(|value| value.is_finite()) {
                return Err(Error::Config(format!(
                    "{item}: its embedding is not a number"
                )));
            }
        }
        Ok(())
    }
}
