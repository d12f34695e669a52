//! The definition of every result, in plain loops, for every target. A SIMD variant agrees with these
//! functions within the bound that its test states.

use pinhole_model::Activation;

use crate::{Affine, Pointwise, Rows, Stages};

/// out [m, n] = activation(x [m, k] · weight [k, n] + bias [n]) + residual [m, n]
#[allow(clippy::too_many_arguments)]
pub(crate) fn linear(
    x: &[f32],
    m: usize,
    weight: &[f32],
    k: usize,
    n: usize,
    bias: &[f32],
    activation: Option<Activation>,
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

/// As [`row_scale`] for rows that `offset` is added to: the factor brings 0 ..= largest + offset to 0 ..= 255.
pub(crate) fn row_scale_offset(largest: u32, offset: f32) -> (f32, f32) {
    let range = f32::from_bits(largest) + offset;
    if !range.is_finite() {
        return (f32::NAN, 0.0);
    }
    let range = range.max(2.0 * SMALLEST);
    (range / 255.0, 255.0 / range)
}

/// x + offset to u8, in one rounding, half to even; what is below zero becomes zero. Gives the scale.
pub(crate) fn quantize_row_offset(x: &[f32], offset: f32, out: &mut [u8]) -> f32 {
    let magnitudes = x.iter().map(|v| v.abs().to_bits());
    let (scale, factor) = row_scale_offset(magnitudes.max().unwrap_or(0), offset);
    if scale.is_nan() {
        out.fill(0);
        return scale;
    }
    for (q, v) in out.iter_mut().zip(x) {
        *q = v.mul_add(factor, offset * factor).round_ties_even() as u8;
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
    activation: Option<Activation>,
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

/// Each value through the functions, one after the other; NaN stays.
pub(crate) fn pointwise(steps: &[Pointwise], x: &mut [f32]) {
    for step in steps {
        for v in &mut *x {
            let mut y = [*v];
            match step {
                Pointwise::Scale(factor) => y[0] *= factor,
                Pointwise::FakeQuantize(by) => fake_quantize(&[*v], *by, &mut y),
                Pointwise::Table(by, values) => {
                    let mut q = [0];
                    if quantize_affine(&[*v], *by, &mut q) {
                        y[0] = values[usize::from(q[0].cast_unsigned() ^ 0x80)];
                    }
                }
            }
            *v = y[0];
        }
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
    activation: Option<Activation>,
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

/// Products that are summed in f16 before the sum goes over to f32. Where the signs are mixed, 64 in a row cost a
/// relative error of about 2^-11 · sqrt(64 / 6), 0.16 %, where rows in 8 bits cost some 0.9 %. On a ViT-B/32 with
/// outlier channels and photos the embedding's cosine to f32 is 0.999996. Half as many would cost 0.11 % and some
/// 6 % more instructions.
pub(crate) const F16_BLOCK: usize = 64;

/// Rows are scaled such that no sum in f16 leaves ±2^15 by more than its own rounding, well inside of f16's range
/// of 65504: its largest value lies below 2^(1 + this), and the largest sum of magnitudes of a column's weights in
/// a block is `reach`.
pub(crate) fn f16_exponent(reach: f32) -> i32 {
    // reach lies below 2^(1 + its exponent), and no f16 is as large as 2^16.
    (13 - exponent(reach.to_bits())).min(14)
}

/// That of the power of two below a positive number with these bits; -127 below the normal ones.
fn exponent(bits: u32) -> i32 {
    (bits >> 23).cast_signed() - 127
}

fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits((exponent + 127).cast_unsigned() << 23)
}

/// As [`row_scale`] for f16: the factor is the power of two that brings the largest magnitude, which has these
/// bits, to 2^`to` .. 2^(to + 1), and the scale is its inverse. The factor is 2^126 at most, so that its inverse is
/// a normal number. NaN and zero if a value is not finite, or of 2^112 or more, for which the scale could overflow.
pub(crate) fn row_scale_f16(largest: u32, to: i32) -> (f32, f32) {
    match exponent(largest) {
        112.. => (f32::NAN, 0.0),
        e => {
            let by = (to - e).min(126);
            (power_of_two(-by), power_of_two(by))
        }
    }
}

/// The f16 nearest to v, half to even, for |v| below 65520; but for the sign of zero, which no sum shows.
#[inline(always)]
pub(crate) fn round_f16(v: f64) -> f64 {
    const EXPONENT: u64 = 0x7ff << 52;
    /// Of the normal numbers.
    const SMALLEST: f64 = 1.0 / (1 << 14) as f64;
    // The power of two below |v|.
    let power = f64::from_bits(v.to_bits() & EXPONENT);
    let power = if power < SMALLEST { SMALLEST } else { power };
    // A number whose last place counts 2^-10 of `power`, as f16's does: adding it rounds once.
    let shift = power * (1.5 * (1u64 << 42) as f64);
    (v + shift) - shift
}

/// The value of an f16 by its bits, infinity and NaN left out.
pub(crate) fn f16_value(bits: u16) -> f32 {
    // The exponent's bias is 112 less than that of f32.
    let value = f32::from_bits(u32::from(bits & 0x7fff) << 13) * power_of_two(112);
    if bits >> 15 == 0 { value } else { -value }
}

/// x · factor, rounded to f16; gives the scale. See [`row_scale_f16`].
pub(crate) fn row_f16(x: &[f32], to: i32, out: &mut [f32]) -> f32 {
    let magnitudes = x.iter().map(|v| v.abs().to_bits());
    let (scale, factor) = row_scale_f16(magnitudes.max().unwrap_or(0), to);
    for (y, v) in out.iter_mut().zip(x) {
        *y = match scale.is_nan() {
            true => 0.0,
            false => round_f16(f64::from(v * factor)) as f32,
        };
    }
    scale
}

/// out [m, n] = sums · scales [m] + bias [n], of x [m, k] by [`row_f16`] and weight [n, k], numbers of f16. A sum is
/// that of its blocks of [`F16_BLOCK`] products in f32, a block's that of its products in the order of k in f16,
/// each added by a fused multiply-add.
#[cfg(test)]
pub(crate) fn linear_f16(
    x: &[f32],
    m: usize,
    weight: &[f32],
    k: usize,
    n: usize,
    bias: &[f32],
    out: &mut [f32],
) {
    let weights = |j: usize| weight[j * k..][..k].chunks(F16_BLOCK);
    let mut reach = 0.0f32;
    for j in 0..n {
        for block in weights(j) {
            reach = reach.max(block.iter().map(|w| w.abs()).sum());
        }
    }
    let mut halves = vec![0.0; k];
    for i in 0..m {
        let scale = row_f16(&x[i * k..][..k], f16_exponent(reach), &mut halves);
        for j in 0..n {
            let mut sum = 0.0;
            for (x, weight) in halves.chunks(F16_BLOCK).zip(weights(j)) {
                let mut block = 0.0;
                for (&x, &w) in x.iter().zip(weight) {
                    block = round_f16(f64::from(x) * f64::from(w) + block);
                }
                sum += block as f32;
            }
            out[i * n + j] = f32::mul_add(sum, scale, bias[j]);
        }
    }
}

/// The sums of `linear_f16` for one row x [k] and N columns, side by side: weight [k, N].
#[inline(always)]
pub(crate) fn sums_f16<const N: usize>(x: &[f32], weight: &[[f32; N]], sums: &mut [f32; N]) {
    sums.fill(0.0);
    for (x, weight) in x.chunks(F16_BLOCK).zip(weight.chunks(F16_BLOCK)) {
        let mut block = [0.0; N];
        for (&x, weight) in x.iter().zip(weight) {
            for (sum, &w) in block.iter_mut().zip(weight) {
                // The product is exact in f64. So is the sum wherever f16 could round it another way: a product
                // has 22 bits, and what is below the last of f64's 53 cannot lie between two f16 halves.
                *sum = round_f16(f64::from(x) * f64::from(w) + *sum);
            }
        }
        for (sum, block) in sums.iter_mut().zip(block) {
            *sum += block as f32;
        }
    }
}

/// One value through the activation function.
pub(crate) fn activated(x: f32, activation: Option<Activation>) -> f32 {
    match activation {
        None => x,
        // x · sigmoid(1.702 x), with an exponential that cannot overflow.
        Some(Activation::QuickGelu) => {
            let z = (-(1.702 * x).abs()).exp();
            (if x >= 0.0 { x } else { x * z }) / (1.0 + z)
        }
        // x Φ(x); erfc keeps the small values of the negative side.
        Some(Activation::Gelu) => {
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

/// Scaled dot-product attention for each head apart, as [`crate::attention`] and [`crate::staged_attention`]
/// document it.
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
    stages: &Stages,
    out: &mut [f32],
) {
    let width = heads * head_width;
    let staged = |row: &[f32], steps: &[Pointwise]| {
        let mut row = row.to_vec();
        pointwise(steps, &mut row);
        row
    };
    let mut weights = vec![0.0; tk];
    for head in 0..heads {
        let columns = head * head_width..(head + 1) * head_width;
        for i in 0..tq {
            let query = staged(&q.row(i, width)[columns.clone()], &stages.q);
            let seen = if causal { i + 1 + (tk - tq) } else { tk };
            let weights = &mut weights[..seen];
            for (j, weight) in weights.iter_mut().enumerate() {
                let key = staged(&k.row(j, width)[columns.clone()], &stages.k);
                *weight = query.iter().zip(&key).map(|(a, b)| a * b).sum::<f32>() * scale;
            }
            pointwise(&stages.scores, weights);
            softmax(weights);
            pointwise(&stages.weights, weights);
            let out = &mut out[i * width..][columns.clone()];
            out.fill(0.0);
            for (j, weight) in weights.iter().enumerate() {
                let value = staged(&v.row(j, width)[columns.clone()], &stages.v);
                for (y, value) in out.iter_mut().zip(&value) {
                    *y += weight * value;
                }
            }
            pointwise(&stages.out, out);
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
