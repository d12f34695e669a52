//! Affine quantisation: f32 to 8-bit integers with one scale and zero point, as ONNX's QuantizeLinear.

use crate::dispatch::Kernels;
use crate::simd::{Simd, load_part, store_part};
use crate::threads::{self, Shared};
use crate::types::Affine;
use crate::{reference, scratch};

/// Values that are quantised before they are looked up, few enough for the first-level cache.
pub(crate) const TABLE_BLOCK: usize = 1024;

/// out = values[q + 128]
pub(crate) fn look_up(q: &[i8], values: &[f32; 256], out: &mut [f32]) {
    for (out, q) in out.iter_mut().zip(q) {
        *out = values[usize::from(q.cast_unsigned() ^ 0x80)];
    }
}

/// [`crate::fake_quantize`] by the given kernels.
pub(crate) fn fake_quantize(kernels: Kernels, x: &[f32], by: Affine, out: &mut [f32]) {
    let threads = threads::count(x.len().saturating_mul(4));
    let size = x.len().div_ceil(threads).max(1);
    threads::for_each_chunk(threads, out, size, |i, out| {
        let x = &x[i * size..][..out.len()];
        match kernels.float {
            None => reference::fake_quantize(x, by, out),
            Some(vector) => vector.fake_quantize(x, by, out),
        }
    });
}

/// [`crate::map_quantized`] by the given kernels.
pub(crate) fn map_quantized(
    kernels: Kernels,
    x: &[f32],
    by: Affine,
    values: &[f32; 256],
    out: &mut [f32],
) {
    let threads = threads::count(x.len().saturating_mul(4));
    let size = x.len().div_ceil(threads).max(1);
    threads::for_each_chunk(threads, out, size, |i, out| {
        let x = &x[i * size..][..out.len()];
        for (x, out) in x.chunks(TABLE_BLOCK).zip(out.chunks_mut(TABLE_BLOCK)) {
            let mut q = [0; TABLE_BLOCK];
            let q = &mut q[..x.len()];
            let finite = match kernels.float {
                None => reference::quantize_affine(x, by, q),
                Some(vector) => vector.quantize_affine(x, by, q),
            };
            if finite {
                look_up(q, values, out);
            } else {
                out.fill(f32::NAN);
            }
        }
    });
}

/// [`Affine::dynamic`] by the given kernels.
pub(crate) fn dynamic(kernels: Kernels, x: &[f32]) -> Affine {
    let range = |x: &[f32]| match kernels.float {
        None => reference::range(x),
        Some(vector) => vector.range(x),
    };
    let threads = threads::count(x.len().saturating_mul(4));
    let size = x.len().div_ceil(threads).max(1);
    scratch::with(3 * threads, |ranges: &mut [f32]| {
        ranges.fill(0.0);
        threads::for_each_chunk(threads, ranges, 3, |i, found| {
            let part = &x[(i * size).min(x.len())..((i + 1) * size).min(x.len())];
            found.copy_from_slice(&range(part));
        });
        let [mut least, mut largest, mut finite] = [0f32; 3];
        for found in ranges.as_chunks::<3>().0 {
            least = least.min(found[0]);
            largest = largest.max(found[1]);
            finite += found[2];
        }
        reference::affine([least, largest, finite])
    })
}

/// Quantises the rows of x [rows, k] to s8; writes each row's sum and its scale: that of `by`, or NaN if a value is NaN.
pub(crate) fn quantize(
    kernels: Kernels,
    x: &[f32],
    k: usize,
    by: Affine,
    out: &mut [i8],
    sums: &mut [i32],
    scales: &mut [f32],
) {
    if k == 0 {
        sums.fill(0);
        scales.fill(by.scale);
        return;
    }
    let threads = threads::count(x.len().saturating_mul(4));
    // SAFETY: each job writes its own row's sum and scale.
    let (sums, scales) = unsafe { (Shared::new(sums), Shared::new(scales)) };
    threads::for_each_chunk(threads, out, k, |i, out| {
        let x = &x[i * k..][..k];
        let finite = match kernels.float {
            None => reference::quantize_affine(x, by, out),
            Some(vector) => vector.quantize_affine(x, by, out),
        };
        let sum = out.iter().map(|&q| i32::from(q)).sum();
        // SAFETY: row i has a sum and a scale, which only this job accesses.
        unsafe {
            sums.pointer().add(i).write(sum);
            let scale = if finite { by.scale } else { f32::NAN };
            scales.pointer().add(i).write(scale);
        }
    });
}

/// [`reference::quantize_affine`] bit for bit.
#[inline(always)]
pub(crate) fn quantize_slice<S: Simd>(simd: S, x: &[f32], by: Affine, out: &mut [i8]) -> bool {
    assert_eq!(x.len(), out.len());
    let line = 4 * S::LANES;
    let (whole, rest) = x.split_at(x.len() - x.len() % line);
    let rounded = rounded(simd, by);
    let zero = simd.splat(by.zero_point.into());
    let mut largest = simd.splat(0.0);
    for (x, out) in whole.chunks_exact(line).zip(out.chunks_exact_mut(line)) {
        let mut y = [zero; 4];
        for (i, y) in y.iter_mut().enumerate() {
            // SAFETY: the chunk has 4 registers.
            let v = unsafe { simd.load(x.as_ptr().add(i * S::LANES)) };
            largest = simd.larger_magnitude(largest, v);
            *y = simd.add(rounded(v), zero);
        }
        // SAFETY: the chunk has 4 registers' values, integers in -128 ..= 127 or NaN.
        unsafe { simd.store_s8(y, out.as_mut_ptr()) };
    }
    let finite = reference::quantize_affine(rest, by, &mut out[whole.len()..]);
    let nan = simd.largest_magnitude(largest) > f32::INFINITY.to_bits();
    if nan || !finite {
        out.fill(0);
    }
    !nan && finite
}

/// [`reference::fake_quantize`] bit for bit.
#[inline(always)]
pub(crate) fn fake_quantize_slice<S: Simd>(simd: S, x: &[f32], by: Affine, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    let quantized = fake_quantized(simd, by);
    let (mut from, mut to) = (x.chunks_exact(S::LANES), out.chunks_exact_mut(S::LANES));
    for (x, out) in (&mut from).zip(&mut to) {
        // SAFETY: each chunk has a register's values.
        unsafe {
            simd.store(quantized(simd.load(x.as_ptr())), out.as_mut_ptr());
        }
    }
    let v = quantized(load_part(simd, from.remainder()));
    store_part(simd, v, to.into_remainder());
}

/// [`reference::fake_quantize`] of a register, bit for bit.
#[inline(always)]
pub(crate) fn fake_quantized<S: Simd>(simd: S, by: Affine) -> impl Fn(S::V) -> S::V {
    let rounded = rounded(simd, by);
    let scale = simd.splat(by.scale);
    #[inline(always)]
    move |v| simd.mul(rounded(v), scale)
}

/// x / scale, clamped and rounded.
#[inline(always)]
fn rounded<S: Simd>(simd: S, by: Affine) -> impl Fn(S::V) -> S::V {
    let (low, high) = by.limits();
    let (scale, low, high) = (simd.splat(by.scale), simd.splat(low), simd.splat(high));
    #[inline(always)]
    move |v| simd.round(simd.max(low, simd.min(high, simd.div(v, scale))))
}

/// [`reference::range`] bit for bit.
#[inline(always)]
pub(crate) fn range_slice<S: Simd>(simd: S, x: &[f32]) -> [f32; 3] {
    let zero = simd.splat(0.0);
    let (mut least, mut most, mut largest) = ([zero; 4], [zero; 4], [zero; 4]);
    let lines = x.chunks_exact(4 * S::LANES);
    let rest = lines.remainder();
    for x in lines {
        for i in 0..4 {
            // SAFETY: the chunk has 4 registers.
            let v = unsafe { simd.load(x.as_ptr().add(i * S::LANES)) };
            least[i] = simd.min(least[i], v);
            most[i] = simd.max(most[i], v);
            largest[i] = simd.larger_magnitude(largest[i], v);
        }
    }
    let join = |[a, b, c, d]: [S::V; 4], f: &dyn Fn(S::V, S::V) -> S::V| f(f(a, b), f(c, d));
    let largest = join(largest, &|a, b| simd.larger_magnitude(a, b));
    let [low, high, finite] = reference::range(rest);
    if simd.largest_magnitude(largest) >= f32::INFINITY.to_bits() || finite.is_nan() {
        return [0.0, 0.0, f32::NAN];
    }
    let least = join(least, &|a, b| simd.min(a, b));
    let most = join(most, &|a, b| simd.max(a, b));
    let least = 0.0 - simd.largest(simd.sub(zero, least));
    [least.min(low), simd.largest(most).max(high), 0.0]
}
