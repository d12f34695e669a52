use pinhole_model::Activation;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{
    ACTIVATIONS, Values, assert_bit_identical_for_any_threads, edges, int8_variants, poison,
};
use crate::activation::activate;
use crate::dispatch::Kernels;
use crate::linear::pack::Weight;
use crate::quantize::quantize_rows;
use crate::{
    Int8Input, Nonlinearity, PackedLinearInt8, Prologue, WeightError, patch_embedding_int8,
    reference,
};

/// `len` pseudo-random bytes.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// As s8 in -127 ..= 127.
fn weights(seed: u64, len: usize) -> Vec<i8> {
    let signed = |b: u8| b.cast_signed().max(-127);
    bytes(seed, len).into_iter().map(signed).collect()
}

/// The type of the rows.
#[derive(Clone, Copy, Debug)]
enum Kind {
    F32,
    Offset,
    S8,
    U8,
}

const KINDS: [Kind; 4] = [Kind::F32, Kind::Offset, Kind::S8, Kind::U8];
/// Of [`Kind::Offset`]: some values lie below it.
const OFFSET: f32 = 0.75;

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    kind: Kind,
    activation: Option<Activation>,
    bias: bool,
    residual: bool,
    weight: Vec<i8>,
    /// s8 or u8 by `kind`; f32 are 1/97 of s8.
    x: Vec<u8>,
}

impl Case {
    fn new(m: usize, k: usize, n: usize, kind: Kind) -> Self {
        let seed = (m * 31 + k * 7 + n) as u64;
        Case {
            m,
            k,
            n,
            kind,
            activation: None,
            bias: (m + k).is_multiple_of(2),
            residual: (n + k).is_multiple_of(2),
            weight: weights(seed, n * k),
            x: bytes(seed + 1, m * k),
        }
    }

    fn scales(&self) -> (Values, Values) {
        (Values::new(2, self.m), Values::new(3, self.n))
    }

    /// The result of a variant, with weights packed from either order.
    fn by(&self, kernels: Kernels) -> Vec<f32> {
        let &Case { m, k, n, .. } = self;
        let (row_scales, scales) = self.scales();
        let (bias, residual) = (Values::new(4, n), Values::new(5, m * n));
        let bias = self.bias.then_some(&*bias);
        // One byte aside, so that nothing is aligned.
        let aside = |values: &mut dyn Iterator<Item = i8>| -> Vec<i8> {
            [0].into_iter().chain(values).collect()
        };
        let out_in = aside(&mut self.weight.iter().copied());
        let in_out = aside(&mut (0..k * n).map(|i| self.weight[i % n * k + i / n]));
        let weight = match m.is_multiple_of(2) {
            true => Weight::OutIn(&out_in[1..]),
            false => Weight::InOut(&in_out[1..]),
        };
        let layer = PackedLinearInt8::pack(kernels, weight, &scales, n, k, bias).unwrap();
        let signed: Vec<i8> = [0]
            .into_iter()
            .chain(self.x.iter().map(|b| b.cast_signed()))
            .collect();
        let pixels: Vec<u8> = [0].into_iter().chain(self.x.iter().copied()).collect();
        let float: Vec<f32> = signed.iter().map(|&q| f32::from(q) / 97.0).collect();
        let x = match self.kind {
            Kind::F32 => Int8Input::F32 {
                x: &float[1..],
                prologue: Prologue::None,
            },
            Kind::Offset => Int8Input::Offset {
                x: &float[1..],
                offset: OFFSET,
            },
            Kind::S8 => Int8Input::S8 {
                x: &signed[1..],
                scales: &row_scales,
            },
            Kind::U8 => Int8Input::U8 {
                x: &pixels[1..],
                scale: 1.0 / 255.0,
            },
        };
        let mut out = Values::new(6, m * n);
        poison();
        let residual = self.residual.then_some(&*residual);
        layer.apply(x, m, self.activation, residual, &mut out);
        out.to_vec()
    }

    /// The reference's result, but with the variant's activation function, whose bound another test checks.
    fn expected(&self, kernels: Kernels) -> Vec<f32> {
        let &Case { m, k, n, .. } = self;
        let (row_scales, scales) = self.scales();
        let (mut bias, residual) = (Values::new(4, n), Values::new(5, m * n));
        if !self.bias {
            bias.fill(0.0);
        }
        let mut out = vec![0.0; m * n];
        let none = None;
        let signed: Vec<i8> = self.x.iter().map(|b| b.cast_signed()).collect();
        let float: Vec<f32> = signed.iter().map(|&q| f32::from(q) / 97.0).collect();
        let mut row_scales = row_scales.to_vec();
        let mut unsigned = self.x.clone();
        let mut quantized = signed;
        let rows = float.chunks_exact(k.max(1)).zip(&mut row_scales);
        match self.kind {
            Kind::U8 => row_scales.fill(1.0 / 255.0),
            Kind::S8 => {}
            // Without values the largest is none.
            Kind::F32 | Kind::Offset if k == 0 => row_scales.fill(1.0),
            Kind::F32 => {
                for ((x, scale), q) in rows.zip(quantized.chunks_exact_mut(k)) {
                    *scale = reference::quantize_row(x, q);
                }
            }
            Kind::Offset => {
                for ((x, scale), q) in rows.zip(unsigned.chunks_exact_mut(k)) {
                    *scale = reference::quantize_row_offset(x, OFFSET, q);
                }
            }
        }
        let (w, s) = (&self.weight, &scales);
        match self.kind {
            Kind::U8 | Kind::Offset => {
                let x = &unsigned;
                reference::linear_int8(x, &row_scales, m, w, s, k, n, &bias, none, None, &mut out);
            }
            Kind::S8 | Kind::F32 => {
                let x = &quantized;
                reference::linear_int8(x, &row_scales, m, w, s, k, n, &bias, none, None, &mut out);
            }
        }
        match kernels.int8 {
            None => activate(kernels, &mut out, self.activation.map(Nonlinearity::Mlp)),
            Some(vector) => vector.activate(&mut out, self.activation.map(Nonlinearity::Mlp)),
        }
        if self.residual {
            out.iter_mut().zip(&*residual).for_each(|(y, r)| *y += r);
        }
        out
    }

    #[track_caller]
    fn check(&self, kernels: Kernels) {
        let (found, expected) = (self.by(kernels), self.expected(kernels));
        let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        if let Some(at) = found.iter().zip(&expected).position(differs) {
            let Case { m, k, n, .. } = self;
            panic!(
                "{}: [{m}, {k}] x [{k}, {n}] of {:?}, {:?}, row {} column {}: expected {}, found {}",
                kernels.name,
                self.kind,
                self.activation,
                at / n,
                at % n,
                expected[at],
                found[at]
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
        let mut depths = vec![0, 1, 2, 3, 5];
        depths.extend(edges(step));
        depths.extend(edges(depth.min(800)));
        depths.extend([depth - 1, depth, depth + step + 1]);
        for &m in &edges(rows) {
            for &n in &edges(columns) {
                for &k in &depths {
                    let kind = KINDS[(m + n + k) % 4];
                    Case::new(m, k, n, kind).check(kernels);
                }
            }
        }
    }
}

#[test]
fn every_tile_height() {
    for kernels in int8_variants() {
        let layout = kernels.int8.map(|v| v.layout());
        let (rows, columns) = layout.map_or((2, 2), |l| (l.rows, l.columns));
        for m in 1..=3 * rows {
            for kind in KINDS {
                Case::new(m, 37, columns + 5, kind).check(kernels);
            }
        }
    }
}

/// Products of the largest magnitude and either sign, to reveal an overflow of 16 bits, and the largest sums that an i32
/// holds.
#[test]
fn nothing_saturates() {
    for kernels in int8_variants() {
        for w in [-127i8, 127] {
            for x in [0u8, 127, 128, 129, 255] {
                for kind in [Kind::S8, Kind::U8] {
                    for k in [2, 16, 17, 64, PackedLinearInt8::MOST_INPUTS] {
                        let mut case = Case::new(3, k, 5, kind);
                        case.weight.fill(w);
                        case.x.fill(x);
                        case.check(kernels);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_shape(m in 1usize..60, k in 0usize..400, n in 1usize..120, kind in 0usize..64, extreme: bool) {
        let mut case = Case::new(m, k, n, KINDS[kind % 4]);
        case.activation = ACTIVATIONS[kind / 4 % 4];
        (case.bias, case.residual) = (kind / 16 % 2 == 0, kind / 32 == 0);
        if extreme {
            case.weight.iter_mut().for_each(|w| *w = if *w < 0 { -127 } else { 127 });
            case.x.iter_mut().for_each(|x| *x = if *x < 128 { 127 } else { 128 });
        }
        for kernels in int8_variants() {
            case.check(kernels);
        }
    }
}

#[test]
fn many_rows() {
    for kernels in int8_variants() {
        let mut case = Case::new(300, 33, 40, Kind::F32);
        case.activation = Some(Activation::QuickGelu);
        case.check(kernels);
    }
}

/// SIMD variants are bit-identical even after an activation function.
#[test]
fn variants_are_bit_identical() {
    for activation in ACTIVATIONS {
        let mut case = Case::new(20, 200, 70, Kind::F32);
        case.activation = activation;
        let mut found = int8_variants()
            .into_iter()
            .filter(|v| v.int8.is_some())
            .map(|v| case.by(v));
        if let Some(first) = found.next() {
            assert!(found.all(|other| other == first), "{activation:?}");
        }
    }
}

#[test]
fn bit_identical_for_any_number_of_threads() {
    for kernels in int8_variants() {
        for (m, k, n) in [(50, 400, 301), (1, 2000, 1600), (270, 128, 128)] {
            let case = Case {
                activation: Some(Activation::Gelu),
                ..Case::new(m, k, n, Kind::F32)
            };
            assert_bit_identical_for_any_threads(|| case.by(kernels));
        }
    }
}

/// So that an image's result does not depend on its batch.
#[test]
fn rows_are_independent() {
    for kernels in int8_variants() {
        let (m, k, n) = (19, 100, 30);
        let (weight, scales) = (weights(1, n * k), vec![0.01; n]);
        let bias = Values::new(2, n);
        let layer =
            PackedLinearInt8::pack(kernels, Weight::OutIn(&weight), &scales, n, k, Some(&bias))
                .unwrap();
        let mut x = Values::new(3, m * k);
        x[2 * k + 5] = f32::NAN;
        x[3 * k] = f32::INFINITY;
        x[4 * k..5 * k].fill(0.0);
        let apply = |x, m| {
            let mut out = vec![0.0; m * n];
            let prologue = Prologue::None;
            layer.apply(Int8Input::F32 { x, prologue }, m, None, None, &mut out);
            out
        };
        let together = apply(&x, m);
        for i in 0..m {
            let alone = apply(&x[i * k..][..k], 1);
            let row = &together[i * n..][..n];
            match i {
                2 | 3 => assert!(alone.iter().chain(row).all(|v| v.is_nan()), "NaN was lost"),
                _ => assert_eq!(alone, row, "{}: row {i}", kernels.name),
            }
            if i == 4 {
                assert_eq!(alone, *bias, "zeros leave the bias");
            }
        }
    }
}

/// A prologue gives the same as separate quantisation and multiplication.
#[test]
fn fused_prologue_matches_separate_steps() {
    for kernels in int8_variants() {
        let (m, k, n) = (11, 90, 20);
        let layer = PackedLinearInt8::pack(
            kernels,
            Weight::OutIn(&weights(1, n * k)),
            &[0.01; 20],
            n,
            k,
            None,
        )
        .unwrap();
        let x = Values::new(3, m * k);
        let (gain, bias) = (Values::new(4, k), Values::new(5, k));
        let norm = Prologue::LayerNorm {
            gain: &gain,
            bias: &bias,
            epsilon: 1e-5,
        };
        for prologue in [
            Prologue::None,
            norm,
            Prologue::Activation(Activation::QuickGelu),
        ] {
            let (mut q, mut scales) = (vec![0; m * k], vec![0.0; m]);
            quantize_rows(kernels, &x, k, prologue, &mut q, &mut scales);
            let apply = |x| {
                let mut out = vec![0.0; m * n];
                layer.apply(x, m, None, None, &mut out);
                out
            };
            let apart = apply(Int8Input::S8 {
                x: &q,
                scales: &scales,
            });
            assert_eq!(
                apply(Int8Input::F32 { x: &x, prologue }),
                apart,
                "{prologue:?}"
            );
        }
    }
}

#[test]
fn weights_that_would_overflow_are_errors() {
    for kernels in int8_variants() {
        let pack = |weight: &[i8], n, k| {
            PackedLinearInt8::pack(kernels, Weight::OutIn(weight), &vec![1.0; n], n, k, None)
                .map(|_| ())
        };
        let mut weight = vec![-127; 12];
        assert_eq!(pack(&weight, 3, 4), Ok(()));
        weight[6] = -128;
        let range = WeightError::Range {
            output: 1,
            input: 2,
        };
        assert_eq!(pack(&weight, 3, 4), Err(range));
        let most = PackedLinearInt8::MOST_INPUTS;
        assert_eq!(pack(&vec![1; most], 1, most), Ok(()));
        let error = pack(&vec![1; most + 1], 1, most + 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "weight: expected at most 65536 inputs, found 65537"
        );
    }
}

#[test]
fn no_rows_and_no_columns() {
    for kernels in int8_variants() {
        let x = Int8Input::S8 {
            x: &[1; 10],
            scales: &[1.0; 2],
        };
        let none = PackedLinearInt8::pack(kernels, Weight::OutIn(&[]), &[], 0, 5, None).unwrap();
        none.apply(x, 2, None, None, &mut []);
        let some = PackedLinearInt8::pack(kernels, Weight::InOut(&[1; 20]), &[1.0; 4], 4, 5, None)
            .unwrap();
        let x = Int8Input::U8 { x: &[], scale: 1.0 };
        some.apply(x, 0, None, None, &mut []);
    }
}

#[test]
#[should_panic(expected = "x: u8 [2, 5]")]
fn wrong_length_panics_with_the_name() {
    let layer = PackedLinearInt8::from_out_in(&[1; 20], &[1.0; 4], 4, 5, None).unwrap();
    let x = Int8Input::U8 {
        x: &[0; 9],
        scale: 1.0,
    };
    layer.apply(x, 2, None, None, &mut [0.0; 8]);
}

/// The reference on numbers computed by hand.
#[test]
fn reference_by_hand() {
    let mut out = [0.0; 4];
    let weight = [1i8, 0, -3, 2];
    reference::linear_int8(
        &[10i8, 20, -1, 0],
        &[0.5, 1.0],
        2,
        &weight,
        &[1.0, 0.1],
        2,
        2,
        &[100.0, 0.0],
        None,
        Some(&[1.0; 4]),
        &mut out,
    );
    // Row 0: 10 and -30 + 40; row 1: -1 and 3.
    let last = 3f32.mul_add(0.1, 0.0) + 1.0;
    assert_eq!(out, [106.0, 10.0 * 0.05 + 1.0, 100.0, last]);
}

/// Equal to the f32 patch embedding: the sums are integers that f32 represents exactly.
#[test]
fn patches_in_row_major_order() {
    let (height, width, patch) = (4, 6, 2);
    let pixels = bytes(1, height * width * 3);
    let weight = weights(2, 5 * 12);
    let layer = PackedLinearInt8::from_out_in(&weight, &[1.0; 5], 5, 12, None).unwrap();
    let mut out = vec![0.0; 6 * 5];
    patch_embedding_int8(&pixels, height, width, patch, &layer, 1.0, &mut out);
    let float: Vec<f32> = weight.iter().map(|&w| w.into()).collect();
    let layer = crate::PackedLinear::from_out_in(&float, 5, 12, None);
    let mut expected = vec![0.0; 6 * 5];
    crate::patch_embedding(&pixels, height, width, patch, &layer, &mut expected);
    assert_eq!(out, expected);
}

/// VPDPBUSD and its emulation, against their definition. Only a processor with AVX-VNNI runs the instruction.
#[cfg(target_arch = "x86_64")]
#[test]
fn dot_products_of_256_bits() {
    use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_storeu_si256};

    use crate::x86_64::{AvxVnni, Dot, EmulatedVnni};

    fn check<D: Dot>(token: Option<D>) {
        let Some(token) = token else {
            eprintln!("SKIPPED: this processor has no {}", D::NAME);
            return;
        };
        for seed in 0..100 {
            let mut x = bytes(seed, 32);
            let mut w = bytes(seed + 100, 32);
            if seed == 0 {
                (x, w) = (vec![255; 32], vec![0x80; 32]);
            }
            let mut sums: [i32; 8] = std::array::from_fn(|i| [i32::MAX, -5][i % 2]);
            let mut expected = sums;
            for (i, sum) in expected.iter_mut().enumerate() {
                for j in 4 * i..4 * i + 4 {
                    *sum = sum.wrapping_add(i32::from(x[j]) * i32::from(w[j].cast_signed()));
                }
            }
            token.enter(
                #[inline(always)]
                // SAFETY: each has 32 bytes; the token proves the instructions.
                |token| unsafe {
                    let load = |from: *const __m256i| _mm256_loadu_si256(from);
                    let (x, w) = (load(x.as_ptr().cast()), load(w.as_ptr().cast()));
                    let found = token.dot(load(sums.as_ptr().cast()), x, w);
                    _mm256_storeu_si256(sums.as_mut_ptr().cast(), found);
                },
            );
            assert_eq!(sums, expected, "{}", D::NAME);
        }
    }

    check(EmulatedVnni::new());
    check(AvxVnni::new());
}
