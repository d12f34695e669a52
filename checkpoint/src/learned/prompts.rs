//! The tensors of learned context vectors, which CoOp's followers have in common.

use pinhole_model::{EmbeddedNames, Learned, LearnedClasses, PromptLearner};

use super::method::{LearnedTensors, TensorSpec};
use crate::Error;

/// Learned context vectors.
pub(crate) const CONTEXT: &str = "ctx";
/// Embedded start of text and names of the training's classes.
pub(super) const PREFIX: &str = "token_prefix";
pub(super) const SUFFIX: &str = "token_suffix";
/// CoCoOp's network.
pub(crate) const META_NET: [&str; 4] = [
    "meta_net.linear1.weight",
    "meta_net.linear1.bias",
    "meta_net.linear2.weight",
    "meta_net.linear2.bias",
];
/// Key of the class position in the metadata of a safetensors file.
pub(crate) const POSITION: &str = "class_position";

/// One context for all classes, or one for each.
pub(super) const ANY_CONTEXT: TensorSpec = TensorSpec::required(
    CONTEXT,
    &[&["n_ctx", "width"], &["classes", "n_ctx", "width"]],
);
pub(super) const SHARED_CONTEXT: TensorSpec = TensorSpec::required(CONTEXT, &[&["n_ctx", "width"]]);
pub(super) const TOKEN_PREFIX: TensorSpec =
    TensorSpec::optional(PREFIX, &[&["classes", "1", "width"]]);
pub(super) const TOKEN_SUFFIX: TensorSpec =
    TensorSpec::optional(SUFFIX, &[&["classes", "rows", "width"]]);

/// Context vectors without a network.
pub(super) fn read_context(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let learner = PromptLearner {
        context: tensors.tensor(CONTEXT)?,
        meta_net: None,
        class_position: None,
    };
    with_names(tensors, learner)
}

/// The learner with what its file states beside the weights.
pub(super) fn with_names(
    tensors: &LearnedTensors,
    learner: PromptLearner,
) -> Result<Learned, Error> {
    let class_position = match tensors.metadata(POSITION) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            let field = format!("metadata {POSITION}");
            Error::config(tensors.path(), field, "end, middle or front", text)
        })?),
    };
    let names = (tensors.optional(PREFIX)?)
        .zip(tensors.optional(SUFFIX)?)
        .map(|(prefix, suffix)| EmbeddedNames { prefix, suffix });
    Ok(tensors.learned(LearnedClasses::Prompts {
        learner: Box::new(PromptLearner {
            class_position,
            ..learner
        }),
        names,
    }))
}
