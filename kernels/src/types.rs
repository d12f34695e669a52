//! Types of the public functions' arguments, and checks of their sizes.

use std::sync::Arc;

use pinhole_model::Activation;

/// A matrix whose rows need not be adjacent: row i starts at `data[i * stride]`. So q, k and v can be columns of one
/// matrix.
#[derive(Clone, Copy, Debug)]
pub struct StridedRows<'a> {
    /// Starts with the first row, and reaches at least to the end of the last one.
    pub data: &'a [f32],
    /// Distance between the starts of two rows, in values.
    pub stride: usize,
}

impl<'a> StridedRows<'a> {
    pub(crate) fn row(self, i: usize, width: usize) -> &'a [f32] {
        &self.data[i * self.stride..][..width]
    }

    pub(crate) fn starting_at(self, column: usize) -> Self {
        StridedRows {
            data: &self.data[column..],
            stride: self.stride,
        }
    }

    pub(crate) fn check(self, name: &str, rows: usize, width: usize) {
        let needed = match rows {
            0 => 0,
            _ => (rows - 1).saturating_mul(self.stride).saturating_add(width),
        };
        assert!(
            self.data.len() >= needed,
            "{name}: {rows} rows of {width} at stride {} need {needed} values, found {}",
            self.stride,
            self.data.len()
        );
    }
}

/// Affine quantisation with one scale and zero point, as ONNX's QuantizeLinear: q = round(x / scale) + zero point, half to
/// even, saturated to s8; x is (q - zero point) · scale. For u8 subtract 128 from all values and from the zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Above 0.
    pub scale: f32,
    /// What 0 is quantised to.
    pub zero_point: i8,
}

impl Affine {
    /// The range that x / scale is clamped to before it is rounded.
    pub(crate) fn limits(self) -> (f32, f32) {
        let zero = f32::from(self.zero_point);
        (-128.0 - zero, 127.0 - zero)
    }
}

/// An element-wise function. NaN stays NaN.
#[derive(Clone, Debug, PartialEq)]
pub enum Pointwise {
    /// Multiplication by a constant.
    Scale(f32),
    /// [`crate::fake_quantize`].
    FakeQuantize(Affine),
    /// [`crate::map_quantized`].
    Table(Affine, Arc<[f32; 256]>),
}

/// The functions that [`crate::staged_attention`] applies at each stage, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionStages {
    /// To the queries.
    pub q: Vec<Pointwise>,
    /// To the keys.
    pub k: Vec<Pointwise>,
    /// To the values.
    pub v: Vec<Pointwise>,
    /// To q kᵀ.
    pub scores: Vec<Pointwise>,
    /// To the softmax's result.
    pub weights: Vec<Pointwise>,
    /// To the result.
    pub out: Vec<Pointwise>,
}

impl AttentionStages {
    /// Of plain attention.
    pub(crate) const NONE: &'static AttentionStages = &AttentionStages {
        q: Vec::new(),
        k: Vec::new(),
        v: Vec::new(),
        scores: Vec::new(),
        weights: Vec::new(),
        out: Vec::new(),
    };
}

/// What is applied to a row of f32 before it is quantised.
#[derive(Clone, Copy, Debug)]
pub enum Prologue<'a> {
    /// Rows are quantised as they are.
    None,
    /// [`crate::layer_norm`].
    LayerNorm {
        /// One value per column.
        gain: &'a [f32],
        /// One value per column.
        bias: &'a [f32],
        /// Added to the variance.
        epsilon: f32,
    },
    /// [`crate::activate`].
    Activation(Activation),
}

impl Prologue<'_> {
    pub(crate) fn check(self, width: usize) {
        if let Prologue::LayerNorm { gain, bias, .. } = self {
            assert_eq!(gain.len(), width, "gain: one value per column");
            assert_eq!(bias.len(), width, "bias: one value per column");
        }
    }
}
