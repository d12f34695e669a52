//! Tip-Adapter: a cache of the training images' embeddings beside class embeddings; in Tip-Adapter-F its keys are trained.

use pinhole_model::{ExampleCache, Learned, LearnedClasses, LearnedForm, Tensor};

use super::super::method::{
    Files, LearnedTensors, Method, MethodOption, NamedTensors, Recognition, TensorSpec,
};
use crate::Error;

const KEYS: &str = "keys";
const VALUES: &str = "values";
const TRAINED_KEYS: &str = "best_F";
const ALPHA: &str = "alpha";
const BETA: &str = "beta";
const SOURCE: &str = "Zhang et al., ECCV 2022; gaopengcuhk/Tip-Adapter";

/// The reference searches both, and saves neither; our files have them as tensors of one number.
const OPTIONS: &[MethodOption] = &[
    MethodOption {
        name: ALPHA,
        help: "weight of the cache, in logits; if the file has none, searched on the labelled images of --calibration",
        default: None,
        range: [0.0, 1000.0],
    },
    MethodOption {
        name: BETA,
        help: "sharpness of the cache; if the file has none, searched on the labelled images of --calibration",
        default: None,
        range: [0.0, 1000.0],
    },
];
const ONE_HOT: TensorSpec = TensorSpec::required(VALUES, &[&["examples", "classes"]]);
const WEIGHT: TensorSpec = TensorSpec::optional(ALPHA, &[&["1"]]);
const SHARPNESS: TensorSpec = TensorSpec::optional(BETA, &[&["1"]]);

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
        WEIGHT,
        SHARPNESS,
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
        WEIGHT,
        SHARPNESS,
    ],
    aliases: &[("best_F_*shots", TRAINED_KEYS), ("values_*shots", VALUES)],
    read: read_rows,
};

/// The keys are columns.
fn read_columns(tensors: &LearnedTensors) -> Result<Learned, Error> {
    read(tensors, transposed(&tensors.tensor(KEYS)?))
}

/// The transpose of a matrix.
fn transposed(matrix: &Tensor) -> Tensor {
    let (rows, columns) = (matrix.shape[0], matrix.data.len() / matrix.shape[0].max(1));
    let data = (0..columns)
        .flat_map(|column| (0..rows).map(move |row| row * columns + column))
        .map(|at| matrix.data[at])
        .collect();
    let shape = vec![columns, rows];
    Tensor { shape, data }
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
        alpha: number(tensors, ALPHA)?,
        beta: number(tensors, BETA)?,
    })))
}

/// A number as given, else the file's.
fn number(tensors: &LearnedTensors, name: &str) -> Result<Option<f32>, Error> {
    if let Some(given) = tensors.option(name) {
        return Ok(Some(given));
    }
    let Some(value) = tensors.optional(name)?.map(|tensor| tensor.data[0]) else {
        return Ok(None);
    };
    if !(0.0..=1000.0).contains(&value) {
        return Err(tensors.wrong(name, "0 to 1000", value.to_string()));
    }
    Ok(Some(value))
}

/// The tensors that [`TIP_ADAPTER`] or [`TIP_ADAPTER_F`] reads as this cache.
pub(in crate::learned) fn tensors(method: &str, cache: &ExampleCache) -> NamedTensors {
    let mut values = vec![0.0; cache.labels.len() * cache.classes];
    for (row, label) in values
        .chunks_exact_mut(cache.classes.max(1))
        .zip(&cache.labels)
    {
        row[*label] = 1.0;
    }
    let keys = match method {
        _ if method == TIP_ADAPTER_F.name => (TRAINED_KEYS, cache.keys.clone()),
        _ => (KEYS, transposed(&cache.keys)),
    };
    let shape = vec![cache.labels.len(), cache.classes];
    let numbers = [(ALPHA, cache.alpha), (BETA, cache.beta)];
    let numbers = numbers.into_iter().filter_map(|(name, value)| {
        let data = vec![value?];
        Some((
            name,
            Tensor {
                shape: vec![1],
                data,
            },
        ))
    });
    let values = (
        VALUES,
        Tensor {
            shape,
            data: values,
        },
    );
    (numbers.chain([keys, values]))
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .collect()
}
