//! What decides a training of prompts, apart from its data.

use std::path::PathBuf;

use pinhole_model::ClassPosition;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Context vectors (Zhou et al., "Learning to prompt for vision-language models").
    CoOp,
    /// Context vectors and a network that shifts them by the image (Zhou et al., "Conditional prompt
    /// learning for vision-language models").
    CoCoOp,
}

/// Everything that decides what a training of prompts computes, apart from its data. The constructors
/// have the values of the reference, KaiyangZhou/CoOp.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptOptions {
    /// What is learned.
    pub method: Method,
    /// Context vectors of a prompt, if they start at random.
    pub n_ctx: usize,
    /// Words whose token embeddings the context starts from, instead of random values; their tokens
    /// are then its length, and it is shared by all classes.
    pub words: Option<String>,
    /// A prompt learner to start from, instead of random values or words.
    pub init: Option<PathBuf>,
    /// A context for each class (CoOp's CSC). Not for CoCoOp.
    pub class_specific: bool,
    /// Where the class name stands. CoCoOp has it at the end.
    pub class_position: ClassPosition,
    /// Passes over the images.
    pub epochs: u64,
    /// Images per update.
    pub batch_size: usize,
    /// Learning rate after the warm-up, from where half a cosine falls.
    pub learning_rate: f64,
    /// SGD's momentum.
    pub momentum: f64,
    /// SGD's dampening of the momentum.
    pub dampening: f64,
    /// SGD's weight decay: added to the gradient, times the weight.
    pub weight_decay: f64,
    /// Epochs at the constant rate `warm_up_rate` before the others.
    pub warm_up: u64,
    /// Learning rate of the warm-up.
    pub warm_up_rate: f64,
    /// Augmented views of each image to train on; 0 for the image as it is classified later.
    pub views: usize,
    /// Least share of the image's area that a view keeps.
    pub crop: f32,
    /// Whether half of the views are mirrored.
    pub flip: bool,
    /// A bundle of the same model that encodes the images, instead of the checkpoint's image tower:
    /// the only way for a ModifiedResNet, and a way to train on what a quantised encoder sees.
    pub encoder: Option<PathBuf>,
    /// MiB that the text tower may keep between its way forward and back. More classes than that takes
    /// are run in parts, forward twice.
    pub memory: usize,
    /// Decides first values, the order of images, and views.
    pub seed: u64,
}

impl PromptOptions {
    /// CoOp as the reference trains it for a number of shots: 50 epochs for one, 100 for two to four,
    /// 200 for more; 16 context vectors before the name, random at first.
    pub fn coop(shots: usize, seed: u64) -> Self {
        Self {
            method: Method::CoOp,
            n_ctx: 16,
            words: None,
            init: None,
            class_specific: false,
            class_position: ClassPosition::End,
            epochs: match shots {
                0..=1 => 50,
                2..=4 => 100,
                _ => 200,
            },
            batch_size: 32,
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

    /// CoCoOp as the reference trains it: 10 epochs, one image an update, a context that starts as
    /// "a photo of a".
    pub fn cocoop(seed: u64) -> Self {
        Self {
            method: Method::CoCoOp,
            n_ctx: 4,
            words: Some("a photo of a".into()),
            epochs: 10,
            batch_size: 1,
            ..Self::coop(16, seed)
        }
    }

    /// Refuses values out of range and combinations that the method does not have.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Config(what));
        let rate = |rate: f64| rate > 0.0 && rate.is_finite();
        if !(1..=1 << 16).contains(&self.n_ctx) {
            return wrong(format!("--n-ctx {}: expected at least 1", self.n_ctx));
        }
        if self.class_specific && self.words.is_some() {
            return wrong(
                "class-specific contexts start at random: leave --words or --class-specific out"
                    .into(),
            );
        }
        if self.method == Method::CoCoOp
            && (self.class_specific || self.class_position != ClassPosition::End)
        {
            return wrong(
                "CoCoOp has one context for all classes, before the name: leave --class-specific and \
                 --class-position out"
                    .into(),
            );
        }
        let fine = (1..=1 << 20).contains(&self.epochs)
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
        match fine {
            true => Ok(()),
            false => wrong(format!(
                "hyper-parameters out of range (epochs 1 to 1048576, batch size 1 to 65536, learning \
                 rates > 0, momentum in 0..1, dampening 0 to 1, weight decay >= 0, views up to 4096, \
                 crop in 0..1, memory 1 to 1048576 MiB): {self:?}"
            )),
        }
    }

    /// Updates in an epoch over `images`: as in Dassl's loader, what is left behind the last whole
    /// batch is dropped, unless there is no whole batch.
    pub fn steps_per_epoch(&self, images: usize) -> u64 {
        (images / self.batch_size.max(1)).max(1) as u64
    }
}
