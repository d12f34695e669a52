//! What a classifier returns for an image.

use std::sync::Arc;
use std::time::Duration;

use pinhole_model::Score;

/// The classes of a bundle ranked for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    /// Every class, by falling similarity.
    pub ranking: Vec<Ranked>,
    /// What the probabilities are.
    pub score: Score,
    /// Whether the image shows none of the classes, by the thresholds of the bundle or of the
    /// [`ClassifierBuilder`](crate::ClassifierBuilder).
    pub unknown: bool,
    /// Time of each stage, without decoding.
    pub latency: Latency,
}

impl Classification {
    /// The best `n` classes, or all if there are fewer.
    pub fn top(&self, n: usize) -> &[Ranked] {
        &self.ranking[..n.min(self.ranking.len())]
    }
}

/// One class of a ranking.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Index in the bundle's list of classes, from 0.
    pub index: usize,
    /// Name in the bundle's list, shared by all rankings of one classifier.
    pub name: Arc<str>,
    /// 0 to 1, by [`Classification::score`]: softmax(logit_scale * similarity / temperature) over all classes,
    /// which adds up to 1, or of each class by itself sigmoid((logit_scale * similarity + bias) / temperature).
    pub probability: f32,
    /// Cosine similarity of the image's and the class's embedding, -1 to 1. Of a learned linear head or cache: the logit
    /// divided by the manifest's `logit_scale`.
    pub similarity: f32,
}

/// An image's embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `[D]`, L2-normalised.
    pub values: Vec<f32>,
    /// Time of each stage, without decoding; `head` is zero.
    pub latency: Latency,
}

/// Time spent on one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Resizing and cropping.
    pub preprocess: Duration,
    /// The image encoder.
    pub encode: Duration,
    /// Similarities, probabilities and sorting; with a conditional head also its text encoder.
    pub head: Duration,
}
