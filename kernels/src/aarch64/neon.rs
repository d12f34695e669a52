//! NEON of ARMv8.0.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use super::load::{load_panel, load_rows};
use crate::int8::group::{Int8Simd, Int8Tile, Outputs, tiles_int8};
use crate::int8::pack::{Layout, Operand};
use crate::int8::taps::{DepthwiseSimd, DepthwiseTile};
use crate::linear::tile::tiles;
use crate::simd::{Simd, operations, token};

/// NEON: 32 registers of 4 values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn new() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

token!(Neon, "neon", "neon");

impl Simd for Neon {
    type V = float32x4_t;
    type Quad = float32x4_t;

    const LANES: usize = 4;
    const ROWS: usize = 7;
    const COLUMNS: usize = 12;
    const DEPTH: usize = 256;
    const IN_PLACE: bool = false;

    operations! {
        add(a, b) = vaddq_f32(a, b);
        sub(a, b) = vsubq_f32(a, b);
        mul(a, b) = vmulq_f32(a, b);
        div(a, b) = vdivq_f32(a, b);
        min(a, b) = vminq_f32(a, b);
        max(a, b) = vmaxq_f32(a, b);
        mul_add(a, b, c) = vfmaq_f32(c, a, b);
        round(a) = vrndnq_f32(a);
        power_of_two(n) = {
            let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        };
    }

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: the token proves that the processor has the instruction.
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        // SAFETY: the token proves that the processor has the instruction.
        unsafe { vaddvq_f32(a) }
    }

    #[inline(always)]
    fn largest(self, a: float32x4_t) -> f32 {
        // SAFETY: the token proves that the processor has the instruction.
        unsafe { vmaxvq_f32(a) }
    }

    #[inline(always)]
    fn larger_magnitude(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the token proves that the processor has the instructions.
        unsafe {
            let b = vreinterpretq_u32_f32(vabsq_f32(b));
            vreinterpretq_f32_u32(vmaxq_u32(vreinterpretq_u32_f32(a), b))
        }
    }

    #[inline(always)]
    fn largest_magnitude(self, a: float32x4_t) -> u32 {
        // SAFETY: the token proves that the processor has the instruction.
        unsafe { vmaxvq_u32(vreinterpretq_u32_f32(a)) }
    }

    #[inline(always)]
    fn mul_add_lane<const LANE: i32>(
        self,
        a: float32x4_t,
        q: float32x4_t,
        c: float32x4_t,
    ) -> float32x4_t {
        // SAFETY: the token proves that the processor has the instruction.
        unsafe { vfmaq_laneq_f32::<LANE>(c, a, q) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> float32x4_t {
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe { vcvtq_f32_s32(vld1q_s32(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, v: float32x4_t, to: *mut f32) {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { vst1q_f32(to, v) }
    }

    #[inline(always)]
    unsafe fn store_s8(self, v: [float32x4_t; 4], to: *mut i8) {
        let (low, high) = self.whole(v);
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe { vst1q_s8(to, vmovn_high_s16(vmovn_s16(low), high)) }
    }

    #[inline(always)]
    unsafe fn store_u8(self, v: [float32x4_t; 4], to: *mut u8) {
        let (low, high) = self.whole(v);
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe { vst1q_u8(to, vqmovun_high_s16(vqmovun_s16(low), high)) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, v: float32x4_t, to: *mut u8) {
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe {
            // Each instruction saturates; a NaN is converted to 0.
            let narrow = vqmovn_s32(vcvtnq_s32_f32(v));
            let bytes = vqmovun_s16(vcombine_s16(narrow, narrow));
            let word = vget_lane_u32::<0>(vreinterpret_u32_u8(bytes));
            to.cast::<u32>().write_unaligned(word);
        }
    }

    #[inline(always)]
    unsafe fn store_rgb(self, [red, green, blue]: [&[u8; 16]; 3], to: *mut u8) {
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe {
            let [red, green, blue] = [
                vld1q_u8(red.as_ptr()),
                vld1q_u8(green.as_ptr()),
                vld1q_u8(blue.as_ptr()),
            ];
            vst3q_u8(to, uint8x16x3_t(red, green, blue));
        }
    }

    #[inline(always)]
    unsafe fn quad(self, from: *const f32) -> float32x4_t {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    fn prefetch(self, _: *const f32) {}

    tiles!(3, 1 2 3 4 5 6 7);
}

impl Neon {
    /// Rounds to 16-bit integers, half to even: the first two registers, and the last two.
    #[inline(always)]
    fn whole(self, v: [float32x4_t; 4]) -> (int16x8_t, int16x8_t) {
        // SAFETY: the token proves the instructions.
        unsafe {
            let [a, b, c, d] = v.map(
                #[inline(always)]
                |v| vcvtnq_s32_f32(v),
            );
            (
                vmovn_high_s32(vmovn_s32(a), b),
                vmovn_high_s32(vmovn_s32(c), d),
            )
        }
    }
}

/// SMULL and SMLAL2 sum two products in each of 8 lanes of 16 bits (2 · 128 · 127 is below 2^15); SADALP adds pairs of lanes
/// to four sums. Each row and column has four sums, of every fourth value, which are added at the end.
impl Int8Simd for Neon {
    type Float = Neon;

    const LAYOUT: Layout = Layout {
        rows: 4,
        rows_multiple: 1,
        columns: 8,
        step: 16,
        whole_rows: false,
        operand: Operand::Signed,
    };
    const DEPTH: usize = 4096;

    const PIXELS: usize = 2;

    fn float(self) -> Neon {
        self
    }

    #[inline(always)]
    unsafe fn depthwise(self, t: &DepthwiseTile) {
        // SAFETY: the caller's promise; the token proves the instructions.
        unsafe { t.run::<Self, { <Self as Int8Simd>::PIXELS }, 4>(self) }
    }

    tiles_int8!(1 => neon::<1>, 2 => neon::<2>, 3 => neon::<3>, 4 => neon::<4>);
}

/// A pixel's sums of four channels: two of each, for the even and the odd pairs of taps.
impl DepthwiseSimd for Neon {
    type Taps = int8x16_t;
    type Sums = [int32x4_t; 2];

    #[inline(always)]
    unsafe fn start(self, from: *const i32) -> [int32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let (from, zero) = (vld1q_s32(from), vdupq_n_s32(0));
            [vzip1q_s32(from, zero), vzip2q_s32(from, zero)]
        }
    }

    #[inline(always)]
    unsafe fn taps(self, from: *const u8) -> int8x16_t {
        // SAFETY: the caller's promise.
        unsafe { vld1q_s8(from.cast()) }
    }

    #[inline(always)]
    fn add(self, [low, high]: [int32x4_t; 2], x: int8x16_t, w: int8x16_t) -> [int32x4_t; 2] {
        // SAFETY: the token proves that the processor has the instructions.
        unsafe {
            [
                vpadalq_s16(low, vmull_s8(vget_low_s8(x), vget_low_s8(w))),
                vpadalq_s16(high, vmull_high_s8(x, w)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn finish(self, [low, high]: [int32x4_t; 2], to: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe { vst1q_s32(to, vpaddq_s32(low, high)) }
    }
}

/// # Safety
/// As [`Int8Simd::tiles`], of one.
#[inline(always)]
unsafe fn neon<const ROWS: usize>(float: Neon, t: &Int8Tile, _: &Outputs) {
    // Bytes of a step of the panel.
    const STEP: usize = 128;
    // Four columns use all registers.
    for half in [0, 4] {
        // SAFETY: the caller's promise; every step has 16 values of each of 8 columns and of each row.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 4]; ROWS];
            let (mut x, mut panel) = (t.x.cast::<i8>(), t.panel.add(16 * half));
            for _ in 0..t.steps / 2 {
                neon_step(&mut sums, load_panel(&mut panel, STEP), load_rows(&mut x));
                neon_step(&mut sums, load_panel(&mut panel, STEP), load_rows(&mut x));
            }
            if !t.steps.is_multiple_of(2) {
                neon_step(&mut sums, load_panel(&mut panel, STEP), load_rows(&mut x));
            }
            let mut rows = [vdupq_n_s32(0); ROWS];
            for (i, [a, b, c, d]) in sums.into_iter().enumerate() {
                rows[i] = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
            }
            if !t.from.is_null() {
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = vaddq_s32(*row, vld1q_s32(t.from.add(t.from_stride * i + half)));
                }
            }
            match &t.epilogue {
                Some(epilogue) => epilogue.write::<Neon, ROWS, 1>(
                    float,
                    half / 4,
                    #[inline(always)]
                    |i, _| vcvtq_f32_s32(rows[i]),
                ),
                None => {
                    for (i, &row) in rows.iter().enumerate() {
                        vst1q_s32(t.sums.add(8 * i + half), row);
                    }
                }
            }
        }
    }
}

/// 16 values of k, a register each.
#[inline(always)]
fn neon_step<const ROWS: usize>(
    sums: &mut [[int32x4_t; 4]; ROWS],
    w: [int8x16_t; 4],
    x: [int8x16_t; ROWS],
) {
    for (sums, x) in sums.iter_mut().zip(x) {
        for (sum, w) in sums.iter_mut().zip(w) {
            // SAFETY: every aarch64 has NEON.
            unsafe {
                let low = vmull_s8(vget_low_s8(x), vget_low_s8(w));
                *sum = vpadalq_s16(*sum, vmlal_high_s8(low, x, w));
            }
        }
    }
}
