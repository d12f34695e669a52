use std::ffi::OsStr;

use pinhole_model::Activation;

use super::{UNIT, Values, assert_bit_identical_for_any_threads, float, vectors};
use crate::activation::activate;
use crate::dispatch::SCALAR;
use crate::norm::layer_norm;
use crate::select::{Error, choose};
use crate::{Nonlinearity, available, l2_normalize, reference};

/// Every 4099th finite f32: both signs, all exponents, and mantissas of all sizes.
fn all_magnitudes() -> Vec<f32> {
    let finite = f32::MAX.to_bits();
    (0..=finite)
        .step_by(4099)
        .flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
        .collect()
}

#[test]
fn exp2_within_its_bound() {
    let t: Vec<f32> = all_magnitudes()
        .into_iter()
        .filter(|t| t.abs() <= 126.0)
        .chain((-126_000..=126_000).map(|i| i as f32 / 1e3))
        .collect();
    for vector in vectors() {
        let mut y = t.clone();
        vector.exp2(&mut y);
        for (&t, &y) in t.iter().zip(&y) {
            let exact = f64::from(t).exp2();
            let off = (f64::from(y) - exact).abs();
            assert!(
                off <= 4.0 * UNIT * exact,
                "{}: 2^{t:e}: expected {exact:e}, found {y:e}",
                vector.name()
            );
        }
        let mut nan = [f32::NAN];
        vector.exp2(&mut nan);
        assert!(nan[0].is_nan());
    }
}

/// Compared with f64 over the whole range.
#[test]
fn activations_within_their_bound() {
    let x = all_magnitudes();
    let exact = |x: f32, activation| {
        let x = f64::from(x);
        match activation {
            None => x,
            Some(Nonlinearity::Mlp(Activation::QuickGelu)) => x / (1.0 + (-1.702 * x).exp()),
            Some(Nonlinearity::Mlp(Activation::Gelu)) => 0.5 * x * libm::erfc(-x / 2f64.sqrt()),
            Some(Nonlinearity::Mlp(Activation::GeluTanh)) => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                // tanh loses the digits of a result near zero.
                x / (1.0 + (-2.0 * u).exp())
            }
            Some(Nonlinearity::Clamp { low, high }) => x.clamp(low.into(), high.into()),
            Some(Nonlinearity::Silu) => x / (1.0 + (-x).exp()),
            Some(Nonlinearity::HardSwish) => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        }
    };
    for kernels in vectors().into_iter().map(float).chain([SCALAR]) {
        for activation in [
            None,
            Some(Nonlinearity::Mlp(Activation::QuickGelu)),
            Some(Nonlinearity::Mlp(Activation::Gelu)),
            Some(Nonlinearity::Mlp(Activation::GeluTanh)),
            Some(Nonlinearity::RELU),
            Some(Nonlinearity::Silu),
            Some(Nonlinearity::HardSwish),
        ] {
            let mut y = x.clone();
            activate(kernels, &mut y, activation);
            for (&x, &y) in x.iter().zip(&y) {
                let exact = exact(x, activation);
                let off = (f64::from(y) - exact).abs();
                let bound = 4.0 * UNIT * f64::from(x.abs()).max(1.0);
                assert!(
                    off <= bound,
                    "{} {activation:?}({x:e}): expected {exact:e}, found {y:e}",
                    kernels.name
                );
            }
            let mut special = [f32::NAN, f32::INFINITY, 0.0];
            activate(kernels, &mut special, activation);
            assert!(special[0].is_nan() && special[1] == f32::INFINITY && special[2] == 0.0);
        }
    }
}

#[test]
fn activation_of_any_length() {
    for vector in vectors() {
        for len in 0..70 {
            let x = Values::new(5, len);
            let mut y = Values::new(5, len);
            activate(
                float(vector),
                &mut y,
                Some(Nonlinearity::Mlp(Activation::Gelu)),
            );
            for (x, y) in x.iter().zip(&*y) {
                assert!(
                    (reference::activated(*x, Some(Activation::Gelu)) - y).abs()
                        <= 4.0 * UNIT as f32
                );
            }
        }
    }
}

/// Compared with f64. The mean has an error of (width + 1) units of the largest |x|, and so have a difference and the
/// deviation; the deviation's relative error multiplies the value.
#[test]
fn layer_norm_of_any_width() {
    let widths = (1..70).chain([127, 128, 129, 768, 1000]);
    for width in widths {
        for (offset, size) in [
            (0.0, 1.0),
            (30.0, 0.5),
            (-1.0, 1e-4),
            (0.0, 1e6),
            (2.0, 0.0),
        ] {
            let rows = 3;
            let mut x = Values::new(width as u64, rows * width);
            x.iter_mut().for_each(|v| *v = *v * size + offset);
            let (gain, bias) = (Values::new(1, width), Values::new(2, width));
            for kernels in vectors().into_iter().map(float).chain([SCALAR]) {
                let mut out = Values::new(3, rows * width);
                layer_norm(kernels, &x, width, &gain, &bias, 1e-5, &mut out);
                for (row, out) in x.chunks(width).zip(out.chunks(width)) {
                    let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
                    let mean = row.iter().sum::<f64>() / width as f64;
                    let variance =
                        row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
                    let deviation = (variance + 1e-5).sqrt();
                    let largest = row.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
                    let slip = 2.0 * (width + 2) as f64 * UNIT;
                    for (j, y) in out.iter().enumerate() {
                        let z = (row[j] - mean) / deviation;
                        let exact = z * f64::from(gain[j]) + f64::from(bias[j]);
                        let bound = slip * (1.0 + largest / deviation) * (1.0 + z.abs())
                            + 2.0 * UNIT * exact.abs();
                        assert!(
                            (f64::from(*y) - exact).abs() <= bound,
                            "{}, width {width}, offset {offset}, size {size}: expected {exact}, found {y}",
                            kernels.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn bit_identical_for_any_number_of_threads() {
    let (rows, width) = (700, 250);
    let x = Values::new(1, rows * width);
    for vector in vectors() {
        let kernels = float(vector);
        assert_bit_identical_for_any_threads(|| {
            let mut out = vec![0.0; rows * width];
            layer_norm(
                kernels,
                &x,
                width,
                &x[..width],
                &x[width..2 * width],
                1e-5,
                &mut out,
            );
            activate(
                kernels,
                &mut out,
                Some(Nonlinearity::Mlp(Activation::QuickGelu)),
            );
            out
        });
    }
}

/// x Φ(x), x sigmoid(1.702 x) and x / 2 (1 + tanh(...)) computed with Python's math module.
#[test]
fn activations_by_known_values() {
    for (x, gelu, quick_gelu, gelu_tanh) in [
        (1.0, 0.841_344_7, 0.845_795_8, 0.841_192),
        (-1.0, -0.158_655_26, -0.154_204_23, -0.158_808),
        (3.0, 2.995_950_2, 2.981_928_7, 2.996_362_6),
    ] {
        assert!((reference::activated(x, Some(Activation::Gelu)) - gelu).abs() < 5e-7);
        assert!((reference::activated(x, Some(Activation::QuickGelu)) - quick_gelu).abs() < 5e-7);
        assert!((reference::activated(x, Some(Activation::GeluTanh)) - gelu_tanh).abs() < 5e-7);
    }
}

#[test]
fn layer_norm_by_hand() {
    let mut out = [0.0; 2];
    // Mean 2, variance 1, and epsilon 3 makes the deviation 2.
    reference::layer_norm(&[1.0, 3.0], 2, &[4.0, 4.0], &[0.5, 1.0], 3.0, &mut out);
    assert_eq!(out, [-1.5, 3.0]);
}

#[test]
fn l2_norm_is_one() {
    let mut x = [3.0, -4.0];
    l2_normalize(&mut x);
    assert_eq!(x, [0.6, -0.8]);
    let mut zeros = [0.0; 2];
    l2_normalize(&mut zeros);
    assert!(zeros.iter().all(|v| v.is_nan()));
}

#[test]
fn a_variant_can_be_forced() {
    for name in available() {
        assert_eq!(choose(Some(OsStr::new(name))).unwrap().name, name);
    }
    assert_eq!(choose(None).unwrap().name, available()[0]);
    assert_eq!(choose(Some(OsStr::new(""))).unwrap().name, available()[0]);
    assert!(
        matches!(choose(Some(OsStr::new("AVX2"))), Err(Error::Unknown { found, .. }) if found == "AVX2")
    );
    let other = if cfg!(target_arch = "x86_64") {
        "neon"
    } else {
        "avx2"
    };
    assert!(
        matches!(choose(Some(OsStr::new(other))), Err(Error::Unavailable { found, .. }) if found == other)
    );
}
