use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{
    Values, assert_bit_identical_for_any_threads, edges, float, int8_variants, poison, vectors,
};
use crate::affine::{dynamic, fake_quantize, map_quantized};
use crate::dispatch::Kernels;
use crate::linear::pack::Weight;
use crate::{Affine, PackedLinearAffine, WeightError, reference};

/// `len` pseudo-random values of s8.
fn bytes(seed: u64, len: usize) -> Vec<i8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into_iter().map(u8::cast_signed).collect()
}

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    by: Affine,
    x: Vec<f32>,
    /// [n, k], without -128.
    weight: Vec<i8>,
    zero_points: Vec<i8>,
    residual: bool,
}

impl Case {
    fn new(m: usize, k: usize, n: usize, zero_point: i8, zero_points: bool) -> Self {
        let seed = (m * 31 + k * 7 + n) as u64;
        let by = Affine {
            scale: 0.0173,
            zero_point,
        };
        // A few values are out of range.
        let x = Values::new(seed, m * k).iter().map(|v| v * 2.8).collect();
        Case {
            m,
            k,
            n,
            by,
            x,
            weight: bytes(seed + 1, n * k)
                .into_iter()
                .map(|w| w.max(-127))
                .collect(),
            zero_points: match zero_points {
                true => bytes(seed + 2, n),
                false => vec![],
            },
            residual: (m + n).is_multiple_of(2),
        }
    }

    fn by(&self, kernels: Kernels) -> Vec<f32> {
        let &Case { m, k, n, by, .. } = self;
        let in_out: Vec<i8> = (0..k * n).map(|i| self.weight[i % n * k + i / n]).collect();
        let weight = match m.is_multiple_of(2) {
            true => Weight::OutIn(&self.weight),
            false => Weight::InOut(&in_out),
        };
        let (scales, bias) = (Values::new(3, n), Values::new(4, n));
        let residual = Values::new(5, m * n);
        let zeros = &self.zero_points;
        let layer =
            PackedLinearAffine::pack(kernels, weight, &scales, zeros, n, k, Some(&bias)).unwrap();
        let mut out = Values::new(6, m * n);
        poison();
        let residual = self.residual.then_some(&*residual);
        layer.apply(&self.x, m, by, None, residual, &mut out);
        out.to_vec()
    }

    /// The reference's result, from unpacked weights.
    fn expected(&self) -> Vec<f32> {
        let &Case { m, k, n, by, .. } = self;
        let (scales, bias) = (Values::new(3, n), Values::new(4, n));
        let residual = Values::new(5, m * n);
        let zeros: Vec<i32> = self.zero_points.iter().map(|&z| z.into()).collect();
        let mut out = vec![0.0; m * n];
        for (i, out) in out.chunks_exact_mut(n).enumerate() {
            let mut q = vec![0; k];
            reference::quantize_affine(&self.x[i * k..][..k], by, &mut q);
            reference::linear_affine(
                &q,
                by.zero_point.into(),
                by.scale,
                &self.weight,
                &zeros,
                &scales,
                &bias,
                None,
                self.residual.then(|| &residual[i * n..][..n]),
                out,
            );
        }
        out
    }

    #[track_caller]
    fn check(&self, kernels: Kernels) {
        let (found, expected) = (self.by(kernels), self.expected());
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{}: [{}, {}] x [{}], {:?}: output {at}: expected {expected}, found {found}",
                kernels.name,
                self.m,
                self.k,
                self.n,
                self.by
            );
        }
    }
}

#[test]
fn tile_edges() {
    for kernels in int8_variants() {
        let (rows, columns, step, depth) = match kernels.int8 {
            Some(vector) => {
                let layout = vector.layout();
                (layout.rows, layout.columns, layout.step, vector.depth())
            }
            None => (2, 2, 2, 64),
        };
        let mut depths = vec![0];
        depths.extend(edges(step));
        depths.extend([depth - 1, depth, depth + step + 1]);
        for &m in &edges(rows) {
            for &n in &edges(columns) {
                for &k in &depths {
                    let zero_point = [-128, -15, 0, 127][(m + k) % 4];
                    Case::new(m, k, n, zero_point, (n + k) % 3 > 0).check(kernels);
                }
            }
        }
    }
}

/// The largest sums, with zero points at both ends.
#[test]
fn nothing_overflows() {
    for kernels in int8_variants() {
        for (w, zero) in [(127, -128), (-127, 127)] {
            for (x, zero_point) in [(1e9, -128), (-1e9, 127)] {
                let mut case = Case::new(3, PackedLinearAffine::MOST_INPUTS, 5, zero_point, true);
                case.weight.fill(w);
                case.zero_points.fill(zero);
                case.x.fill(x);
                case.check(kernels);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_shape(m in 1usize..60, k in 0usize..400, n in 1usize..120, zero_point: i8, zero_points: bool) {
        for kernels in int8_variants() {
            Case::new(m, k, n, zero_point, zero_points).check(kernels);
        }
    }

    #[test]
    fn quantising_any_values(len in 0usize..200, zero_point: i8, scale in 1e-6f32..10.0, large: bool) {
        let by = Affine { scale, zero_point };
        let mut x = Values::new(len as u64, len);
        x.iter_mut().for_each(|v| *v *= scale * if large { 300.0 } else { 100.0 });
        // Halfway between two integers.
        x.iter_mut().step_by(3).for_each(|v| *v = ((*v / scale).floor() + 0.5) * scale);
        if large && len > 5 {
            x[len / 2] = f32::INFINITY;
        }
        let (mut q, mut fake) = (vec![0; len], vec![0.0; len]);
        assert!(reference::quantize_affine(&x, by, &mut q));
        reference::fake_quantize(&x, by, &mut fake);
        for (q, fake) in q.iter().zip(&fake) {
            assert_eq!((f32::from(*q) - f32::from(zero_point)) * scale, *fake);
        }
        let (range, finite) = (reference::range(&x), !x.contains(&f32::INFINITY));
        assert_eq!(finite, !range[2].is_nan());
        for vector in vectors() {
            let mut found = vec![1; len];
            assert!(vector.quantize_affine(&x, by, &mut found));
            assert_eq!(&found, &q, "{}", vector.name());
            let mut found = vec![1.0; len];
            fake_quantize(float(vector), &x, by, &mut found);
            assert_eq!(&found, &fake, "{}", vector.name());
            let values = std::array::from_fn(|q| (q as f32 - 128.0 - f32::from(zero_point)) * scale);
            found.fill(1.0);
            map_quantized(float(vector), &x, by, &values, &mut found);
            assert_eq!(&found, &fake, "{}", vector.name());
            let found = vector.range(&x);
            assert_eq!(found.map(f32::to_bits), range.map(f32::to_bits), "{}", vector.name());
        }
    }
}

/// The examples for DynamicQuantizeLinear of the ONNX specification, minus 128.
#[test]
fn dynamic_quantisation_of_onnx_examples() {
    for kernels in int8_variants() {
        for (x, scale, zero_point, expected) in [
            (
                &[0.0, 2.0, -3.0, -2.5, 1.34, 0.5][..],
                0.019_607_844,
                153,
                &[153, 255, 0, 26, 221, 179][..],
            ),
            (
                &[-1.0, -2.1, -1.3, -2.5, -3.34, -4.0],
                0.015_686_275,
                255,
                &[191, 121, 172, 96, 42, 0],
            ),
            (&[0.0, 0.0], 1.0, 0, &[0, 0]),
        ] {
            let by = dynamic(kernels, x);
            assert_eq!(by.scale, scale);
            assert_eq!(i32::from(by.zero_point) + 128, zero_point);
            let mut q = vec![0; x.len()];
            reference::quantize_affine(x, by, &mut q);
            let unsigned: Vec<i32> = q.iter().map(|&q| i32::from(q) + 128).collect();
            assert_eq!(unsigned, expected);
        }
    }
}

/// A NaN must not become a valid-looking result.
#[test]
fn nan_propagates() {
    for kernels in int8_variants() {
        let mut case = Case::new(20, 70, 40, 3, true);
        for wrong in [f32::NAN, f32::INFINITY] {
            case.x[5 * 70 + 69] = wrong;
            assert!(dynamic(kernels, &case.x).scale.is_nan());
        }
        for at in [5 * 70, 9 * 70 + 69] {
            case.x[at] = f32::NAN;
            let out = case.by(kernels);
            let row = &out[at / 70 * 40..][..40];
            assert!(row.iter().all(|v| v.is_nan()), "{}", kernels.name);
            assert!(out[..40].iter().all(|v| v.is_finite()));
        }
        let mut out = vec![0.0; case.x.len()];
        fake_quantize(kernels, &case.x, case.by, &mut out);
        assert!(out[5 * 70].is_nan() && out[9 * 70 + 69].is_nan() && out[0].is_finite());
    }
}

/// -128 is exact together with values below 127, and an error together with 127.
#[test]
fn minus_128_in_a_weight() {
    for kernels in int8_variants() {
        for zero_points in [false, true] {
            let mut case = Case::new(4, 33, 21, -20, zero_points);
            for w in case.weight.iter_mut().skip(33).take(33) {
                *w = (*w).min(126);
            }
            case.weight[40] = -128;
            case.check(kernels);
        }
        let mut weight = vec![0; 6];
        (weight[2], weight[3], weight[4]) = (-128, -128, 127);
        let pack = |weight: &[i8]| {
            let weight = Weight::OutIn(weight);
            PackedLinearAffine::pack(kernels, weight, &[1.0; 2], &[], 2, 3, None).map(|_| ())
        };
        assert_eq!(pack(&weight), Err(WeightError::Span { output: 1 }));
        weight[4] = 126;
        assert_eq!(pack(&weight), Ok(()));
    }
}

#[test]
fn bit_identical_for_any_number_of_threads() {
    for kernels in int8_variants() {
        let case = Case::new(270, 200, 130, -7, true);
        assert_bit_identical_for_any_threads(|| {
            let by = dynamic(kernels, &case.x);
            let mut out = case.by(kernels);
            out.extend([by.scale, by.zero_point.into()]);
            out
        });
    }
}
