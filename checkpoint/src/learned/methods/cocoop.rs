//! CoCoOp: context vectors that a network shifts by the image's embedding.

use pinhole_model::{Learned, LearnedForm, MetaNet, PromptLearner};

use super::super::method::{Files, LearnedTensors, Method, Recognition, TensorSpec};
use super::super::prompts::{
    CONTEXT, META_NET, SHARED_CONTEXT, TOKEN_PREFIX, TOKEN_SUFFIX, with_names,
};
use crate::Error;

pub(crate) static COCOOP: Method = Method {
    key: "cocoop",
    name: "CoCoOp",
    source: "Zhou et al., CVPR 2022; KaiyangZhou/CoOp",
    forms: &[LearnedForm::ConditionalHead],
    options: &[],
    files: Files::Trainer("prompt_learner"),
    recognition: Recognition::Tensors,
    tensors: &[
        SHARED_CONTEXT,
        TensorSpec::required(META_NET[0], &[&["hidden", "embedding"]]),
        TensorSpec::required(META_NET[1], &[&["hidden"]]),
        TensorSpec::required(META_NET[2], &[&["width", "hidden"]]),
        TensorSpec::required(META_NET[3], &[&["width"]]),
        TOKEN_PREFIX,
        TOKEN_SUFFIX,
    ],
    aliases: &[],
    read,
};

fn read(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let learner = PromptLearner {
        context: tensors.tensor(CONTEXT)?,
        meta_net: Some(MetaNet {
            linear1_weight: tensors.tensor(META_NET[0])?,
            linear1_bias: tensors.tensor(META_NET[1])?,
            linear2_weight: tensors.tensor(META_NET[2])?,
            linear2_bias: tensors.tensor(META_NET[3])?,
        }),
        class_position: None,
    };
    with_names(tensors, learner)
}
