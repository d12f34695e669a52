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

    pub(crate) fn after_rows(self, first: usize) -> Self {
        StridedRows {
            data: &self.data[first * self.stride..],
            stride: self.stride,
        }
    }

    /// The first `count` rows, less the means of their columns.
    pub(crate) fn less(self, count: usize, means: &'a [f32]) -> CentredRows<'a> {
        CentredRows {
            rows: self,
            count,
            means,
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

/// `count` rows, less the means of their columns.
#[derive(Clone, Copy)]
pub(crate) struct CentredRows<'a> {
    pub(crate) rows: StridedRows<'a>,
    pub(crate) count: usize,
    /// One value per column; zeros leave the rows as they are.
    pub(crate) means: &'a [f32],
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

    /// The byte that 0 is quantised to where values are bytes: see [`ConvolutionInput::Bytes`].
    pub(crate) fn zero_byte(self) -> u8 {
        self.zero_point.cast_unsigned() ^ 0x80
    }
}

/// What a convolution in 8-bit integers reads.
#[derive(Clone, Copy, Debug)]
pub enum ConvolutionInput<'a> {
    /// Images that are quantised first, each by its own [`Affine`].
    F32(&'a [f32], &'a [Affine]),
    /// This many images that are quantised already, to u8: of each value the s8 that the [`Affine`] quantises it to, plus 128.
    Bytes(&'a [u8], usize, Affine),
}

/// Where a convolution in 8-bit integers writes.
#[derive(Debug)]
pub enum ConvolutionOutput<'a> {
    /// The values.
    F32(&'a mut [f32]),
    /// Quantised as [`ConvolutionInput::Bytes`], with one rounding: v · (1 / scale) + zero point + 128, half to even, saturated;
    /// NaN becomes 0.
    Bytes(&'a mut [u8], Affine),
}

/// How a two-dimensional convolution moves over an image; pairs are height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Taps, 1 or more.
    pub kernel: [usize; 2],
    /// Pixels between neighbouring outputs, 1 or more.
    pub stride: [usize; 2],
    /// Pixels between neighbouring taps, 1 or more.
    pub dilation: [usize; 2],
    /// Pixels of zeros at the top, left, bottom and right.
    pub padding: [usize; 4],
}

impl Window {
    /// The size of the output for an image of this height and width; `None` if the window does not fit the padded image.
    pub fn output(&self, image: [usize; 2]) -> Option<[usize; 2]> {
        let side = |axis: usize| {
            let extent = (self.kernel[axis] - 1).checked_mul(self.dilation[axis])?;
            let padding = self.padding[axis].checked_add(self.padding[axis + 2])?;
            let last = image[axis]
                .checked_add(padding)?
                .checked_sub(extent.checked_add(1)?)?;
            Some(last / self.stride[axis] + 1)
        };
        Some([side(0)?, side(1)?])
    }
}

/// The order of an image's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageLayout {
    /// [channels, height, width], as in ONNX.
    ChannelsFirst,
    /// [height, width, channels]
    ChannelsLast,
}

/// The quantised weights of a two-dimensional convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvolutionWeights<'a> {
    /// [outputs, inputs / groups, kernel height, kernel width]
    pub values: &'a [i8],
    /// `[outputs]`
    pub scales: &'a [f32],
    /// `[outputs]`, or empty for zeros.
    pub zero_points: &'a [i8],
    /// `[outputs]`
    pub bias: Option<&'a [f32]>,
    /// Output channels, a multiple of `groups`.
    pub outputs: usize,
    /// Input channels, a multiple of `groups`.
    pub inputs: usize,
    /// 1 or more; as many as inputs make a depthwise convolution.
    pub groups: usize,
}

/// The weights of a two-dimensional convolution in f32.
#[derive(Clone, Copy, Debug)]
pub struct FloatConvolutionWeights<'a> {
    /// [outputs, inputs / groups, kernel height, kernel width]
    pub values: &'a [f32],
    /// `[outputs]`
    pub bias: Option<&'a [f32]>,
    /// Output channels, a multiple of `groups`.
    pub outputs: usize,
    /// Input channels, a multiple of `groups`.
    pub inputs: usize,
    /// 1 or more; as many as inputs make a depthwise convolution.
    pub groups: usize,
}

/// Checks a window, and the number of weights [outputs, inputs / groups, kernel height, kernel width].
fn check_weights(count: usize, [inputs, outputs, groups]: [usize; 3], window: &Window) {
    let [height, width] = window.kernel;
    assert!(
        height > 0 && width > 0 && !window.stride.contains(&0) && !window.dilation.contains(&0),
        "window: expected sides of 1 or more, found {window:?}"
    );
    assert!(
        groups > 0 && inputs.is_multiple_of(groups) && outputs.is_multiple_of(groups),
        "groups: expected a divisor of {inputs} inputs and {outputs} outputs, found {groups}"
    );
    let len = [inputs / groups, height, width]
        .iter()
        .try_fold(outputs, |len, side| len.checked_mul(*side));
    assert_eq!(
        Some(count),
        len,
        "weight: [{outputs}, {}, {height}, {width}]",
        inputs / groups
    );
}

impl FloatConvolutionWeights<'_> {
    /// Input channels of a group.
    pub(crate) fn group_inputs(&self) -> usize {
        self.inputs / self.groups
    }

    /// Output channels of a group.
    pub(crate) fn group_outputs(&self) -> usize {
        self.outputs / self.groups
    }

    pub(crate) fn check(&self, window: &Window) {
        let sizes = [self.inputs, self.outputs, self.groups];
        check_weights(self.values.len(), sizes, window);
        let n = self.outputs;
        assert!(self.bias.is_none_or(|b| b.len() == n), "bias: [{n}]");
    }
}

impl ConvolutionWeights<'_> {
    /// Input channels of a group.
    pub(crate) fn group_inputs(&self) -> usize {
        self.inputs / self.groups
    }

    /// Output channels of a group.
    pub(crate) fn group_outputs(&self) -> usize {
        self.outputs / self.groups
    }

    pub(crate) fn check(&self, window: &Window) {
        let sizes = [self.inputs, self.outputs, self.groups];
        check_weights(self.values.len(), sizes, window);
        let n = self.outputs;
        assert_eq!(self.scales.len(), n, "scales: [{n}]");
        assert!(self.bias.is_none_or(|b| b.len() == n), "bias: [{n}]");
        let zero_points = self.zero_points.len();
        assert!(zero_points == 0 || zero_points == n, "zero points: [{n}]");
    }
}

/// An activation function of convolutional networks or of transformers. NaN stays NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nonlinearity {
    /// That of a transformer's MLP.
    Mlp(Activation),
    /// The nearest value in low ..= high: ReLU with 0 and infinity, ReLU6 with 0 and 6.
    Clamp {
        /// The smallest result.
        low: f32,
        /// The largest result, `low` or above.
        high: f32,
    },
    /// x · sigmoid(x), also called swish (Ramachandran et al., 2017).
    Silu,
    /// x · max(0, min(1, x / 6 + 1/2)) (Howard et al., 2019), as ONNX's HardSwish.
    HardSwish,
}

impl Nonlinearity {
    /// max(0, x)
    pub const RELU: Self = Nonlinearity::Clamp {
        low: 0.0,
        high: f32::INFINITY,
    };
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
