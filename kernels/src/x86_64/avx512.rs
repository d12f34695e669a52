//! AVX-512F.

use std::arch::x86_64::*;

use super::avx2::store_rgb;
use crate::linear::tile::tiles;
use crate::simd::{Simd, operations, token};

/// AVX-512F: 32 registers of 16 values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Avx512(()))
    }
}

token!(Avx512, "avx512", "avx512f");

impl Simd for Avx512 {
    type V = __m512;
    type Quad = *const f32;

    const LANES: usize = 16;
    const ROWS: usize = 14;
    const COLUMNS: usize = 32;
    const DEPTH: usize = 192;
    const IN_PLACE: bool = true;

    operations! {
        add(a, b) = _mm512_add_ps(a, b);
        sub(a, b) = _mm512_sub_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        min(a, b) = _mm512_min_ps(a, b);
        max(a, b) = _mm512_max_ps(a, b);
        mul_add(a, b, c) = _mm512_fmadd_ps(a, b, c);
        round(a) = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        power_of_two(n) = {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        };
        times_power_of_two(a, n) = _mm512_scalef_ps(a, n);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token proves that the processor has the instruction.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: the token proves that the processor has the instruction.
        unsafe { _mm512_reduce_add_ps(a) }
    }

    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        // SAFETY: the token proves that the processor has the instruction.
        unsafe { _mm512_reduce_max_ps(a) }
    }

    #[inline(always)]
    fn larger_magnitude(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves that the processor has the instructions.
        unsafe {
            let b = _mm512_and_epi32(_mm512_castps_si512(b), _mm512_set1_epi32(i32::MAX));
            _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), b))
        }
    }

    #[inline(always)]
    fn largest_magnitude(self, a: __m512) -> u32 {
        // SAFETY: the token proves that the processor has the instructions.
        unsafe { _mm512_reduce_max_epu32(_mm512_castps_si512(a)) }
    }

    #[inline(always)]
    fn mul_add_lane<const LANE: i32>(self, a: __m512, q: *const f32, c: __m512) -> __m512 {
        // SAFETY: the token proves the instructions; `quad` had the promise of 4 readable values.
        unsafe { _mm512_fmadd_ps(a, _mm512_set1_ps(*q.add(LANE as usize)), c) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> __m512 {
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, v: __m512, to: *mut f32) {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn store_s8(self, v: [__m512; 4], to: *mut i8) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: the token proves the instructions; the rest is the caller's promise.
            unsafe {
                let narrow = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
                _mm_storeu_si128(to.add(16 * i).cast(), narrow);
            }
        }
    }

    #[inline(always)]
    unsafe fn store_u8(self, v: [__m512; 4], to: *mut u8) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: the token proves the instructions; the rest is the caller's promise.
            unsafe {
                // The narrowing instruction treats its values as unsigned.
                let whole = _mm512_max_epi32(_mm512_cvtps_epi32(v), _mm512_setzero_si512());
                _mm_storeu_si128(to.add(16 * i).cast(), _mm512_cvtusepi32_epi8(whole));
            }
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, v: __m512, to: *mut u8) {
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe {
            // The lowest byte of what a NaN is converted to is 0.
            let v = self.max(self.splat(0.0), self.min(self.splat(255.0), v));
            let narrow = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
            _mm_storeu_si128(to.cast(), narrow);
        }
    }

    #[inline(always)]
    unsafe fn store_rgb(self, planes: [&[u8; 16]; 3], to: *mut u8) {
        // SAFETY: the token proves AVX2; the rest is the caller's promise.
        unsafe { store_rgb(planes, to) }
    }

    #[inline(always)]
    unsafe fn quad(self, from: *const f32) -> *const f32 {
        from
    }

    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: a prefetch reads nothing, so that any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    tiles!(2, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}
