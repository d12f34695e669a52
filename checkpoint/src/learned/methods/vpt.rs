//! VPT: tokens in the image encoder alone, beside prompt templates.

use pinhole_model::{Learned, LearnedClasses, LearnedForm};

use super::super::deep_prompts::{ENCODERS, numbered, with_image_tokens};
use super::super::method::{Files, LearnedTensors, Method, Recognition, TensorSpec};
use crate::Error;

const SHALLOW: &str = "image_encoder.VPT";
const DEEP: &str = "image_encoder.transformer.resblocks.*.VPT_shallow";
const TOKENS: &[&[&str]] = &[&["n_image", "image_width"]];

pub(crate) static VPT: Method = Method {
    key: "vpt",
    name: "VPT",
    source: "Jia et al., ECCV 2022; muzairkhattak/multimodal-prompt-learning, trainers/vpt.py",
    forms: &[LearnedForm::ImageTokens],
    options: &[],
    files: Files::Trainer("prompt_learner"),
    recognition: Recognition::Tensors,
    tensors: &[
        TensorSpec::required(SHALLOW, TOKENS),
        TensorSpec::optional(DEEP, TOKENS),
        ENCODERS[0],
        ENCODERS[1],
        ENCODERS[2],
    ],
    aliases: &[],
    read,
};

fn read(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let mut tokens = vec![tensors.tensor(SHALLOW)?];
    for name in numbered(tensors, DEEP, 1)? {
        tokens.push(tensors.tensor(&name)?);
    }
    with_image_tokens(tensors, tokens, tensors.learned(LearnedClasses::Templates))
}
