//! TaskRes: class embeddings of hand-written prompts, plus learned residuals.

use pinhole_model::{Learned, LearnedClasses, LearnedForm};

use super::super::method::{Files, LearnedTensors, Method, MethodOption, Recognition, TensorSpec};
use crate::Error;

const BASE: &str = "base_text_features";
const RESIDUALS: &str = "text_feature_residuals";

pub(crate) static TASKRES: Method = Method {
    key: "taskres",
    name: "TaskRes",
    source: "Yu et al., CVPR 2023; geekyutao/TaskRes",
    forms: &[LearnedForm::ClassEmbeddings],
    options: &[MethodOption {
        name: "alpha",
        help: "factor of the residuals, TRAINER.TaskRes.RESIDUAL_SCALE of the training",
        default: Some(1.0),
        range: [0.0, 100.0],
    }],
    files: Files::Trainer("prompt_learner"),
    recognition: Recognition::Tensors,
    tensors: &[
        TensorSpec::required(BASE, &[&["classes", "embedding"]]),
        TensorSpec::required(RESIDUALS, &[&["classes", "embedding"]]),
    ],
    aliases: &[],
    read,
};

/// Class embeddings t + alpha x (equation 3).
fn read(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let mut embeddings = tensors.tensor(BASE)?;
    let residuals = tensors.tensor(RESIDUALS)?;
    let alpha = tensors.option("alpha").unwrap_or(1.0);
    let pairs = embeddings.data.iter_mut().zip(&residuals.data);
    pairs.for_each(|(value, residual)| *value += alpha * residual);
    Ok(tensors.learned(LearnedClasses::Embeddings(embeddings)))
}
