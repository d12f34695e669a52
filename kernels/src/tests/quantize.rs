use pinhole_model::Activation;

use super::{Values, assert_bit_identical_for_any_threads, edges, float, poison, vectors};
use crate::activation::activate;
use crate::dispatch::{FloatKernels, Kernels, SCALAR};
use crate::norm::layer_norm;
use crate::quantize::{quantize_rows, rows_offset};
use crate::reference::{self, SMALLEST};
use crate::{Nonlinearity, Prologue, available};

/// Values and the scales of their rows.
type Quantized<T> = (Vec<T>, Vec<f32>);

fn quantized(kernels: Kernels, x: &[f32], width: usize, prologue: Prologue) -> Quantized<i8> {
    // At an address that no register is aligned to.
    let mut out = vec![99; x.len() + 1];
    let mut scales = vec![99.0; x.len() / width];
    poison();
    quantize_rows(kernels, x, width, prologue, &mut out[1..], &mut scales);
    (out.split_off(1), scales)
}

/// As [`quantized`] by the scalar reference.
fn expected(x: &[f32], width: usize) -> Quantized<i8> {
    let mut out = vec![99; x.len()];
    let rows = x.chunks(width).zip(out.chunks_mut(width));
    let scales = rows
        .map(|(x, out)| reference::quantize_row(x, out))
        .collect();
    (out, scales)
}

#[track_caller]
fn assert_same<T: PartialEq + std::fmt::Debug>(
    found: Quantized<T>,
    expected: &Quantized<T>,
    what: &str,
) {
    assert_eq!(found.0, expected.0, "{what}");
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    assert!(
        found.1.iter().zip(&expected.1).all(same),
        "{what}: scales {:?}, expected {:?}",
        found.1,
        expected.1
    );
}

/// Calls `check` with three rows of each relevant width and magnitudes from 0 to the largest.
fn for_any_rows(mut check: impl FnMut(&'static dyn FloatKernels, &[f32], usize, &str)) {
    for vector in vectors() {
        let registers = vector.shape().columns;
        for width in (1..70).chain(edges(2 * registers)).chain([768, 3072]) {
            for size in [1.0, 1e30, 1e-30, 1e-37, 0.0, 3e38] {
                let mut x = Values::new(width as u64, 3 * width);
                x.iter_mut().for_each(|v| *v *= size);
                let what = format!("{}, width {width}, size {size}", vector.name());
                check(vector, &x, width, &what);
            }
        }
    }
}

#[test]
fn rows_of_any_width_bit_for_bit() {
    for_any_rows(|vector, x, width, what| {
        let found = quantized(float(vector), x, width, Prologue::None);
        assert_same(found, &expected(x, width), what);
    });
}

/// Halves lie exactly between two integers, in whole registers and in the remainder.
#[test]
fn halves_round_to_even() {
    let mut x: Vec<f32> = (-126..127).map(|i| i as f32 + 0.5).collect();
    x.push(127.0);
    for kernels in vectors().into_iter().map(float).chain([SCALAR]) {
        let (found, scales) = quantized(kernels, &x, x.len(), Prologue::None);
        assert_eq!(scales, [1.0]);
        for (x, q) in x.iter().zip(&found) {
            let even = (x / 2.0).round() * 2.0;
            let right = if x.fract() == 0.0 { *x } else { even };
            assert_eq!(f32::from(*q), right, "{}: {x}", kernels.name);
        }
    }
}

/// A NaN or an infinity in any lane makes the row's scale NaN and does not change other rows, which equal `whole`.
fn affects_only_its_row<T: PartialEq + From<bool>>(
    quantized: impl Fn(Kernels, &[f32], usize) -> Quantized<T>,
    whole: impl Fn(&[T]) -> bool,
) {
    let width = 150;
    for kernels in vectors().into_iter().map(float).chain([SCALAR]) {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..width {
                let mut x = Values::new(1, 3 * width);
                x[width + at] = bad;
                let (found, scales) = quantized(kernels, &x, width);
                let name = kernels.name;
                assert!(scales[1].is_nan(), "{name}: {bad} at {at} was lost");
                let zero = T::from(false);
                assert!(found[width..2 * width].iter().all(|q| *q == zero));
                assert!(scales[0].is_finite() && scales[2].is_finite());
                assert!(whole(&found[..width]));
            }
        }
    }
}

#[test]
fn non_finite_values_affect_only_their_row() {
    affects_only_its_row(
        |kernels, x, width| quantized(kernels, x, width, Prologue::None),
        |row| row.contains(&127) || row.contains(&-127),
    );
    let offset = 0.17;
    affects_only_its_row(
        |kernels, x, width| quantized_offset(kernels, x, width, offset),
        |row| row.iter().any(|&q| q > 0),
    );
}

/// A prologue equals the variant's layer norm or activation function, followed by the reference's quantisation.
#[test]
fn prologues_match_separate_steps() {
    let (rows, width) = (5, 333);
    let x = Values::new(1, rows * width);
    let (gain, bias) = (Values::new(2, width), Values::new(3, width));
    for kernels in vectors().into_iter().map(float).chain([SCALAR]) {
        let mut y = vec![0.0; rows * width];
        layer_norm(kernels, &x, width, &gain, &bias, 1e-5, &mut y);
        let prologue = Prologue::LayerNorm {
            gain: &gain,
            bias: &bias,
            epsilon: 1e-5,
        };
        let found = quantized(kernels, &x, width, prologue);
        assert_same(found, &expected(&y, width), kernels.name);
        for activation in [
            Activation::Gelu,
            Activation::QuickGelu,
            Activation::GeluTanh,
        ] {
            let mut y = x.to_vec();
            activate(kernels, &mut y, Some(Nonlinearity::Mlp(activation)));
            let found = quantized(kernels, &x, width, Prologue::Activation(activation));
            assert_same(found, &expected(&y, width), kernels.name);
        }
    }
}

#[test]
fn bit_identical_for_any_number_of_threads() {
    let (rows, width) = (700, 250);
    let x = Values::new(1, rows * width);
    for vector in vectors() {
        assert_bit_identical_for_any_threads(|| {
            let prologue = Prologue::Activation(Activation::Gelu);
            let (q, mut all) = quantized(float(vector), &x, width, prologue);
            all.extend(q.into_iter().map(f32::from));
            all
        });
    }
}

#[test]
fn reference_by_hand() {
    let mut out = [99; 4];
    let scale = reference::quantize_row(&[-2.0, 1.0, 0.0, 0.01], &mut out);
    // 127/2 is halfway between 63 and 64.
    assert_eq!((scale, out), (2.0 / 127.0, [-127, 64, 0, 1]));
    let scale = reference::quantize_row(&[0.0; 4], &mut out);
    assert!(scale == SMALLEST / 127.0 && scale.is_normal() && (127.0 / SMALLEST).is_finite());
    assert_eq!(out, [0; 4]);
    assert_eq!(SMALLEST, 2f32.powi(-119));
    assert_eq!(reference::quantize_row(&[], &mut []), SMALLEST / 127.0);
}

/// For all leading bits of mantissas, even where the rounding of the factor gives more than 127.
#[test]
fn largest_magnitude_becomes_127() {
    for i in 0..1 << 16 {
        let largest = f32::from_bits(0x3f80_0000 + (i << 7) + (i & 127));
        let mut out = [0; 2];
        reference::quantize_row(&[largest, -largest], &mut out);
        assert_eq!(out, [127, -127], "{largest}");
    }
}

fn quantized_offset(kernels: Kernels, x: &[f32], width: usize, offset: f32) -> Quantized<u8> {
    let mut out = vec![99; x.len() + 1];
    let mut scales = vec![99.0; x.len() / width];
    rows_offset(kernels, x, width, offset, &mut out[1..], &mut scales);
    (out.split_off(1), scales)
}

#[test]
fn rows_with_an_offset_bit_for_bit() {
    for_any_rows(|vector, x, width, what| {
        for offset in [0.0, 0.17, 0.3, 3e30, 1e-38] {
            let found = quantized_offset(float(vector), x, width, offset);
            let mut out = vec![99; x.len()];
            let rows = x.chunks(width).zip(out.chunks_mut(width));
            let scales = rows
                .map(|(x, out)| reference::quantize_row_offset(x, offset, out))
                .collect();
            assert_same(found, &(out, scales), &format!("{what}, offset {offset}"));
        }
    });
}

/// Halves lie exactly between two integers: the scale is 1, as 254.5 + 0.5 = 255.
#[test]
fn halves_with_an_offset_round_to_even() {
    let x: Vec<f32> = (-3..=254).map(|i| i as f32).chain([254.5]).collect();
    for kernels in vectors().into_iter().map(float).chain([SCALAR]) {
        let (found, scales) = quantized_offset(kernels, &x, x.len(), 0.5);
        assert_eq!(scales, [1.0]);
        for (x, q) in x.iter().zip(&found) {
            let even = ((x + 0.5) / 2.0).round() * 2.0;
            let right = if x.fract() == 0.0 { even } else { x + 0.5 };
            assert_eq!(f32::from(*q), right.max(0.0), "{}: {x}", kernels.name);
        }
    }
}

/// Values so close to halves that a second rounding would change some.
#[test]
fn offset_is_added_without_extra_rounding() {
    let (offset, largest) = (0.17f32, 3.3);
    let range = largest + offset;
    let halves = (0..250).map(|n| (n as f32 + 0.5) * range / 255.0 - offset);
    let near = |x: f32| (0..16).map(move |i| f32::from_bits(x.to_bits() - 8 + i));
    let x: Vec<f32> = halves.flat_map(near).chain([largest]).collect();
    let mut expected = vec![0; x.len()];
    let scale = reference::quantize_row_offset(&x, offset, &mut expected);
    let factor = 255.0 / range;
    let twice = |x: f32| (x * factor + offset * factor).round_ties_even() as u8;
    let differ = x.iter().zip(&expected).filter(|(x, q)| twice(**x) != **q);
    let count = differ.count();
    assert!(count > 3, "{count}");
    for vector in vectors() {
        let found = quantized_offset(float(vector), &x, x.len(), offset);
        assert_same(found, &(expected.clone(), vec![scale]), vector.name());
    }
}

#[test]
fn reference_with_an_offset_by_hand() {
    let mut out = [99; 5];
    let scale = reference::quantize_row_offset(&[1.5, -0.25, 0.0, -0.5, -1.0], 0.5, &mut out);
    // 255/8 and 255/4 are 31.875 and 63.75.
    assert_eq!((scale, out), (2.0 / 255.0, [255, 32, 64, 0, 0]));
    let scale = reference::quantize_row_offset(&[0.0; 5], 0.0, &mut out);
    let smallest = 2.0 * SMALLEST;
    assert!(scale == smallest / 255.0 && scale.is_normal() && (255.0 / smallest).is_finite());
    assert_eq!(out, [0; 5]);
    // No sum of two numbers is infinite unseen.
    let scale = reference::quantize_row_offset(&[f32::MAX; 5], f32::MAX, &mut out);
    assert!(scale.is_nan());
}

#[test]
fn every_variant_has_kernels_for_bytes() {
    assert_eq!(available().last(), Some(&"scalar"));
    assert!(
        crate::select::variants()
            .iter()
            .all(|v| v.float.is_some() == v.int8.is_some())
    );
}
