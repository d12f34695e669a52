//! Linear layers.

use crate::{Activation, reference};

/// A linear layer's weight and bias, packed once for the chosen kernels: y = act(x W + b) + residual.
#[derive(Clone, Debug)]
pub struct PackedLinear {
    k: usize,
    n: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl PackedLinear {
    /// From a weight [n, k], row-major: an output's weights are adjacent, as in PyTorch's `nn.Linear`.
    pub fn from_out_in(weight: &[f32], n: usize, k: usize, bias: Option<&[f32]>) -> Self {
        assert_eq!(weight.len(), n * k, "weight: [n, k]");
        let mut w = vec![0.0; n * k];
        for j in 0..n {
            for p in 0..k {
                w[p * n + j] = weight[j * k + p];
            }
        }
        Self::from_in_out(&w, k, n, bias)
    }

    /// From a weight [k, n], row-major, as in ONNX's MatMul.
    pub fn from_in_out(weight: &[f32], k: usize, n: usize, bias: Option<&[f32]>) -> Self {
        assert_eq!(weight.len(), n * k, "weight: [k, n]");
        assert!(bias.is_none_or(|b| b.len() == n), "bias: [n]");
        PackedLinear {
            k,
            n,
            weight: weight.to_vec(),
            bias: bias.map_or(vec![0.0; n], <[f32]>::to_vec),
        }
    }

    /// k: the values of an input row.
    pub fn inputs(&self) -> usize {
        self.k
    }

    /// n: the values of an output row.
    pub fn outputs(&self) -> usize {
        self.n
    }

    /// out [m, n] = activation(x [m, k] W + b) + residual [m, n]
    pub fn apply(
        &self,
        x: &[f32],
        m: usize,
        activation: Activation,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        assert_eq!(x.len(), m * self.k, "x: [m, {}]", self.k);
        assert_eq!(out.len(), m * self.n, "out: [m, {}]", self.n);
        assert!(
            residual.is_none_or(|r| r.len() == m * self.n),
            "residual: [m, {}]",
            self.n
        );
        reference::linear(
            x,
            m,
            &self.weight,
            self.k,
            self.n,
            &self.bias,
            activation,
            residual,
            out,
        );
    }
}
