//! CoOp and CoCoOp: learning the words around a class name, the towers being frozen.
//!
//! | file | its one job |
//! |---|---|
//! | `options` | the recipe, by default the reference's |
//! | `features` | image embeddings, computed once |
//! | `tree` | the prompts of all classes as one tree of rows |
//! | `tower` | the text tower with its weights held, on such a tree |
//! | `learner` | the weights, their loss and gradients |
//! | `sgd` | PyTorch's SGD, and Dassl's learning rate |
//! | `run` | batches, log, state |
//!
//! The reference is KaiyangZhou/CoOp with KaiyangZhou/Dassl.pytorch. It runs 77 tokens a class, forward
//! and back; here a text is as long as its prompt, what prompts have in common exists once, and what no
//! context has touched is computed once for the whole training. The losses are the same.

mod features;
mod learner;
mod options;
mod run;
mod sgd;
mod tower;
mod tree;

pub use features::{Features, image_features};
pub use options::{Method, PromptOptions};
pub use run::{Intervals, LEARNER_FILE, Training, train, train_with};

use crate::train::Record;

/// What a training is doing.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// Images are encoded, once and before the first update.
    Encoding {
        /// Images, or views of them, done.
        done: usize,
        /// All.
        all: usize,
    },
    /// A line of the log was written.
    Training {
        /// The line.
        record: &'a Record,
        /// Updates of the whole training.
        steps: u64,
    },
}
