use pinhole_model::Activation;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{ACTIVATIONS, Values, assert_bit_identical_for_any_threads, edges, poison};
use crate::activation::activate;
use crate::dispatch::Kernels;
use crate::linear::pack::Weight;
use crate::reference::{self, F16_BLOCK, f16_value, round_f16};
use crate::select::variants;
use crate::{
    NonFiniteWeight, Nonlinearity, PackedLinear, PackedLinearF16, patch_embedding,
    patch_embedding_f16,
};

/// The bits of the f16 nearest to v.
fn f16(v: f32) -> u16 {
    let rounded = round_f16(f64::from(v)) as f32;
    let sign = u16::from(v.is_sign_negative()) << 15;
    let bits = (rounded.abs() * (1.0f64 / 2f64.powi(112)) as f32).to_bits();
    sign | (bits >> 13) as u16
}

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    activation: Option<Activation>,
    bias: bool,
    residual: bool,
    /// [n, k]
    weight: Vec<u16>,
    x: Vec<f32>,
}

impl Case {
    fn new(m: usize, k: usize, n: usize) -> Self {
        let seed = (m * 31 + k * 7 + n) as u64;
        Case {
            m,
            k,
            n,
            activation: None,
            bias: (m + k).is_multiple_of(2),
            residual: (n + k).is_multiple_of(2),
            weight: Values::new(seed, n * k).iter().map(|&w| f16(w)).collect(),
            x: Values::new(seed + 1, m * k).to_vec(),
        }
    }

    fn operands(&self) -> (Values, Values) {
        let (mut bias, mut residual) = (Values::new(4, self.n), Values::new(5, self.m * self.n));
        if !self.bias {
            bias.fill(0.0);
        }
        if !self.residual {
            residual.fill(0.0);
        }
        (bias, residual)
    }

    /// The result of a variant, with weights packed from either order.
    fn by(&self, kernels: Kernels) -> Vec<f32> {
        let &Case { m, k, n, .. } = self;
        let (bias, residual) = self.operands();
        let bias = self.bias.then_some(&*bias);
        // One value aside, so that nothing is aligned.
        let aside = |values: &mut dyn Iterator<Item = u16>| -> Vec<u16> {
            [0].into_iter().chain(values).collect()
        };
        let out_in = aside(&mut self.weight.iter().copied());
        let in_out = aside(&mut (0..k * n).map(|i| self.weight[i % n * k + i / n]));
        let weight = match m.is_multiple_of(2) {
            true => Weight::OutIn(&out_in[1..]),
            false => Weight::InOut(&in_out[1..]),
        };
        let layer = PackedLinearF16::pack(kernels, weight, k, n, bias).unwrap();
        let x: Vec<f32> = [0.0].into_iter().chain(self.x.iter().copied()).collect();
        let mut out = Values::new(6, m * n);
        poison();
        let residual = self.residual.then_some(&*residual);
        layer.apply(&x[1..], m, self.activation, residual, &mut out);
        out.to_vec()
    }

    /// The reference's result, but with the variant's activation function, whose bound another test checks.
    fn expected(&self, kernels: Kernels) -> Vec<f32> {
        let &Case { m, k, n, .. } = self;
        let (bias, residual) = self.operands();
        let mut out = vec![0.0; m * n];
        let weight: Vec<f32> = self.weight.iter().map(|&w| f16_value(w)).collect();
        reference::linear_f16(&self.x, m, &weight, k, n, &bias, &mut out);
        activate(kernels, &mut out, self.activation.map(Nonlinearity::Mlp));
        if self.residual {
            out.iter_mut().zip(&*residual).for_each(|(y, r)| *y += r);
        }
        out
    }

    #[track_caller]
    fn check(&self, kernels: Kernels) {
        let (found, expected) = (self.by(kernels), self.expected(kernels));
        let differs =
            |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan());
        if let Some(at) = found.iter().zip(&expected).position(differs) {
            let Case { m, k, n, .. } = self;
            panic!(
                "{}: [{m}, {k}] x [{k}, {n}], {:?}, row {} column {}: expected {}, found {}",
                kernels.name,
                self.activation,
                at / n,
                at % n,
                expected[at],
                found[at]
            );
        }
    }
}

/// The variants with distinct f16 kernels, and one that emulates them.
fn all() -> Vec<Kernels> {
    let mut all = variants();
    all.sort_by_key(|v| v.half.map(|v| v.name()));
    all.dedup_by_key(|v| v.half.map(|v| v.name()));
    assert!(all[0].half.is_none());
    #[cfg(target_arch = "aarch64")]
    assert_eq!(
        all.len() == 2,
        std::arch::is_aarch64_feature_detected!("fp16")
    );
    all
}

#[test]
fn tile_edges() {
    for kernels in all() {
        let (rows, columns, depth) = match kernels.half {
            Some(vector) => {
                let shape = vector.shape();
                (shape.rows, shape.columns, shape.depth)
            }
            None => (2, 64, 8),
        };
        let mut depths = vec![0, 1, 2, 3, 4, 5, 7, 8, 9];
        depths.extend(edges(F16_BLOCK));
        depths.extend([depth - 1, depth, depth + 1, depth + F16_BLOCK + 5]);
        for &m in &edges(rows) {
            for &n in &edges(columns) {
                for &k in &depths {
                    Case::new(m, k, n).check(kernels);
                }
            }
        }
    }
}

#[test]
fn every_tile_height_and_many_rows() {
    for kernels in all() {
        for m in 1..=20 {
            Case::new(m, 37, 29).check(kernels);
        }
        Case::new(300, 33, 40).check(kernels);
        Case::new(2, 5000, 3).check(kernels);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_shape_and_magnitude(
        m in 1usize..40,
        k in 0usize..300,
        n in 1usize..90,
        kind in 0usize..16,
        size in -60i32..60,
        spread in 0i32..30,
        weight_size in -20i32..15,
    ) {
        let mut case = Case::new(m, k, n);
        case.activation = ACTIVATIONS[kind % 4];
        (case.bias, case.residual) = (kind / 4 % 2 == 0, kind / 8 == 0);
        let mut random = ChaCha8Rng::seed_from_u64((m * k + n) as u64);
        for x in &mut case.x {
            let below = (random.next_u32() % (spread + 1).cast_unsigned()).cast_signed();
            *x *= 2f32.powi(size - below);
        }
        for w in &mut case.weight {
            *w = f16(f16_value(*w) * 2f32.powi(weight_size));
        }
        for kernels in all() {
            case.check(kernels);
        }
    }
}

/// The largest sums: all of one sign and of the largest magnitude of f16 or f32.
#[test]
fn nothing_overflows() {
    const LARGEST: u16 = 0x7bff;
    for kernels in all() {
        for (x, w) in [
            (1.0, LARGEST),
            (65504.0, LARGEST),
            (2f32.powi(111) * 1.999, LARGEST),
            (1.999_999_9, LARGEST),
            (3e-38, LARGEST),
            (65520.0, f16(1.0)),
            (1e30, f16(0.25)),
            (-1e30, 1),
        ] {
            let mut case = Case::new(9, 3 * F16_BLOCK + 7, 25);
            case.x.fill(x);
            case.weight.fill(w);
            (case.bias, case.residual) = (false, false);
            case.check(kernels);
            let exact = f64::from(x) * f64::from(f16_value(w)) * case.k as f64;
            for y in case.by(kernels) {
                match exact.abs() < f64::from(f32::MAX) {
                    true => assert!(
                        (f64::from(y) / exact - 1.0).abs() < 0.02,
                        "{}: {x} times {w:#x}: expected {exact}, found {y}",
                        kernels.name
                    ),
                    false => assert!(y.is_infinite()),
                }
            }
        }
    }
}

/// Rows that f16 cannot represent become NaN; others do not change.
#[test]
fn non_finite_rows_become_nan() {
    for kernels in all() {
        let mut case = Case::new(12, 70, 30);
        let k = case.k;
        case.x[k + 3] = f32::NAN;
        case.x[3 * k + 69] = f32::INFINITY;
        case.x[5 * k] = -2f32.powi(112);
        case.x[7 * k..8 * k].fill(0.0);
        case.x[8 * k..9 * k].fill(f32::from_bits(1));
        (case.bias, case.residual) = (true, false);
        case.check(kernels);
        let (bias, _) = case.operands();
        for (i, row) in case.by(kernels).chunks_exact(case.n).enumerate() {
            match i {
                1 | 3 | 5 => assert!(row.iter().all(|y| y.is_nan()), "row {i}: {row:?}"),
                7 => assert_eq!(row, &*bias),
                _ => assert!(row.iter().all(|y| y.is_finite()), "row {i}: {row:?}"),
            }
        }
    }
}

#[test]
fn rows_and_threads_do_not_change_results() {
    for kernels in all() {
        let case = Case::new(21, 200, 130);
        let weight = Weight::OutIn(&case.weight);
        let layer = PackedLinearF16::pack(kernels, weight, case.k, case.n, None).unwrap();
        let apply = |x: &[f32], m: usize| {
            let mut out = vec![0.0; m * case.n];
            layer.apply(x, m, Some(Activation::Gelu), None, &mut out);
            out
        };
        let together = apply(&case.x, case.m);
        for (x, row) in case
            .x
            .chunks_exact(case.k)
            .zip(together.chunks_exact(case.n))
        {
            assert_eq!(apply(x, 1), row);
        }
        assert_bit_identical_for_any_threads(|| apply(&case.x, case.m));
    }
}

/// f16 represents pixels exactly: the result differs from f32 by the rounding of sums only.
#[test]
fn patch_embedding_applies_its_scale() {
    for kernels in all() {
        let (patch, n) = (8, 30);
        let k = patch * patch * 3;
        let weight = Case::new(1, k, n).weight;
        let bias = Values::new(4, n);
        let layer = PackedLinearF16::pack(kernels, Weight::InOut(&weight), k, n, Some(&bias));
        let exact = PackedLinear::pack(kernels, k, n, Some(&bias), |p, j| {
            f16_value(weight[p * n + j]) / 255.0
        });
        let pixels: Vec<u8> = (0..16 * 24 * 3).map(|i| (i * 7919 % 256) as u8).collect();
        let [mut found, mut expected] = [(); 2].map(|()| vec![0.0; 6 * n]);
        let scale = 1.0 / 255.0;
        patch_embedding_f16(&pixels, 16, 24, patch, &layer.unwrap(), scale, &mut found);
        patch_embedding(&pixels, 16, 24, patch, &exact, &mut expected);
        for (y, e) in found.iter().zip(&expected) {
            // The sums are below 10, and each addition is off by at most 2^-12 of one.
            assert!(
                (y - e).abs() < 0.05,
                "{}: expected {e}, found {y}",
                kernels.name
            );
        }
    }
}

#[test]
fn non_finite_weight_is_an_error() {
    let mut weight = [0u16; 15];
    weight[7] = 0xfc00;
    let expected = Err(NonFiniteWeight {
        output: 1,
        input: 2,
    });
    let found = PackedLinearF16::from_out_in(&weight, 3, 5, None);
    assert_eq!(found.map(|_| ()), expected);
    weight[7] = 0x7e00;
    let expected = Err(NonFiniteWeight {
        output: 2,
        input: 1,
    });
    let found = PackedLinearF16::from_in_out(&weight, 3, 5, None);
    assert_eq!(found.map(|_| ()), expected);
}

#[test]
fn no_rows_and_no_columns() {
    for kernels in all() {
        let weight = Weight::InOut(&[]);
        let layer = PackedLinearF16::pack(kernels, weight, 5, 0, None).unwrap();
        layer.apply(&[0.0; 10], 2, None, None, &mut []);
        let weight = [0; 20];
        let weight = Weight::InOut(&weight);
        let layer = PackedLinearF16::pack(kernels, weight, 5, 4, None).unwrap();
        layer.apply(&[], 0, None, None, &mut []);
    }
}

/// a · b + c of f16 in integers, as multiples of 2^-48.
fn fused(a: u16, b: u16, c: u16) -> i128 {
    let whole = |v: u16, places: i32| (f64::from(f16_value(v)) * 2f64.powi(places)) as i128;
    let exact = whole(a, 24) * whole(b, 24) + (whole(c, 24) << 24);
    // f16 keeps 11 bits, and nothing below 2^-24.
    let length = 128 - exact.unsigned_abs().leading_zeros();
    let lost = length.saturating_sub(11).max(24);
    let magnitude = exact.unsigned_abs();
    let (mut kept, rest, half) = (
        magnitude >> lost,
        magnitude & ((1 << lost) - 1),
        1 << (lost - 1),
    );
    if rest > half || rest == half && kept % 2 == 1 {
        kept += 1;
    }
    let rounded = (kept << lost).cast_signed();
    if exact < 0 { -rounded } else { rounded }
}

/// Emulation by f64 rounds once. Compared with integer arithmetic, in particular for sums close to halfway between two f16.
#[test]
fn fused_multiply_add_rounds_once() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut checked = 0;
    for i in 0..1_000_000 {
        let bits = random.next_u64();
        let mut v = [bits as u16, (bits >> 16) as u16, (bits >> 32) as u16];
        if i % 2 == 0 {
            // Numbers of few bits, many of which give sums halfway between two f16.
            v.iter_mut().for_each(|v| *v &= 0xfc03);
        }
        if v.iter().any(|v| v & 0x7c00 == 0x7c00) {
            continue;
        }
        let [a, b, c] = v.map(|v| f64::from(f16_value(v)));
        if (a * b + c).abs() >= 65504.0 {
            continue;
        }
        let found = (round_f16(a * b + c) * 2f64.powi(48)) as i128;
        assert_eq!(found, fused(v[0], v[1], v[2]), "{a} * {b} + {c}");
        checked += 1;
    }
    assert!(checked > 300_000);
}

#[test]
fn every_f16_converts_exactly() {
    let expected = [
        (0x0000, 0.0),
        (0x0001, 2f32.powi(-24)),
        (0x03ff, 1023.0 * 2f32.powi(-24)),
        (0x0400, 2f32.powi(-14)),
        (0x3c00, 1.0),
        (0x3c01, 1.0 + 2f32.powi(-10)),
        (0xc000, -2.0),
        (0x7bff, 65504.0),
    ];
    for (bits, value) in expected {
        assert_eq!(f16_value(bits), value, "{bits:#x}");
    }
    for bits in (0..0x7c00).chain(0x8000..0xfc00) {
        assert_eq!(f16(f16_value(bits)), bits);
        assert_eq!(
            round_f16(f64::from(f16_value(bits))) as f32,
            f16_value(bits)
        );
    }
}
