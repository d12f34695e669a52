//! Hyper-parameters of prompt learning.

use std::path::PathBuf;

use pinhole_model::ClassPosition;
use serde::{Deserialize, Serialize};

use super::{method::PromptForms, methods::Method};
use crate::{Error, Result};

/// Everything that determines the result of a prompt training, apart from its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptOptions {
    /// The method.
    pub method: Method,
    /// Number of context vectors with random initial values.
    pub n_ctx: usize,
    /// Words whose token embeddings are the initial context vectors, instead of random values. The number
    /// of their tokens is then the number of context vectors, which all classes share.
    pub words: Option<String>,
    /// A prompt learner to start from, instead of random values or words.
    pub init: Option<PathBuf>,
    /// Class-specific contexts (CoOp's CSC).
    pub class_specific: bool,
    /// Position of the class name.
    pub class_position: ClassPosition,
    /// Passes over the images.
    pub epochs: u64,
    /// Images per update.
    pub batch_size: usize,
    /// Learning rate after the warm-up, at the start of a cosine decay.
    pub learning_rate: f64,
    /// SGD's momentum.
    pub momentum: f64,
    /// SGD's dampening of the momentum.
    pub dampening: f64,
    /// SGD's weight decay: added to the gradient, multiplied by the weight.
    pub weight_decay: f64,
    /// Epochs of warm-up at the constant rate `warm_up_rate`.
    pub warm_up: u64,
    /// Learning rate of the warm-up.
    pub warm_up_rate: f64,
    /// Augmented views of each training image; 0 for the unaugmented image.
    pub views: usize,
    /// Minimum fraction of the image's area that a view keeps.
    pub crop: f32,
    /// Whether views are mirrored at random.
    pub flip: bool,
    /// A bundle of the same model that encodes the images, instead of the checkpoint's image encoder:
    /// needed for a ModifiedResNet, or to train on the embeddings of a quantised encoder.
    pub encoder: Option<PathBuf>,
    /// MiB for the text encoder's activations between forward and backward pass. Classes that need more are
    /// run in parts, with a second forward pass.
    pub memory: usize,
    /// Seed of initial values, order of images, and views.
    pub seed: u64,
}

impl PromptOptions {
    /// The reference's hyper-parameters of a method for a number of shots.
    pub fn new(method: Method, shots: usize, seed: u64) -> Self {
        let recipe = method.recipe(shots);
        Self {
            method,
            n_ctx: recipe.n_ctx,
            words: recipe.words,
            init: None,
            class_specific: false,
            class_position: ClassPosition::End,
            epochs: recipe.epochs,
            batch_size: recipe.batch_size,
            learning_rate: 0.002,
            momentum: 0.9,
            dampening: 0.0,
            weight_decay: 5e-4,
            warm_up: 1,
            warm_up_rate: 1e-5,
            views: 0,
            crop: 0.08,
            flip: true,
            encoder: None,
            memory: 1024,
            seed,
        }
    }

    /// Rejects values out of range and combinations that the method does not support.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Options(what));
        let rate = |rate: f64| rate > 0.0 && rate.is_finite();
        if !(1..=1 << 16).contains(&self.n_ctx) {
            return wrong(format!("--n-ctx {}: expected 1 to 65536", self.n_ctx));
        }
        if self.class_specific && self.words.is_some() {
            return wrong(
                "--class-specific: expected random initial contexts; remove --words".into(),
            );
        }
        let plain = !self.class_specific && self.class_position == ClassPosition::End;
        if self.method.prompt_forms() == PromptForms::SharedBeforeName && !plain {
            return wrong(format!(
                "{} has one context for all classes, before the class name: remove --class-specific and \
                 --class-position",
                self.method.name()
            ));
        }
        let valid = (1..=1 << 20).contains(&self.epochs)
            && (1..=1 << 16).contains(&self.batch_size)
            && rate(self.learning_rate)
            && (self.warm_up == 0 || rate(self.warm_up_rate))
            && (0.0..1.0).contains(&self.momentum)
            && (0.0..=1.0).contains(&self.dampening)
            && self.weight_decay >= 0.0
            && self.weight_decay * self.learning_rate < 1.0
            && self.views <= 4096
            && (1..=1 << 20).contains(&self.memory)
            && self.crop > 0.0
            && self.crop <= 1.0;
        if valid {
            return Ok(());
        }
        wrong(format!(
            "hyper-parameters out of range: expected epochs 1 to 1048576, batch size 1 to 65536, learning \
             rates > 0, momentum in 0..1, dampening 0 to 1, weight decay >= 0, views up to 4096, crop in \
             0..1, memory 1 to 1048576 MiB; found {self:?}"
        ))
    }

    /// Updates in an epoch over `images`. As in Dassl's loader, images after the last complete batch are
    /// dropped, unless there is no complete batch.
    pub fn steps_per_epoch(&self, images: usize) -> u64 {
        (images / self.batch_size.max(1)).max(1) as u64
    }
}
