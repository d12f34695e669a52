//! Image embeddings of labelled images.

use candle_core::{Device, Tensor};
use pinhole_checkpoint::{Checkpoint, ClipConfig};
use rayon::prelude::*;

use crate::{
    Error, Result,
    contrastive::encode_images,
    dataset::Item,
    model::{VisionTransformer, normalise},
    ops::read,
};

/// A checkpoint's image tower.
pub struct ImageEncoder {
    tower: VisionTransformer,
    config: ClipConfig,
}

/// Images that one thread embeds together.
const CHUNK: usize = 16;

impl ImageEncoder {
    /// Reads the tower.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where a tensor cannot be read, [`Error::Config`] for a ModifiedResNet.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config().clone();
        let tower = VisionTransformer::new(&config, |name| {
            let tensor = checkpoint.tensor(name)?;
            Ok(Tensor::from_vec(tensor.data, tensor.shape, &Device::Cpu)?)
        })?;
        Ok(Self { tower, config })
    }

    /// Embeddings [items, D], each row L2-normalised, of the images as the model's preprocessing
    /// makes them. `progress` is called with the number of images that have been done since the last
    /// call, from any thread.
    ///
    /// # Errors
    /// [`Error::Image`] for an image that cannot be read; [`Error::Config`] for one whose embedding is
    /// not a number.
    pub fn embed(&self, items: &[Item], progress: &(dyn Fn(usize) + Sync)) -> Result<Vec<f32>> {
        let parts: Vec<Vec<f32>> = items
            .par_chunks(CHUNK)
            .map(|items| {
                let rule = &self.config.preprocessing;
                let pixels = items.iter().map(|item| Ok(rule.apply(&item.image()?)?));
                let pixels = pixels.collect::<Result<Vec<_>>>()?;
                let embeddings = encode_images(&self.tower, &self.config, &pixels)?;
                let rows = read(&normalise(&embeddings)?, <[f32]>::to_vec)?;
                for (row, item) in rows.chunks_exact(self.config.embedding).zip(items) {
                    if !row.iter().all(|value| value.is_finite()) {
                        return Err(Error::Config(format!(
                            "{item}: its embedding is not a number"
                        )));
                    }
                }
                progress(items.len());
                Ok(rows)
            })
            .collect::<Result<_>>()?;
        Ok(parts.concat())
    }
}
