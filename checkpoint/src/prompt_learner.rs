//! Writing of prompt learners, under the names of the reference implementation.

use std::collections::HashMap;
use std::path::Path;

use pinhole_model::PromptLearner;
use safetensors::tensor::TensorView;

use crate::learned::prompts::{CONTEXT, META_NET, POSITION};
use crate::{Dtype, Error};

/// Writes a prompt learner as safetensors in f32, under the reference's names, in place of any file at
/// `path`. The file appears whole or not at all.
///
/// # Errors
/// NaN or infinity in a tensor; the errors of the file system.
pub fn write_prompt_learner(path: &Path, learner: &PromptLearner) -> Result<(), Error> {
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
    let mut bytes = Vec::with_capacity(tensors.len());
    for (name, tensor) in &tensors {
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
    let mut metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    if let Some(position) = learner.class_position {
        metadata.insert(POSITION.to_owned(), position.to_string());
    }
    let file = safetensors::serialize(views, Some(metadata)).map_err(wrong)?;
    pinhole_fs::write(path, &file).map_err(Error::io(path, "write"))
}
