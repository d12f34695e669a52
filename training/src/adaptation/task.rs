//! What an adaptation method learns from.

use pinhole_checkpoint::Checkpoint;

use crate::{Error, Result, dataset::LabelledImage};

/// Labelled embeddings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examples {
    /// The class of each image.
    pub labels: Vec<usize>,
    /// [images, D], each row L2-normalised.
    pub embeddings: Vec<f32>,
}

impl Examples {
    /// The embedding of each image with its class.
    pub fn iter(&self) -> impl Iterator<Item = (&[f32], usize)> {
        let dim = self.embeddings.len() / self.labels.len().max(1);
        let rows = self.embeddings.chunks_exact(dim.max(1));
        rows.zip(self.labels.iter().copied())
    }
}

/// Few labelled images of each class, and what CLIP makes of them.
pub struct Task<'a> {
    /// The CLIP, which only methods that change its image encoder read.
    pub clip: &'a Checkpoint,
    /// The images, with labels below the number of classes.
    pub images: &'a [LabelledImage],
    /// Their embeddings, in the same order.
    pub examples: Examples,
    /// Other images, on which options that are not given are chosen; may be empty.
    pub validation: Examples,
    /// Class embeddings of the zero-shot prompts, [C, D], L2-normalised.
    pub class_embeddings: Vec<f32>,
    /// The names of the C classes.
    pub classes: &'a [String],
    /// Factor from cosine similarity to logit.
    pub logit_scale: f32,
    /// Seed of initial values and order.
    pub seed: u64,
}

impl Task<'_> {
    /// D, the length of an embedding.
    pub(super) fn dim(&self) -> usize {
        self.class_embeddings.len() / self.classes.len().max(1)
    }

    pub(super) fn check(&self) -> Result<()> {
        let (dim, images, classes) = (self.dim(), self.images.len(), self.classes.len());
        let fits = |examples: &Examples| {
            examples.embeddings.len() == examples.labels.len() * dim
                && examples.labels.iter().all(|label| *label < classes)
        };
        let valid = classes >= 2
            && self.class_embeddings.len() == classes * dim
            && images > 0
            && self.examples.labels.len() == images
            && fits(&self.examples)
            && fits(&self.validation);
        if valid {
            return Ok(());
        }
        Err(Error::Config(format!(
            "expected images of at least two classes with embeddings of length {dim}, found {images} images, {} and {} \
             embeddings, {classes} classes",
            self.examples.labels.len(),
            self.validation.labels.len()
        )))
    }
}
