//! What differs between prompt-learning methods.

use pinhole_model::{ClassPosition, PromptLearner};
use pinhole_prompts::{Classes, TextEncoder, Tokenizer};

use super::{text_model::TextModel, weight::Weight};
use crate::{Result, class_head::ClassHead, random::SeededRng};

/// A prompt-learning method. Commands, training, evaluation and the base-to-new protocol know methods
/// through this trait only; a new method is a file in `methods/` and an entry in its registry.
pub(super) trait PromptMethod: Sync {
    /// Name in reports, such as "CoOp".
    fn name(&self) -> &'static str;

    /// Name of the command, the output folder and the option, such as "coop".
    fn key(&self) -> &'static str;

    /// The option of the base-to-new command for the method's epochs.
    fn epochs_flag(&self) -> &'static str;

    /// One line of help.
    fn about(&self) -> &'static str;

    /// Default hyper-parameters for a number of shots.
    fn recipe(&self, shots: usize) -> Recipe;

    /// The prompts that the method supports.
    fn prompt_forms(&self) -> PromptForms;

    /// Initial weights besides the context vectors, for a text encoder of width `width` and image embeddings
    /// of length `embedding`. `rng` gives the random stream of a number, from 1.
    fn extra_weights(
        &self,
        width: usize,
        embedding: usize,
        rng: &dyn Fn(u64) -> SeededRng,
    ) -> Vec<Weight>;

    /// Loss and gradients of a batch: images [batch, embedding], L2-normalised, and their labels.
    ///
    /// The loss is the mean cross-entropy of logit_scale * f . t over the classes, with t L2-normalised.
    fn loss_and_gradients(
        &self,
        text: &TextModel,
        weights: &[Weight],
        images: &[f32],
        labels: &[usize],
    ) -> Result<PromptGradients>;

    /// Whether this method trained a prompt learner.
    fn trained(&self, learner: &PromptLearner) -> bool;

    /// Whether the extra weights of a prompt learner fit image embeddings of length `embedding`; the
    /// problem if not.
    fn check_learner(
        &self,
        learner: &PromptLearner,
        embedding: usize,
    ) -> std::result::Result<(), String>;

    /// The weights of a prompt learner, the context vectors first.
    fn to_weights(&self, learner: PromptLearner) -> Vec<Weight>;

    /// The prompt learner of weights, without a class position.
    fn to_learner(&self, weights: &[Weight]) -> PromptLearner;

    /// The classification head of a prompt learner for some classes.
    fn head(
        &self,
        encoder: &TextEncoder,
        tokenizer: &Tokenizer,
        classes: &Classes,
        learner: &PromptLearner,
        position: ClassPosition,
    ) -> Result<ClassHead>;
}

/// The hyper-parameters whose defaults differ between methods.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Number of context vectors with random initial values.
    pub n_ctx: usize,
    /// Words whose token embeddings are the initial context vectors.
    pub words: Option<String>,
    /// Passes over the images.
    pub epochs: u64,
    /// Images per update.
    pub batch_size: usize,
}

/// The prompts that a method supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptForms {
    /// One context for all classes, before the class name.
    SharedBeforeName,
    /// Also class-specific contexts and other positions of the class name.
    All,
}

/// Loss and gradients of a batch.
pub(super) struct PromptGradients {
    pub(super) loss: f32,
    /// Number of correct predictions.
    pub(super) correct: usize,
    /// In the order of the weights.
    pub(super) gradients: Vec<Vec<f32>>,
}
