//! The scalar reference: it defines every result. The SIMD variants agree with it within the bounds that the tests state.

use std::ops::Range;

use crate::resample::{FilteredLines, LINES, LineFilter, PRECISION_BITS};
use crate::types::{
    Affine, AttentionStages, CentredRows, ConvolutionWeights, FloatConvolutionWeights,
    Nonlinearity, Pointwise, StridedRows, Window,
};
use crate::yuv::YuvMatrix;
use pinhole_model::Activation;

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

/// A row's largest magnitude is raised to at least this, 2^-119, so that the scale is a normal number and its inverse is
/// finite.
pub(crate) const SMALLEST: f32 = f32::from_bits(8 << 23);

/// The scale of a row whose largest magnitude has these bits, and its inverse. NaN and 0 if a value is not finite: as bits,
/// infinity is above all finite numbers and NaN above infinity.
pub(crate) fn row_scale(largest: u32) -> (f32, f32) {
    if largest >= f32::INFINITY.to_bits() {
        return (f32::NAN, 0.0);
    }
    let largest = f32::from_bits(largest).max(SMALLEST);
    (largest / 127.0, 127.0 / largest)
}

/// Quantises x to s8, rounding half to even; returns the scale.
pub(crate) fn quantize_row(x: &[f32], out: &mut [i8]) -> f32 {
    let magnitudes = x.iter().map(|v| v.abs().to_bits());
    let (scale, factor) = row_scale(magnitudes.max().unwrap_or(0));
    for (q, v) in out.iter_mut().zip(x) {
        // The cast saturates, and turns NaN (from NaN or infinity times 0) into 0.
        *q = (v * factor).round_ties_even() as i8;
    }
    scale
}

/// As [`row_scale`] for rows plus `offset`, quantised to 0 ..= 255.
pub(crate) fn row_scale_offset(largest: u32, offset: f32) -> (f32, f32) {
    let range = f32::from_bits(largest) + offset;
    if !range.is_finite() {
        return (f32::NAN, 0.0);
    }
    let range = range.max(2.0 * SMALLEST);
    (range / 255.0, 255.0 / range)
}

/// Quantises x + offset to u8 with one rounding, half to even; negative values become 0. Returns the scale.
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

/// out [m, n] = activation(sum · (scales [m] · weight_scales [n]) + bias [n]) + residual [m, n], with the sum
/// x [m, k] · weight [n, k] in integers. The product of the scales is rounded; its product with the sum plus the bias is
/// rounded once.
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

/// Quantises x to s8 by one scale and zero point; returns whether no value is NaN. With a NaN all become 0.
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

/// x after [`quantize_affine`] and dequantisation; NaN stays NaN.
pub(crate) fn fake_quantize(x: &[f32], by: Affine, out: &mut [f32]) {
    let (low, high) = by.limits();
    for (y, v) in out.iter_mut().zip(x) {
        *y = (v / by.scale).clamp(low, high).round_ties_even() * by.scale;
    }
}

/// Applies the functions to each value, in order; NaN stays NaN.
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

/// The smallest and the largest of x and 0, then 0, or NaN if a value is not finite.
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
    // All values are 0: any scale will do.
    let scale = if scale == 0.0 { 1.0 } else { scale };
    let zero = (-least / scale).round_ties_even().clamp(0.0, 255.0);
    Affine {
        scale,
        zero_point: (zero - 128.0) as i8,
    }
}

/// One row: out [n] = activation(sum · (scale · weight_scales [n]) + bias [n]) + residual [n], with the sum
/// (x [k] - zero_point) · (weight [n, k] - zero_points [n]) in integers; `zero_points` may be empty.
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

/// Quantises x to bytes, as [`crate::ConvolutionOutput::Bytes`].
pub(crate) fn quantize_bytes(x: &[f32], by: Affine, out: &mut [u8]) {
    let (factor, zero) = (1.0 / by.scale, f32::from(by.zero_byte()));
    for (q, v) in out.iter_mut().zip(x) {
        // The cast saturates, and turns NaN into 0.
        *q = v.mul_add(factor, zero).round_ties_even() as u8;
    }
}

/// One image: out [output height, output width, outputs] = activation(sum · (by.scale · scales [outputs]) + bias [outputs] +
/// residual), with the sum of (x [height, width, inputs] - by.zero_byte()) · (weight - zero_points) under the window in
/// integers; padding adds nothing. The product of the scales is rounded; its product with the sum plus the bias is rounded
/// once.
#[allow(clippy::too_many_arguments)]
pub(crate) fn convolution(
    x: &[u8],
    image: [usize; 2],
    by: Affine,
    weights: &ConvolutionWeights,
    window: &Window,
    activation: Option<Nonlinearity>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let [rows, columns] = window.kernel;
    let (inputs, outputs) = (weights.group_inputs(), weights.group_outputs());
    let out_width = window.output(image).map_or(0, |[_, width]| width);
    for (pixel, out) in out.chunks_exact_mut(weights.outputs).enumerate() {
        let corner = [pixel / out_width, pixel % out_width];
        for (o, y) in out.iter_mut().enumerate() {
            let zero = weights.zero_points.get(o).copied().unwrap_or(0);
            let mut sum = 0;
            for tap in 0..rows * columns {
                let Some([row, column]) = under(window, image, corner, tap) else {
                    continue;
                };
                for c in 0..inputs {
                    let channel = o / outputs * inputs + c;
                    let x = x[(row * image[1] + column) * weights.inputs + channel];
                    let w = weights.values[(o * inputs + c) * rows * columns + tap];
                    sum += (i32::from(x) - i32::from(by.zero_byte()))
                        * (i32::from(w) - i32::from(zero));
                }
            }
            let bias = weights.bias.map_or(0.0, |b| b[o]);
            let v = (sum as f32).mul_add(by.scale * weights.scales[o], bias);
            let v = residual.map_or(v, |r| v + r[pixel * weights.outputs + o]);
            *y = nonlinear(v, activation);
        }
    }
}

/// As [`convolution`] in f32: each image of out = activation(sum of x W + b + residual), the sum in the order of the taps and
/// then of the channels.
#[allow(clippy::too_many_arguments)]
pub(crate) fn float_convolution(
    x: &[f32],
    image: [usize; 2],
    weights: &FloatConvolutionWeights,
    window: &Window,
    activation: Option<Nonlinearity>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let taps = window.kernel[0] * window.kernel[1];
    let (inputs, outputs) = (weights.group_inputs(), weights.group_outputs());
    let out_width = window.output(image).map_or(0, |[_, width]| width);
    for (pixel, out) in out.chunks_exact_mut(weights.outputs).enumerate() {
        let corner = [pixel / out_width, pixel % out_width];
        for (o, y) in out.iter_mut().enumerate() {
            let mut sum = 0.0;
            for tap in 0..taps {
                let Some([row, column]) = under(window, image, corner, tap) else {
                    continue;
                };
                for c in 0..inputs {
                    let channel = o / outputs * inputs + c;
                    let x = x[(row * image[1] + column) * weights.inputs + channel];
                    sum += x * weights.values[(o * inputs + c) * taps + tap];
                }
            }
            let v = sum + weights.bias.map_or(0.0, |b| b[o]);
            let v = residual.map_or(v, |r| v + r[pixel * weights.outputs + o]);
            *y = nonlinear(v, activation);
        }
    }
}

/// The row and column of the image under a tap of the window of output `corner`; `None` in the padding.
fn under(window: &Window, image: [usize; 2], corner: [usize; 2], tap: usize) -> Option<[usize; 2]> {
    let taps = [tap / window.kernel[1], tap % window.kernel[1]];
    let at = [0, 1].map(|axis| {
        let at = corner[axis] * window.stride[axis] + taps[axis] * window.dilation[axis];
        let at = at.checked_sub(window.padding[axis])?;
        (at < image[axis]).then_some(at)
    });
    Some([at[0]?, at[1]?])
}

/// Products per partial sum in f16; partial sums are added in f32. With mixed signs 64 products have a relative error of
/// about 2^-11 · sqrt(64 / 6) = 0.16 %; quantising rows to 8 bits has about 0.9 %. On a ViT-B/32 with outlier channels, on
/// photos, the embedding's cosine to f32 is 0.999996. 32 products would have 0.11 % and need about 6 % more instructions.
pub(crate) const F16_BLOCK: usize = 64;

/// The exponent that rows are scaled to: their largest magnitude is below 2^(1 + exponent). `reach` is the largest sum of
/// magnitudes of a column's weights in a block, so no sum in f16 exceeds 2^15 by more than its rounding; f16 reaches 65504.
pub(crate) fn f16_exponent(reach: f32) -> i32 {
    // reach is below 2^(1 + its exponent), and every f16 below 2^16.
    (13 - exponent(reach.to_bits())).min(14)
}

/// The exponent of a positive number with these bits; -127 for subnormal numbers.
fn exponent(bits: u32) -> i32 {
    (bits >> 23).cast_signed() - 127
}

fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits((exponent + 127).cast_unsigned() << 23)
}

/// As [`row_scale`] for f16: the factor is the power of two that scales the largest magnitude, given by its bits, to
/// 2^`to` .. 2^(to + 1), and the scale is its inverse. The factor is at most 2^126, so that its inverse is a normal number.
/// NaN and 0 if a value is not finite, or 2^112 or above, where the scale could overflow.
pub(crate) fn row_scale_f16(largest: u32, to: i32) -> (f32, f32) {
    match exponent(largest) {
        112.. => (f32::NAN, 0.0),
        e => {
            let by = (to - e).min(126);
            (power_of_two(-by), power_of_two(by))
        }
    }
}

/// v rounded to f16, half to even, for |v| below 65520. The sign of zero may be lost, which no sum depends on.
#[inline(always)]
pub(crate) fn round_f16(v: f64) -> f64 {
    const EXPONENT: u64 = 0x7ff << 52;
    /// The smallest normal f16.
    const SMALLEST: f64 = 1.0 / (1 << 14) as f64;
    // The power of two below |v|.
    let power = f64::from_bits(v.to_bits() & EXPONENT);
    let power = if power < SMALLEST { SMALLEST } else { power };
    // Adding a number whose last bit is 2^-10 of `power`, as in f16, rounds once.
    let shift = power * (1.5 * (1u64 << 42) as f64);
    (v + shift) - shift
}

/// The value of a finite f16, given by its bits.
pub(crate) fn f16_value(bits: u16) -> f32 {
    // The exponent's bias is 112 less than that of f32.
    let value = f32::from_bits(u32::from(bits & 0x7fff) << 13) * power_of_two(112);
    if bits >> 15 == 0 { value } else { -value }
}

/// x · factor, rounded to f16; returns the scale. See [`row_scale_f16`].
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

/// out [m, n] = sums · scales [m] + bias [n], of x [m, k] by [`row_f16`] and weight [n, k], whose values are f16. A block of
/// [`F16_BLOCK`] products is summed in f16 by fused multiply-adds in the order of k; the blocks' sums are added in f32.
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

/// The sums of `linear_f16` for one row x [k] and N columns: weight [k, N].
#[inline(always)]
pub(crate) fn sums_f16<const N: usize>(x: &[f32], weight: &[[f32; N]], sums: &mut [f32; N]) {
    sums.fill(0.0);
    for (x, weight) in x.chunks(F16_BLOCK).zip(weight.chunks(F16_BLOCK)) {
        let mut block = [0.0; N];
        for (&x, weight) in x.iter().zip(weight) {
            for (sum, &w) in block.iter_mut().zip(weight) {
                // The product is exact in f64: it has 22 bits. The sum is rounded to f64's 53 bits only where that
                // cannot change its rounding to f16.
                *sum = round_f16(f64::from(x) * f64::from(w) + *sum);
            }
        }
        for (sum, block) in sums.iter_mut().zip(block) {
            *sum += block as f32;
        }
    }
}

/// The activation function of one value.
pub(crate) fn activated(x: f32, activation: Option<Activation>) -> f32 {
    match activation {
        None => x,
        // x · sigmoid(1.702 x), with an exponential that cannot overflow.
        Some(Activation::QuickGelu) => {
            let z = (-(1.702 * x).abs()).exp();
            (if x >= 0.0 { x } else { x * z }) / (1.0 + z)
        }
        // x Φ(x); erfc is accurate for the small values of negative x.
        Some(Activation::Gelu) => {
            let x = f64::from(x);
            (0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)) as f32
        }
        // (1 + tanh u) / 2 = sigmoid(2 u), which is accurate for negative x, too.
        Some(Activation::GeluTanh) => {
            let x = f64::from(x);
            let twice_u = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            (x / (1.0 + (-twice_u).exp())) as f32
        }
    }
}

/// [`Nonlinearity`] of one value.
pub(crate) fn nonlinear(x: f32, function: Option<Nonlinearity>) -> f32 {
    match function {
        None => x,
        Some(Nonlinearity::Mlp(activation)) => activated(x, Some(activation)),
        // Unlike f32::clamp this cannot panic; NaN stays NaN.
        Some(Nonlinearity::Clamp { low, high }) => {
            let x = if x > high { high } else { x };
            if x < low { low } else { x }
        }
        // As QuickGelu.
        Some(Nonlinearity::Silu) => {
            let z = (-x.abs()).exp();
            (if x >= 0.0 { x } else { x * z }) / (1.0 + z)
        }
        Some(Nonlinearity::HardSwish) => {
            let gate = x.mul_add(1.0 / 6.0, 0.5);
            let gate = if gate > 1.0 { 1.0 } else { gate };
            x * if gate < 0.0 { 0.0 } else { gate }
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

/// [`crate::attention`] and [`crate::staged_attention`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn attention(
    q: StridedRows,
    tq: usize,
    k: StridedRows,
    v: StridedRows,
    tk: usize,
    heads: usize,
    head_width: usize,
    causal: bool,
    scale: f32,
    stages: &AttentionStages,
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

/// means [width] = those of the columns of `count` rows.
pub(crate) fn column_means(rows: StridedRows, count: usize, means: &mut [f32]) {
    means.fill(0.0);
    for i in 0..count {
        let row = rows.row(i, means.len());
        means.iter_mut().zip(row).for_each(|(m, v)| *m += v);
    }
    means.iter_mut().for_each(|m| *m /= count as f32);
}

/// [`quantize_row`] of each row of x. scales is [count]; out is [count, width], and may have more.
pub(crate) fn quantize_rows_centred(x: CentredRows, out: &mut [i8], scales: &mut [f32]) {
    let width = x.means.len();
    let outs = out.chunks_exact_mut(width).zip(scales).take(x.count);
    for (i, (out, scale)) in outs.enumerate() {
        let row = x.rows.row(i, width).iter().zip(x.means);
        let centred: Vec<f32> = row.map(|(v, mean)| v - mean).collect();
        *scale = quantize_row(&centred, out);
    }
}

/// [`quantize_row`] of each column of x. scales is [width]; out is [count, width], and may have more.
pub(crate) fn quantize_columns_centred(x: CentredRows, scales: &mut [f32], out: &mut [i8]) {
    let width = x.means.len();
    for (c, (scale, mean)) in scales.iter_mut().zip(x.means).enumerate() {
        let values = (0..x.count).map(|i| x.rows.row(i, width)[c] - mean);
        let column: Vec<f32> = values.collect();
        let mut quantized = vec![0; x.count];
        *scale = quantize_row(&column, &mut quantized);
        let out = out[c..].iter_mut().step_by(width);
        out.zip(quantized).for_each(|(to, q)| *to = q);
    }
}

/// [`crate::int8_attention`]
#[allow(clippy::too_many_arguments)]
pub(crate) fn int8_attention(
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
    let width = heads * head_width;
    for head in 0..heads {
        let columns = head * head_width..(head + 1) * head_width;
        let [q, k, v] = [q, k, v].map(|rows| rows.starting_at(columns.start));
        let mut means = vec![0.0; head_width];
        column_means(k, tk, &mut means);
        let (mut keys, mut key_scales) = (vec![0; tk * head_width], vec![0.0; tk]);
        quantize_rows_centred(k.less(tk, &means), &mut keys, &mut key_scales);
        column_means(v, tk, &mut means);
        let (mut values, mut value_scales) = (vec![0; tk * head_width], vec![0.0; head_width]);
        quantize_columns_centred(v.less(tk, &means), &mut value_scales, &mut values);
        for i in 0..tq {
            let mut query = vec![0; head_width];
            let query_scale = quantize_row(q.row(i, head_width), &mut query);
            let scores: Vec<f32> = (keys.chunks_exact(head_width).zip(&key_scales))
                .map(|(key, key_scale)| {
                    let products = query.iter().zip(key);
                    let sum: i32 = products.map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
                    sum as f32 * (query_scale * key_scale) * scale
                })
                .collect();
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let e: Vec<f32> = scores.iter().map(|score| (score - top).exp()).collect();
            let share_scale = 1.0 / (255.0 * e.iter().sum::<f32>());
            let shares = e.iter().map(|e| (255.0 * e).round_ties_even() as u8);
            let shares: Vec<u8> = shares.collect();
            let out = &mut out[i * width..][columns.clone()];
            for (c, (y, (value_scale, mean))) in
                (out.iter_mut().zip(value_scales.iter().zip(&means))).enumerate()
            {
                let products = shares.iter().zip(values[c..].iter().step_by(head_width));
                let sum: i32 = products.map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
                *y = (sum as f32).mul_add(share_scale * value_scale, *mean);
            }
        }
    }
}

/// exp(x) / sum exp(x), shifted by the largest value to avoid overflow.
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

/// The pixels `strip` of each line, whose values are u8 [pixel, 3] from pixel `first` on, into out [line, (pixel, channel)]:
/// the sum of source pixels times weights, rounded and clamped to 8 bits.
pub(crate) fn filter_lines(
    lines: &[&[u8]; LINES],
    first: usize,
    filter: &LineFilter,
    strip: Range<usize>,
    out: &mut FilteredLines,
) {
    for (line, out) in lines.iter().zip(out) {
        for (x, out) in strip.clone().zip(out.as_chunks_mut::<3>().0) {
            let source = &line[(filter.ranges()[x].start - first) * 3..];
            for (channel, out) in out.iter_mut().enumerate() {
                let values = source[channel..].iter().step_by(3);
                let products = values
                    .zip(filter.weights(x))
                    .map(|(value, weight)| i32::from(*value) * weight);
                let half = 1 << (PRECISION_BITS - 1);
                let sum = products.sum::<i32>() + half;
                *out = (sum >> PRECISION_BITS).clamp(0, 255);
            }
        }
    }
}

/// A row of pixels to rgb [pixels, 3].
pub(crate) fn yuv_to_rgb(matrix: &YuvMatrix, luma: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    let samples = luma.iter().zip(cb.iter().zip(cr));
    for (pixel, (luma, (cb, cr))) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(samples) {
        *pixel = matrix.rgb(*luma, *cb, *cr);
    }
}
