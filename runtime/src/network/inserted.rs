//! The operators that [`foreign`](super::foreign) inserts into graphs of other programs. No file contains them.

/// `x @ weight + bias` with quantised operands; attributes as in `operators/affine.rs`.
pub(super) const AFFINE_LINEAR: &str = "AffineLinear";
/// A convolution over `[N, C, H, W]` whose stride equals its kernel size; attributes as in `operators/affine.rs`.
pub(super) const AFFINE_PATCHES: &str = "AffinePatches";
/// QuantizeLinear followed by DequantizeLinear. Without the attribute `x_scale`, with the scale and zero point of
/// DynamicQuantizeLinear.
pub(super) const FAKE_QUANTIZE: &str = "FakeQuantize";
/// A function of a quantised value, as a table of its 256 results.
pub(super) const LOOKUP_TABLE: &str = "QuantizedTable";
/// Activation functions. Not "Gelu": that is a standard operator, which also has an approximation.
pub(super) const QUICK_GELU: &str = "ActivateQuickGelu";
pub(super) const GELU: &str = "ActivateGelu";
/// u8 `[N, H, W, 3]` to f32 `[N, 3, H, W]`, with `scale` and `offset` per channel.
pub(super) const NORMALIZE_PIXELS: &str = "NormalizePixels";

/// All of them.
pub(super) const ALL: [&str; 7] = [
    AFFINE_LINEAR,
    AFFINE_PATCHES,
    FAKE_QUANTIZE,
    LOOKUP_TABLE,
    QUICK_GELU,
    GELU,
    NORMALIZE_PIXELS,
];
