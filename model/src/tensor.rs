//! Tensors, and where a model's come from.

use crate::ClipConfig;

/// A dense tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T = f32> {
    /// Length of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: Vec<T>,
}

/// A CLIP model whose weights are read by name.
pub trait ClipWeights {
    /// Why a tensor cannot be read.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The model's configuration.
    fn config(&self) -> &ClipConfig;

    /// The tensor with one of the names of [`ClipConfig::tensors`], widened to f32.
    ///
    /// # Errors
    /// The tensor is missing, damaged or not finite.
    fn tensor(&self, name: &str) -> Result<Tensor, Self::Error>;
}
