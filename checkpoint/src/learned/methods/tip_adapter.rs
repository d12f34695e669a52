//! Tip-Adapter: a cache of the training images' embeddings beside class embeddings; in Tip-Adapter-F its keys are trained.

use pinhole_model::{ExampleCache, Learned, LearnedClasses, LearnedForm, Tensor};

use super::super::method::{Files, LearnedTensors, Method, MethodOption, Recognition, TensorSpec};
use crate::Error;

const KEYS: &str = "keys";
const VALUES: &str = "values";
const TRAINED_KEYS: &str = "best_F";
const SOURCE: &str = "Zhang et al., ECCV 2022; gaopengcuhk/Tip-Adapter";

/// The reference searches both, and saves neither.
const OPTIONS: &[MethodOption] = &[
    MethodOption {
        name: "alpha",
        help: "weight of the cache, in logits; searched on the labelled images of --calibration without it",
        default: None,
        range: [0.0, 1000.0],
    },
    MethodOption {
        name: "beta",
        help: "sharpness of the cache; searched on the labelled images of --calibration without it",
        default: None,
        range: [0.0, 1000.0],
    },
];
const ONE_HOT: TensorSpec = TensorSpec::required(VALUES, &[&["examples", "classes"]]);

pub(crate) static TIP_ADAPTER: Method = Method {
    key: "tip-adapter",
    name: "Tip-Adapter",
    source: SOURCE,
    forms: &[LearnedForm::CacheHead],
    options: OPTIONS,
    files: Files::Set(&["keys_*shots.pt", "values_*shots.pt"]),
    recognition: Recognition::Tensors,
    tensors: &[
        TensorSpec::required(KEYS, &[&["embedding", "examples"]]),
        ONE_HOT,
    ],
    aliases: &[("keys_*shots", KEYS), ("values_*shots", VALUES)],
    read: read_columns,
};

pub(crate) static TIP_ADAPTER_F: Method = Method {
    key: "tip-adapter-f",
    name: "Tip-Adapter-F",
    source: SOURCE,
    forms: &[LearnedForm::CacheHead],
    options: OPTIONS,
    files: Files::Set(&["best_F_*shots.pt", "values_*shots.pt"]),
    recognition: Recognition::Tensors,
    tensors: &[
        TensorSpec::required(TRAINED_KEYS, &[&["examples", "embedding"]]),
        ONE_HOT,
    ],
    aliases: &[("best_F_*shots", TRAINED_KEYS), ("values_*shots", VALUES)],
    read: read_rows,
};

/// The keys are columns.
fn read_columns(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let columns = tensors.tensor(KEYS)?;
    let [size, examples] = columns.shape[..] else {
        return Err(tensors.wrong(KEYS, "a matrix", format!("{:?}", columns.shape)));
    };
    let data = (0..examples)
        .flat_map(|example| (0..size).map(move |i| i * examples + example))
        .map(|at| columns.data[at])
        .collect();
    let shape = vec![examples, size];
    read(tensors, Tensor { shape, data })
}

/// The keys are the weight of a linear layer.
fn read_rows(tensors: &LearnedTensors) -> Result<Learned, Error> {
    read(tensors, tensors.tensor(TRAINED_KEYS)?)
}

fn read(tensors: &LearnedTensors, keys: Tensor) -> Result<Learned, Error> {
    let values = tensors.tensor(VALUES)?;
    let classes = values.shape.last().copied().unwrap_or(0);
    let mut labels = vec![];
    for (i, row) in values.data.chunks_exact(classes.max(1)).enumerate() {
        let label = row.iter().position(|value| *value == 1.0);
        let others = row.iter().filter(|value| **value != 0.0).count();
        let (Some(label), 1) = (label, others) else {
            let found = format!("{others} others than 0 in row {i}");
            return Err(tensors.wrong(VALUES, "rows with one 1, that of the class", found));
        };
        labels.push(label);
    }
    Ok(tensors.learned(LearnedClasses::Cache(ExampleCache {
        keys,
        labels,
        classes,
        alpha: tensors.option("alpha"),
        beta: tensors.option("beta"),
    })))
}
