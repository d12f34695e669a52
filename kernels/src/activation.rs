//! Exponential and activation functions on registers.

use crate::select::Kernels;
use crate::simd::{Simd, map_in_place};
use crate::{Activation, reference, threads};

/// [`crate::activate`] by the given kernels.
pub(crate) fn activate(kernels: Kernels, x: &mut [f32], activation: Activation) {
    // An exponential is worth some 16 multiply-adds.
    let threads = threads::count(x.len().saturating_mul(16));
    threads::share_chunks(threads, x, 1 << 14, |_, x| match kernels.float {
        None => {
            x.iter_mut()
                .for_each(|v| *v = reference::activated(*v, activation));
        }
        Some(vector) => vector.activate(x, activation),
    });
}

/// exp(x) for x <= 0, relative error below 2^-23 while exp(x) is a normal number (x >= -87.3). Below that
/// the result stays at exp(-87.33), so that the absolute error is below 1.2e-38. NaN stays NaN.
///
/// Cephes' expf: x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that r is exact, and a polynomial
/// of degree 6 in r.
#[inline(always)]
pub(crate) fn exp_nonpositive<S: Simd>(simd: S, x: S::V) -> S::V {
    let c = |v| simd.splat(v);
    // n = -126 is the last whose power of two is normal: ln 2 * -126 = -87.336.
    let x = simd.max(c(-87.33), x);
    let n = simd.round(simd.mul(x, c(std::f32::consts::LOG2_E)));
    let r = simd.neg_mul_add(n, c(0.693_359_4), x);
    let r = simd.neg_mul_add(n, c(-2.121_944_4e-4), r);
    let mut p = c(1.987_569_1e-4);
    for &coefficient in &[
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        0.166_666_65,
        0.5,
        1.0,
        1.0,
    ] {
        p = simd.mul_add(p, r, c(coefficient));
    }
    simd.times_power_of_two(p, n)
}

/// exp(x) for x in -87 ..= 87, relative error below 2^-21: enough where the result is a part of a sum. NaN stays
/// NaN.
///
/// As [`exp_nonpositive`] with ln 2 in one part, and the polynomial of degree 5 with the least relative error.
#[inline(always)]
fn exp_rough<S: Simd>(simd: S, x: S::V) -> S::V {
    let c = |v| simd.splat(v);
    let n = simd.round(simd.mul(x, c(std::f32::consts::LOG2_E)));
    let r = simd.neg_mul_add(n, c(std::f32::consts::LN_2), x);
    let mut p = c(8.297_619e-3);
    for &coefficient in &[
        4.191_563e-2,
        0.166_675_76,
        0.499_988_9,
        0.999_999_7,
        1.000_000_1,
    ] {
        p = simd.mul_add(p, r, c(coefficient));
    }
    simd.times_power_of_two(p, n)
}

/// x · sigmoid(1.702 x), absolute error below 2^-22 max(1, |x|).
#[inline(always)]
pub(crate) fn quick_gelu<S: Simd>(simd: S, x: S::V) -> S::V {
    // Beyond these the result is x, or less than the error.
    let t = simd.min(simd.splat(60.0), simd.mul(x, simd.splat(-1.702)));
    let z = exp_rough(simd, simd.max(simd.splat(-87.0), t));
    simd.div(x, simd.add(simd.splat(1.0), z))
}

/// x Φ(x), absolute error below 2^-22 max(1, |x|).
///
/// max(x, 0) - a exp(-a²/2) u R(u) with a = |x|, u = 1 / (1 + 0.35 a). R, of degree 8, is fitted to
/// erfc(a / √2) / 2 · exp(a²/2) / u for a in 0 ..= 14 with a largest relative error of 3.2e-8.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: S::V) -> S::V {
    let c = |v| simd.splat(v);
    let a = simd.min(c(14.0), simd.max(simd.sub(c(0.0), x), x));
    let u = simd.div(c(1.0), simd.mul_add(c(0.35), a, c(1.0)));
    let mut r = c(-2.914_614e-2);
    for &coefficient in &[
        0.143_972_7,
        -0.255_716_3,
        0.159_176_5,
        -2.311_141_8e-2,
        0.105_508_66,
        0.119_832_7,
        0.139_861_9,
        0.139_621_4,
    ] {
        r = simd.mul_add(r, u, c(coefficient));
    }
    let e = exp_rough(simd, simd.max(c(-87.0), simd.mul(simd.mul(a, a), c(-0.5))));
    let small = simd.mul(simd.mul(a, e), simd.mul(u, r));
    simd.sub(simd.max(c(0.0), x), small)
}

/// One register through the activation function.
#[inline(always)]
pub(crate) fn activated<S: Simd>(simd: S, x: S::V, activation: Activation) -> S::V {
    match activation {
        Activation::None => x,
        Activation::QuickGelu => quick_gelu(simd, x),
        Activation::Gelu => gelu(simd, x),
    }
}

/// All of x in place.
#[inline(always)]
pub(crate) fn activate_slice<S: Simd>(simd: S, x: &mut [f32], activation: Activation) {
    match activation {
        Activation::None => {}
        Activation::QuickGelu => map_in_place(
            simd,
            x,
            #[inline(always)]
            |v| quick_gelu(simd, v),
        ),
        Activation::Gelu => map_in_place(
            simd,
            x,
            #[inline(always)]
            |v| gelu(simd, v),
        ),
    }
}
