//! From sums times scales plus bias to outputs: residual, activation function, and the type of the outputs.

use crate::dispatch::{Order, Residual, Target};
use crate::simd::{MOST_LANES, Simd, load_part};
use crate::types::Affine;

/// A [`Residual`] and a [`Target`], with their constants in registers.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a, S: Simd> {
    simd: S,
    residual: Option<Residual<'a>>,
    out: Target,
    factor: S::V,
    zero: S::V,
    largest: S::V,
}

impl<'a, S: Simd> Writer<'a, S> {
    #[inline(always)]
    pub(crate) fn new(simd: S, residual: Option<Residual<'a>>, out: Target) -> Self {
        let none = Affine {
            scale: 1.0,
            zero_point: 0,
        };
        let to = match out {
            Target::F32(_) => none,
            Target::Bytes(_, by) => by,
        };
        Writer {
            simd,
            residual,
            out,
            factor: simd.splat(1.0 / to.scale),
            zero: simd.splat(to.zero_byte().into()),
            largest: simd.splat(255.0),
        }
    }

    /// Writes the `count` outputs from `at` on, at most LANES: f(v) and the residual in its order.
    ///
    /// # Safety
    /// The target has these values, which nothing else accesses meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, v: S::V, f: impl Fn(S::V) -> S::V, at: usize, count: usize) {
        let v = match self.residual {
            None => f(v),
            Some(Residual { values, order }) => match order {
                Order::BeforeActivation => f(self.added(v, values, at, count)),
                Order::AfterActivation => self.added(f(v), values, at, count),
            },
        };
        let simd = self.simd;
        let whole = count == S::LANES;
        match self.out {
            Target::F32(out) => {
                let mut part = [0.0; MOST_LANES];
                // SAFETY: the caller's promise; LANES <= MOST_LANES.
                unsafe {
                    if whole {
                        return simd.store(v, out.add(at));
                    }
                    simd.store(v, part.as_mut_ptr());
                    out.add(at).copy_from_nonoverlapping(part.as_ptr(), count);
                }
            }
            Target::Bytes(out, _) => {
                let v = simd.mul_add(v, self.factor, self.zero);
                let v = simd.max(simd.splat(0.0), simd.min(self.largest, v));
                let mut part = [0; MOST_LANES];
                // SAFETY: the caller's promise; LANES <= MOST_LANES.
                unsafe {
                    if whole {
                        return simd.store_bytes(v, out.add(at));
                    }
                    simd.store_bytes(v, part.as_mut_ptr());
                    out.add(at).copy_from_nonoverlapping(part.as_ptr(), count);
                }
            }
        }
    }

    /// v + the `count` values from `at` on.
    #[inline(always)]
    fn added(&self, v: S::V, values: &[f32], at: usize, count: usize) -> S::V {
        let simd = self.simd;
        let values = &values[at..][..count];
        if count < S::LANES {
            return simd.add(v, load_part(simd, values));
        }
        // SAFETY: the slice has LANES values.
        simd.add(v, unsafe { simd.load(values.as_ptr()) })
    }
}
