//! CPU kernels for CLIP's encoders (linear layers, attention, layer norm, activation functions, quantisation) and for the
//! images that they see (resampling, luma and chroma to RGB).
//!
//! `reference.rs` has one scalar function per operation, which defines its result. The SIMD variants equal it bit for bit
//! in integer arithmetic and within the bounds that the tests state in floating point. [`available`] lists the variants.
//! The best one that the processor can run is chosen at run time, once per process.
//!
//! The environment variable `PINHOLE_KERNELS` forces a variant by its name; a program calls [`check`] at its start to
//! report a name that is unknown or a variant that the processor cannot run.
//!
//! Variants without kernels for f16 compute it slowly, by emulation, and [`f16_arithmetic`] is false: widen f16 weights
//! to f32 and use [`PackedLinear`] then.
//!
//! # Threads
//! The functions split their work among the threads of rayon's current pool; the caller sets their number by calling them
//! inside `ThreadPool::install`. In a pool of one thread everything runs inline, and so does a problem too small to split.
//! No sum is ever split between threads, so results are bit-identical for any number of threads.
//!
//! # Panics
//! A slice whose length does not match the sizes passed with it is a programming error and panics with a message that
//! names the slice. Values never cause a panic; what depends on a NaN becomes NaN.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod activation;
mod affine;
mod arena;
mod attention;
mod convolution;
mod dispatch;
mod float_convolution;
mod float_depthwise;
mod half;
mod implement;
mod int8;
mod linear;
mod norm;
mod patch;
mod pointwise;
mod quantize;
mod reference;
mod resample;
mod scratch;
mod select;
mod simd;
#[cfg(test)]
mod tests;
mod threads;
mod transpose;
mod types;
mod winograd;
#[cfg(target_arch = "x86_64")]
mod x86_64;
mod yuv;

pub use convolution::PackedConvolution;
pub use float_convolution::PackedFloatConvolution;
pub use half::{F16, NonFiniteWeight, PackedLinearF16};
pub use int8::affine::{AffineInt8, PackedLinearAffine};
pub use int8::{Int8, Int8Input, PackedLinearInt8, WeightError};
pub use linear::layer::{Packed, Weights};
pub use linear::{F32, PackedLinear};
pub use patch::{patch_embedding, patch_embedding_f16, patch_embedding_int8};
use pinhole_model::Activation;
pub use resample::{FilteredLines, HALF, LINES, LineFilter, PRECISION_BITS, STRIP, clip};
use select::kernels;
pub use select::{Error, available, check, chosen, chosen_f32, compiled, f16_arithmetic};
pub use types::{
    Affine, AttentionStages, ConvolutionInput, ConvolutionOutput, ConvolutionWeights,
    FloatConvolutionWeights, ImageLayout, Nonlinearity, Pointwise, Prologue, StridedRows, Window,
};
pub use yuv::{Factor, YuvMatrix};

/// Applies `activation` to each value of x, in place.
pub fn activate(x: &mut [f32], activation: Activation) {
    activation::activate(kernels(), x, Some(Nonlinearity::Mlp(activation)));
}

/// Layer norm (Ba, Kiros and Hinton, 2016) of each row of x [rows, width] into out [rows, width]:
/// (x - mean) / sqrt(variance + epsilon) · gain + bias, with gain and bias of `width` values.
pub fn layer_norm(
    x: &[f32],
    width: usize,
    gain: &[f32],
    bias: &[f32],
    epsilon: f32,
    out: &mut [f32],
) {
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "x: expected rows of {width} values, found {} values",
        x.len()
    );
    assert_eq!(gain.len(), width, "gain: one value per column");
    assert_eq!(bias.len(), width, "bias: one value per column");
    assert_eq!(out.len(), x.len(), "out: as many values as x");
    norm::layer_norm(kernels(), x, width, gain, bias, epsilon, out);
}

/// Quantises each row of x [rows, width], after `prologue`, to s8 with one scale per row.
///
/// With max|x| of the row, scale = max|x| / 127 and q = round(x · (127 / max|x|)), half to even, in -127 ..= 127.
/// max|x| is at least 2^-119, so that a row of zeros has a scale too. A row with an infinity or a NaN becomes zeros with
/// the scale NaN, so that what depends on it is NaN.
///
/// All variants are bit-identical, apart from `prologue`, which has bounds of its own.
pub fn quantize_rows(
    x: &[f32],
    width: usize,
    prologue: Prologue,
    out: &mut [i8],
    scales: &mut [f32],
) {
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "x: expected rows of {width} values, found {} values",
        x.len()
    );
    prologue.check(width);
    assert_eq!(out.len(), x.len(), "out: as many values as x");
    assert_eq!(scales.len(), x.len() / width, "scales: one value per row");
    quantize::quantize_rows(kernels(), x, width, prologue, out, scales);
}

impl Affine {
    /// ONNX's DynamicQuantizeLinear: 255 steps from the smallest to the largest of x and 0. The scale is NaN if a value
    /// is infinite or NaN, so that what depends on it is NaN.
    pub fn dynamic(x: &[f32]) -> Self {
        affine::dynamic(kernels(), x)
    }
}

/// Quantises and dequantises x: ONNX's QuantizeLinear and DequantizeLinear in one. NaN stays NaN.
pub fn fake_quantize(x: &[f32], by: Affine, out: &mut [f32]) {
    assert_eq!(out.len(), x.len(), "out: as many values as x");
    affine::fake_quantize(kernels(), x, by, out);
}

/// Quantises x and looks each result up: out = values[q + 128]. NaN stays NaN.
pub fn map_quantized(x: &[f32], by: Affine, values: &[f32; 256], out: &mut [f32]) {
    assert_eq!(out.len(), x.len(), "out: as many values as x");
    affine::map_quantized(kernels(), x, by, values, out);
}

/// Scaled dot-product attention (Vaswani et al., 2017) for each head: softmax(scale · q kᵀ) v.
///
/// `q` has `tq` rows, `k` and `v` have `tk`; a row is [heads, head_width]. out is [tq, heads * head_width]. If `causal`,
/// query i sees the keys 0 ..= i + (tk - tq), so that queries may continue a prefix whose keys are cached; that needs
/// tk >= tq.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    q: StridedRows,
    tq: usize,
    k: StridedRows,
    v: StridedRows,
    tk: usize,
    heads: usize,
    head_width: usize,
    causal: bool,
    scale: f32,
    out: &mut [f32],
) {
    assert!(
        !causal || tk >= tq,
        "causal attention: {tq} queries need as many keys, found {tk}"
    );
    check_attention(q, tq, k, v, tk, heads * head_width, out);
    attention::attention(
        kernels(),
        q,
        tq,
        k,
        v,
        tk,
        heads,
        head_width,
        causal,
        scale,
        AttentionStages::NONE,
        out,
    );
}

/// [`attention`] without a causal mask, with element-wise functions between its stages:
/// out(weights(softmax(scores(q(q) k(k)ᵀ))) v(v)), each function being that of `stages`.
#[allow(clippy::too_many_arguments)]
pub fn staged_attention(
    q: StridedRows,
    tq: usize,
    k: StridedRows,
    v: StridedRows,
    tk: usize,
    heads: usize,
    head_width: usize,
    stages: &AttentionStages,
    out: &mut [f32],
) {
    check_attention(q, tq, k, v, tk, heads * head_width, out);
    attention::attention(
        kernels(),
        q,
        tq,
        k,
        v,
        tk,
        heads,
        head_width,
        false,
        1.0,
        stages,
        out,
    );
}

/// [`attention`] without a causal mask, both products in 8-bit integers, after SageAttention (Zhang et al., 2025):
///
/// - Of keys and values each head's means over the `tk` rows are subtracted first. Softmax does not depend on the keys'; the
///   values' are added to the result, as the weights of a row sum to 1.
/// - Queries and keys are quantised to s8 with a scale per row, values with a scale per column, each as by [`quantize_rows`].
/// - With e = exp(scale · (score - the row's largest score)), the weight of a value is round(255 e), half to even, times
///   1 / (255 · the sum of e).
///
/// Sums of products are exact, and scales are applied as by [`PackedLinearInt8::apply`]; variants differ by their
/// exponentials. A query's result depends on all keys and values of the call, but not on the other queries.
#[allow(clippy::too_many_arguments)]
pub fn int8_attention(
    q: StridedRows,
    tq: usize,
    k: StridedRows,
    v: StridedRows,
    tk: usize,
    heads: usize,
    head_width: usize,
    scale: f32,
    out: &mut [f32],
) {
    check_attention(q, tq, k, v, tk, heads * head_width, out);
    for (name, rows) in [("head_width", head_width), ("tk", tk)] {
        let most = PackedLinearInt8::MOST_INPUTS;
        assert!(
            rows <= most,
            "{name}: expected at most {most}, found {rows}"
        );
    }
    int8::attention::attention(kernels(), q, tq, k, v, tk, heads, head_width, scale, out);
}

fn check_attention(
    q: StridedRows,
    tq: usize,
    k: StridedRows,
    v: StridedRows,
    tk: usize,
    width: usize,
    out: &[f32],
) {
    q.check("q", tq, width);
    k.check("k", tk, width);
    v.check("v", tk, width);
    assert_eq!(out.len(), tq * width, "out: [tq, heads * head_width]");
}

/// Divides x by its Euclidean norm, without epsilon, as CLIP does: zeros become NaN. Scalar in every variant, as it runs
/// once per image.
pub fn l2_normalize(x: &mut [f32]) {
    reference::l2_normalize(x);
}

/// The first pass of a resize: the pixels `strip`, at most [`STRIP`], of each line by `filter`, rounded and clamped to 8 bits.
///
/// A line's values are u8 [pixel, 3], from pixel `first` of the source on and up to the last one that the strip is computed
/// from. All variants are bit-identical.
pub fn filter_lines(
    lines: &[&[u8]; LINES],
    first: usize,
    filter: &LineFilter,
    strip: std::ops::Range<usize>,
    out: &mut FilteredLines,
) {
    assert!(
        strip.len() <= STRIP,
        "strip: expected at most {STRIP} pixels, found {}",
        strip.len()
    );
    let source = filter.source(strip.clone());
    assert!(
        source.start >= first || source.is_empty(),
        "first: expected at most {}, found {first}",
        source.start
    );
    let least = (source.end.max(first) - first) * 3;
    for line in lines {
        assert!(
            line.len() >= least,
            "lines: expected at least {least} bytes each, found {}",
            line.len()
        );
    }
    match kernels().float {
        None => reference::filter_lines(lines, first, filter, strip, out),
        Some(vector) => vector.filter_lines(lines, first, filter, strip, out),
    }
}

/// The second pass of a resize: adds the sum of the lines times their weights to `sums`, [pixel, 3]. Sums wrap around.
pub fn add_lines(sums: &mut [i32], lines: &FilteredLines, weights: &[i32; LINES]) {
    assert!(
        sums.len() <= STRIP * 3,
        "sums: expected at most {} values, found {}",
        STRIP * 3,
        sums.len()
    );
    match kernels().float {
        None => resample::add_lines(sums, lines, weights),
        Some(vector) => vector.add_lines(sums, lines, weights),
    }
}

/// libjpeg's h2v2 "fancy upsampling" down (jdsample.c): sums = 3 near + far.
pub fn mix_rows(near: &[u8], far: &[u8], sums: &mut [u16]) {
    assert_eq!(near.len(), sums.len(), "near: one value per sum");
    assert_eq!(far.len(), sums.len(), "far: one value per sum");
    match kernels().float {
        None => yuv::mix_rows(near, far, sums),
        Some(vector) => vector.mix_rows(near, far, sums),
    }
}

/// libjpeg's "fancy upsampling" across: of each of `sums` but the first and the last, pixels 2i and 2i + 1 are
/// (3 sum + previous + biases\[0\]) >> shift and (3 sum + next + biases\[1\]) >> shift.
pub fn double_row(sums: &[u16], biases: [u16; 2], shift: u32, pixels: &mut [u8]) {
    assert!(
        sums.len() >= 2 && pixels.len() == (sums.len() - 2) * 2,
        "pixels: expected two per sum but the first and the last, found {} of {} sums",
        pixels.len(),
        sums.len()
    );
    assert!(shift < 16, "shift: expected less than 16, found {shift}");
    match kernels().float {
        None => yuv::double_row(sums, biases, shift, pixels),
        Some(vector) => vector.double_row(sums, biases, shift, pixels),
    }
}

/// A row of pixels to rgb [pixels, 3].
pub fn yuv_to_rgb(matrix: &YuvMatrix, luma: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    assert_eq!(cb.len(), luma.len(), "cb: one value per pixel");
    assert_eq!(cr.len(), luma.len(), "cr: one value per pixel");
    assert_eq!(rgb.len(), luma.len() * 3, "rgb: three values per pixel");
    match kernels().float {
        None => reference::yuv_to_rgb(matrix, luma, cb, cr, rgb),
        Some(vector) => vector.yuv_to_rgb(matrix, luma, cb, cr, rgb),
    }
}
