//! ProGrad: CoOp whose gradients may not contradict those of hand-written prompts.

use pinhole_model::LearnedForm;

use super::super::method::{Files, Method, Recognition};
use super::super::prompts::{ANY_CONTEXT, TOKEN_PREFIX, TOKEN_SUFFIX, read_context};

pub(crate) static PROGRAD: Method = Method {
    key: "prograd",
    name: "ProGrad",
    source: "Zhu et al., ICCV 2023; BeierZhu/Prompt-align",
    forms: &[LearnedForm::ClassEmbeddings],
    options: &[],
    files: Files::Trainer("prompt_learner"),
    // The tensors are CoOp's, and so is what is computed with them.
    recognition: Recognition::Name,
    tensors: &[ANY_CONTEXT, TOKEN_PREFIX, TOKEN_SUFFIX],
    aliases: &[],
    read: read_context,
};
