//! KgCoOp: CoOp with a loss that keeps class embeddings near those of hand-written prompts.

use pinhole_model::LearnedForm;

use super::super::method::{Files, Method, Presence, Recognition, TensorSpec};
use super::super::prompts::{META_NET, SHARED_CONTEXT, TOKEN_PREFIX, TOKEN_SUFFIX, read_context};

/// Its trainer creates these and neither trains nor reads them.
const LEFTOVER: Presence = Presence::Mark("the reference implementation does not use them");

pub(crate) static KGCOOP: Method = Method {
    key: "kgcoop",
    name: "KgCoOp",
    source: "Yao et al., CVPR 2023; htyao89/KgCoOp",
    forms: &[LearnedForm::ClassEmbeddings],
    options: &[],
    files: Files::Trainer("prompt_learner"),
    recognition: Recognition::Tensors,
    tensors: &[
        SHARED_CONTEXT,
        TensorSpec::new("bias_vectors", &[&["1", "width"]], LEFTOVER),
        TensorSpec::new(META_NET[0], &[&["hidden", "embedding"]], LEFTOVER),
        TensorSpec::new(META_NET[1], &[&["hidden"]], LEFTOVER),
        TOKEN_PREFIX,
        TOKEN_SUFFIX,
    ],
    aliases: &[],
    read: read_context,
};
