//! The definition of every result, in plain loops, for every target. A SIMD variant agrees with these
//! functions within the bound that its test states.

use crate::{Activation, Affine, Rows};

/// out [m, n] = activation(x [m, k] · weight [k, n] + bias [n]) + residual [m, n]
#[allow(clippy::too_many_arguments)]
pub(crate) fn linear(
    x: &[f32],
    m: usize,
    weight: &[f32],
    k: usize,
    n: usize,
    bias: &[f32],
    activation: Activation,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    for i in 0..m {
        let row = &mut out[i * n..][..n];
        row.fill(0.0);
        for p in 0..k {
            let v = x[i * k + p];
            for (sum, w) in row.iter_mut().zip(&weight[p * n..][..n]) {
                *sum += v * w;
            }
        }
        for (j, y) in row.iter_mut().enumerate() {
            *y = activated(*y + bias[j], activation) + residual.map_or(0.0, |r| r[i * n + j]);
        }
    }
}

/// The largest magnitude of a row counts as at least this, 2^-119, so that its 127th part is a normal number
/// and the inverse of that is finite.
pub(crate) const SMALLEST: f32 = f32::from_bits(8 << 23);

/// The scale of a row whose largest magnitude has these bits, and the factor that brings it to -127 ..= 127.
/// NaN and zero if a value is not finite: the bits of infinity lie above all numbers' and NaN's above those.
pub(crate) fn row_scale(largest: u32) -> (f32, f32) {
    if largest >= f32::INFINITY.to_bits() {
        return (f32::NAN, 0.0);
    }
    let largest = f32::from_bits(largest).max(SMALLEST);
    (largest / 127.0, 127.0 / largest)
}

/// x to s8, rounded half to even; gives the scale.
pub(crate) fn quantize_row(x: &[f32], out: &mut [i8]) -> f32 {
    let magnitudes = x.iter().map(|v| v.abs().to_bits());
    let (scale, factor) = row_scale(magnitudes.max().unwrap_or(0));
    for (q, v) in out.iter_mut().zip(x) {
        // Saturating, and zero for NaN, which is what NaN and infinity times zero are.
        *q = (v * factor).round_ties_even() as i8;
    }
    scale
}

/// out [m, n] = activation(sum · (scales [m] · weight_scales [n]) + bias [n]) + residual [m, n], the sum that
/// of x [m, k] · weight [n, k] in whole numbers. The scales' product is rounded, then its product with the
/// sum plus bias, once.
#[allow(clippy::too_many_arguments)]
pub(crate) fn linear_int8<T: Copy + Into<i32>>(
    x: &[T],
    scales: &[f32],
    m: usize,
    weight: &[i8],
    weight_scales: &[f32],
    k: usize,
    n: usize,
    bias: &[f32],
    activation: Activation,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    for i in 0..m {
        for j in 0..n {
            let (x, weight) = (&x[i * k..][..k], &weight[j * k..][..k]);
            let products = x.iter().zip(weight).map(|(&x, &w)| x.into() * i32::from(w));
            let sum = products.sum::<i32>() as f32;
            let y = activated(
                sum.mul_add(scales[i] * weight_scales[j], bias[j]),
                activation,
            );
            out[i * n + j] = residual.map_or(y, |r| y + r[i * n + j]);
        }
    }
}

/// x to s8 by one scale and zero point; whether none is NaN, else all become zero.
pub(crate) fn quantize_affine(x: &[f32], by: Affine, out: &mut [i8]) -> bool {
    let (low, high) = by.limits();
    for (q, v) in out.iter_mut().zip(x) {
        let count = (v / by.scale).clamp(low, high).round_ties_even();
        *q = (count + f32::from(by.zero_point)) as i8;
    }
    let finite = !x.iter().any(|v| v.is_nan());
    if !finite {
        out.fill(0);
    }
    finite
}

/// What x stands for after [`quantize_affine`]; NaN stays.
pub(crate) fn fake_quantize(x: &[f32], by: Affine, out: &mut [f32]) {
    let (low, high) = by.limits();
    for (y, v) in out.iter_mut().zip(x) {
        *y = (v / by.scale).clamp(low, high).round_ties_even() * by.scale;
    }
}

/// The least and the largest of x and 0, and 0; NaN in the last place if a value is not finite.
pub(crate) fn range(x: &[f32]) -> [f32; 3] {
    if x.iter().any(|v| !v.is_finite()) {
        return [0.0, 0.0, f32::NAN];
    }
    [
        x.iter().copied().fold(0.0, f32::min),
        x.iter().copied().fold(0.0, f32::max),
        0.0,
    ]
}

/// [`Affine::dynamic`] from a [`range`].
pub(crate) fn affine([least, largest, finite]: [f32; 3]) -> Affine {
    let scale = (largest - least) / 255.0 + finite;
    // Zeros alone: any scale will do.
    let scale = if scale == 0.0 { 1.0 } else { scale };
    let zero = (-least / scale).round_ties_even().clamp(0.0, 255.0);
    Affine {
        scale,
        zero_point: (zero - 128.0) as i8,
    }
}

/// One row: out [n] = activation(sum · (scale · weight_scales [n]) + bias [n]) + residual [n], the sum that of
/// (x [k] - zero_point) · (weight [n, k] - zero_points [n]) in whole numbers; `zero_points` may be empty.
#[allow(clippy::too_many_arguments)]
pub(crate) fn linear_affine(
    x: &[i8],
    zero_point: i32,
    scale: f32,
    weight: &[i8],
    zero_points: &[i32],
    weight_scales: &[f32],
    bias: &[f32],
    activation: Activation,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let k = x.len();
    for (j, out) in out.iter_mut().enumerate() {
        let zero = zero_points.get(j).copied().unwrap_or(0);
        let weight = &weight[j * k..][..k];
        let products = (x.iter().zip(weight))
            .map(|(&x, &w)| (i32::from(x) - zero_point) * (i32::from(w) - zero));
        let sum = products.sum::<i32>() as f32;
        let y = activated(sum.mul_add(scale * weight_scales[j], bias[j]), activation);
        *out = residual.map_or(y, |r| y + r[j]);
    }
}

/// One value through the activation function.
pub(crate) fn activated(x: f32, activation: Activation) -> f32 {
    match activation {
        Activation::None => x,
        // x · sigmoid(1.702 x), with an exponential that cannot overflow.
        Activation::QuickGelu => {
            let z = (-(1.702 * x).abs()).exp();
            (if x >= 0.0 { x } else { x * z }) / (1.0 + z)
        }
        // x Φ(x); erfc keeps the small values of the negative side.
        Activation::Gelu => {
            let x = f64::from(x);
            (0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)) as f32
        }
    }
}

/// Each row of x [rows, width]: (x - mean) / sqrt(variance + epsilon) · gain + bias, with the variance
/// over `width` (not `width - 1`).
pub(crate) fn layer_norm(
    x: &[f32],
    width: usize,
    gain: &[f32],
    bias: &[f32],
    epsilon: f32,
    out: &mut [f32],
) {
    for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = row.iter().sum::<f32>() / width as f32;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / width as f32;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for (j, y) in out.iter_mut().enumerate() {
            *y = (row[j] - mean) * scale * gain[j] + bias[j];
        }
    }
}

/// Scaled dot-product attention for each head apart, as [`crate::attention`] documents it.
#[allow(clippy::too_many_arguments)]
pub(crate) fn attention(
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
    let width = heads * head_width;
    let mut weights = vec![0.0; tk];
    for head in 0..heads {
        let columns = head * head_width..(head + 1) * head_width;
        for i in 0..tq {
            let query = &q.row(i, width)[columns.clone()];
            let seen = if causal { i + 1 + (tk - tq) } else { tk };
            let weights = &mut weights[..seen];
            for (j, weight) in weights.iter_mut().enumerate() {
                let key = &k.row(j, width)[columns.clone()];
                *weight = query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>() * scale;
            }
            softmax(weights);
            let out = &mut out[i * width..][columns.clone()];
            out.fill(0.0);
            for (j, weight) in weights.iter().enumerate() {
                for (y, value) in out.iter_mut().zip(&v.row(j, width)[columns.clone()]) {
                    *y += weight * value;
                }
            }
        }
    }
}

/// exp(x) / sum exp(x), shifted by the largest so that nothing overflows.
pub(crate) fn softmax(x: &mut [f32]) {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in &mut *x {
        *v = (*v - largest).exp();
        sum += *v;
    }
    x.iter_mut().for_each(|v| *v /= sum);
}

/// x / |x|
pub(crate) fn l2_normalize(x: &mut [f32]) {
    let norm = x.iter().map(|v| v * v).sum::<f32>().sqrt();
    x.iter_mut().for_each(|v| *v /= norm);
}
