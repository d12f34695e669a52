//! The first-order head: an approximation of CoCoOp's similarities without the text encoder.

use pinhole_kernels::PackedLinear;
use pinhole_model::{Tensor, dot};

use super::{check_embedding, check_len};
use crate::encoder::checked;
use crate::error::Error;

/// The tensors of a first-order head as stored in a file.
///
/// With f an image's L2-normalised embedding `[D]`, h its hidden vector `[H]` in the meta-net
/// ([`crate::Conditional::hidden`]) and d = h - `mean`, the similarity with class c is
///
/// f · (a_c + `common`ᵀ d) + (P d)ᵀ M_c (E f)
///
/// It is derived from the first-order expansion a_c + B_c d of the class embeddings, B_c [D, H]: the part of B_c that all
/// classes share is kept in full, and the rest is reduced to the r directions P of the hidden space and the s directions E
/// of the embedding space in which the similarities vary most.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearTerms {
    /// Mean of h over the calibration images, `[H]`.
    pub mean: Tensor,
    /// a, [C, D]: the class embeddings at the mean.
    pub class_embeddings: Tensor,
    /// [H, D]: derivative of the mean class embedding.
    pub common: Tensor,
    /// P, [r, H]
    pub directions: Tensor,
    /// E, [s, D]
    pub basis: Tensor,
    /// M, [C, r, s]
    pub core: Tensor,
}

impl LinearTerms {
    /// The tensors by their names in a file.
    pub fn tensors(&self) -> [(&'static str, &Tensor); 6] {
        [
            ("linear.mean", &self.mean),
            ("linear.class_embeddings", &self.class_embeddings),
            ("linear.common", &self.common),
            ("linear.directions", &self.directions),
            ("linear.basis", &self.basis),
            ("linear.core", &self.core),
        ]
    }

    /// Collects the tensors that `tensor` returns by their names.
    ///
    /// # Errors
    /// Those of `tensor`. [`LinearHead::new`] checks the values.
    pub fn from_tensors(
        mut tensor: impl FnMut(&str) -> Result<Tensor, Error>,
    ) -> Result<Self, Error> {
        Ok(LinearTerms {
            mean: tensor("linear.mean")?,
            class_embeddings: tensor("linear.class_embeddings")?,
            common: tensor("linear.common")?,
            directions: tensor("linear.directions")?,
            basis: tensor("linear.basis")?,
            core: tensor("linear.core")?,
        })
    }
}

/// A packed first-order head: a_c and M_c of a class form one row of D + r s weights.
#[derive(Debug)]
pub struct LinearHead {
    mean: Vec<f32>,
    common: Vec<f32>,
    directions: Vec<f32>,
    basis: Vec<f32>,
    rows: PackedLinear,
    embedding: usize,
}

impl LinearHead {
    /// Checks the terms for `classes` classes and a meta-net of `hidden` units, and packs them.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not match each other or these sizes; [`Error::NotFinite`].
    pub fn new(terms: &LinearTerms, classes: usize, hidden: usize) -> Result<Self, Error> {
        let size = |tensor: &Tensor, i: usize| tensor.shape.get(i).copied().unwrap_or(0);
        let embedding = size(&terms.class_embeddings, 1);
        let (r, s) = (size(&terms.directions, 0), size(&terms.basis, 0));
        let expected: [&[usize]; 6] = [
            &[hidden],
            &[classes, embedding],
            &[hidden, embedding],
            &[r, hidden],
            &[s, embedding],
            &[classes, r, s],
        ];
        for ((name, tensor), expected) in terms.tensors().into_iter().zip(expected) {
            checked(name, tensor, expected)?;
            if expected.contains(&0) {
                return Err(Error::Shape {
                    tensor: name.to_string(),
                    expected: expected.iter().map(|&n| n.max(1)).collect(),
                    found: tensor.shape.clone(),
                });
            }
        }
        let parts = (terms.class_embeddings.data.chunks_exact(embedding))
            .zip(terms.core.data.chunks_exact(r * s));
        let rows: Vec<f32> = parts
            .flat_map(|(a, m)| a.iter().chain(m))
            .copied()
            .collect();
        Ok(LinearHead {
            mean: terms.mean.data.clone(),
            common: terms.common.data.clone(),
            directions: terms.directions.data.clone(),
            basis: terms.basis.data.clone(),
            rows: PackedLinear::from_out_in(&rows, classes, embedding + r * s, None),
            embedding,
        })
    }

    /// C, the number of classes.
    pub fn classes(&self) -> usize {
        self.rows.outputs()
    }

    /// The similarities `[C]` of an image, by its L2-normalised embedding `[D]` and its hidden vector
    /// `[H]`. They approximate cosines and may leave [-1, 1] slightly.
    ///
    /// # Errors
    /// [`Error::Input`] for vectors of other lengths; [`Error::NotUnit`].
    pub fn similarities(&self, embedding: &[f32], hidden: &[f32]) -> Result<Vec<f32>, Error> {
        check_embedding(embedding, self.embedding)?;
        check_len("values of a hidden vector", hidden.len(), self.mean.len())?;
        let moved: Vec<f32> = hidden.iter().zip(&self.mean).map(|(h, m)| h - m).collect();
        let common = (self.common.chunks_exact(self.embedding))
            .zip(&moved)
            .map(|(row, d)| d * dot(row, embedding))
            .sum::<f32>();
        let in_basis: Vec<f32> = (self.basis.chunks_exact(self.embedding))
            .map(|row| dot(row, embedding))
            .collect();
        let mut x = embedding.to_vec();
        for direction in self.directions.chunks_exact(moved.len()) {
            let weight = dot(direction, &moved);
            x.extend(in_basis.iter().map(|value| weight * value));
        }
        let mut similarities = vec![0.0; self.classes()];
        self.rows.apply(&x, 1, None, None, &mut similarities);
        similarities.iter_mut().for_each(|value| *value += common);
        Ok(similarities)
    }
}
