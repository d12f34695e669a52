//! A learned tensor.

/// A learned tensor with its momentum.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Weight {
    /// The reference's name.
    pub(super) name: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
    /// PyTorch's momentum buffer.
    pub(super) momentum: Vec<f32>,
}

impl Weight {
    pub(super) fn new(name: &'static str, shape: &[usize], values: Vec<f32>) -> Self {
        Self {
            name,
            shape: shape.to_vec(),
            momentum: vec![0.0; values.len()],
            values,
        }
    }
}
