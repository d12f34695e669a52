//! dotprod of ARMv8.2.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::load::{load_panel, load_rows};
use super::neon::Neon;
use crate::int8::group::{Int8Simd, Int8Tile, Outputs, tiles_int8};
use crate::int8::pack::{Layout, Operand};
use crate::int8::taps::{DepthwiseSimd, DepthwiseTile};
use crate::simd::token;

/// ARMv8.2's dotprod: SDOT adds four products to each of four sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dotprod(Neon);

impl Dotprod {
    pub(crate) fn new() -> Option<Self> {
        let float = Neon::new()?;
        is_aarch64_feature_detected!("dotprod").then_some(Dotprod(float))
    }
}

token!(Dotprod, "dotprod", "neon,dotprod");

impl Int8Simd for Dotprod {
    type Float = Neon;

    const LAYOUT: Layout = Layout {
        rows: 12,
        rows_multiple: 4,
        columns: 8,
        step: 4,
        whole_rows: false,
        operand: Operand::Signed,
    };
    const DEPTH: usize = 1536;

    const PIXELS: usize = 4;

    fn float(self) -> Neon {
        self.0
    }

    #[inline(always)]
    unsafe fn depthwise(self, t: &DepthwiseTile) {
        // SAFETY: the caller's promise; the token proves the instructions.
        unsafe { t.run::<Self, { <Self as Int8Simd>::PIXELS }, 4>(self) }
    }

    tiles_int8!(1 => dotprod::<1, 1>, 2 => dotprod::<2, 1>, 3 => dotprod::<3, 1>, 4 => dotprod::<4, 1>, 5 => dotprod::<5, 2>, 6 => dotprod::<6, 2>, 7 => dotprod::<7, 2>, 8 => dotprod::<8, 2>, 9 => dotprod::<9, 3>, 10 => dotprod::<10, 3>, 11 => dotprod::<11, 3>, 12 => dotprod::<12, 3>);
}

/// sum + w · (values 4 LANE .. 4 LANE + 4 of x), for each of w's four columns. Rust's intrinsic is not stable.
///
/// # Safety
/// In a function that enables dotprod.
#[inline(always)]
unsafe fn sdot<const LANE: usize>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction accesses only registers.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            // Not `pure`, so that it stays behind the loads, which have few registers.
            options(nomem, nostack, preserves_flags)
        );
    }
    sum
}

impl DepthwiseSimd for Dotprod {
    type Taps = int8x16_t;
    type Sums = int32x4_t;

    #[inline(always)]
    unsafe fn start(self, from: *const i32) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vld1q_s32(from) }
    }

    #[inline(always)]
    unsafe fn taps(self, from: *const u8) -> int8x16_t {
        // SAFETY: the caller's promise.
        unsafe { vld1q_s8(from.cast()) }
    }

    #[inline(always)]
    fn add(self, mut sums: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves the instruction, which accesses only registers.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {x:v}.16b, {w:v}.16b",
                sums = inout(vreg) sums,
                x = in(vreg) x,
                w = in(vreg) w,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sums
    }

    #[inline(always)]
    unsafe fn finish(self, sums: int32x4_t, to: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe { vst1q_s32(to, sums) }
    }
}

/// # Safety
/// As [`Int8Simd::tiles`], of one, on a processor with dotprod; QUADS is ROWS / 4, rounded up.
#[inline(always)]
unsafe fn dotprod<const ROWS: usize, const QUADS: usize>(
    token: Dotprod,
    t: &Int8Tile,
    _: &Outputs,
) {
    // SAFETY: the caller's promise; every step has 4 values of each of 8 columns, and of each row, whose number
    // is padded to a multiple of 4.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 2]; ROWS];
        if !t.from.is_null() {
            for (i, row) in sums.iter_mut().enumerate() {
                let from = t.from.add(t.from_stride * i);
                *row = [vld1q_s32(from), vld1q_s32(from.add(4))];
            }
        }
        let (mut x, mut panel) = (t.x.cast::<i8>(), t.panel);
        for _ in 0..t.steps / 8 {
            dotprod_two_steps::<ROWS, QUADS>(&mut sums, &mut panel, &mut x);
            dotprod_two_steps::<ROWS, QUADS>(&mut sums, &mut panel, &mut x);
            dotprod_two_steps::<ROWS, QUADS>(&mut sums, &mut panel, &mut x);
            dotprod_two_steps::<ROWS, QUADS>(&mut sums, &mut panel, &mut x);
        }
        for _ in 0..t.steps % 8 {
            let w = [vld1q_s8(panel), vld1q_s8(panel.add(16))];
            dotprod_step::<ROWS, QUADS>(&mut sums, w, load_rows(&mut x));
            panel = panel.add(32);
        }
        if let Some(epilogue) = &t.epilogue {
            return epilogue.write::<Neon, ROWS, 2>(
                token.0,
                0,
                #[inline(always)]
                |i, j| vcvtq_f32_s32(sums[i][j]),
            );
        }
        for (i, &[a, b]) in sums.iter().enumerate() {
            vst1q_s32(t.sums.add(8 * i), a);
            vst1q_s32(t.sums.add(8 * i + 4), b);
        }
    }
}

/// # Safety
/// In a function that enables dotprod; `panel` and `x` point to two steps each.
#[inline(always)]
unsafe fn dotprod_two_steps<const ROWS: usize, const QUADS: usize>(
    sums: &mut [[int32x4_t; 2]; ROWS],
    panel: &mut *const i8,
    x: &mut *const i8,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b, c, d] = load_panel(panel, 64);
        dotprod_step::<ROWS, QUADS>(sums, [a, b], load_rows(x));
        dotprod_step::<ROWS, QUADS>(sums, [c, d], load_rows(x));
    }
}

/// Four values of k: those of 8 columns in `w`, of four rows in each register of `x`.
///
/// # Safety
/// In a function that enables dotprod.
#[inline(always)]
unsafe fn dotprod_step<const ROWS: usize, const QUADS: usize>(
    sums: &mut [[int32x4_t; 2]; ROWS],
    w: [int8x16_t; 2],
    x: [int8x16_t; QUADS],
) {
    for (rows, x) in sums.chunks_mut(4).zip(x) {
        for (i, row) in rows.iter_mut().enumerate() {
            for (sum, w) in row.iter_mut().zip(w) {
                // SAFETY: the caller's promise.
                *sum = unsafe {
                    match i {
                        0 => sdot::<0>(*sum, w, x),
                        1 => sdot::<1>(*sum, w, x),
                        2 => sdot::<2>(*sum, w, x),
                        _ => sdot::<3>(*sum, w, x),
                    }
                };
            }
        }
    }
}
