//! Writing of what was learned, under the names that [`read_learned`](super::read_learned) knows.

use std::collections::HashMap;
use std::path::Path;

use pinhole_model::{Learned, LearnedClasses, PromptLearner, Tensor};
use safetensors::tensor::TensorView;

use super::method::Metadata;
use super::methods::{clip_lora, linear, tip_adapter};
use super::prompts::{CONTEXT, META_NET, POSITION};
use super::trained_classes;
use crate::{Dtype, Error};

/// Writes a prompt learner as safetensors in f32, under the reference's names, in place of any file at
/// `path`, with the names of the classes that it was trained with, if they are known. The file appears whole or not at all.
///
/// # Errors
/// NaN or infinity in a tensor; the errors of the file system.
pub fn write_prompt_learner(
    path: &Path,
    learner: &PromptLearner,
    classes: &[String],
) -> Result<(), Error> {
    let mut tensors = vec![(CONTEXT, &learner.context)];
    if let Some(net) = &learner.meta_net {
        let all = [
            &net.linear1_weight,
            &net.linear1_bias,
            &net.linear2_weight,
            &net.linear2_bias,
        ];
        tensors.extend(META_NET.into_iter().zip(all));
    }
    let position = learner.class_position;
    let position = position.map(|position| (POSITION.to_owned(), position.to_string()));
    write(path, &tensors, classes, position.into_iter().collect())
}

/// Writes what a method learned as safetensors in f32, such that [`read_learned`](super::read_learned) reads it again: context
/// vectors, a linear head, a cache of examples, or changes of the image encoder's attention (LoRA), with the names of the classes
/// if they are known. A file at `path` is replaced; it appears whole or not at all.
///
/// # Errors
/// Another form; NaN or infinity in a tensor; the errors of the file system.
pub fn write_learned(path: &Path, learned: &Learned) -> Result<(), Error> {
    let other = |problem: String| Error::malformed(path, format!("not written: {problem}"));
    let unknown = || {
        let expected = "context vectors, a linear head, a cache or LoRA of the image encoder";
        other(format!("{}: expected {expected}", learned.method))
    };
    let in_encoders = !learned.image_tokens.is_empty() || !learned.encoders.is_empty();
    if in_encoders || learned.tail.is_some() || learned.deep_prompts.is_some() {
        return Err(unknown());
    }
    let (tensors, metadata) = match (&learned.classes, learned.weights.as_slice()) {
        (LearnedClasses::Prompts { learner, .. }, []) => {
            return write_prompt_learner(path, learner, &learned.trained_classes);
        }
        (LearnedClasses::Linear(classifier), []) => (linear::tensors(classifier), vec![]),
        (LearnedClasses::Cache(cache), []) => (tip_adapter::tensors(learned.method, cache), vec![]),
        (LearnedClasses::Templates, [_, ..]) => {
            clip_lora::tensors(&learned.weights).map_err(other)?
        }
        _ => return Err(unknown()),
    };
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let named: Vec<_> = named.collect();
    write(path, &named, &learned.trained_classes, metadata)
}

fn write(
    path: &Path,
    tensors: &[(&str, &Tensor)],
    classes: &[String],
    metadata: Metadata,
) -> Result<(), Error> {
    let mut bytes = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if let Some(index) = tensor.data.iter().position(|value| !value.is_finite()) {
            return Err(Error::NotFinite {
                path: path.to_owned(),
                name: (*name).to_owned(),
                index,
                value: tensor.data[index],
            });
        }
        let data = tensor.data.iter().flat_map(|v| v.to_le_bytes());
        bytes.push(data.collect::<Vec<u8>>());
    }
    let wrong = |error: safetensors::SafeTensorError| {
        Error::malformed(path, format!("not written: {error}"))
    };
    let mut views = Vec::with_capacity(tensors.len());
    for ((name, tensor), data) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data).map_err(wrong)?;
        views.push((*name, view));
    }
    let mut all = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    all.extend(metadata);
    all.extend(trained_classes::metadata(classes));
    let file = safetensors::serialize(views, Some(all)).map_err(wrong)?;
    pinhole_fs::write(path, &file).map_err(Error::io(path, "write"))
}
