use std::sync::Arc;

use super::{
    UNIT, Values, assert_bit_identical_for_any_threads, edges, float, int8_variants, poison,
    vectors,
};
use crate::attention::attention;
use crate::dispatch::{FloatKernels, Kernels, SCALAR};
use crate::int8;
use crate::{Affine, AttentionStages, Pointwise, StridedRows, reference};

#[derive(Clone, Copy, Debug)]
struct Case {
    tq: usize,
    tk: usize,
    heads: usize,
    width: usize,
    causal: bool,
    scale: f32,
}

impl Case {
    /// q in a matrix with wide rows; k and v as columns of another.
    fn run(
        self,
        seed: u64,
        by: impl Fn(StridedRows, StridedRows, StridedRows, &mut [f32]),
    ) -> Values {
        let width = self.heads * self.width;
        let q = Values::new(seed, self.tq * (width + 3));
        let kv = Values::new(seed + 1, self.tk * 2 * width);
        let mut out = Values::new(seed + 2, self.tq * width);
        let k = StridedRows {
            data: &kv,
            stride: 2 * width,
        };
        let v = StridedRows {
            data: &kv[width..],
            stride: 2 * width,
        };
        by(
            StridedRows {
                data: &q,
                stride: width + 3,
            },
            k,
            v,
            &mut out,
        );
        out
    }

    fn by(self, kernels: Kernels, stages: &AttentionStages) -> Values {
        let Case {
            tq,
            tk,
            heads,
            width,
            causal,
            scale,
        } = self;
        self.run(9, |q, k, v, out| {
            attention(
                kernels, q, tq, k, v, tk, heads, width, causal, scale, stages, out,
            )
        })
    }

    fn by_reference(self, stages: &AttentionStages) -> Values {
        let Case {
            tq,
            tk,
            heads,
            width,
            causal,
            scale,
        } = self;
        self.run(9, |q, k, v, out| {
            reference::attention(q, tq, k, v, tk, heads, width, causal, scale, stages, out);
        })
    }

    /// A score is a sum of `width` products below 1, so two methods differ by 2 (width + 2) units of scale * width; a weight by
    /// the exponential of twice that and by (tk + 6) units of each method's exponentials and sum; the weighted sum of values
    /// below 1 adds (tk + 1) units for each method.
    fn check(self, vector: &'static dyn FloatKernels) {
        let Case {
            tk, width, scale, ..
        } = self;
        poison();
        let found = self.by(float(vector), AttentionStages::NONE);
        let expected = self.by_reference(AttentionStages::NONE);
        let scores = 2.0 * (width + 2) as f64 * UNIT * width as f64 * f64::from(scale);
        let bound = (2.0 * scores).exp_m1() + 4.0 * (tk + 6) as f64 * UNIT;
        for (i, (y, e)) in found.iter().zip(&*expected).enumerate() {
            let off = f64::from((y - e).abs());
            assert!(
                off <= bound,
                "{}: {self:?}, value {i}: expected {e}, found {y}",
                vector.name()
            );
        }
    }
}

#[test]
fn tile_edges() {
    for vector in vectors() {
        let shape = vector.shape();
        for &tq in &edges(shape.rows) {
            for &tk in edges(shape.columns).iter().chain(&edges(shape.rows)) {
                for width in [1, 4, 5, shape.columns - 1, shape.columns + 1, 64] {
                    let heads = 1 + (tq + tk) % 3;
                    let scale = 1.0 / (width as f32).sqrt();
                    Case {
                        tq,
                        tk,
                        heads,
                        width,
                        causal: false,
                        scale,
                    }
                    .check(vector);
                    if tk >= tq {
                        Case {
                            tq,
                            tk,
                            heads,
                            width,
                            causal: true,
                            scale,
                        }
                        .check(vector);
                    }
                }
            }
        }
    }
}

/// Functions at every stage, with powers of two as scales, so that every sum is exact.
fn every_stage(weights: f32) -> AttentionStages {
    let by = |exponent: i32, zero_point| Affine {
        scale: 2f32.powi(exponent),
        zero_point,
    };
    let values: Vec<f32> = (0..256).map(|q| (q * 37 % 32 - 16) as f32 / 16.0).collect();
    AttentionStages {
        q: vec![
            Pointwise::FakeQuantize(by(-4, 3)),
            Pointwise::Scale(0.5),
            Pointwise::FakeQuantize(by(-4, 0)),
        ],
        k: vec![Pointwise::Table(
            by(-5, -7),
            Arc::new(values.try_into().unwrap()),
        )],
        v: vec![Pointwise::FakeQuantize(by(-5, 1))],
        scores: vec![Pointwise::Scale(0.25), Pointwise::FakeQuantize(by(-2, -20))],
        weights: vec![
            Pointwise::Scale(weights),
            Pointwise::FakeQuantize(by(-8, -128)),
        ],
        out: vec![Pointwise::FakeQuantize(by(-6, 5))],
    }
}

/// Only softmax is not exact: rows where its last bits could change the rounding of a weight are skipped.
#[test]
fn stages_match_the_reference() {
    let (mut compared, mut left_out) = (0, 0);
    for vector in vectors() {
        let shape = vector.shape();
        for &tq in &edges(shape.rows) {
            for &tk in edges(shape.columns).iter().chain(&edges(shape.rows)) {
                for width in [1, 5, shape.columns - 1, 64] {
                    let heads = 1 + (tq + tk) % 3;
                    let case = Case {
                        tq,
                        tk,
                        heads,
                        width,
                        causal: false,
                        scale: 1.0,
                    };
                    poison();
                    let found = case.by(float(vector), &every_stage(1.0));
                    let near = [0.999_98, 1.000_02].map(|w| case.by_reference(&every_stage(w)));
                    for i in 0..tq * heads {
                        let [low, high] = [&near[0], &near[1]].map(|n| &n[i * width..][..width]);
                        if low != high {
                            left_out += 1;
                            continue;
                        }
                        compared += 1;
                        let found = &found[i * width..][..width];
                        assert_eq!(found, low, "{}: {case:?}, row {i}", vector.name());
                    }
                }
            }
        }
    }
    assert!(left_out * 10 <= compared, "{left_out} of {compared}");
}

/// A NaN in a value reaches its whole column, and no other one.
#[test]
fn nan_propagates_through_stages() {
    for kernels in vectors().into_iter().map(float).chain([SCALAR]) {
        let (t, width) = (19, 6);
        let (q, k) = (Values::new(1, t * width), Values::new(2, t * width));
        let mut v = Values::new(3, t * width);
        v[4 * width + 2] = f32::NAN;
        let rows = |data| StridedRows {
            data,
            stride: width,
        };
        let mut stages = every_stage(1.0);
        stages.v.splice(.., stages.k.clone());
        let mut out = vec![0.0; t * width];
        attention(
            kernels,
            rows(&q),
            t,
            rows(&k),
            rows(&v),
            t,
            1,
            width,
            false,
            1.0,
            &stages,
            &mut out,
        );
        for (i, y) in out.iter().enumerate() {
            assert_eq!(
                y.is_nan(),
                i % width == 2,
                "{}: value {i}: {y}",
                kernels.name
            );
        }
    }
}

#[test]
fn a_query_does_not_see_later_keys() {
    for kernels in vectors().into_iter().map(float).chain([SCALAR]) {
        let (tq, tk, heads, width) = (20, 33, 2, 24);
        let stride = heads * width;
        let (q, mut k, mut v) = (
            Values::new(1, tq * stride),
            Values::new(2, tk * stride),
            Values::new(3, tk * stride),
        );
        let run = |k: &[f32], v: &[f32]| {
            let mut out = vec![0.0; tq * stride];
            let rows = |data| StridedRows { data, stride };
            attention(
                kernels,
                rows(&q),
                tq,
                rows(k),
                rows(v),
                tk,
                heads,
                width,
                true,
                1.0,
                AttentionStages::NONE,
                &mut out,
            );
            out
        };
        let before = run(&k, &v);
        // Query 6 sees the keys 0 ..= 19.
        k[20 * stride..].fill(50.0);
        v[20 * stride..].fill(-50.0);
        let after = run(&k, &v);
        assert_eq!(before[..7 * stride], after[..7 * stride]);
        assert_ne!(
            before[7 * stride..8 * stride],
            after[7 * stride..8 * stride]
        );
    }
}

/// Scores of hundreds give one weight of 1 and must not overflow.
#[test]
fn large_scores_select_one_key() {
    for kernels in vectors().into_iter().map(float).chain([SCALAR]) {
        let (tk, width) = (40, 8);
        let mut k = vec![-1.0; tk * width];
        k[17 * width..18 * width].fill(1.0);
        let v = Values::new(4, tk * width);
        let (q, mut out) = (vec![100.0; width], vec![0.0; width]);
        let rows = |data| StridedRows {
            data,
            stride: width,
        };
        attention(
            kernels,
            rows(&q),
            1,
            rows(&k),
            rows(&v),
            tk,
            1,
            width,
            false,
            1.0,
            AttentionStages::NONE,
            &mut out,
        );
        assert_eq!(out, v[17 * width..18 * width]);
    }
}

#[test]
fn bit_identical_for_any_number_of_threads() {
    let case = Case {
        tq: 60,
        tk: 70,
        heads: 5,
        width: 48,
        causal: true,
        scale: 0.2,
    };
    for vector in vectors() {
        let staged = Case {
            causal: false,
            ..case
        };
        assert_bit_identical_for_any_threads(|| {
            staged.by(float(vector), &every_stage(1.0)).to_vec()
        });
        assert_bit_identical_for_any_threads(|| {
            case.by(float(vector), AttentionStages::NONE).to_vec()
        });
    }
}

/// Two keys with scores 0 and ln 3 have weights 1/4 and 3/4.
#[test]
fn reference_by_hand() {
    let mut out = [0.0; 2];
    let rows = |data| StridedRows { data, stride: 2 };
    let k = [0.0, 5.0, 2.0 * 3f32.ln(), 5.0];
    reference::attention(
        rows(&[1.0, 0.0]),
        1,
        rows(&k),
        rows(&[4.0, 0.0, 8.0, 1.0]),
        2,
        1,
        2,
        false,
        0.5,
        AttentionStages::NONE,
        &mut out,
    );
    assert!(
        (out[0] - 7.0).abs() < 1e-6 && (out[1] - 0.75).abs() < 1e-6,
        "{out:?}"
    );
}

#[test]
#[should_panic(expected = "v: 3 rows of 4")]
fn short_matrix_panics_with_the_name() {
    let rows = |data| StridedRows { data, stride: 8 };
    crate::attention(
        rows(&[0.0; 4]),
        1,
        rows(&[0.0; 20]),
        rows(&[0.0; 19]),
        3,
        2,
        2,
        false,
        1.0,
        &mut [0.0; 4],
    );
}

impl Case {
    fn int8_by(self, kernels: Kernels) -> Values {
        let Case {
            tq,
            tk,
            heads,
            width,
            scale,
            ..
        } = self;
        self.run(9, |q, k, v, out| {
            int8::attention::attention(kernels, q, tq, k, v, tk, heads, width, scale, out);
        })
    }
}

/// Exponentials that differ by rounding move some shares to the next of 255 steps, which changes the result by at most 2/255
/// each, as the values less their means are below 2. Nearly all other values differ by the exponentials alone.
#[test]
fn int8_equals_its_reference() {
    for kernels in int8_variants() {
        let Some(vector) = kernels.int8 else { continue };
        let layout = vector.layout();
        let (mut moved, mut all) = (0, 0);
        // 150 queries of 300 keys are more than are computed at a time.
        for &tq in edges(layout.rows).iter().chain(&[150]) {
            for &tk in edges(layout.columns).iter().chain(&[197, 300]) {
                for width in [1, 5, 16, layout.columns + 1, 48, 64] {
                    let case = Case {
                        tq,
                        tk,
                        heads: 1 + (tq + tk) % 3,
                        width,
                        causal: false,
                        scale: 4.0 / (width as f32).sqrt(),
                    };
                    poison();
                    let found = case.int8_by(kernels);
                    let expected = case.int8_by(SCALAR);
                    for (i, (y, e)) in found.iter().zip(&*expected).enumerate() {
                        let off = (y - e).abs();
                        assert!(
                            off <= 4.0 / 255.0,
                            "{}: {case:?}, value {i}: expected {e}, found {y}",
                            kernels.name
                        );
                        moved += usize::from(off > 1e-4);
                        all += 1;
                    }
                }
            }
        }
        assert!(
            moved * 50 < all,
            "{}: {moved} of {all} values differ by a step",
            kernels.name
        );
    }
}

/// Of values in -1 ..= 1; and of peaked weights beside many small ones, whose sum must not be lost.
#[test]
fn int8_is_close_to_float() {
    for (tk, scale) in [(50, 0.125), (197, 0.125), (197, 3.0), (577, 6.0)] {
        let case = Case {
            tq: 40,
            tk,
            heads: 2,
            width: 64,
            causal: false,
            scale,
        };
        let exact = case.by_reference(AttentionStages::NONE);
        let found = case.int8_by(SCALAR);
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|v| v * v).sum::<f32>().sqrt();
        let off = norm(&mut found.iter().zip(&*exact).map(|(y, e)| y - e));
        let error = off / norm(&mut exact.iter().copied());
        assert!(error < 0.03, "{case:?}: relative error {error}");
    }
}

#[test]
fn int8_nan_stays_nan_and_other_rows_stay() {
    for kernels in int8_variants() {
        let (tk, width) = (33, 8);
        let mut q = Values::new(1, 3 * width);
        q[width + 2] = f32::NAN;
        let kv = Values::new(2, 2 * tk * width);
        let mut out = Values::new(3, 3 * width);
        let rows = |data| StridedRows {
            data,
            stride: width,
        };
        let (k, v) = (rows(&kv[..tk * width]), rows(&kv[tk * width..]));
        int8::attention::attention(kernels, rows(&q), 3, k, v, tk, 1, width, 1.0, &mut out);
        for (i, row) in out.chunks_exact(width).enumerate() {
            assert!(
                row.iter().all(|y| y.is_nan() == (i == 1)),
                "{}: row {i}: {row:?}",
                kernels.name
            );
        }
    }
}

#[test]
fn int8_is_bit_identical_for_any_threads() {
    let case = Case {
        tq: 197,
        tk: 197,
        heads: 6,
        width: 64,
        causal: false,
        scale: 0.125,
    };
    for kernels in int8_variants() {
        assert_bit_identical_for_any_threads(|| case.int8_by(kernels).to_vec());
    }
}
