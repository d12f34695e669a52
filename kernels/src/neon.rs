//! NEON of ARMv8.0.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use crate::simd::{Simd, operations, tiles, vector};

/// NEON: 32 registers of 4 values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn new() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

vector!(Neon, "neon", "neon");

impl Simd for Neon {
    type V = float32x4_t;
    type Quad = float32x4_t;

    const LANES: usize = 4;
    const ROWS: usize = 7;
    const COLUMNS: usize = 12;
    const DEPTH: usize = 256;

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
    unsafe fn quad(self, from: *const f32) -> float32x4_t {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    fn prefetch(self, _: *const f32) {}

    tiles!(Neon, "neon", 3, [1 2 3 4 5 6 7]);
}

impl Neon {
    /// Whole numbers of 16 bits, half to even: of the first two registers, and of the last two.
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
