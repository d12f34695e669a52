//! Arithmetic for CLIP's towers: linear layers, attention, layer norm, activation functions.
//!
//! `reference.rs` holds one scalar function for each operation, and it alone defines the result. The SIMD
//! variants agree with it bit for bit in whole numbers and in what is made of them, and within the bounds
//! that the tests state in f32. The best one that the processor has is chosen at run time, once for the
//! process:
//!
//! | name | f32 | 8-bit integers | f16 |
//! |---|---|---|---|
//! | `avx512vnni` | AVX-512F | AVX-512 VNNI (VPDPBUSD) | |
//! | `avx512` | AVX-512F | AVX2 | |
//! | `avx2` | AVX2 and FMA | AVX2 (VPMADDWD) | |
//! | `i8mm` | NEON | i8mm of ARMv8.6 (SMMLA) | FP16 of ARMv8.2 (FMLA) |
//! | `dotprod` | NEON | dotprod of ARMv8.2 (SDOT) | FP16 |
//! | `dotprod-nofp16` | NEON | dotprod | |
//! | `fp16` | NEON | NEON of ARMv8.0 | FP16 |
//! | `neon` | NEON | NEON of ARMv8.0 (SMULL, SMLAL, SADALP) | |
//! | `scalar` | plain loops | plain loops | |
//!
//! Where there is nothing for f16, [`f16_arithmetic`] is false: weights in f16 are best widened to f32 and given to
//! [`PackedLinear`].
//!
//! The environment variable `PINHOLE_KERNELS` forces one by its name; a program calls [`check`] at its
//! start to report a name that is unknown or a variant that the processor lacks.
//!
//! # Threads
//! The functions share their work among the threads of rayon's current pool: the caller picks their number
//! by running inside `ThreadPool::install` of its own pool. In a pool of one thread everything runs inline,
//! and so does a problem too small to share. No sum is ever split between threads, so their number does not
//! change a bit of any result.
//!
//! # Panics
//! A slice whose length does not fit the sizes beside it is the programmer's error and panics with a message
//! that names it. The values themselves never cause one; a NaN makes NaN what depends on it.

mod activation;
mod affine;
mod attention;
mod half;
mod int8;
mod linear;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod patch;
mod pointwise;
mod quantize;
mod reference;
mod scratch;
mod select;
mod simd;
#[cfg(test)]
mod tests;
mod threads;
mod transpose;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use affine::{Affine, fake_quantize, map_quantized};
pub use half::{NotFinite, PackedLinearF16};
pub use int8::{Input, PackedLinearAffine, PackedLinearInt8, WeightError};
pub use linear::PackedLinear;
pub use patch::{patch_embedding, patch_embedding_f16, patch_embedding_int8};
use pinhole_model::Activation;
pub use pointwise::{Pointwise, Stages};
pub use quantize::Before;
use select::kernels;
pub use select::{Error, available, check, chosen, chosen_f32, f16_arithmetic};

/// A matrix whose rows need not be adjacent: row i starts at `data[i * stride]`. So q, k and v can lie
/// side by side in one matrix.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// From the first row's first value to at least the last row's last one.
    pub data: &'a [f32],
    /// Distance between the starts of two rows, in values.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    fn row(self, i: usize, width: usize) -> &'a [f32] {
        &self.data[i * self.stride..][..width]
    }

    fn starting_at(self, column: usize) -> Self {
        Rows {
            data: &self.data[column..],
            stride: self.stride,
        }
    }

    fn check(self, name: &str, rows: usize, width: usize) {
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

/// Applies `activation` to each value of x in place.
pub fn activate(x: &mut [f32], activation: Activation) {
    activation::activate(kernels(), x, Some(activation));
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
        "x: {} values are no rows of {width}",
        x.len()
    );
    assert_eq!(gain.len(), width, "gain: one value a column");
    assert_eq!(bias.len(), width, "bias: one value a column");
    assert_eq!(out.len(), x.len(), "out: as many values as x");
    norm::layer_norm(kernels(), x, width, gain, bias, epsilon, out);
}

/// Quantises each row of x [rows, width], after `before`, to s8 with one scale a row: the scale is max|x| / 127,
/// and x counts round(x · (127 / max|x|)) times the scale, rounded half to even, so that it lies in
/// -127 ..= 127. A row whose largest magnitude is below 2^-119, zeros above all, has the scale of one whose
/// largest is that. A row with an infinity or a NaN becomes zeros with NaN as their scale, so that all that
/// depends on it is NaN.
///
/// All kernels give the same bits, apart from those of `before`, which has its own bounds.
pub fn quantize_rows(x: &[f32], width: usize, before: Before, out: &mut [i8], scales: &mut [f32]) {
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "x: {} values are no rows of {width}",
        x.len()
    );
    before.check(width);
    assert_eq!(out.len(), x.len(), "out: as many values as x");
    assert_eq!(scales.len(), x.len() / width, "scales: one value a row");
    quantize::quantize_rows(kernels(), x, width, before, out, scales);
}

/// Scaled dot-product attention (Vaswani et al., 2017) for each head: softmax(scale · q kᵀ) v.
///
/// `q` has `tq` rows, `k` and `v` have `tk`; each row holds `heads * head_width` values, a head's beside
/// each other. out is [tq, heads * head_width]. If `causal`, query i sees the keys 0 ..= i + (tk - tq), so
/// that queries may continue a prefix whose keys are there already; that needs tk >= tq.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    q: Rows,
    tq: usize,
    k: Rows,
    v: Rows,
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
        Stages::NONE,
        out,
    );
}

/// [`attention`] that is not causal and has functions of one value between its stages:
/// out(weights(softmax(scores(q(q) k(k)ᵀ))) v(v)), each of them that of `stages`.
#[allow(clippy::too_many_arguments)]
pub fn staged_attention(
    q: Rows,
    tq: usize,
    k: Rows,
    v: Rows,
    tk: usize,
    heads: usize,
    head_width: usize,
    stages: &Stages,
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

fn check_attention(q: Rows, tq: usize, k: Rows, v: Rows, tk: usize, width: usize, out: &[f32]) {
    q.check("q", tq, width);
    k.check("k", tk, width);
    v.check("v", tk, width);
    assert_eq!(out.len(), tq * width, "out: [tq, heads * head_width]");
}

/// Divides x by its Euclidean norm, without epsilon as CLIP does: zeros become NaN. Scalar on every target,
/// as it runs on one row an image.
pub fn l2_normalize(x: &mut [f32]) {
    reference::l2_normalize(x);
}
