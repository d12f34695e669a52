use pinhole_model::Activation;
use proptest::prelude::*;

use super::{
    ACTIVATIONS, UNIT, Values, assert_bit_identical_for_any_threads, edges, float, poison, vectors,
};
use crate::dispatch::{FloatKernels, SCALAR};
use crate::linear::PackedLinear;
use crate::linear::pack::{blocks, heights};
use crate::{patch_embedding, reference};

/// Compares a variant with the reference.
///
/// A sum of k products in any order, with any fusing, has an error of at most (k + 1) units of sum |x||w| + |b|, so two
/// methods differ by twice that. The activation functions have a slope of at most 1.13 and an error of 2^-22 max(1, |x|); the
/// residual adds one rounding.
fn check(
    vector: &'static dyn FloatKernels,
    [m, k, n]: [usize; 3],
    activation: Option<Activation>,
    with_bias: bool,
    with_residual: bool,
) {
    let seed = (m * 31 + k * 7 + n) as u64;
    let (x, weight) = (Values::new(seed, m * k), Values::new(seed + 1, k * n));
    let (bias, residual) = (Values::new(seed + 2, n), Values::new(seed + 3, m * n));
    let some_bias = with_bias.then_some(&*bias);
    let some_residual = with_residual.then_some(&*residual);
    let mut out = Values::new(seed + 4, m * n);
    let mut expected = vec![0.0; m * n];
    let layer = PackedLinear::pack(float(vector), k, n, some_bias, |p, j| weight[p * n + j]);
    poison();
    layer.apply(&x, m, activation, some_residual, &mut out);
    let no_bias = vec![0.0; n];
    let used_bias = some_bias.unwrap_or(&no_bias);
    reference::linear(
        &x,
        m,
        &weight,
        k,
        n,
        used_bias,
        activation,
        some_residual,
        &mut expected,
    );
    for i in 0..m {
        for j in 0..n {
            let products = (0..k).map(|p| f64::from((x[i * k + p] * weight[p * n + j]).abs()));
            let size = products.sum::<f64>() + f64::from(used_bias[j].abs());
            let mut bound = 2.0 * (k + 1) as f64 * UNIT * size;
            if activation.is_some() {
                bound = 1.13 * bound + 4.0 * UNIT * size.max(1.0);
            }
            bound += 2.0 * UNIT * (size + 1.0);
            let (y, e) = (out[i * n + j], expected[i * n + j]);
            let off = f64::from((y - e).abs());
            assert!(
                off <= bound,
                "{}: [{m}, {k}] x [{k}, {n}] {activation:?}, row {i} column {j}: expected {e}, found {y}",
                vector.name()
            );
        }
    }
}

#[test]
fn tile_edges() {
    for vector in vectors() {
        let shape = vector.shape();
        let mut depths = vec![0, 2, 3, 4, 5];
        depths.extend(edges(shape.depth));
        for &m in &edges(shape.rows) {
            for &n in &edges(shape.columns) {
                for &k in &depths {
                    check(vector, [m, k, n], None, (m + k) % 2 == 0, (n + k) % 2 == 0);
                }
            }
        }
    }
}

#[test]
fn every_tile_height() {
    for vector in vectors() {
        for m in 1..=3 * vector.shape().rows {
            check(
                vector,
                [m, 37, vector.shape().columns + 5],
                None,
                true,
                true,
            );
        }
    }
}

#[test]
fn many_rows_and_deep_sums() {
    for vector in vectors() {
        check(
            vector,
            [300, 33, 40],
            Some(Activation::QuickGelu),
            true,
            true,
        );
        check(vector, [2, 20_000, 3], None, true, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_shape(m in 1usize..60, k in 0usize..400, n in 1usize..120, kind in 0usize..16) {
        let activation = ACTIVATIONS[kind % 4];
        for vector in vectors() {
            check(vector, [m, k, n], activation, kind / 4 % 2 == 0, kind / 8 == 0);
        }
    }
}

/// So that an image's result does not depend on its batch.
#[test]
fn rows_are_independent() {
    for vector in vectors() {
        let (m, k, n) = (2 * vector.shape().rows + 3, 333, 70);
        let (mut x, weight) = (Values::new(1, m * k), Values::new(2, k * n));
        x[2 * k..3 * k].fill(f32::NAN);
        x[3 * k] = f32::INFINITY;
        x[4 * k..5 * k].fill(0.0);
        x[5 * k..6 * k].iter_mut().for_each(|v| *v *= 1e30);
        let bias = Values::new(3, n);
        let layer = PackedLinear::pack(float(vector), k, n, Some(&bias), |p, j| weight[p * n + j]);
        let mut together = vec![0.0; m * n];
        layer.apply(&x, m, None, None, &mut together);
        for i in 0..m {
            let mut alone = vec![0.0; n];
            layer.apply(&x[i * k..][..k], 1, None, None, &mut alone);
            let together = &together[i * n..][..n];
            let same = alone
                .iter()
                .zip(together)
                .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
            assert!(same, "{}: row {i} differs", vector.name());
            match i {
                2 => assert!(alone.iter().all(|v| v.is_nan()), "NaN was lost"),
                3 => assert!(alone.iter().all(|v| v.is_infinite()), "infinity was lost"),
                4 => assert_eq!(alone, *bias, "expected the bias for zeros"),
                _ => assert!(alone.iter().all(|v| v.is_finite())),
            }
        }
    }
}

#[test]
fn bit_identical_for_any_number_of_threads() {
    let variants = vectors().into_iter().map(float).chain([SCALAR]);
    for kernels in variants {
        for (m, k, n) in [(50, 200, 301), (1, 1000, 800), (270, 64, 64)] {
            let (x, weight) = (Values::new(1, m * k), Values::new(2, k * n));
            assert_bit_identical_for_any_threads(|| {
                let layer = PackedLinear::pack(kernels, k, n, None, |p, j| weight[p * n + j]);
                let mut out = vec![0.0; m * n];
                layer.apply(
                    &x,
                    m,
                    Some(Activation::Gelu),
                    Some(&vec![0.5; m * n]),
                    &mut out,
                );
                out
            });
        }
    }
}

/// A layer with few columns may read rows where they are, one with many packs them.
#[test]
fn the_number_of_columns_does_not_change_a_column() {
    for vector in vectors() {
        for (m, k) in [(1, 4), (37, 64), (20, 600), (9, 1024), (5, 63)] {
            let (few, many) = (vector.shape().columns, 2000);
            let (x, weight) = (Values::new(3, m * k), Values::new(4, k * many));
            let product = |n: usize| {
                let layer =
                    PackedLinear::pack(float(vector), k, n, None, |p, j| weight[p * many + j]);
                let mut out = Values::new(5, m * n);
                layer.apply(&x, m, Some(Activation::Gelu), None, &mut out);
                out.to_vec()
            };
            let (all, first) = (product(many), product(few));
            for i in 0..m {
                assert_eq!(
                    all[i * many..][..few],
                    first[i * few..][..few],
                    "[{m}, {k}], row {i}"
                );
            }
        }
    }
}

#[test]
fn both_weight_orders_give_the_same_layer() {
    let (m, k, n) = (3, 45, 50);
    let (x, weight, bias) = (
        Values::new(1, m * k),
        Values::new(2, k * n),
        Values::new(3, n),
    );
    let turned: Vec<f32> = (0..n * k).map(|i| weight[i % k * n + i / k]).collect();
    let apply = |layer: PackedLinear| {
        assert_eq!((layer.inputs(), layer.outputs()), (k, n));
        let mut out = vec![0.0; m * n];
        layer.apply(&x, m, None, None, &mut out);
        out
    };
    let in_out = apply(PackedLinear::from_in_out(&weight, k, n, Some(&bias)));
    assert_eq!(
        in_out,
        apply(PackedLinear::from_out_in(&turned, n, k, Some(&bias)))
    );
}

#[test]
fn no_rows_and_no_columns() {
    for vector in vectors().into_iter().map(float).chain([SCALAR]) {
        let layer = PackedLinear::pack(vector, 5, 0, None, |_, _| unreachable!());
        layer.apply(&[0.0; 10], 2, None, None, &mut []);
        let layer = PackedLinear::pack(vector, 5, 4, None, |_, _| 1.0);
        layer.apply(&[], 0, None, None, &mut []);
    }
}

#[test]
#[should_panic(expected = "x: [2, 5]")]
fn wrong_length_panics_with_the_name() {
    PackedLinear::from_in_out(&[0.0; 20], 5, 4, None).apply(
        &[0.0; 9],
        2,
        None,
        None,
        &mut [0.0; 8],
    );
}

/// The reference on numbers computed by hand.
#[test]
fn reference_by_hand() {
    let mut out = [0.0; 4];
    let (x, weight) = ([1.0, 2.0, -1.0, 0.5], [1.0, 0.0, 0.5, 2.0]);
    reference::linear(
        &x,
        2,
        &weight,
        2,
        2,
        &[10.0, 20.0],
        None,
        Some(&[1.0; 4]),
        &mut out,
    );
    assert_eq!(out, [13.0, 25.0, 10.25, 22.0]);
}

#[test]
fn patches_in_row_major_order() {
    // 4 x 6 pixels in patches of 2: one output is the green of pixel (1, 0), the other the sum of all values.
    let (height, width, patch) = (4, 6, 2);
    let pixels: Vec<u8> = (0..height * width * 3)
        .map(|i| (i * 3 % 256) as u8)
        .collect();
    let mut weight = vec![0.0; 12 * 2];
    weight[7 * 2] = 1.0;
    (0..12).for_each(|p| weight[p * 2 + 1] = 1.0);
    let layer = PackedLinear::from_in_out(&weight, 12, 2, Some(&[0.0, 0.5]));
    let mut out = vec![0.0; 6 * 2];
    patch_embedding(&pixels, height, width, patch, &layer, &mut out);
    for (i, found) in out.chunks(2).enumerate() {
        let (top, left) = (i / 3 * 2, i % 3 * 2);
        let at = |y: usize, x: usize, c: usize| {
            f32::from(pixels[((top + y) * width + left + x) * 3 + c])
        };
        let sum: f32 = (0..12).map(|p| at(p / 6, p % 6 / 3, p % 3)).sum();
        assert_eq!(found, [at(1, 0, 1), sum + 0.5], "patch {i}");
    }
}

#[test]
fn heights_match_blocks() {
    for rows in 0..70 {
        for most in 1..15 {
            let one_by_one: Vec<usize> = blocks(rows, most).map(|(_, count)| count).collect();
            let all: Vec<usize> = heights(rows, most)
                .into_iter()
                .flat_map(|(count, rows)| std::iter::repeat_n(rows, count))
                .collect();
            assert_eq!(one_by_one, all, "{rows} rows, {most} at most");
            assert!(all.iter().all(|rows| (1..=most).contains(rows)));
        }
    }
}
