//! `head.safetensors`: from an embedding to class similarities.

use std::collections::BTreeMap;
use std::path::Path;

use pinhole_model::{LinearClassifier, Tensor, dot};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{Error, HeadKind, Manifest};

/// What an image embedding is compared with, and the learned tensors behind it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// C, the number of classes.
    pub classes: usize,
    /// D, the length of an embedding.
    pub embedding_size: usize,
    /// `class_embeddings`: `[C, D]` row-major, each row of norm 1. Of a conditional head:
    /// as conditioned on the mean calibration image; of a linear head: empty.
    pub class_embeddings: Vec<f32>,
    /// `negative_embeddings`: `[N, D]`, each row of norm 1, for the texts of
    /// [`UnknownPolicy::negatives`](crate::UnknownPolicy::negatives); empty if there are none.
    pub negative_embeddings: Vec<f32>,
    /// The other tensors by name: `context` `[n_ctx, width]` if new classes can be added or the head is
    /// conditional; for a conditional head also `meta_net.linear1.weight` `[hidden, D]`, `meta_net.linear1.bias`,
    /// `meta_net.linear2.weight` `[width, hidden]`, `meta_net.linear2.bias`, the first-order head's
    /// `linear.*`, and `calibration_embeddings` `[images, D]`.
    pub learned: BTreeMap<String, Tensor>,
    /// What the similarities are computed from.
    pub form: HeadForm,
}

/// How a head computes the similarities of an image's unit embedding f.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum HeadForm {
    /// t . f of the class embeddings t (also of a conditional head, as conditioned on the mean calibration image).
    #[default]
    ClassEmbeddings,
    /// W f + b: logits divided by the manifest's `logit_scale`.
    Linear {
        /// `linear_head.weight`, W: `[C, D]` row-major, of any norm.
        weight: Vec<f32>,
        /// `linear_head.bias`, b: `[C]`.
        bias: Vec<f32>,
    },
    /// t . f of the class embeddings, plus weight * exp(-sharpness (1 - k . f)) for the class of each key k
    /// (Tip-Adapter, equation 4).
    Cache(CacheTerms),
}

/// Labelled examples of a cache head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CacheTerms {
    /// `cache.keys`: `[examples, D]` row-major, of any norm.
    pub keys: Vec<f32>,
    /// `cache.labels`: `[examples]`, in the file as f32: the class of each key.
    pub labels: Vec<usize>,
    /// `alpha / logit_scale` of the manifest.
    pub weight: f32,
    /// `cache.beta` of the manifest.
    pub sharpness: f32,
}

impl CacheTerms {
    /// k . f of every key, `[examples]`.
    pub fn affinities(&self, embedding: &[f32]) -> Vec<f32> {
        dots(&self.keys, embedding)
    }

    /// Adds the terms of all keys to the `similarities` `[C]` of an embedding with these `affinities`.
    pub fn add(&self, affinities: &[f32], similarities: &mut [f32]) {
        for (affinity, &label) in affinities.iter().zip(&self.labels) {
            if let Some(similarity) = similarities.get_mut(label) {
                *similarity += self.weight * (self.sharpness * (affinity - 1.0)).exp();
            }
        }
    }
}

/// Tolerance of a row's norm: several times the f32 rounding over D terms.
const NORM_TOLERANCE: f32 = 1e-3;

const CLASSES: &str = "class_embeddings";
const NEGATIVES: &str = "negative_embeddings";
const LINEAR_WEIGHT: &str = "linear_head.weight";
const LINEAR_BIAS: &str = "linear_head.bias";
const CACHE_KEYS: &str = "cache.keys";
const CACHE_LABELS: &str = "cache.labels";
/// Every integer up to it is an f32.
const MAX_LABEL: f32 = (1 << 24) as f32;

impl Head {
    /// Similarity of a unit `embedding` `[D]` with every class, `[C]`: the cosine for class embeddings, otherwise as
    /// [`HeadForm`] says. The manifest's `logit_scale` times it is the logit.
    pub fn similarities(&self, embedding: &[f32]) -> Vec<f32> {
        match &self.form {
            HeadForm::ClassEmbeddings => dots(&self.class_embeddings, embedding),
            HeadForm::Linear { weight, bias } => {
                let products = dots(weight, embedding).into_iter().zip(bias);
                products.map(|(product, bias)| product + bias).collect()
            }
            HeadForm::Cache(terms) => {
                let mut similarities = dots(&self.class_embeddings, embedding);
                terms.add(&terms.affinities(embedding), &mut similarities);
                similarities
            }
        }
    }

    /// A linear head of logits W f + b, W being [C, D], or [1, D] for two classes, and the
    /// `logit_scale` of its manifest: the greatest |w| + |b| of a class, so that similarities are from -1 to 1.
    ///
    /// # Errors
    /// What was expected and found: other shapes; a head of zeros.
    pub fn linear(classifier: &LinearClassifier, classes: usize) -> Result<(Self, f32), String> {
        let [rows, size] = classifier.weight.shape[..] else {
            let found = &classifier.weight.shape;
            return Err(format!(
                "weight: expected [classes, values], found {found:?}"
            ));
        };
        let mut weight = classifier.weight.data.clone();
        let mut bias = match &classifier.bias {
            Some(bias) => bias.data.clone(),
            None => vec![0.0; rows],
        };
        if (rows, classes) == (1, 2) {
            weight.splice(0..0, vec![0.0; size]);
            bias.insert(0, 0.0);
        }
        if bias.len() != classes || size == 0 || weight.len() != classes * size {
            return Err(format!(
                "weight: expected one row for each of the {classes} classes, in their order, found {rows}"
            ));
        }
        let norm = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt();
        let sizes = weight.chunks_exact(size).zip(&bias);
        let scale = sizes
            .map(|(row, b)| norm(row) + b.abs())
            .fold(0.0, f32::max);
        if !(scale.is_finite() && scale > 0.0) {
            return Err(format!(
                "weight: expected rows other than zeros, found the norm {scale}"
            ));
        }
        for value in weight.iter_mut().chain(&mut bias) {
            *value /= scale;
        }
        let head = Self {
            classes,
            embedding_size: size,
            form: HeadForm::Linear { weight, bias },
            ..Self::default()
        };
        Ok((head, scale))
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
        let mut tensors = vec![];
        let labels: Vec<f32>;
        match &self.form {
            HeadForm::ClassEmbeddings => {}
            HeadForm::Linear { weight, bias } => {
                tensors.push((LINEAR_WEIGHT, rows(weight), weight));
                tensors.push((LINEAR_BIAS, vec![bias.len()], bias));
            }
            HeadForm::Cache(terms) => {
                labels = terms.labels.iter().map(|&label| label as f32).collect();
                tensors.push((CACHE_KEYS, rows(&terms.keys), &terms.keys));
                tensors.push((CACHE_LABELS, vec![labels.len()], &labels));
            }
        }
        if !self.class_embeddings.is_empty() {
            let classes = &self.class_embeddings;
            tensors.push((CLASSES, rows(classes), classes));
        }
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
        // The values of a tensor, whose first dimension may be any if `shape` has none there.
        let values = |name: &str, shape: &[Option<usize>]| {
            let sizes: Vec<String> = (shape.iter())
                .map(|size| size.map_or("_".into(), |size| size.to_string()))
                .collect();
            let expected = format!("f32 [{}]", sizes.join(", "));
            let tensor = file
                .tensor(name)
                .map_err(|_| Error::field(path, name, &expected, "no such tensor"))?;
            let same = tensor.shape().len() == shape.len()
                && (tensor.shape().iter().zip(shape))
                    .all(|(found, size)| size.is_none_or(|size| size == *found));
            if tensor.dtype() != Dtype::F32 || !same {
                let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
                return Err(Error::field(path, name, expected, found));
            }
            Ok(numbers(tensor.data()))
        };
        let finite = |name: &str, shape: &[Option<usize>]| {
            let values = values(name, shape)?;
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                let field = format!("{name}[{i}]");
                return Err(Error::field(path, field, "a finite number", values[i]));
            }
            Ok(values)
        };
        let unit_rows = |name: &str, rows: usize| {
            let values = values(name, &[Some(rows), Some(embedding_size)])?;
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
        let (classes, size) = (Some(head.classes), Some(embedding_size));
        let own: &[&str] = match manifest.head {
            HeadKind::Static | HeadKind::Conditional => &[CLASSES],
            HeadKind::Linear => {
                head.form = HeadForm::Linear {
                    weight: finite(LINEAR_WEIGHT, &[classes, size])?,
                    bias: finite(LINEAR_BIAS, &[classes])?,
                };
                &[LINEAR_WEIGHT, LINEAR_BIAS]
            }
            HeadKind::Cache => {
                let keys = finite(CACHE_KEYS, &[None, size])?;
                let numbers = finite(CACHE_LABELS, &[Some(keys.len() / embedding_size)])?;
                let mut labels = Vec::with_capacity(numbers.len());
                for (i, &number) in numbers.iter().enumerate() {
                    let label = number as usize;
                    if label as f32 != number || number > MAX_LABEL || label >= head.classes {
                        let field = format!("{CACHE_LABELS}[{i}]");
                        let expected = format!("a class below {}", head.classes);
                        return Err(Error::field(path, field, expected, number));
                    }
                    labels.push(label);
                }
                // Checked with the manifest.
                let info = manifest.cache.unwrap_or_default();
                head.form = HeadForm::Cache(CacheTerms {
                    keys,
                    labels,
                    weight: info.alpha / manifest.logit_scale,
                    sharpness: info.beta,
                });
                &[CLASSES, CACHE_KEYS, CACHE_LABELS]
            }
        };
        if own.contains(&CLASSES) {
            head.class_embeddings = unit_rows(CLASSES, head.classes)?;
        }
        let negatives = manifest.unknown.negatives.len();
        if negatives > 0 {
            head.negative_embeddings = unit_rows(NEGATIVES, negatives)?;
        }
        // In the order of their names, so that the same file always gives the same error.
        let mut tensors = file.tensors();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, view) in tensors {
            if own.contains(&name.as_str()) || (name == NEGATIVES && negatives > 0) {
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
        .map(|row| dot(row, embedding))
        .collect()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}
