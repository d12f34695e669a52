//! CLIP-Adapter: two small layers behind the image encoder, mixed with what it computes.

use pinhole_model::{Learned, LearnedClasses, LearnedForm, Tail};

use super::super::method::{Files, LearnedTensors, Method, MethodOption, Recognition, TensorSpec};
use crate::Error;

const DOWN: &str = "fc.0.weight";
const UP: &str = "fc.2.weight";

pub(crate) static CLIP_ADAPTER: Method = Method {
    key: "clip-adapter",
    name: "CLIP-Adapter",
    source: "Gao et al., IJCV 2024; gaopengcuhk/CLIP-Adapter",
    forms: &[LearnedForm::Tail],
    options: &[MethodOption {
        name: "ratio",
        help: "share of the adapter in the embedding, `ratio` in clip_adapter.py",
        default: Some(0.2),
        range: [0.001, 0.999],
    }],
    files: Files::Trainer("clip_adapter"),
    recognition: Recognition::Tensors,
    tensors: &[
        TensorSpec::required(DOWN, &[&["hidden", "embedding"]]),
        TensorSpec::required(UP, &[&["embedding", "hidden"]]),
    ],
    aliases: &[],
    read,
};

fn read(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let tail = Tail {
        down: tensors.tensor(DOWN)?,
        up: tensors.tensor(UP)?,
        share: tensors.option("ratio").unwrap_or(0.2),
    };
    Ok(Learned {
        tail: Some(tail),
        ..tensors.learned(LearnedClasses::Templates)
    })
}
