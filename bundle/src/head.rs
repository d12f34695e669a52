//! `head.safetensors`: from an embedding to class similarities.

use std::collections::BTreeMap;
use std::path::Path;

use pinhole_model::Tensor;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{Error, Manifest};

/// Unit vectors that an image embedding is compared with, and the learned tensors behind them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// C, the number of classes.
    pub classes: usize,
    /// D, the length of an embedding.
    pub embedding_size: usize,
    /// `class_embeddings`: `[C, D]` row-major, each row of norm 1. Of a conditional head:
    /// as conditioned on the mean calibration image.
    pub class_embeddings: Vec<f32>,
    /// `negative_embeddings`: `[N, D]`, each row of norm 1, for the texts of
    /// [`UnknownPolicy::negatives`](crate::UnknownPolicy::negatives); empty if there are none.
    pub negative_embeddings: Vec<f32>,
    /// The other tensors by name: `context` `[n_ctx, width]` if new classes can be added or the head is
    /// conditional; for a conditional head also `meta_net.linear1.weight` `[hidden, D]`, `meta_net.linear1.bias`,
    /// `meta_net.linear2.weight` `[width, hidden]`, `meta_net.linear2.bias`, the first-order head's
    /// `linear.*`, and `calibration_embeddings` `[images, D]`.
    pub learned: BTreeMap<String, Tensor>,
}

/// Tolerance of a row's norm: several times the f32 rounding over D terms.
const NORM_TOLERANCE: f32 = 1e-3;

const CLASSES: &str = "class_embeddings";
const NEGATIVES: &str = "negative_embeddings";

impl Head {
    /// Cosine similarity of a unit `embedding` `[D]` with every class, `[C]`.
    pub fn similarities(&self, embedding: &[f32]) -> Vec<f32> {
        dots(&self.class_embeddings, embedding)
    }

    /// Cosine similarity of a unit `embedding` `[D]` with the most similar negative text, if there is one.
    pub fn negative_similarity(&self, embedding: &[f32]) -> Option<f32> {
        dots(&self.negative_embeddings, embedding)
            .into_iter()
            .reduce(f32::max)
    }

    pub(crate) fn to_bytes(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let malformed = |e: safetensors::SafeTensorError| Error::Malformed {
            path: path.to_owned(),
            expected: "a valid head",
            reason: e.to_string(),
        };
        let rows =
            |data: &[f32]| vec![data.len() / self.embedding_size.max(1), self.embedding_size];
        let mut tensors = vec![(
            CLASSES,
            rows(&self.class_embeddings),
            &self.class_embeddings,
        )];
        if !self.negative_embeddings.is_empty() {
            let negatives = &self.negative_embeddings;
            tensors.push((NEGATIVES, rows(negatives), negatives));
        }
        for (name, tensor) in &self.learned {
            tensors.push((name, tensor.shape.clone(), &tensor.data));
        }
        let bytes: Vec<Vec<u8>> = (tensors.iter())
            .map(|(_, _, data)| data.iter().flat_map(|v| v.to_le_bytes()).collect())
            .collect();
        let mut views = Vec::with_capacity(tensors.len());
        for ((name, shape, _), bytes) in tensors.iter().zip(&bytes) {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(malformed)?;
            views.push((*name, view));
        }
        safetensors::serialize(views, None).map_err(malformed)
    }

    pub(crate) fn from_bytes(
        path: &Path,
        bytes: &[u8],
        manifest: &Manifest,
    ) -> Result<Self, Error> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| Error::Malformed {
            path: path.to_owned(),
            expected: "a safetensors file",
            reason: e.to_string(),
        })?;
        let embedding_size = manifest.model.embedding_size;
        let mut head = Self {
            classes: manifest.classes.len(),
            embedding_size,
            ..Self::default()
        };
        let unit_rows = |name: &str, rows: usize| {
            let expected = format!("f32 [{rows}, {embedding_size}]");
            let tensor = file
                .tensor(name)
                .map_err(|_| Error::field(path, name, &expected, "no such tensor"))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != [rows, embedding_size] {
                let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
                return Err(Error::field(path, name, expected, found));
            }
            let values = numbers(tensor.data());
            for (i, row) in values.chunks_exact(embedding_size).enumerate() {
                let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                // NaN must fail too.
                if (norm - 1.0).abs() < NORM_TOLERANCE {
                    continue;
                }
                return Err(Error::field(
                    path,
                    format!("{name}[{i}]"),
                    "a vector of norm 1",
                    format!("norm {norm}"),
                ));
            }
            Ok(values)
        };
        head.class_embeddings = unit_rows(CLASSES, head.classes)?;
        let negatives = manifest.unknown.negatives.len();
        if negatives > 0 {
            head.negative_embeddings = unit_rows(NEGATIVES, negatives)?;
        }
        for (name, view) in file.tensors() {
            if name == CLASSES || (name == NEGATIVES && negatives > 0) {
                continue;
            }
            let known = ["context", "calibration_embeddings"].contains(&name.as_str())
                || name.starts_with("meta_net.linear")
                || name.starts_with("linear.");
            if !known || view.dtype() != Dtype::F32 {
                return Err(Error::field(
                    path,
                    name,
                    "an f32 tensor of such a head",
                    format!("{:?} {:?}", view.dtype(), view.shape()),
                ));
            }
            let data = numbers(view.data());
            if let Some(i) = data.iter().position(|v| !v.is_finite()) {
                let field = format!("{name}[{i}]");
                return Err(Error::field(path, field, "a finite number", data[i]));
            }
            let shape = view.shape().to_vec();
            if name == "context" {
                let n_ctx = manifest.prompt_learner.map_or(0, |learner| learner.n_ctx);
                if shape.len() != 2 || shape[0] != n_ctx || n_ctx == 0 || shape[1] == 0 {
                    let expected = format!("[{n_ctx}, width] as in prompt_learner.n_ctx");
                    return Err(Error::field(path, name, expected, format!("{shape:?}")));
                }
            }
            head.learned.insert(name, Tensor { shape, data });
        }
        Ok(head)
    }
}

fn dots(rows: &[f32], embedding: &[f32]) -> Vec<f32> {
    rows.chunks_exact(embedding.len().max(1))
        .map(|row| row.iter().zip(embedding).map(|(a, b)| a * b).sum())
        .collect()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}
