//! 8-bit integer products in registers of 256 bits, whatever the instruction that sums a few of them.

use std::arch::x86_64::*;

use crate::int8::group::{Int8Simd, Int8Tile, Outputs, tiles_int8};
use crate::int8::pack::{Layout, Operand};
use crate::int8::taps::{DepthwiseSimd, DepthwiseTile};
use crate::simd::{InstructionSet, Simd};

/// An instruction set that adds [`Dot::STEP`] products, of four bytes of a row, to each of 8 sums.
pub(crate) trait Dot: InstructionSet {
    /// Values of k.
    const STEP: usize;
    const OPERAND: Operand;
    /// [`Int8Simd::DEPTH`]
    const DEPTH: usize;

    /// [`Int8Simd::Float`]
    type Float: Simd<V = __m256>;

    fn float(self) -> Self::Float;

    /// The weights of a step of 8 columns.
    ///
    /// # Safety
    /// `from` points to 8 [`Dot::STEP`] readable values.
    unsafe fn weights(self, from: *const i8) -> __m256i;

    /// sums + the products of x and w.
    fn dot(self, sums: __m256i, x: __m256i, w: __m256i) -> __m256i;
}

impl<D: Dot> Int8Simd for D {
    type Float = <D as Dot>::Float;

    const LAYOUT: Layout = Layout {
        rows: 6,
        rows_multiple: 1,
        columns: 16,
        step: D::STEP,
        whole_rows: false,
        operand: D::OPERAND,
    };
    const DEPTH: usize = <D as Dot>::DEPTH;
    const PIXELS: usize = 4;

    fn float(self) -> Self::Float {
        Dot::float(self)
    }

    #[inline(always)]
    unsafe fn depthwise(self, t: &DepthwiseTile) {
        // SAFETY: the caller's promise; the token proves the instructions.
        unsafe { t.run::<Self, 4, 2>(self) }
    }

    tiles_int8!(1 => tile::<D, 1>, 2 => tile::<D, 2>, 3 => tile::<D, 3>, 4 => tile::<D, 4>, 5 => tile::<D, 5>, 6 => tile::<D, 6>);
}

impl<D: Dot> DepthwiseSimd for D {
    type Taps = __m256i;
    type Sums = __m256i;

    #[inline(always)]
    unsafe fn start(self, from: *const i32) -> __m256i {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn taps(self, from: *const u8) -> __m256i {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    fn add(self, sums: __m256i, x: __m256i, w: __m256i) -> __m256i {
        self.dot(sums, x, w)
    }

    #[inline(always)]
    unsafe fn finish(self, sums: __m256i, to: *mut i32) {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm256_storeu_si256(to.cast(), sums) }
    }
}

/// # Safety
/// As [`Int8Simd::tiles`], of one.
#[inline(always)]
unsafe fn tile<D: Dot, const ROWS: usize>(simd: D, t: &Int8Tile, _: &Outputs) {
    // SAFETY: the token proves the instructions; every step has STEP values of 16 columns in the panel and four bytes of
    // each row.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        if !t.from.is_null() {
            for (i, [a, b]) in sums.iter_mut().enumerate() {
                let from = t.from.add(t.from_stride * i);
                *a = _mm256_loadu_si256(from.cast());
                *b = _mm256_loadu_si256(from.add(8).cast());
            }
        }
        let (mut x, mut panel, mut next) = (t.x, t.panel, t.next);
        for _ in 0..t.steps / 2 {
            for _ in 0..t.ahead {
                _mm_prefetch::<_MM_HINT_T0>(next);
                next = next.wrapping_add(64);
            }
            step(simd, &mut sums, x, panel);
            step(simd, &mut sums, x.add(4 * ROWS), panel.add(16 * D::STEP));
            x = x.add(8 * ROWS);
            panel = panel.add(32 * D::STEP);
        }
        if !t.steps.is_multiple_of(2) {
            step(simd, &mut sums, x, panel);
        }
        if let Some(epilogue) = &t.epilogue {
            return epilogue.write::<D::Float, ROWS, 2>(
                Dot::float(simd),
                0,
                #[inline(always)]
                |i, j| _mm256_cvtepi32_ps(sums[i][j]),
            );
        }
        for (i, &[a, b]) in sums.iter().enumerate() {
            _mm256_storeu_si256(t.sums.add(16 * i).cast(), a);
            _mm256_storeu_si256(t.sums.add(16 * i + 8).cast(), b);
        }
    }
}

/// STEP values of k: those of 16 columns in `panel`, of ROWS rows in `x`.
///
/// # Safety
/// `panel` points to 16 STEP values, `x` to 4 ROWS bytes.
#[inline(always)]
unsafe fn step<D: Dot, const ROWS: usize>(
    simd: D,
    sums: &mut [[__m256i; 2]; ROWS],
    x: *const u8,
    panel: *const i8,
) {
    // SAFETY: the caller's promise; the token proves the instructions.
    unsafe {
        let w = [simd.weights(panel), simd.weights(panel.add(8 * D::STEP))];
        for (i, [a, b]) in sums.iter_mut().enumerate() {
            let x = _mm256_set1_epi32(x.add(4 * i).cast::<i32>().read_unaligned());
            *a = simd.dot(*a, x, w[0]);
            *b = simd.dot(*b, x, w[1]);
        }
    }
}
