//! Squares of four times four words, the step of every packing that turns rows into columns.

/// Four bytes of any bits.
pub(crate) trait Word: Copy {}

impl Word for u32 {}
impl Word for f32 {}

/// Rows to columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn transposed<T: Word>(rows: [[T; 4]; 4]) -> [[T; 4]; 4] {
    use std::arch::x86_64::*;
    // SAFETY: every x86-64 has SSE2, and four words are any register and any register four words.
    unsafe {
        let r = std::mem::transmute_copy::<[[T; 4]; 4], [__m128i; 4]>(&rows);
        let (a, b) = (
            _mm_unpacklo_epi32(r[0], r[1]),
            _mm_unpacklo_epi32(r[2], r[3]),
        );
        let (c, d) = (
            _mm_unpackhi_epi32(r[0], r[1]),
            _mm_unpackhi_epi32(r[2], r[3]),
        );
        let columns = [
            _mm_unpacklo_epi64(a, b),
            _mm_unpackhi_epi64(a, b),
            _mm_unpacklo_epi64(c, d),
            _mm_unpackhi_epi64(c, d),
        ];
        std::mem::transmute_copy::<[__m128i; 4], [[T; 4]; 4]>(&columns)
    }
}

/// Rows to columns.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn transposed<T: Word>(rows: [[T; 4]; 4]) -> [[T; 4]; 4] {
    use std::arch::aarch64::*;
    // SAFETY: every aarch64 has NEON, and four words are any register and any register four words.
    unsafe {
        let r = std::mem::transmute_copy::<[[T; 4]; 4], [uint32x4_t; 4]>(&rows);
        let (a, b) = (vtrn1q_u32(r[0], r[1]), vtrn1q_u32(r[2], r[3]));
        let (c, d) = (vtrn2q_u32(r[0], r[1]), vtrn2q_u32(r[2], r[3]));
        let low = |a, b| vtrn1q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b));
        let high = |a, b| vtrn2q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b));
        let columns = [low(a, b), low(c, d), high(a, b), high(c, d)];
        std::mem::transmute_copy::<[uint64x2_t; 4], [[T; 4]; 4]>(&columns)
    }
}

/// Rows to columns.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn transposed<T: Word>(rows: [[T; 4]; 4]) -> [[T; 4]; 4] {
    [0, 1, 2, 3].map(|j| rows.map(|row| row[j]))
}
