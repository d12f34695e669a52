//! Functions of one value between attention's stages, as files have them that quantise each stage.

use std::sync::Arc;

use crate::affine::{fake_quantized, quantize_slice};
use crate::simd::{Simd, map_in_place};
use crate::{Affine, reference};

/// A function of one value. NaN stays.
#[derive(Clone, Debug, PartialEq)]
pub enum Pointwise {
    /// x times this.
    Scale(f32),
    /// [`crate::fake_quantize`]
    FakeQuantize(Affine),
    /// [`crate::map_quantized`]
    Table(Affine, Arc<[f32; 256]>),
}

/// What [`crate::staged_attention`] does to the values of each stage, one function after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stages {
    /// To the queries.
    pub q: Vec<Pointwise>,
    /// To the keys.
    pub k: Vec<Pointwise>,
    /// To the values.
    pub v: Vec<Pointwise>,
    /// To q kᵀ.
    pub scores: Vec<Pointwise>,
    /// To what softmax gives.
    pub weights: Vec<Pointwise>,
    /// To the result.
    pub out: Vec<Pointwise>,
}

impl Stages {
    /// Those of attention as it is.
    pub(crate) const NONE: &'static Stages = &Stages {
        q: Vec::new(),
        k: Vec::new(),
        v: Vec::new(),
        scores: Vec::new(),
        weights: Vec::new(),
        out: Vec::new(),
    };
}

/// Values between quantising and looking up, which stay in the first-level cache.
pub(crate) const TABLE_BLOCK: usize = 1024;

/// out = values[q + 128]
pub(crate) fn look_up(q: &[i8], values: &[f32; 256], out: &mut [f32]) {
    for (out, q) in out.iter_mut().zip(q) {
        *out = values[usize::from(q.cast_unsigned() ^ 0x80)];
    }
}

/// [`reference::pointwise`] bit for bit.
#[inline(always)]
pub(crate) fn apply<S: Simd>(simd: S, steps: &[Pointwise], x: &mut [f32]) {
    for step in steps {
        match step {
            Pointwise::Scale(factor) => {
                let factor = simd.splat(*factor);
                map_in_place(
                    simd,
                    x,
                    #[inline(always)]
                    |v| simd.mul(v, factor),
                );
            }
            Pointwise::FakeQuantize(by) => map_in_place(simd, x, fake_quantized(simd, *by)),
            Pointwise::Table(by, values) => {
                for x in x.chunks_mut(TABLE_BLOCK) {
                    let mut q = [0; TABLE_BLOCK];
                    let q = &mut q[..x.len()];
                    match quantize_slice(simd, x, *by, q) {
                        true => look_up(q, values, x),
                        // A value is NaN: one by one.
                        false => reference::pointwise(std::slice::from_ref(step), x),
                    }
                }
            }
        }
    }
}
