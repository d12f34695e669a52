//! AVX2 with FMA.

use std::arch::x86_64::*;

use super::dot::Dot;
use crate::int8::pack::Operand;
use crate::linear::tile::tiles;
use crate::simd::{Simd, operations, token};

/// AVX2 with FMA: 16 registers of 8 values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }
}

token!(Avx2, "avx2", "avx2,fma");

impl Simd for Avx2 {
    type V = __m256;
    type Quad = *const f32;

    const LANES: usize = 8;
    const ROWS: usize = 6;
    const COLUMNS: usize = 16;
    const DEPTH: usize = 256;
    const IN_PLACE: bool = true;

    operations! {
        add(a, b) = _mm256_add_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        min(a, b) = _mm256_min_ps(a, b);
        max(a, b) = _mm256_max_ps(a, b);
        mul_add(a, b, c) = _mm256_fmadd_ps(a, b, c);
        round(a) = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        power_of_two(n) = {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        };
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: the token proves that the processor has the instruction.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: the token proves that the processor has the instructions.
        unsafe {
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        }
    }

    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        // SAFETY: the token proves that the processor has the instructions.
        unsafe {
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
        }
    }

    #[inline(always)]
    fn larger_magnitude(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves that the processor has the instructions.
        unsafe {
            let b = _mm256_and_si256(_mm256_castps_si256(b), _mm256_set1_epi32(i32::MAX));
            _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), b))
        }
    }

    #[inline(always)]
    fn largest_magnitude(self, a: __m256) -> u32 {
        // SAFETY: the token proves that the processor has the instructions.
        unsafe {
            let a = _mm256_castps_si256(a);
            let a = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_max_epi32(a, _mm_shuffle_epi32::<0b01_00_11_10>(a));
            _mm_cvtsi128_si32(_mm_max_epi32(a, _mm_shuffle_epi32::<0b10_11_00_01>(a))) as u32
        }
    }

    #[inline(always)]
    fn mul_add_lane<const LANE: i32>(self, a: __m256, q: *const f32, c: __m256) -> __m256 {
        // SAFETY: the token proves the instructions; `quad` had the promise of 4 readable values.
        unsafe { _mm256_fmadd_ps(a, _mm256_broadcast_ss(&*q.add(LANE as usize)), c) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> __m256 {
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe { _mm256_cvtepi32_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, v: __m256, to: *mut f32) {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn store_s8(self, v: [__m256; 4], to: *mut i8) {
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe {
            let (ab, cd) = self.whole(v);
            _mm256_storeu_si256(to.cast(), in_order(_mm256_packs_epi16(ab, cd)));
        }
    }

    #[inline(always)]
    unsafe fn store_u8(self, v: [__m256; 4], to: *mut u8) {
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe {
            let (ab, cd) = self.whole(v);
            _mm256_storeu_si256(to.cast(), in_order(_mm256_packus_epi16(ab, cd)));
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, v: __m256, to: *mut u8) {
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe {
            // A NaN and what is below all integers are converted to the smallest one, which saturates to 0.
            let whole = _mm256_cvtps_epi32(self.min(self.splat(255.0), v));
            let (low, high) = (
                _mm256_castsi256_si128(whole),
                _mm256_extracti128_si256::<1>(whole),
            );
            let narrow = _mm_packs_epi32(low, high);
            _mm_storel_epi64(to.cast(), _mm_packus_epi16(narrow, narrow));
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

    tiles!(2, 1 2 3 4 5 6);
}

impl Avx2 {
    /// Rounds to 16-bit integers, half to even: alternating quads of the first two registers, and of the last two.
    #[inline(always)]
    fn whole(self, [a, b, c, d]: [__m256; 4]) -> (__m256i, __m256i) {
        // SAFETY: the token proves the instructions.
        unsafe {
            (
                _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b)),
                _mm256_packs_epi32(_mm256_cvtps_epi32(c), _mm256_cvtps_epi32(d)),
            )
        }
    }
}

/// Puts bytes that were packed within 128-bit lanes into the order of their registers.
///
/// # Safety
/// On a processor with AVX2.
#[inline(always)]
unsafe fn in_order(bytes: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)) }
}

/// [`Simd::store_rgb`]
///
/// # Safety
/// On a processor with AVX2; `to` points to 48 writable bytes.
#[inline(always)]
pub(super) unsafe fn store_rgb([red, green, blue]: [&[u8; 16]; 3], to: *mut u8) {
    // For each register of the result and each plane, the byte that goes to each place; others become 0.
    const BYTES: [[[i8; 16]; 3]; 3] = {
        let mut bytes = [[[-1; 16]; 3]; 3];
        let mut i = 0;
        while i < 48 {
            bytes[i / 16][i % 3][i % 16] = (i / 3) as i8;
            i += 1;
        }
        bytes
    };
    // SAFETY: the caller's promise; planes and tables have 16 bytes each.
    unsafe {
        let red = _mm_loadu_si128(red.as_ptr().cast());
        let green = _mm_loadu_si128(green.as_ptr().cast());
        let blue = _mm_loadu_si128(blue.as_ptr().cast());
        for (i, [r, g, b]) in BYTES.iter().enumerate() {
            let r = _mm_shuffle_epi8(red, _mm_loadu_si128(r.as_ptr().cast()));
            let g = _mm_shuffle_epi8(green, _mm_loadu_si128(g.as_ptr().cast()));
            let b = _mm_shuffle_epi8(blue, _mm_loadu_si128(b.as_ptr().cast()));
            _mm_storeu_si128(to.add(i * 16).cast(), _mm_or_si128(_mm_or_si128(r, g), b));
        }
    }
}

/// VPMADDWD on bytes widened to 16 bits adds two products to each of 8 sums. The product of bytes (VPMADDUBSW) saturates, and
/// avoiding that costs more than widening a weight once for all rows.
impl Dot for Avx2 {
    const STEP: usize = 2;
    const OPERAND: Operand = Operand::Wide;
    const DEPTH: usize = 512;

    type Float = Avx2;

    fn float(self) -> Avx2 {
        self
    }

    #[inline(always)]
    unsafe fn weights(self, from: *const i8) -> __m256i {
        // SAFETY: the token proves the instructions; the rest is the caller's promise.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    fn dot(self, sums: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the token proves the instructions.
        unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(x, w)) }
    }
}
