//! From sums times scales plus bias to outputs: residual, activation function, and the type of the outputs.

use std::ops::Range;

use crate::dispatch::{Order, Residual, Target};
use crate::simd::{MOST_LANES, Simd, load_part};

/// Rows of whole registers of sums and what makes outputs of them: activation(sums · scales + bias), with the residual in its
/// order.
#[derive(Clone, Copy)]
pub(crate) struct SumRows<'a> {
    /// Rows `pitch` apart.
    pub(crate) sums: *const i32,
    pub(crate) pitch: usize,
    /// [rows], if each row has a scale of its own.
    pub(crate) row_scales: Option<*const f32>,
    /// [registers]
    pub(crate) scales: *const f32,
    /// [registers]
    pub(crate) bias: *const f32,
    pub(crate) residual: Option<Residual<'a>>,
    pub(crate) out: Target,
    /// The number of the first output in the target and in the residual.
    pub(crate) first: usize,
    /// Outputs between the starts of two rows.
    pub(crate) width: usize,
}

impl SumRows<'_> {
    /// Makes outputs of the rows `rows` of REGISTERS registers. `to_bytes` is [`Target::to_bytes`].
    ///
    /// # Safety
    /// The pointers are valid for the rows and columns that the fields state, and nothing else accesses the outputs.
    #[inline(always)]
    pub(crate) unsafe fn write<S: Simd, const REGISTERS: usize>(
        &self,
        simd: S,
        rows: Range<usize>,
        to_bytes: [f32; 2],
        f: impl Fn(S::V) -> S::V + Copy,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.out {
                Target::F32(out) => self.each::<S, REGISTERS>(
                    simd,
                    rows,
                    f,
                    #[inline(always)]
                    |v, at| simd.store(v, out.add(at)),
                ),
                Target::Bytes(out, _) => {
                    let [factor, zero] = to_bytes;
                    let (factor, zero) = (simd.splat(factor), simd.splat(zero));
                    self.each::<S, REGISTERS>(
                        simd,
                        rows,
                        f,
                        #[inline(always)]
                        |v, at| simd.store_bytes(simd.mul_add(v, factor, zero), out.add(at)),
                    );
                }
            }
        }
    }

    /// Calls `store` with each register of outputs and the number of its first one.
    ///
    /// # Safety
    /// As [`Self::write`].
    #[inline(always)]
    unsafe fn each<S: Simd, const REGISTERS: usize>(
        &self,
        simd: S,
        rows: Range<usize>,
        f: impl Fn(S::V) -> S::V + Copy,
        store: impl Fn(S::V, usize),
    ) {
        // SAFETY: the caller's promise for all.
        unsafe {
            let columns = |from: *const f32| -> [S::V; REGISTERS] {
                std::array::from_fn(
                    #[inline(always)]
                    |j| simd.load(from.add(j * S::LANES)),
                )
            };
            let (scales, bias) = (columns(self.scales), columns(self.bias));
            let residual = |order| {
                let residual = self.residual.filter(|residual| residual.order == order);
                residual.map(|residual| residual.values.as_ptr())
            };
            let (before, after) = (
                residual(Order::BeforeActivation),
                residual(Order::AfterActivation),
            );
            for i in rows {
                let sums = self.sums.add(i * self.pitch);
                let at = self.first + i * self.width;
                let mut v = [simd.splat(0.0); REGISTERS];
                for j in 0..REGISTERS {
                    let scale = match self.row_scales {
                        None => scales[j],
                        Some(row) => simd.mul(simd.splat(*row.add(i)), scales[j]),
                    };
                    let sum = simd.load_i32(sums.add(j * S::LANES));
                    v[j] = simd.mul_add(sum, scale, bias[j]);
                }
                for (j, mut v) in v.into_iter().enumerate() {
                    let at = at + j * S::LANES;
                    // One call of `f` for all orders keeps the code small.
                    if let Some(values) = before {
                        v = simd.add(v, simd.load(values.add(at)));
                    }
                    v = f(v);
                    if let Some(values) = after {
                        v = simd.add(v, simd.load(values.add(at)));
                    }
                    store(v, at);
                }
            }
        }
    }
}

/// Writes outputs of rows that are not whole registers.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a, S: Simd> {
    simd: S,
    residual: Option<Residual<'a>>,
    out: Target,
    to_bytes: [f32; 2],
}

impl<'a, S: Simd> Writer<'a, S> {
    #[inline(always)]
    pub(crate) fn new(simd: S, residual: Option<Residual<'a>>, out: Target) -> Self {
        Writer {
            simd,
            residual,
            out,
            to_bytes: out.to_bytes(),
        }
    }

    /// Writes the `count` outputs from `at` on, at most LANES: f(v) and the residual in its order.
    ///
    /// # Safety
    /// The target has these values, which nothing else accesses meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, v: S::V, f: impl Fn(S::V) -> S::V, at: usize, count: usize) {
        let add = |v, to: Order| match self.residual {
            Some(Residual { values, order }) if order == to => self.added(v, values, at, count),
            _ => v,
        };
        // One call of `f` for all orders keeps the code small.
        let v = add(f(add(v, Order::BeforeActivation)), Order::AfterActivation);
        let simd = self.simd;
        let whole = count == S::LANES;
        // SAFETY: the caller's promise; LANES <= MOST_LANES.
        unsafe {
            match self.out {
                Target::F32(out) if whole => simd.store(v, out.add(at)),
                Target::F32(out) => {
                    let mut part = [0.0; MOST_LANES];
                    simd.store(v, part.as_mut_ptr());
                    out.add(at).copy_from_nonoverlapping(part.as_ptr(), count);
                }
                Target::Bytes(out, _) => {
                    let [factor, zero] = self.to_bytes.map(
                        #[inline(always)]
                        |x| simd.splat(x),
                    );
                    let v = simd.mul_add(v, factor, zero);
                    if whole {
                        return simd.store_bytes(v, out.add(at));
                    }
                    let mut part = [0; MOST_LANES];
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
