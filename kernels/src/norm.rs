//! Reductions over a row: layer norm and softmax.

use crate::activation::exp_nonpositive;
use crate::select::Kernels;
use crate::simd::{MOST_LANES, Simd, map_in_place};
use crate::{reference, threads};

/// [`crate::layer_norm`] by the given kernels, with its operands checked.
pub(crate) fn layer_norm(
    kernels: Kernels,
    x: &[f32],
    width: usize,
    gain: &[f32],
    bias: &[f32],
    epsilon: f32,
    out: &mut [f32],
) {
    let rows = (1usize << 14).div_ceil(width);
    let threads = threads::count(x.len().saturating_mul(4));
    threads::share_chunks(threads, out, rows * width, |i, out| {
        let x = &x[i * rows * width..][..out.len()];
        match kernels.float {
            None => reference::layer_norm(x, width, gain, bias, epsilon, out),
            Some(vector) => vector.layer_norm(x, width, gain, bias, epsilon, out),
        }
    });
}

/// Four sums at a time hide the latency of an addition.
const CHAINS: usize = 4;

/// The sum of `f` over whole registers; the rest of fewer than LANES values is `tail`'s.
#[inline(always)]
fn sum<S: Simd>(simd: S, x: &[f32], f: impl Fn(S::V) -> S::V, tail: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [simd.splat(0.0); CHAINS];
    let mut lines = x.chunks_exact(CHAINS * S::LANES);
    for line in &mut lines {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the line has CHAINS * LANES values.
            *sum = simd.add(
                *sum,
                f(unsafe { simd.load(line.as_ptr().add(i * S::LANES)) }),
            );
        }
    }
    let mut registers = lines.remainder().chunks_exact(S::LANES);
    for register in &mut registers {
        // SAFETY: the chunk has LANES values.
        sums[0] = simd.add(sums[0], f(unsafe { simd.load(register.as_ptr()) }));
    }
    let [a, b, c, d] = sums;
    let whole = simd.sum(simd.add(simd.add(a, b), simd.add(c, d)));
    whole + registers.remainder().iter().map(|&v| tail(v)).sum::<f32>()
}

/// Layer norm of each row of x.
#[inline(always)]
pub(crate) fn layer_norm_rows<S: Simd>(
    simd: S,
    x: &[f32],
    width: usize,
    gain: &[f32],
    bias: &[f32],
    epsilon: f32,
    out: &mut [f32],
) {
    let whole = width - width % S::LANES;
    assert!(gain.len() == width && bias.len() == width);
    for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = sum(
            simd,
            row,
            #[inline(always)]
            |v| v,
            |v| v,
        ) / width as f32;
        let m = simd.splat(mean);
        let squares = sum(
            simd,
            row,
            #[inline(always)]
            |v| {
                let d = simd.sub(v, m);
                simd.mul(d, d)
            },
            |v| (v - mean) * (v - mean),
        );
        let scale = 1.0 / (squares / width as f32 + epsilon).sqrt();
        let s = simd.splat(scale);
        for j in (0..whole).step_by(S::LANES) {
            // SAFETY: j + LANES <= whole <= width, the length of all four.
            unsafe {
                let v = simd.mul(simd.sub(simd.load(row.as_ptr().add(j)), m), s);
                let (g, b) = (
                    simd.load(gain.as_ptr().add(j)),
                    simd.load(bias.as_ptr().add(j)),
                );
                simd.store(simd.mul_add(v, g, b), out.as_mut_ptr().add(j));
            }
        }
        for j in whole..width {
            out[j] = (row[j] - mean) * scale * gain[j] + bias[j];
        }
    }
}

/// Softmax of the first `seen` values of scale · x in place; what lies behind them, up to a whole number of
/// registers, is finite and becomes less than 2^-125.
#[inline(always)]
pub(crate) fn softmax<S: Simd>(simd: S, x: &mut [f32], seen: usize, scale: f32) {
    // Rows this short stay in registers, and without loops the processor works on several at once.
    match x.len() / S::LANES {
        1 => softmax_registers::<S, 1>(simd, x, seen, scale),
        2 => softmax_registers::<S, 2>(simd, x, seen, scale),
        3 => softmax_registers::<S, 3>(simd, x, seen, scale),
        4 => softmax_registers::<S, 4>(simd, x, seen, scale),
        5 => softmax_registers::<S, 5>(simd, x, seen, scale),
        _ => softmax_long(simd, x, seen, scale),
    }
}

/// scale · x for the lanes below `seen`, -infinity for the others.
#[inline(always)]
fn masked<S: Simd>(simd: S, x: S::V, seen: usize, scale: S::V) -> S::V {
    const MASK: [f32; 2 * MOST_LANES] = {
        let mut mask = [0.0; 2 * MOST_LANES];
        let mut i = MOST_LANES;
        while i < mask.len() {
            mask[i] = f32::NEG_INFINITY;
            i += 1;
        }
        mask
    };
    let first = MOST_LANES - seen.min(S::LANES);
    // SAFETY: LANES <= MOST_LANES values from `first` on are within the mask.
    let mask = unsafe { simd.load(MASK.as_ptr().add(first)) };
    simd.mul_add(x, scale, mask)
}

/// [`softmax`] of N registers.
#[inline(always)]
fn softmax_registers<S: Simd, const N: usize>(simd: S, x: &mut [f32], seen: usize, scale: f32) {
    assert!(x.len() == N * S::LANES && seen > (N - 1) * S::LANES);
    let scale = simd.splat(scale);
    let mut v = [simd.splat(0.0); N];
    for (i, v) in v.iter_mut().enumerate() {
        // SAFETY: x has N registers.
        let x = unsafe { simd.load(x.as_ptr().add(i * S::LANES)) };
        *v = match i + 1 < N {
            true => simd.mul(x, scale),
            false => masked(simd, x, seen - i * S::LANES, scale),
        };
    }
    let mut top = v[0];
    for &v in &v[1..] {
        top = simd.max(top, v);
    }
    let top = simd.splat(simd.largest(top));
    for v in &mut v {
        *v = exp_nonpositive(simd, simd.sub(*v, top));
    }
    let mut sum = v[0];
    for &v in &v[1..] {
        sum = simd.add(sum, v);
    }
    let scale = simd.splat(1.0 / simd.sum(sum));
    for (i, &v) in v.iter().enumerate() {
        // SAFETY: as above.
        unsafe { simd.store(simd.mul(v, scale), x.as_mut_ptr().add(i * S::LANES)) };
    }
}

/// [`softmax`] of any number of registers.
#[inline(always)]
fn softmax_long<S: Simd>(simd: S, x: &mut [f32], seen: usize, scale: f32) {
    let mut top = simd.splat(f32::NEG_INFINITY);
    let factor = simd.splat(scale);
    for (i, register) in x.chunks_exact_mut(S::LANES).enumerate() {
        // SAFETY: the chunk has LANES values.
        unsafe {
            let v = simd.load(register.as_ptr());
            let v = masked(simd, v, seen - i * S::LANES, factor);
            simd.store(v, register.as_mut_ptr());
            top = simd.max(top, v);
        }
    }
    let top = simd.splat(simd.largest(top));
    map_in_place(
        simd,
        x,
        #[inline(always)]
        |v| exp_nonpositive(simd, simd.sub(v, top)),
    );
    let scale = simd.splat(1.0 / sum(simd, x, |v| v, |v| v));
    map_in_place(
        simd,
        x,
        #[inline(always)]
        |v| simd.mul(v, scale),
    );
}
