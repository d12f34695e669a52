//! `head.safetensors`: from an embedding to class similarities.

use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::Error;

/// The static head: one unit vector a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// C, the number of classes.
    pub classes: usize,
    /// D, the length of an embedding.
    pub embedding_size: usize,
    /// `[C, D]` row-major, each row of norm 1.
    pub class_embeddings: Vec<f32>,
}

/// How far a row's norm may be from 1: f32 rounding over D terms, with room to spare.
const NORM_TOLERANCE: f32 = 1e-3;

impl Head {
    /// Cosine similarity of a unit `embedding` `[D]` with every class, `[C]`.
    pub fn similarities(&self, embedding: &[f32]) -> Vec<f32> {
        self.class_embeddings
            .chunks_exact(self.embedding_size)
            .map(|row| row.iter().zip(embedding).map(|(a, b)| a * b).sum())
            .collect()
    }

    pub(crate) fn to_bytes(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let bytes: Vec<u8> = self
            .class_embeddings
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let shape = vec![self.classes, self.embedding_size];
        let malformed = |e: safetensors::SafeTensorError| Error::Malformed {
            path: path.to_owned(),
            expected: "a valid head",
            reason: e.to_string(),
        };
        let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(malformed)?;
        safetensors::serialize([("class_embeddings", view)], None).map_err(malformed)
    }

    pub(crate) fn from_bytes(
        path: &Path,
        bytes: &[u8],
        classes: usize,
        embedding_size: usize,
    ) -> Result<Self, Error> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| Error::Malformed {
            path: path.to_owned(),
            expected: "a safetensors file",
            reason: e.to_string(),
        })?;
        let name = "class_embeddings";
        if let Some(surplus) = file.names().into_iter().find(|n| *n != name) {
            return Err(Error::field(
                path,
                surplus,
                format!("only {name} in a static head"),
                "a tensor",
            ));
        }
        let tensor = file.tensor(name).map_err(|_| {
            Error::field(
                path,
                name,
                format!("f32 [{classes}, {embedding_size}]"),
                "no such tensor",
            )
        })?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != [classes, embedding_size] {
            return Err(Error::field(
                path,
                name,
                format!("f32 [{classes}, {embedding_size}]"),
                format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
            ));
        }
        let class_embeddings: Vec<f32> = tensor
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        for (i, row) in class_embeddings.chunks_exact(embedding_size).enumerate() {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            // Written so that NaN fails, too.
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
        Ok(Self {
            classes,
            embedding_size,
            class_embeddings,
        })
    }
}
