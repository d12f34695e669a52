//! AVX-VNNI.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::dot::Dot;
use crate::int8::pack::Operand;
use crate::simd::token;

/// Bytes of k that stay in the first-level cache: see [`Dot::DEPTH`].
const DEPTH: usize = 1024;

/// AVX-VNNI: VPDPBUSD of AVX-512 VNNI in registers of 256 bits, for processors without AVX-512.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AvxVnni(Avx2);

impl AvxVnni {
    pub(crate) fn new() -> Option<Self> {
        let float = Avx2::new()?;
        is_x86_feature_detected!("avxvnni").then_some(AvxVnni(float))
    }
}

token!(AvxVnni, "avxvnni", "avx2,fma,avxvnni");

impl Dot for AvxVnni {
    const STEP: usize = 4;
    const OPERAND: Operand = Operand::Unsigned;
    const DEPTH: usize = DEPTH;

    type Float = Avx2;

    fn float(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    unsafe fn weights(self, from: *const i8) -> __m256i {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    fn dot(self, sums: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_dpbusd_avx_epi32(sums, x, w) }
    }
}

/// [`AvxVnni`] with its instruction emulated, to test all else where the processor does not have it.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmulatedVnni(Avx2);

#[cfg(test)]
impl EmulatedVnni {
    pub(crate) fn new() -> Option<Self> {
        Avx2::new().map(EmulatedVnni)
    }
}

#[cfg(test)]
token!(EmulatedVnni, "avxvnni-emulated", "avx2,fma");

#[cfg(test)]
impl Dot for EmulatedVnni {
    const STEP: usize = 4;
    const OPERAND: Operand = Operand::Unsigned;
    const DEPTH: usize = DEPTH;

    type Float = Avx2;

    fn float(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    unsafe fn weights(self, from: *const i8) -> __m256i {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    fn dot(self, sums: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the token proves the instructions.
        unsafe {
            // The even bytes as 16-bit integers, then the odd ones: x without signs, w with them.
            let low = _mm256_set1_epi16(0xff);
            let even = _mm256_madd_epi16(
                _mm256_and_si256(x, low),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)),
            );
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(x), _mm256_srai_epi16::<8>(w));
            _mm256_add_epi32(sums, _mm256_add_epi32(even, odd))
        }
    }
}
