//! Exponential and activation functions on registers.

use crate::dispatch::Kernels;
use crate::simd::{Simd, map_in_place};
use crate::types::Nonlinearity;
use crate::{reference, threads};
use pinhole_model::Activation;

/// The function of each value by the given kernels, in place.
pub(crate) fn activate(kernels: Kernels, x: &mut [f32], function: Option<Nonlinearity>) {
    // An exponential takes as long as about 16 multiply-adds.
    let threads = threads::count(x.len().saturating_mul(16));
    threads::for_each_chunk(threads, x, 1 << 14, |_, x| match kernels.float {
        None => {
            x.iter_mut()
                .for_each(|v| *v = reference::nonlinear(*v, function));
        }
        Some(vector) => vector.activate(x, function),
    });
}

/// 2^t for t in -126 ..= 126, relative error below 2^-22; unspecified for other t. NaN stays NaN.
///
/// t = n + r with |r| <= 1/2, both exact; 2^r by the minimax polynomial (relative error) of degree 5 that begins with
/// 1 + r ln 2.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, t: S::V) -> S::V {
    let c = |v| simd.splat(v);
    let n = simd.round(t);
    let r = simd.sub(t, n);
    let mut p = c(1.330_060_5e-3);
    for &coefficient in &[
        9.669_691e-3,
        5.550_558_5e-2,
        0.240_222_83,
        std::f32::consts::LN_2,
        1.0,
    ] {
        p = simd.mul_add(p, r, c(coefficient));
    }
    simd.times_power_of_two(p, n)
}

/// x · sigmoid(1.702 x), absolute error below 2^-22 max(1, |x|).
#[inline(always)]
pub(crate) fn quick_gelu<S: Simd>(simd: S, x: S::V) -> S::V {
    swish(simd, x, 1.702)
}

/// x · sigmoid(factor · x) for a factor of 1 to 2, absolute error below 2^-22 max(1, |x|).
///
/// Rounding the exponent makes the power's relative error grow with the exponent, but the factor that it is multiplied by
/// shrinks faster.
#[inline(always)]
pub(crate) fn swish<S: Simd>(simd: S, x: S::V, factor: f32) -> S::V {
    // Beyond these limits the result is x, or below the error.
    let t = simd.mul(x, simd.splat(-factor * std::f32::consts::LOG2_E));
    let t = simd.max(simd.splat(-126.0), simd.min(simd.splat(86.0), t));
    simd.div(x, simd.add(simd.splat(1.0), exp2(simd, t)))
}

/// x Φ(x), absolute error below 2^-22 max(1, |x|).
///
/// max(x, 0) + b Φ(b) with b = -|x|. log2 Φ(b) is smooth, so that a polynomial of degree 6 suffices, without a division: fitted
/// on -6 ..= 0 so that the largest error of b Φ(b) is least, 5.2e-8. Below -6 the result is about -6e-9.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: S::V) -> S::V {
    let c = |v| simd.splat(v);
    let b = simd.max(c(-6.0), simd.min(simd.sub(c(0.0), x), x));
    let mut p = c(3.309_277_7e-5);
    for &coefficient in &[
        7.692_193_6e-4,
        8.080_715e-3,
        5.341_210_2e-2,
        -0.458_770_96,
        1.151_201_7,
        -0.999_993_1,
    ] {
        p = simd.mul_add(p, b, c(coefficient));
    }
    simd.mul_add(b, exp2(simd, p), simd.max(c(0.0), x))
}

/// x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³))), absolute error below 2^-22 max(1, |x|).
///
/// (1 + tanh u) / 2 = sigmoid(2 u), so this is [`quick_gelu`] with another argument.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(simd: S, x: S::V) -> S::V {
    // -2 √(2/π) log2 e
    const FACTOR: f32 = -2.302_208_2;
    let square = simd.mul(x, x);
    let slope = simd.mul_add(square, simd.splat(0.044_715 * FACTOR), simd.splat(FACTOR));
    let t = simd.mul(x, slope);
    // Beyond these limits the result is x, or below the error.
    let t = simd.max(simd.splat(-126.0), simd.min(simd.splat(86.0), t));
    simd.div(x, simd.add(simd.splat(1.0), exp2(simd, t)))
}

/// The activation function of one register.
#[inline(always)]
pub(crate) fn activated<S: Simd>(simd: S, x: S::V, function: Option<Nonlinearity>) -> S::V {
    match function {
        None => x,
        Some(Nonlinearity::Mlp(Activation::QuickGelu)) => quick_gelu(simd, x),
        Some(Nonlinearity::Mlp(Activation::Gelu)) => gelu(simd, x),
        Some(Nonlinearity::Mlp(Activation::GeluTanh)) => gelu_tanh(simd, x),
        Some(Nonlinearity::Clamp { low, high }) => {
            simd.max(simd.splat(low), simd.min(simd.splat(high), x))
        }
        Some(Nonlinearity::Silu) => swish(simd, x, 1.0),
        Some(Nonlinearity::HardSwish) => hard_swish(simd, x),
    }
}

/// x · max(0, min(1, x / 6 + 1/2))
#[inline(always)]
pub(crate) fn hard_swish<S: Simd>(simd: S, x: S::V) -> S::V {
    let gate = simd.mul_add(x, simd.splat(1.0 / 6.0), simd.splat(0.5));
    let gate = simd.max(simd.splat(0.0), simd.min(simd.splat(1.0), gate));
    simd.mul(x, gate)
}

/// Calls `$by` with the arguments and, last, the activation function of a register, so that each function gets code of its
/// own with its constants in registers.
macro_rules! by_activation {
    ($activation:expr, $simd:ident, $by:path, $($argument:expr),+) => {
        match $activation {
            None => $by(
                $($argument,)+
                #[inline(always)]
                |v| v,
            ),
            Some(crate::types::Nonlinearity::Mlp(pinhole_model::Activation::QuickGelu)) => $by(
                $($argument,)+
                #[inline(always)]
                |v| crate::activation::quick_gelu($simd, v),
            ),
            Some(crate::types::Nonlinearity::Mlp(pinhole_model::Activation::Gelu)) => $by(
                $($argument,)+
                #[inline(always)]
                |v| crate::activation::gelu($simd, v),
            ),
            Some(crate::types::Nonlinearity::Clamp { low, high }) => {
                let (low, high) = ($simd.splat(low), $simd.splat(high));
                $by(
                    $($argument,)+
                    #[inline(always)]
                    |v| $simd.max(low, $simd.min(high, v)),
                )
            }
            Some(crate::types::Nonlinearity::Silu) => $by(
                $($argument,)+
                #[inline(always)]
                |v| crate::activation::swish($simd, v, 1.0),
            ),
            Some(crate::types::Nonlinearity::HardSwish) => $by(
                $($argument,)+
                #[inline(always)]
                |v| crate::activation::hard_swish($simd, v),
            ),
            Some(crate::types::Nonlinearity::Mlp(pinhole_model::Activation::GeluTanh)) => $by(
                $($argument,)+
                #[inline(always)]
                |v| crate::activation::gelu_tanh($simd, v),
            ),
        }
    };
}
pub(crate) use by_activation;

/// The function of all values, in place.
#[inline(always)]
pub(crate) fn activate_slice<S: Simd>(simd: S, x: &mut [f32], function: Option<Nonlinearity>) {
    by_activation!(function, simd, map_in_place, simd, x);
}
