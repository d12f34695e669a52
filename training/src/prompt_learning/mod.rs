//! CoOp and CoCoOp: learning the words around a class name, the towers being frozen.

mod options;

use std::path::Path;

use pinhole_checkpoint::{Checkpoint, PromptLearner};

use crate::{Error, Result, dataset::Item, train::Record};

pub use options::{Method, PromptOptions};

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

/// Trains on the items, whose labels index `classes`; writes log, state, plot and
/// `prompt_learner.safetensors` into `out`, and continues from there with `resume`.
///
/// # Errors
/// Not there yet.
pub fn train(
    _clip: &Checkpoint,
    _classes: &[String],
    _items: &[Item],
    options: &PromptOptions,
    _out: &Path,
    _resume: bool,
    _progress: &mut dyn FnMut(Progress),
) -> Result<PromptLearner> {
    options.check()?;
    Err(Error::Config("not there yet".into()))
}
