//! IVLP: tokens in both encoders, learned independently. PromptSRC regularises their training.

use pinhole_model::{Learned, LearnedForm, Tensor};

use super::super::deep_prompts::{ALIASES, ENCODERS, learned, numbered};
use super::super::method::{Files, LearnedTensors, Method, Presence, Recognition, TensorSpec};
use super::super::prompts::{SHARED_CONTEXT, TOKEN_PREFIX, TOKEN_SUFFIX};
use crate::Error;

const FOLDER: &str = "VLPromptLearner";
const SHALLOW: &str = "image_encoder.VPT";
const IMAGE: &str = "image_encoder.transformer.resblocks.*.VPT_shallow";
const TEXT: &str = "text_encoder.transformer.resblocks.*.VPT_shallow";
const IMAGE_TOKENS: &[&[&str]] = &[&["n_image", "image_width"]];

pub(crate) static IVLP: Method = Method {
    key: "ivlp",
    name: "IVLP",
    source: "Khattak et al., CVPR 2023; muzairkhattak/multimodal-prompt-learning",
    forms: &[LearnedForm::ImageTokens, LearnedForm::ClassEmbeddings],
    options: &[],
    files: Files::Trainer(FOLDER),
    recognition: Recognition::Tensors,
    tensors: &[
        SHARED_CONTEXT,
        TensorSpec::required(SHALLOW, IMAGE_TOKENS),
        TensorSpec::optional(IMAGE, IMAGE_TOKENS),
        TensorSpec::optional(TEXT, &[&["n_ctx", "width"]]),
        TOKEN_PREFIX,
        TOKEN_SUFFIX,
        ENCODERS[0],
        ENCODERS[1],
        ENCODERS[2],
    ],
    aliases: ALIASES,
    read,
};

pub(crate) static PROMPTSRC: Method = Method {
    key: "promptsrc",
    name: "PromptSRC",
    source: "Khattak et al., ICCV 2023; muzairkhattak/PromptSRC",
    forms: IVLP.forms,
    options: &[],
    files: Files::Trainer(FOLDER),
    recognition: Recognition::Tensors,
    tensors: &[
        SHARED_CONTEXT,
        TensorSpec::required(SHALLOW, IMAGE_TOKENS),
        TensorSpec::optional(IMAGE, IMAGE_TOKENS),
        TensorSpec::optional(TEXT, &[&["n_ctx", "width"]]),
        TensorSpec::new(
            "ZS_image_encoder.*",
            &[],
            Presence::Mark("the training alone compares with this copy of CLIP"),
        ),
        TOKEN_PREFIX,
        TOKEN_SUFFIX,
        ENCODERS[0],
        ENCODERS[1],
        ENCODERS[2],
    ],
    aliases: ALIASES,
    read,
};

fn read(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let all = |names: Vec<String>| -> Result<Vec<Tensor>, Error> {
        names.iter().map(|name| tensors.tensor(name)).collect()
    };
    let mut image = vec![tensors.tensor(SHALLOW)?];
    image.extend(all(numbered(tensors, IMAGE, 1)?)?);
    let text = all(numbered(tensors, TEXT, 1)?)?;
    learned(tensors, image, text)
}
