//! Element-wise functions between the stages of attention, for models that quantise each stage.

use crate::affine::{TABLE_BLOCK, fake_quantized, look_up, quantize_slice};
use crate::reference;
use crate::simd::{Simd, map_in_place};
use crate::types::Pointwise;

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
                        // A value is NaN: the reference handles values one by one.
                        false => reference::pointwise(std::slice::from_ref(step), x),
                    }
                }
            }
        }
    }
}
