//! Quantisation of f32 rows to 8-bit integers with one scale per row.

use crate::dispatch::Kernels;
use crate::simd::Simd;
use crate::threads::Shared;
use crate::types::{Nonlinearity, Prologue};
use crate::{reference, scratch, threads};

/// [`crate::quantize_rows`] by the given kernels, with its operands checked.
pub(crate) fn quantize_rows(
    kernels: Kernels,
    x: &[f32],
    width: usize,
    prologue: Prologue,
    out: &mut [i8],
    scales: &mut [f32],
) {
    let threads = threads::count(x.len().saturating_mul(4));
    // SAFETY: each job writes the scales of its own rows.
    let scales = unsafe { Shared::new(scales) };
    threads::for_each_chunk(threads, out, TOGETHER * width, |i, out| {
        let x = &x[i * TOGETHER * width..][..out.len()];
        // SAFETY: these rows have scales, which only this job accesses.
        let scales = unsafe {
            let first = scales.pointer().add(i * TOGETHER);
            std::slice::from_raw_parts_mut(first, out.len() / width)
        };
        rows(kernels, x, width, prologue, out, scales);
    });
}

/// Rows that are processed at once; layer norm overlaps two.
const TOGETHER: usize = 2;

/// Applies `prologue` to the rows of x and quantises them to s8.
pub(crate) fn rows(
    kernels: Kernels,
    x: &[f32],
    width: usize,
    prologue: Prologue,
    out: &mut [i8],
    scales: &mut [f32],
) {
    let s8 = |x: &[f32], out: &mut [i8]| match kernels.float {
        None => reference::quantize_row(x, out),
        Some(vector) => vector.quantize(x, out),
    };
    if width == 0 {
        return each(x, width, out, scales, s8);
    }
    let block = TOGETHER * width;
    let outs = out.chunks_mut(block).zip(scales.chunks_mut(TOGETHER));
    for (x, (out, scales)) in x.chunks(block).zip(outs) {
        match prologue {
            Prologue::None => {
                each(x, width, out, scales, s8);
            }
            Prologue::LayerNorm {
                gain,
                bias,
                epsilon,
            } => scratch::with(x.len(), |y| {
                match kernels.float {
                    None => reference::layer_norm(x, width, gain, bias, epsilon, y),
                    Some(vector) => vector.layer_norm(x, width, gain, bias, epsilon, y),
                }
                each(y, width, out, scales, s8);
            }),
            Prologue::Activation(activation) => scratch::with(x.len(), |y| {
                y.copy_from_slice(x);
                match kernels.float {
                    None => y
                        .iter_mut()
                        .for_each(|v| *v = reference::activated(*v, Some(activation))),
                    Some(vector) => vector.activate(y, Some(Nonlinearity::Mlp(activation))),
                }
                each(y, width, out, scales, s8);
            }),
        }
    }
}

/// Quantises the rows of x plus `offset` to u8.
pub(crate) fn rows_offset(
    kernels: Kernels,
    x: &[f32],
    width: usize,
    offset: f32,
    out: &mut [u8],
    scales: &mut [f32],
) {
    let u8 = |x: &[f32], out: &mut [u8]| match kernels.float {
        None => reference::quantize_row_offset(x, offset, out),
        Some(vector) => vector.quantize_offset(x, offset, out),
    };
    each(x, width, out, scales, u8);
}

/// Quantises each row with `quantize`, which returns its scale.
fn each<T>(
    x: &[f32],
    width: usize,
    out: &mut [T],
    scales: &mut [f32],
    quantize: impl Fn(&[f32], &mut [T]) -> f32,
) {
    if width == 0 {
        return scales.fill(quantize(&[], &mut []));
    }
    let outs = out.chunks_exact_mut(width).zip(scales);
    for (x, (out, scale)) in x.chunks_exact(width).zip(outs) {
        *scale = quantize(x, out);
    }
}

/// [`reference::quantize_row`] bit for bit: a maximum does not depend on the order of values, and all else is element-wise.
#[inline(always)]
pub(crate) fn quantize_row<S: Simd>(simd: S, x: &[f32], out: &mut [i8]) -> f32 {
    assert_eq!(x.len(), out.len());
    let line = 4 * S::LANES;
    let (whole, rest) = x.split_at(x.len() - x.len() % line);
    let (scale, factor) = reference::row_scale(largest(simd, x));
    if scale.is_nan() {
        out.fill(0);
        return scale;
    }
    let factors = simd.splat(factor);
    for (x, out) in whole.chunks_exact(line).zip(out.chunks_exact_mut(line)) {
        let mut y = [factors; 4];
        for (i, y) in y.iter_mut().enumerate() {
            // SAFETY: the chunk has 4 registers.
            *y = simd.mul(*y, unsafe { simd.load(x.as_ptr().add(i * S::LANES)) });
        }
        // SAFETY: the chunk has 4 registers' values. None exceeds 127 by more than two roundings.
        unsafe { simd.store_s8(y, out.as_mut_ptr()) };
    }
    for (q, v) in out[whole.len()..].iter_mut().zip(rest) {
        *q = (v * factor).round_ties_even() as i8;
    }
    scale
}

/// [`reference::quantize_row_offset`] bit for bit, as [`quantize_row`].
#[inline(always)]
pub(crate) fn quantize_row_offset<S: Simd>(simd: S, x: &[f32], offset: f32, out: &mut [u8]) -> f32 {
    assert_eq!(x.len(), out.len());
    let line = 4 * S::LANES;
    let (whole, rest) = x.split_at(x.len() - x.len() % line);
    let (scale, factor) = reference::row_scale_offset(largest(simd, x), offset);
    if scale.is_nan() {
        out.fill(0);
        return scale;
    }
    let shift = offset * factor;
    let (factors, shifts) = (simd.splat(factor), simd.splat(shift));
    for (x, out) in whole.chunks_exact(line).zip(out.chunks_exact_mut(line)) {
        let mut y = [shifts; 4];
        for (i, y) in y.iter_mut().enumerate() {
            // SAFETY: the chunk has 4 registers.
            let v = unsafe { simd.load(x.as_ptr().add(i * S::LANES)) };
            *y = simd.mul_add(v, factors, *y);
        }
        // SAFETY: the chunk has 4 registers' values. No magnitude exceeds 255 by more than two roundings.
        unsafe { simd.store_u8(y, out.as_mut_ptr()) };
    }
    for (q, v) in out[whole.len()..].iter_mut().zip(rest) {
        *q = v.mul_add(factor, shift).round_ties_even() as u8;
    }
    scale
}

/// The bits of the largest magnitude; as bits, infinity is above all finite numbers and NaN above infinity.
#[inline(always)]
pub(crate) fn largest<S: Simd>(simd: S, x: &[f32]) -> u32 {
    let line = 4 * S::LANES;
    let (whole, rest) = x.split_at(x.len() - x.len() % line);
    let mut largest = [simd.splat(0.0); 4];
    for x in whole.chunks_exact(line) {
        for (i, largest) in largest.iter_mut().enumerate() {
            // SAFETY: the chunk has 4 registers.
            *largest =
                simd.larger_magnitude(*largest, unsafe { simd.load(x.as_ptr().add(i * S::LANES)) });
        }
    }
    let [a, b, c, d] = largest;
    let largest = simd.larger_magnitude(simd.larger_magnitude(a, b), simd.larger_magnitude(c, d));
    rest.iter()
        .map(|v| v.abs().to_bits())
        .fold(simd.largest_magnitude(largest), u32::max)
}
