//! MaPLe: tokens in both encoders, those of the image encoder being projections of the text encoder's. CoPrompt adds small
//! layers behind both.

use pinhole_model::{DeepPrompts, Learned, LearnedForm, Tail, Tensor};

use super::super::deep_prompts::{ALIASES, ENCODERS, learned, numbered};
use super::super::method::{
    Files, LearnedTensors, Method, MethodOption, Presence, Recognition, TensorSpec,
};
use super::super::prompts::{CONTEXT, SHARED_CONTEXT, TOKEN_PREFIX, TOKEN_SUFFIX};
use crate::Error;

const FOLDER: &str = "MultiModalPromptLearner";
const WEIGHT: &[&[&str]] = &[&["image_width", "width"]];
const BIAS: &[&[&str]] = &[&["image_width"]];
const SHALLOW: [&str; 2] = ["proj.weight", "proj.bias"];
const DEEP: &str = "compound_prompts_text.*";
const PROJECTIONS: [&str; 2] = [
    "compound_prompt_projections.*.weight",
    "compound_prompt_projections.*.bias",
];
const IMAGE_ADAPTER: [&str; 2] = ["adapter_image.fc.0.weight", "adapter_image.fc.2.weight"];
const TEXT_ADAPTER: [&str; 2] = ["adapter_text.fc.0.weight", "adapter_text.fc.2.weight"];
const DOWN: &[&[&str]] = &[&["hidden", "embedding"]];
const UP: &[&[&str]] = &[&["embedding", "hidden"]];

pub(crate) static MAPLE: Method = Method {
    key: "maple",
    name: "MaPLe",
    source: "Khattak et al., CVPR 2023; muzairkhattak/multimodal-prompt-learning",
    forms: &[LearnedForm::ImageTokens, LearnedForm::ClassEmbeddings],
    options: &[],
    files: Files::Trainer(FOLDER),
    recognition: Recognition::Tensors,
    tensors: &[
        SHARED_CONTEXT,
        TensorSpec::required(SHALLOW[0], WEIGHT),
        TensorSpec::required(SHALLOW[1], BIAS),
        TensorSpec::optional(DEEP, &[&["n_ctx", "width"]]),
        TensorSpec::optional(PROJECTIONS[0], WEIGHT),
        TensorSpec::optional(PROJECTIONS[1], BIAS),
        TOKEN_PREFIX,
        TOKEN_SUFFIX,
        ENCODERS[0],
        ENCODERS[1],
        ENCODERS[2],
    ],
    aliases: ALIASES,
    read,
};

pub(crate) static COPROMPT: Method = Method {
    key: "coprompt",
    name: "CoPrompt",
    source: "Roy and Etemad, ICLR 2024; ShuvenduRoy/CoPrompt",
    forms: &[
        LearnedForm::ImageTokens,
        LearnedForm::Tail,
        LearnedForm::ClassEmbeddings,
    ],
    options: &[
        MethodOption {
            name: "image-ratio",
            help: "share of the adapter in the image embedding, `image_adapter_m` in coprompt.py",
            default: Some(0.1),
            range: [0.001, 0.999],
        },
        MethodOption {
            name: "text-ratio",
            help: "share of the adapter in the class embeddings, `text_adapter_m` in coprompt.py",
            default: Some(0.2),
            range: [0.001, 0.999],
        },
    ],
    files: Files::Trainer(FOLDER),
    recognition: Recognition::Tensors,
    tensors: &[
        SHARED_CONTEXT,
        TensorSpec::required(SHALLOW[0], WEIGHT),
        TensorSpec::required(SHALLOW[1], BIAS),
        TensorSpec::optional(DEEP, &[&["n_ctx", "width"]]),
        TensorSpec::optional(PROJECTIONS[0], WEIGHT),
        TensorSpec::optional(PROJECTIONS[1], BIAS),
        TensorSpec::required(IMAGE_ADAPTER[0], DOWN),
        TensorSpec::required(IMAGE_ADAPTER[1], UP),
        TensorSpec::required(TEXT_ADAPTER[0], DOWN),
        TensorSpec::required(TEXT_ADAPTER[1], UP),
        TensorSpec::new(
            "model_distill.*",
            &[],
            Presence::Unused("the training alone compares with this copy of CLIP"),
        ),
        TOKEN_PREFIX,
        TOKEN_SUFFIX,
        ENCODERS[0],
        ENCODERS[1],
        ENCODERS[2],
    ],
    aliases: ALIASES,
    read: read_coprompt,
};

fn read(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let context = tensors.tensor(CONTEXT)?;
    let mut image = vec![projected(tensors, SHALLOW.map(str::to_owned), &context)?];
    let mut text = vec![];
    for (i, name) in numbered(tensors, DEEP, 0)?.into_iter().enumerate() {
        let tokens = tensors.tensor(&name)?;
        let projection = PROJECTIONS.map(|pattern| pattern.replace('*', &i.to_string()));
        image.push(projected(tensors, projection, &tokens)?);
        text.push(tokens);
    }
    for pattern in PROJECTIONS {
        if let Some(surplus) = numbered(tensors, pattern, 0)?.get(text.len()) {
            let expected = format!("{} of these, as of {DEEP}", text.len());
            return Err(tensors.wrong(surplus, expected, "another".into()));
        }
    }
    learned(tensors, image, text)
}

fn read_coprompt(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let learned = read(tensors)?;
    let tail = |[down, up]: [&str; 2], option: &str, default: f32| {
        Ok(Some(Tail {
            down: tensors.tensor(down)?,
            up: tensors.tensor(up)?,
            share: tensors.option(option).unwrap_or(default),
        }))
    };
    let text = tail(TEXT_ADAPTER, "text-ratio", 0.2)?;
    let with_tail = |prompts| DeepPrompts {
        tail: text,
        ..prompts
    };
    Ok(Learned {
        tail: tail(IMAGE_ADAPTER, "image-ratio", 0.1)?,
        deep_prompts: learned.deep_prompts.map(with_tail),
        ..learned
    })
}

/// x W^T + b of the rows of x [n, width], for W [image width, width]; the shapes have been compared.
fn projected(
    tensors: &LearnedTensors,
    [weight, bias]: [String; 2],
    x: &Tensor,
) -> Result<Tensor, Error> {
    for name in [&weight, &bias] {
        if tensors.shape(name).is_none() {
            let expected = format!("a tensor, as the file has as many of {DEEP}");
            return Err(tensors.wrong(name, expected, "none".into()));
        }
    }
    let (weight, bias) = (tensors.tensor(&weight)?, tensors.tensor(&bias)?);
    let (count, inputs, outputs) = (x.shape[0], x.shape[1], bias.data.len());
    let mut data = Vec::with_capacity(count * outputs);
    for row in x.data.chunks_exact(inputs) {
        for (weight, bias) in weight.data.chunks_exact(inputs).zip(&bias.data) {
            let terms = row.iter().zip(weight);
            let sum: f64 = terms.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            data.push((sum + f64::from(*bias)) as f32);
        }
    }
    Ok(Tensor {
        shape: vec![count, outputs],
        data,
    })
}
