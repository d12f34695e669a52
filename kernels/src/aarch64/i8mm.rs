//! i8mm of ARMv8.6.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::dotprod::Dotprod;
use super::load::load_panel;
use super::neon::Neon;
use crate::int8::group::{Int8Simd, Int8Tile, Outputs, tiles_int8};
use crate::int8::pack::{Layout, Operand};
use crate::int8::taps::DepthwiseTile;
use crate::simd::token;

/// i8mm: SMMLA multiplies two rows of 8 values by two columns. Every processor with i8mm has dotprod too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct I8mm(Dotprod);

impl I8mm {
    pub(crate) fn new() -> Option<Self> {
        let dotprod = Dotprod::new()?;
        is_aarch64_feature_detected!("i8mm").then_some(I8mm(dotprod))
    }
}

token!(I8mm, "i8mm", "neon,dotprod,i8mm");

impl Int8Simd for I8mm {
    type Float = Neon;

    const LAYOUT: Layout = Layout {
        rows: 12,
        rows_multiple: 2,
        columns: 8,
        step: 8,
        whole_rows: false,
        operand: Operand::Signed,
    };
    const DEPTH: usize = 1536;

    fn float(self) -> Neon {
        self.0.float()
    }

    const PIXELS: usize = Dotprod::PIXELS;

    #[inline(always)]
    unsafe fn depthwise(self, t: &DepthwiseTile) {
        // SAFETY: the caller's promise.
        unsafe { self.0.depthwise(t) }
    }

    tiles_int8!(1 => i8mm::<1, 1>, 2 => i8mm::<2, 1>, 3 => i8mm::<3, 2>, 4 => i8mm::<4, 2>, 5 => i8mm::<5, 3>, 6 => i8mm::<6, 3>, 7 => i8mm::<7, 4>, 8 => i8mm::<8, 4>, 9 => i8mm::<9, 5>, 10 => i8mm::<10, 5>, 11 => i8mm::<11, 6>, 12 => i8mm::<12, 6>);
}

/// sum [2, 2] + x [2, 8] · the transpose of w [2, 8].
///
/// # Safety
/// In a function that enables i8mm.
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction accesses only registers.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {x:v}.16b, {w:v}.16b",
            sum = inout(vreg) sum,
            x = in(vreg) x,
            w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// # Safety
/// As [`Int8Simd::tiles`], of one, on a processor with i8mm; PAIRS is ROWS / 2, rounded up.
#[inline(always)]
unsafe fn i8mm<const ROWS: usize, const PAIRS: usize>(token: I8mm, t: &Int8Tile, _: &Outputs) {
    // SAFETY: the caller's promise; every step has 8 values of each of 8 columns, and of each row, whose number
    // is padded to a multiple of 2.
    unsafe {
        // Two rows and two columns each.
        let mut sums = [[vdupq_n_s32(0); 4]; PAIRS];
        let (mut x, mut panel) = (t.x.cast::<i8>(), t.panel);
        for _ in 0..t.steps {
            let w = load_panel(&mut panel, 64);
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = vld1q_s8(x.add(16 * i));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = smmla(*sum, x, w);
                }
            }
            x = x.add(16 * PAIRS);
        }
        let mut rows = [[vdupq_n_s32(0); 2]; ROWS];
        for (i, row) in rows.iter_mut().enumerate() {
            for (j, sum) in row.iter_mut().enumerate() {
                let [a, b] = [sums[i / 2][2 * j], sums[i / 2][2 * j + 1]];
                let [a, b] = [vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)];
                *sum = vreinterpretq_s32_s64(match i % 2 {
                    0 => vzip1q_s64(a, b),
                    _ => vzip2q_s64(a, b),
                });
                if !t.from.is_null() {
                    *sum = vaddq_s32(*sum, vld1q_s32(t.from.add(t.from_stride * i + 4 * j)));
                }
            }
        }
        match &t.epilogue {
            Some(epilogue) => epilogue.write::<Neon, ROWS, 2>(
                token.float(),
                0,
                #[inline(always)]
                |i, j| vcvtq_f32_s32(rows[i][j]),
            ),
            None => {
                for (i, &[a, b]) in rows.iter().enumerate() {
                    vst1q_s32(t.sums.add(8 * i), a);
                    vst1q_s32(t.sums.add(8 * i + 4), b);
                }
            }
        }
    }
}
