//! ARM: NEON, and its extensions dotprod and i8mm.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::group::{Int8, Tile, tiles_int8, vector_int8};
use super::pack::{Layout, Operand};
use crate::neon::Neon;

vector_int8!(Neon, "neon", "neon");

/// ARMv8.0: SMULL and SMLAL2 make two products in each of 8 lanes of 16 bits, which hold them (2 · 128 · 127 is
/// below 2^15), and SADALP adds pairs of lanes to four sums, so that each row and column have four sums, of
/// every fourth value, until the end.
impl Int8 for Neon {
    type Float = Neon;

    const LAYOUT: Layout = Layout {
        rows: 4,
        rows_multiple: 1,
        columns: 4,
        step: 16,
        operand: Operand::Signed,
    };
    const DEPTH: usize = 4096;

    fn float(self) -> Neon {
        self
    }

    tiles_int8!(Neon, "neon", neon::<ROWS>, 1 2 3 4);
}

/// # Safety
/// As [`Int8::tile`].
#[inline(always)]
unsafe fn neon<const ROWS: usize>(t: Tile) {
    // SAFETY: the caller's promise; every step has 16 values of each of 4 columns and of each row.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 4]; ROWS];
        let (mut x, mut panel) = (t.x.cast::<i8>(), t.panel);
        for _ in 0..t.steps {
            let w = vld1q_s8_x4(panel);
            let w = [w.0, w.1, w.2, w.3];
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = vld1q_s8(x.add(16 * i));
                for (sum, &w) in sums.iter_mut().zip(&w) {
                    let low = vmull_s8(vget_low_s8(x), vget_low_s8(w));
                    *sum = vpadalq_s16(*sum, vmlal_high_s8(low, x, w));
                }
            }
            x = x.add(16 * ROWS);
            panel = panel.add(64);
        }
        for (i, &[a, b, c, d]) in sums.iter().enumerate() {
            let mut sum = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
            let to = t.sums.add(4 * i);
            if t.add {
                sum = vaddq_s32(sum, vld1q_s32(to));
            }
            vst1q_s32(to, sum);
        }
    }
}

/// ARMv8.2's dotprod: SDOT adds four products to each of four sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dotprod(Neon);

impl Dotprod {
    pub(crate) fn new() -> Option<Self> {
        let float = Neon::new()?;
        is_aarch64_feature_detected!("dotprod").then_some(Dotprod(float))
    }
}

vector_int8!(Dotprod, "dotprod", "neon,dotprod");

impl Int8 for Dotprod {
    type Float = Neon;

    const LAYOUT: Layout = Layout {
        rows: 8,
        rows_multiple: 4,
        columns: 12,
        step: 4,
        operand: Operand::Signed,
    };
    const DEPTH: usize = 1536;

    fn float(self) -> Neon {
        self.0
    }

    tiles_int8!(Dotprod, "neon,dotprod", dotprod::<ROWS>, 1 2 3 4 5 6 7 8);
}

/// sum + w · x's values 4 LANE .. 4 LANE + 4, for each of w's four columns. The compiler's own intrinsic is not
/// stable yet.
///
/// # Safety
/// In a function with dotprod turned on.
#[inline(always)]
unsafe fn sdot<const LANE: usize>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction touches registers alone.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// # Safety
/// As [`Int8::tile`], on a processor with dotprod.
#[inline(always)]
unsafe fn dotprod<const ROWS: usize>(t: Tile) {
    // SAFETY: the caller's promise; every step has 4 values of each of 12 columns, and of each row, whose number
    // is filled up to a multiple of 4.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 3]; ROWS];
        if t.add {
            for (i, row) in sums.iter_mut().enumerate() {
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = vld1q_s32(t.sums.add(12 * i + 4 * j));
                }
            }
        }
        let (mut x, mut panel) = (t.x.cast::<i8>(), t.panel);
        for _ in 0..t.steps {
            let w = vld1q_s8_x3(panel);
            let w = [w.0, w.1, w.2];
            let (fours, _) = sums.as_chunks_mut::<4>();
            for (i, rows) in fours.iter_mut().enumerate() {
                let x = vld1q_s8(x.add(16 * i));
                for (j, &w) in w.iter().enumerate() {
                    rows[0][j] = sdot::<0>(rows[0][j], w, x);
                    rows[1][j] = sdot::<1>(rows[1][j], w, x);
                    rows[2][j] = sdot::<2>(rows[2][j], w, x);
                    rows[3][j] = sdot::<3>(rows[3][j], w, x);
                }
            }
            let (_, rows) = sums.as_chunks_mut::<4>();
            if !rows.is_empty() {
                let x = vld1q_s8(x.add(4 * (ROWS - ROWS % 4)));
                for (j, &w) in w.iter().enumerate() {
                    rows[0][j] = sdot::<0>(rows[0][j], w, x);
                    if ROWS % 4 > 1 {
                        rows[1][j] = sdot::<1>(rows[1][j], w, x);
                    }
                    if ROWS % 4 > 2 {
                        rows[2][j] = sdot::<2>(rows[2][j], w, x);
                    }
                }
            }
            x = x.add(4 * ROWS.next_multiple_of(4));
            panel = panel.add(48);
        }
        for (i, row) in sums.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                vst1q_s32(t.sums.add(12 * i + 4 * j), sum);
            }
        }
    }
}

/// ARMv8.6's i8mm: SMMLA multiplies two rows of 8 values with two columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct I8mm(Neon);

impl I8mm {
    pub(crate) fn new() -> Option<Self> {
        let float = Neon::new()?;
        is_aarch64_feature_detected!("i8mm").then_some(I8mm(float))
    }
}

vector_int8!(I8mm, "i8mm", "neon,i8mm");

impl Int8 for I8mm {
    type Float = Neon;

    const LAYOUT: Layout = Layout {
        rows: 8,
        rows_multiple: 2,
        columns: 12,
        step: 8,
        operand: Operand::Signed,
    };
    const DEPTH: usize = 1536;

    fn float(self) -> Neon {
        self.0
    }

    tiles_int8!(I8mm, "neon,i8mm", i8mm::<ROWS>, 1 2 3 4 5 6 7 8);
}

/// sum [2, 2] + x [2, 8] · the transpose of w [2, 8].
///
/// # Safety
/// In a function with i8mm turned on.
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction touches registers alone.
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
/// As [`Int8::tile`], on a processor with i8mm.
#[inline(always)]
unsafe fn i8mm<const ROWS: usize>(t: Tile) {
    // Sums of two rows and two columns each; ROWS is more than their number, which no constant can halve.
    // SAFETY: every aarch64 has NEON.
    let mut sums = [[unsafe { vdupq_n_s32(0) }; 6]; 4];
    let pairs = ROWS.div_ceil(2);
    // SAFETY: the caller's promise; every step has 8 values of each of 12 columns, and of each row, whose number
    // is filled up to a multiple of 2.
    unsafe {
        let (mut x, mut panel) = (t.x.cast::<i8>(), t.panel);
        for _ in 0..t.steps {
            let mut rows = [vld1q_s8(x); 4];
            for (i, row) in rows.iter_mut().enumerate().take(pairs) {
                *row = vld1q_s8(x.add(16 * i));
            }
            for j in 0..6 {
                let w = vld1q_s8(panel.add(16 * j));
                for (sums, &row) in sums.iter_mut().zip(&rows).take(pairs) {
                    sums[j] = smmla(sums[j], row, w);
                }
            }
            x = x.add(16 * pairs);
            panel = panel.add(96);
        }
        for i in 0..ROWS {
            for j in 0..3 {
                let [a, b] = [sums[i / 2][2 * j], sums[i / 2][2 * j + 1]];
                let [a, b] = [vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)];
                let row = match i % 2 {
                    0 => vzip1q_s64(a, b),
                    _ => vzip2q_s64(a, b),
                };
                let mut sum = vreinterpretq_s32_s64(row);
                let to = t.sums.add(12 * i + 4 * j);
                if t.add {
                    sum = vaddq_s32(sum, vld1q_s32(to));
                }
                vst1q_s32(to, sum);
            }
        }
    }
}
