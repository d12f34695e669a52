//! Files of prompt learners: CoOp's context vectors, and CoCoOp's meta-net.

use std::collections::HashMap;
use std::path::Path;

use pinhole_model::{MetaNet, PromptLearner, Tensor};
use safetensors::tensor::TensorView;

use crate::{Dtype, Error, StateDict, locate, read_state_dict};

const CONTEXT: &str = "ctx";
const META_NET: [&str; 4] = [
    "meta_net.linear1.weight",
    "meta_net.linear1.bias",
    "meta_net.linear2.weight",
    "meta_net.linear2.bias",
];
/// Embedded names of the training classes, which are computed again for any classes.
const IGNORED: [&str; 2] = ["token_prefix", "token_suffix"];
/// Key of the class position in the metadata of a safetensors file.
const POSITION: &str = "class_position";

/// Reads a prompt learner: the reference's `prompt_learner/model.pth.tar-N` (zip or legacy pickle,
/// f32, f16 or bf16, with or without `prompt_learner.` before the names), a file of
/// [`write_prompt_learner`], or the output folder of a training that has one of these.
///
/// `token_prefix` and `token_suffix` are ignored, so that a file works with any class names.
///
/// # Errors
/// A folder with none or several; a file that cannot be read or has tensors of another method; shapes that contradict each other;
/// NaN or infinity.
pub fn read_prompt_learner(path: &Path) -> Result<PromptLearner, Error> {
    let path = &locate::prompt_learner(path)?;
    let state = read_state_dict(path)?;
    let clip = ["visual.", "vision_model.", "token_embedding."];
    if (state.names()).any(|name| clip.iter().any(|prefix| name.starts_with(prefix))) {
        return Err(Error::malformed(
            path,
            "expected a prompt learner, found a CLIP checkpoint; are two arguments swapped?",
        ));
    }
    let prefix = match state
        .names()
        .all(|name| name.starts_with("prompt_learner."))
    {
        true => "prompt_learner.",
        false => "",
    };
    for name in state.names() {
        let bare = &name[prefix.len()..];
        if bare != CONTEXT && !META_NET.contains(&bare) && !IGNORED.contains(&bare) {
            return Err(Error::SurplusTensor {
                path: path.to_owned(),
                name: name.to_owned(),
                shape: state.info(name).map_or(vec![], |info| info.shape.clone()),
                expected: "the prompt learner of CoOp (ctx) or CoCoOp (ctx and meta_net)".into(),
            });
        }
    }
    let tensor = |name: &str, dimensions: &[usize], meaning: &str| {
        let name = format!("{prefix}{name}");
        let tensor = present(&state, &name)?;
        if !dimensions.contains(&tensor.shape.len()) || tensor.shape.contains(&0) {
            return Err(Error::config(
                path,
                name,
                meaning,
                format!("shape {:?}", tensor.shape),
            ));
        }
        Ok(tensor)
    };
    let context = tensor(
        CONTEXT,
        &[2, 3],
        "[n_ctx, width] or, class-specific, [classes, n_ctx, width]",
    )?;
    let width = context.shape[context.shape.len() - 1];
    let has_meta_net = state
        .names()
        .any(|name| name[prefix.len()..].starts_with("meta_net."));
    let meta_net = if has_meta_net {
        let meta_net = MetaNet {
            linear1_weight: tensor(META_NET[0], &[2], "[hidden, embedding]")?,
            linear1_bias: tensor(META_NET[1], &[1], "[hidden]")?,
            linear2_weight: tensor(META_NET[2], &[2], "[width, hidden]")?,
            linear2_bias: tensor(META_NET[3], &[1], "[width]")?,
        };
        let hidden = meta_net.linear1_weight.shape[0];
        for (name, tensor, expected) in [
            (META_NET[1], &meta_net.linear1_bias, vec![hidden]),
            (META_NET[2], &meta_net.linear2_weight, vec![width, hidden]),
            (META_NET[3], &meta_net.linear2_bias, vec![width]),
        ] {
            if tensor.shape != expected {
                return Err(Error::Shape {
                    path: path.to_owned(),
                    name: format!("{prefix}{name}"),
                    expected,
                    found: tensor.shape.clone(),
                });
            }
        }
        Some(meta_net)
    } else {
        None
    };
    if meta_net.is_some() && context.shape.len() == 3 {
        return Err(Error::config(
            path,
            format!("{prefix}{CONTEXT}"),
            "[n_ctx, width], since CoCoOp has no class-specific contexts",
            format!("shape {:?}", context.shape),
        ));
    }
    let class_position = match state.metadata(POSITION) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            let field = format!("metadata {POSITION}");
            Error::config(path, field, "end, middle or front", text)
        })?),
    };
    Ok(PromptLearner {
        context,
        meta_net,
        class_position,
    })
}

fn present(state: &StateDict, name: &str) -> Result<Tensor, Error> {
    state.tensor(name).map_err(|error| match error {
        Error::NoSuchTensor { path, name } => Error::config(
            &path,
            name,
            "a tensor of a prompt learner (CoOp's ctx, and CoCoOp's four meta_net tensors)",
            "none",
        ),
        other => other,
    })
}

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
