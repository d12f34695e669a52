//! CoOp: context vectors that are equal for all images.

use pinhole_model::LearnedForm;

use super::super::method::{Files, Method, Recognition};
use super::super::prompts::{ANY_CONTEXT, TOKEN_PREFIX, TOKEN_SUFFIX, read_context};

pub(crate) static COOP: Method = Method {
    key: "coop",
    name: "CoOp",
    source: "Zhou et al., IJCV 2022; KaiyangZhou/CoOp",
    forms: &[LearnedForm::ClassEmbeddings],
    options: &[],
    files: Files::Trainer("prompt_learner"),
    recognition: Recognition::Tensors,
    tensors: &[ANY_CONTEXT, TOKEN_PREFIX, TOKEN_SUFFIX],
    aliases: &[],
    read: read_context,
};
