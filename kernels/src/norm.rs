//! Reductions over a row: layer norm and softmax.

use crate::activation::exp2;
use crate::dispatch::Kernels;
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
    threads::for_each_chunk(threads, out, rows * width, |i, out| {
        let x = &x[i * rows * width..][..out.len()];
        match kernels.float {
            None => reference::layer_norm(x, width, gain, bias, epsilon, out),
            Some(vector) => vector.layer_norm(x, width, gain, bias, epsilon, out),
        }
    });
}

/// Independent sums, which hide the latency of an addition.
const CHAINS: usize = 4;

/// The sums of `f(i, value)` over each of R rows of one length; `tail` replaces `f` for the last values, fewer than LANES.
#[inline(always)]
fn sums<S: Simd, const R: usize>(
    simd: S,
    rows: [&[f32]; R],
    f: impl Fn(usize, S::V) -> S::V,
    tail: impl Fn(usize, f32) -> f32,
) -> [f32; R] {
    let len = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == len));
    let mut sums = [[simd.splat(0.0); CHAINS]; R];
    let line = CHAINS * S::LANES;
    let lines = len - len % line;
    for at in (0..lines).step_by(line) {
        for (i, (row, sums)) in rows.iter().zip(&mut sums).enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: at + CHAINS * LANES <= len.
                let v = unsafe { simd.load(row.as_ptr().add(at + j * S::LANES)) };
                *sum = simd.add(*sum, f(i, v));
            }
        }
    }
    let whole = len - len % S::LANES;
    let mut all = [0.0; R];
    for (i, (row, [a, b, c, d])) in rows.into_iter().zip(sums).enumerate() {
        let mut a = a;
        for at in (lines..whole).step_by(S::LANES) {
            // SAFETY: at + LANES <= len.
            a = simd.add(a, f(i, unsafe { simd.load(row.as_ptr().add(at)) }));
        }
        let whole_sum = simd.sum(simd.add(simd.add(a, b), simd.add(c, d)));
        all[i] = whole_sum + row[whole..].iter().map(|&v| tail(i, v)).sum::<f32>();
    }
    all
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
    // Two rows at once: each has to wait for its mean, then for its deviation.
    let mut pairs = x.chunks_exact(2 * width);
    let mut outs = out.chunks_exact_mut(2 * width);
    for (x, out) in pairs.by_ref().zip(outs.by_ref()) {
        let ((a, b), (to_a, to_b)) = (x.split_at(width), out.split_at_mut(width));
        layer_norm_together(simd, [a, b], gain, bias, epsilon, [to_a, to_b]);
    }
    let rest = outs.into_remainder();
    if !rest.is_empty() {
        layer_norm_together(simd, [pairs.remainder()], gain, bias, epsilon, [rest]);
    }
}

/// Layer norm of R rows.
#[inline(always)]
fn layer_norm_together<S: Simd, const R: usize>(
    simd: S,
    rows: [&[f32]; R],
    gain: &[f32],
    bias: &[f32],
    epsilon: f32,
    outs: [&mut [f32]; R],
) {
    let width = gain.len();
    let whole = width - width % S::LANES;
    assert!(bias.len() == width && rows.iter().all(|row| row.len() == width));
    let mut means = sums(
        simd,
        rows,
        #[inline(always)]
        |_, v| v,
        |_, v| v,
    );
    let mut m = [simd.splat(0.0); R];
    for (mean, m) in means.iter_mut().zip(&mut m) {
        *mean /= width as f32;
        *m = simd.splat(*mean);
    }
    let squares = sums(
        simd,
        rows,
        #[inline(always)]
        |i, v| {
            let d = simd.sub(v, m[i]);
            simd.mul(d, d)
        },
        |i, v| (v - means[i]) * (v - means[i]),
    );
    for (i, (row, out)) in rows.into_iter().zip(outs).enumerate() {
        assert_eq!(out.len(), width);
        let scale = 1.0 / (squares[i] / width as f32 + epsilon).sqrt();
        let s = simd.splat(scale);
        for j in (0..whole).step_by(S::LANES) {
            // SAFETY: j + LANES <= whole <= width, the length of all four.
            unsafe {
                let v = simd.mul(simd.sub(simd.load(row.as_ptr().add(j)), m[i]), s);
                let (g, b) = (
                    simd.load(gain.as_ptr().add(j)),
                    simd.load(bias.as_ptr().add(j)),
                );
                simd.store(simd.mul_add(v, g, b), out.as_mut_ptr().add(j));
            }
        }
        for j in whole..width {
            out[j] = (row[j] - means[i]) * scale * gain[j] + bias[j];
        }
    }
}

/// Rows whose softmax is computed at once: in a single one each operation waits for the previous one.
const TOGETHER: usize = 4;

/// Softmax of scale · x, in place, of the rows of x, `stride` apart. Row i has `seen(i)` values, at least one and at least as
/// many as the previous row. The values that follow, up to a whole number of registers, must be finite and become less than
/// 2^-125.
///
/// In powers of two: e^(scale · x) = 2^(scale · log2 e · x).
#[inline(always)]
pub(crate) fn softmax<S: Simd>(
    simd: S,
    x: &mut [f32],
    stride: usize,
    seen: impl Fn(usize) -> usize,
    scale: f32,
) {
    let scale = scale * std::f32::consts::LOG2_E;
    // The registers that a tile uses for its sums.
    let most = S::ROWS * (S::COLUMNS / S::LANES);
    for (block, x) in x.chunks_mut(TOGETHER * stride).enumerate() {
        let first = block * TOGETHER;
        let all: [usize; TOGETHER] = std::array::from_fn(
            #[inline(always)]
            |i| seen(first + i),
        );
        let n = all[0].div_ceil(S::LANES);
        let alike = all[TOGETHER - 1].div_ceil(S::LANES) == n;
        if x.len() == TOGETHER * stride && alike && TOGETHER * n <= most && n <= 5 {
            softmax_short(simd, x, stride, n, all, scale);
            continue;
        }
        for (row, seen) in x.chunks_exact_mut(stride).zip(all) {
            let n = seen.div_ceil(S::LANES);
            match n {
                ..=5 => softmax_short(simd, row, stride, n, [seen], scale),
                _ => softmax_long(simd, &mut row[..n * S::LANES], seen, scale),
            }
        }
    }
}

/// [`softmax`] of R rows of n <= 5 registers.
#[inline(always)]
fn softmax_short<S: Simd, const R: usize>(
    simd: S,
    x: &mut [f32],
    stride: usize,
    n: usize,
    seen: [usize; R],
    scale: f32,
) {
    // Rows this short stay in registers; without loops the processor overlaps several of them.
    match n {
        1 => softmax_registers::<S, R, 1>(simd, x, stride, seen, scale),
        2 => softmax_registers::<S, R, 2>(simd, x, stride, seen, scale),
        3 => softmax_registers::<S, R, 3>(simd, x, stride, seen, scale),
        4 => softmax_registers::<S, R, 4>(simd, x, stride, seen, scale),
        5 => softmax_registers::<S, R, 5>(simd, x, stride, seen, scale),
        _ => unreachable!("{n} registers"),
    }
}

/// scale · x for the lanes below `seen`, -infinity for the others.
#[inline(always)]
pub(crate) fn masked<S: Simd>(simd: S, x: S::V, seen: usize, scale: S::V) -> S::V {
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

/// 2^(x - top), or 2^-126 if that is less.
#[inline(always)]
pub(crate) fn weight<S: Simd>(simd: S, x: S::V, top: S::V) -> S::V {
    exp2(simd, simd.max(simd.splat(-126.0), simd.sub(x, top)))
}

/// [`softmax`] of R rows of N registers, `scale` in powers of two.
#[inline(always)]
fn softmax_registers<S: Simd, const R: usize, const N: usize>(
    simd: S,
    x: &mut [f32],
    stride: usize,
    seen: [usize; R],
    scale: f32,
) {
    let last = (N - 1) * S::LANES;
    assert!(x.len() >= (R - 1) * stride + N * S::LANES && seen.iter().all(|&seen| seen > last));
    let scale = simd.splat(scale);
    let x = x.as_mut_ptr();
    // SAFETY: x has R rows of N registers.
    let at = |row: usize, i: usize| unsafe { x.add(row * stride + i * S::LANES) };
    let mut v = [[simd.splat(0.0); N]; R];
    let mut tops = [simd.splat(0.0); R];
    for (row, v) in v.iter_mut().enumerate() {
        for (i, v) in v.iter_mut().enumerate() {
            // SAFETY: as above.
            let x = unsafe { simd.load(at(row, i)) };
            *v = match i + 1 < N {
                true => simd.mul(x, scale),
                false => masked(simd, x, seen[row] - last, scale),
            };
        }
        let mut top = v[0];
        for &v in &v[1..] {
            top = simd.max(top, v);
        }
        tops[row] = top;
    }
    // Loops, because a closure passed to an array's map() is not always inlined.
    for top in &mut tops {
        *top = simd.splat(simd.largest(*top));
    }
    let mut sums = [simd.splat(0.0); R];
    for ((v, top), sum) in v.iter_mut().zip(tops).zip(&mut sums) {
        for v in &mut *v {
            *v = weight(simd, *v, top);
        }
        *sum = v[0];
        for &v in &v[1..] {
            *sum = simd.add(*sum, v);
        }
    }
    for sum in &mut sums {
        *sum = simd.splat(1.0 / simd.sum(*sum));
    }
    for (row, (v, scale)) in v.iter().zip(sums).enumerate() {
        for (i, &v) in v.iter().enumerate() {
            // SAFETY: as above.
            unsafe { simd.store(simd.mul(v, scale), at(row, i)) };
        }
    }
}

/// [`softmax`] of any number of registers, `scale` in powers of two.
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
        |v| weight(simd, v, top),
    );
    let [sum] = sums(
        simd,
        [&*x],
        #[inline(always)]
        |_, v| v,
        |_, v| v,
    );
    let scale = simd.splat(1.0 / sum);
    map_in_place(
        simd,
        x,
        #[inline(always)]
        |v| simd.mul(v, scale),
    );
}
