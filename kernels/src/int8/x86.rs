//! AVX-512 VNNI and AVX2.

use std::arch::x86_64::*;

use super::group::{Int8, Tile, tiles_int8, vector_int8};
use super::pack::{Layout, Operand};
use crate::x86::{Avx2, Avx512};

/// AVX-512 VNNI: four products of an unsigned and a signed byte added to each of 16 sums at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vnni(Avx512);

impl Vnni {
    pub(crate) fn new() -> Option<Self> {
        let float = Avx512::new()?;
        is_x86_feature_detected!("avx512vnni").then_some(Vnni(float))
    }
}

vector_int8!(Vnni, "avx512vnni", "avx512f,avx512vnni");

impl Int8 for Vnni {
    type Float = Avx512;

    const LAYOUT: Layout = Layout {
        rows: 10,
        rows_multiple: 1,
        columns: 32,
        step: 4,
        whole_rows: true,
        operand: Operand::Unsigned,
    };
    // Panels of this length stay in the second-level cache, which is near enough.
    const DEPTH: usize = 4096;
    const ACTIVATES: bool = true;

    fn float(self) -> Avx512 {
        self.0
    }

    tiles_int8!(Vnni, "avx512f,avx512vnni", 1 => vnni::<1>, 2 => vnni::<2>, 3 => vnni::<3>, 4 => vnni::<4>, 5 => vnni::<5>, 6 => vnni::<6>, 7 => vnni::<7>, 8 => vnni::<8>, 9 => vnni::<9>, 10 => vnni::<10>);
}

/// # Safety
/// As [`Int8::tiles`], of one, on a processor with AVX-512 VNNI.
#[inline(always)]
unsafe fn vnni<const ROWS: usize>(token: Vnni, t: &Tile) {
    // SAFETY: the caller's promise; every step has 64 values of each half of the panel and 4 of each row.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
        if !t.from.is_null() {
            for (i, [a, b]) in sums.iter_mut().enumerate() {
                let from = t.from.add(t.from_stride * i);
                *a = _mm512_loadu_si512(from.cast());
                *b = _mm512_loadu_si512(from.add(16).cast());
            }
        }
        let (mut x, mut panel, mut next) = (t.x, t.panel, t.next);
        for _ in 0..t.steps / 2 {
            for _ in 0..t.ahead {
                _mm_prefetch::<_MM_HINT_T0>(next);
                next = next.wrapping_add(64);
            }
            vnni_step(&mut sums, x, t.x_stride, panel);
            vnni_step(&mut sums, x.add(4), t.x_stride, panel.add(128));
            x = x.add(8);
            panel = panel.add(256);
        }
        if !t.steps.is_multiple_of(2) {
            vnni_step(&mut sums, x, t.x_stride, panel);
        }
        for (i, &[a, b]) in sums.iter().enumerate() {
            _mm512_storeu_si512(t.sums.add(32 * i).cast(), a);
            _mm512_storeu_si512(t.sums.add(32 * i + 16).cast(), b);
        }
        if let Some(finish) = &t.finish {
            finish.rows(
                token.0,
                ROWS,
                t.sums,
                #[inline(always)]
                |sums| _mm512_cvtepi32_ps(_mm512_loadu_si512(sums.cast())),
            );
        }
    }
}

/// Four values of k: those of 32 columns in `panel`, of ROWS rows in `x`, `stride` apart.
///
/// # Safety
/// On a processor with AVX-512 VNNI; `panel` points to 128 values, `x` to ROWS times 4.
#[inline(always)]
unsafe fn vnni_step<const ROWS: usize>(
    sums: &mut [[__m512i; 2]; ROWS],
    x: *const u8,
    stride: usize,
    panel: *const i8,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let w = [
            _mm512_loadu_si512(panel.cast()),
            _mm512_loadu_si512(panel.add(64).cast()),
        ];
        for (i, [a, b]) in sums.iter_mut().enumerate() {
            let x = _mm512_set1_epi32(x.add(i * stride).cast::<i32>().read_unaligned());
            *a = _mm512_dpbusd_epi32(*a, x, w[0]);
            *b = _mm512_dpbusd_epi32(*b, x, w[1]);
        }
    }
}

vector_int8!(Avx2, "avx2", "avx2,fma");

/// Bytes widened to 16 bits, of which two products are added to each of 8 sums at once. The instruction that
/// multiplies bytes (VPMADDUBSW) saturates, and what keeps it exact costs more than widening a weight once
/// for all rows.
impl Int8 for Avx2 {
    type Float = Avx2;

    const LAYOUT: Layout = Layout {
        rows: 6,
        rows_multiple: 1,
        columns: 16,
        step: 2,
        whole_rows: false,
        operand: Operand::Wide,
    };
    const DEPTH: usize = 512;

    fn float(self) -> Avx2 {
        self
    }

    tiles_int8!(Avx2, "avx2,fma", 1 => avx2::<1>, 2 => avx2::<2>, 3 => avx2::<3>, 4 => avx2::<4>, 5 => avx2::<5>, 6 => avx2::<6>);
}

/// # Safety
/// As [`Int8::tiles`], of one, on a processor with AVX2.
#[inline(always)]
unsafe fn avx2<const ROWS: usize>(float: Avx2, t: &Tile) {
    // SAFETY: the caller's promise; every step has 32 values of the panel and two i16 of each row.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        if !t.from.is_null() {
            for (i, [a, b]) in sums.iter_mut().enumerate() {
                let from = t.from.add(t.from_stride * i);
                *a = _mm256_loadu_si256(from.cast());
                *b = _mm256_loadu_si256(from.add(8).cast());
            }
        }
        let (mut x, mut panel, mut next) = (t.x, t.panel, t.next);
        for _ in 0..t.steps / 2 {
            for _ in 0..t.ahead {
                _mm_prefetch::<_MM_HINT_T0>(next);
                next = next.wrapping_add(64);
            }
            avx2_step(&mut sums, x, panel);
            avx2_step(&mut sums, x.add(4 * ROWS), panel.add(32));
            x = x.add(8 * ROWS);
            panel = panel.add(64);
        }
        if !t.steps.is_multiple_of(2) {
            avx2_step(&mut sums, x, panel);
        }
        if let Some(finish) = &t.finish {
            return finish.write::<Avx2, ROWS, 2>(
                float,
                0,
                #[inline(always)]
                |i, j| _mm256_cvtepi32_ps(sums[i][j]),
            );
        }
        for (i, &[a, b]) in sums.iter().enumerate() {
            _mm256_storeu_si256(t.sums.add(16 * i).cast(), a);
            _mm256_storeu_si256(t.sums.add(16 * i + 8).cast(), b);
        }
    }
}

/// Two values of k: those of 16 columns in `panel`, of ROWS rows, widened, in `x`.
///
/// # Safety
/// On a processor with AVX2; `panel` points to 32 values, `x` to 2 ROWS of 16 bits.
#[inline(always)]
unsafe fn avx2_step<const ROWS: usize>(
    sums: &mut [[__m256i; 2]; ROWS],
    x: *const u8,
    panel: *const i8,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let w = [
            _mm256_cvtepi8_epi16(_mm_loadu_si128(panel.cast())),
            _mm256_cvtepi8_epi16(_mm_loadu_si128(panel.add(16).cast())),
        ];
        for (i, [a, b]) in sums.iter_mut().enumerate() {
            let x = _mm256_set1_epi32(x.add(4 * i).cast::<i32>().read_unaligned());
            *a = _mm256_add_epi32(*a, _mm256_madd_epi16(x, w[0]));
            *b = _mm256_add_epi32(*b, _mm256_madd_epi16(x, w[1]));
        }
    }
}
