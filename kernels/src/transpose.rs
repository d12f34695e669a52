//! Transposes words and bytes and interleaves bytes, for packing rows into columns.

/// Four words of four bytes each.
///
/// # Safety
/// The type has 16 bytes without padding, and every bit pattern is a value.
pub(crate) unsafe trait Words: Copy {}

// SAFETY: four primitive numbers of four bytes.
unsafe impl Words for [f32; 4] {}
// SAFETY: 16 bytes.
unsafe impl Words for [u8; 16] {}

/// The transpose of `rows`, word by word.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn transposed<T: Words>(rows: [T; 4]) -> [T; 4] {
    use std::arch::x86_64::*;
    // SAFETY: every x86-64 has SSE2; four words and a register of 16 bytes convert into each other ([`Words`]).
    unsafe {
        let r = std::mem::transmute_copy::<[T; 4], [__m128i; 4]>(&rows);
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
        std::mem::transmute_copy::<[__m128i; 4], [T; 4]>(&columns)
    }
}

/// The transpose of `rows`, word by word.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn transposed<T: Words>(rows: [T; 4]) -> [T; 4] {
    use std::arch::aarch64::*;
    // SAFETY: every aarch64 has NEON; four words and a register of 16 bytes convert into each other ([`Words`]).
    unsafe {
        let r = std::mem::transmute_copy::<[T; 4], [uint32x4_t; 4]>(&rows);
        let (a, b) = (vtrn1q_u32(r[0], r[1]), vtrn1q_u32(r[2], r[3]));
        let (c, d) = (vtrn2q_u32(r[0], r[1]), vtrn2q_u32(r[2], r[3]));
        let low = |a, b| vtrn1q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b));
        let high = |a, b| vtrn2q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b));
        let columns = [low(a, b), low(c, d), high(a, b), high(c, d)];
        std::mem::transmute_copy::<[uint64x2_t; 4], [T; 4]>(&columns)
    }
}

/// The transpose of `rows`, word by word.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn transposed<T: Words>(rows: [T; 4]) -> [T; 4] {
    // SAFETY: four words and 16 bytes convert into each other ([`Words`]).
    unsafe {
        let words = std::mem::transmute_copy::<[T; 4], [[u32; 4]; 4]>(&rows);
        let columns = [0, 1, 2, 3].map(|j| words.map(|row| row[j]));
        std::mem::transmute_copy::<[[u32; 4]; 4], [T; 4]>(&columns)
    }
}

/// The first byte of each row, then the second of each, and so on.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn interleaved(rows: [[u8; 16]; 4]) -> [u8; 64] {
    use std::arch::x86_64::*;
    // SAFETY: every x86-64 has SSE2; 64 bytes and four registers convert into each other.
    unsafe {
        let [a, b, c, d] = std::mem::transmute::<[[u8; 16]; 4], [__m128i; 4]>(rows);
        let (low, high) = (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b));
        let (low2, high2) = (_mm_unpacklo_epi8(c, d), _mm_unpackhi_epi8(c, d));
        std::mem::transmute::<[__m128i; 4], [u8; 64]>([
            _mm_unpacklo_epi16(low, low2),
            _mm_unpackhi_epi16(low, low2),
            _mm_unpacklo_epi16(high, high2),
            _mm_unpackhi_epi16(high, high2),
        ])
    }
}

/// The first byte of each row, then the second of each, and so on.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn interleaved(rows: [[u8; 16]; 4]) -> [u8; 64] {
    use std::arch::aarch64::*;
    let mut bytes = [0; 64];
    // SAFETY: every aarch64 has NEON; each row has 16 bytes and the result 64.
    unsafe {
        let [a, b, c, d] = [0, 1, 2, 3].map(
            #[inline(always)]
            |i: usize| vld1q_u8(rows[i].as_ptr()),
        );
        vst4q_u8(bytes.as_mut_ptr(), uint8x16x4_t(a, b, c, d));
    }
    bytes
}

/// The first byte of each row, then the second of each, and so on.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn interleaved(rows: [[u8; 16]; 4]) -> [u8; 64] {
    std::array::from_fn(|i| rows[i % 4][i / 4])
}

/// The transpose of `rows`.
#[inline(always)]
pub(crate) fn transposed_bytes(rows: &[[u8; 16]; 16]) -> [[u8; 16]; 16] {
    let mut registers = [bytes::load(rows[0]); 16];
    for (register, row) in registers.iter_mut().zip(rows).skip(1) {
        *register = bytes::load(*row);
    }
    // Interleaving the first half of all bytes with the second rotates the bits of their indices by one.
    for _ in 0..4 {
        let halves = registers;
        for i in 0..8 {
            [registers[2 * i], registers[2 * i + 1]] = bytes::zip(halves[i], halves[i + 8]);
        }
    }
    let mut columns = [[0; 16]; 16];
    for (column, register) in columns.iter_mut().zip(registers) {
        *column = bytes::store(register);
    }
    columns
}

/// Registers of 16 bytes.
#[cfg(target_arch = "x86_64")]
mod bytes {
    use std::arch::x86_64::*;

    #[inline(always)]
    pub(super) fn load(bytes: [u8; 16]) -> __m128i {
        // SAFETY: 16 bytes and a register convert into each other.
        unsafe { std::mem::transmute(bytes) }
    }

    #[inline(always)]
    pub(super) fn store(register: __m128i) -> [u8; 16] {
        // SAFETY: 16 bytes and a register convert into each other.
        unsafe { std::mem::transmute(register) }
    }

    /// The bytes of `a` and `b` in turns.
    #[inline(always)]
    pub(super) fn zip(a: __m128i, b: __m128i) -> [__m128i; 2] {
        // SAFETY: every x86-64 has SSE2.
        unsafe { [_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)] }
    }
}

/// Registers of 16 bytes.
#[cfg(target_arch = "aarch64")]
mod bytes {
    use std::arch::aarch64::*;

    #[inline(always)]
    pub(super) fn load(bytes: [u8; 16]) -> uint8x16_t {
        // SAFETY: 16 bytes and a register convert into each other.
        unsafe { std::mem::transmute(bytes) }
    }

    #[inline(always)]
    pub(super) fn store(register: uint8x16_t) -> [u8; 16] {
        // SAFETY: 16 bytes and a register convert into each other.
        unsafe { std::mem::transmute(register) }
    }

    /// The bytes of `a` and `b` in turns.
    #[inline(always)]
    pub(super) fn zip(a: uint8x16_t, b: uint8x16_t) -> [uint8x16_t; 2] {
        // SAFETY: every aarch64 has NEON.
        unsafe { [vzip1q_u8(a, b), vzip2q_u8(a, b)] }
    }
}

/// 16 bytes.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod bytes {
    pub(super) fn load(bytes: [u8; 16]) -> [u8; 16] {
        bytes
    }

    pub(super) fn store(bytes: [u8; 16]) -> [u8; 16] {
        bytes
    }

    /// The bytes of `a` and `b` in turns.
    pub(super) fn zip(a: [u8; 16], b: [u8; 16]) -> [[u8; 16]; 2] {
        [0, 8].map(|from| std::array::from_fn(|i| [a, b][i % 2][from + i / 2]))
    }
}
