//! Classification heads.

use pinhole_bundle::Head;
use pinhole_prompts::{Conditional, TextEncoder};

use crate::Result;

/// How class embeddings depend on the image.
pub enum ClassHead {
    /// Class embeddings [classes, D], L2-normalised, equal for all images.
    Static(Vec<f32>),
    /// A learned row and bias for each class, or a cache of examples.
    Learned(Head),
    /// Class embeddings that are computed for each image.
    Conditional(Box<Conditional>),
}

impl ClassHead {
    /// The similarity of an image's embedding with each class.
    ///
    /// # Errors
    /// For an embedding of another length than the encoder's.
    pub fn similarities(&self, encoder: &TextEncoder, image: &[f32]) -> Result<Vec<f32>> {
        match self {
            Self::Static(classes) => Ok((classes.chunks_exact(image.len()))
                .map(|class| class.iter().zip(image).map(|(a, b)| a * b).sum())
                .collect()),
            Self::Learned(head) => Ok(head.similarities(image)),
            Self::Conditional(head) => Ok(head.similarities(encoder, image, None)?),
        }
    }
}
