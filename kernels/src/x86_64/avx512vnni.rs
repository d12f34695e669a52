//! AVX-512 VNNI.

use std::arch::x86_64::*;

use super::avx512::Avx512;
use crate::int8::group::{Int8Simd, Int8Tile, Outputs, tiles_int8};
use crate::int8::pack::{Layout, Operand};
use crate::int8::taps::{DepthwiseSimd, DepthwiseTile};
use crate::simd::token;

/// AVX-512 VNNI: VPDPBUSD adds four products of an unsigned and a signed byte to each of 16 sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Vnni(Avx512);

impl Avx512Vnni {
    pub(crate) fn new() -> Option<Self> {
        let float = Avx512::new()?;
        is_x86_feature_detected!("avx512vnni").then_some(Avx512Vnni(float))
    }
}

token!(Avx512Vnni, "avx512vnni", "avx512f,avx512vnni");

impl Int8Simd for Avx512Vnni {
    type Float = Avx512;

    const LAYOUT: Layout = Layout {
        rows: 10,
        rows_multiple: 1,
        columns: 32,
        step: 4,
        whole_rows: true,
        operand: Operand::Unsigned,
    };
    // Panels of this length stay in the second-level cache, which is fast enough.
    const DEPTH: usize = 4096;
    const OVERLAPS: bool = true;
    const PIXELS: usize = 8;

    fn float(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    unsafe fn depthwise(self, t: &DepthwiseTile) {
        // SAFETY: the caller's promise; the token proves the instructions.
        unsafe { t.run::<Self, { Self::PIXELS }, 1>(self) }
    }

    tiles_int8!(1 => vnni::<1>, 2 => vnni::<2>, 3 => vnni::<3>, 4 => vnni::<4>, 5 => vnni::<5>, 6 => vnni::<6>, 7 => vnni::<7>, 8 => vnni::<8>, 9 => vnni::<9>, 10 => vnni::<10>);
}

impl DepthwiseSimd for Avx512Vnni {
    type Taps = __m512i;
    type Sums = __m512i;

    #[inline(always)]
    unsafe fn start(self, from: *const i32) -> __m512i {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn taps(self, from: *const u8) -> __m512i {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn add(self, sums: __m512i, x: __m512i, w: __m512i) -> __m512i {
        // SAFETY: the token proves that the processor has the instruction.
        unsafe { _mm512_dpbusd_epi32(sums, x, w) }
    }

    #[inline(always)]
    unsafe fn finish(self, sums: __m512i, to: *mut i32) {
        // SAFETY: the token proves the instruction; the rest is the caller's promise.
        unsafe { _mm512_storeu_si512(to.cast(), sums) }
    }
}

/// Makes the outputs of the tile `above` between its own steps.
///
/// # Safety
/// As [`Int8Simd::tiles`], of one, on a processor with AVX-512 VNNI.
#[inline(always)]
unsafe fn vnni<const ROWS: usize>(token: Avx512Vnni, t: &Int8Tile, above: &Outputs) {
    // SAFETY: the caller's promise; every step has 64 values of each half of the panel and 4 of each row.
    unsafe {
        // A row of outputs follows each part of the steps but the last.
        let pairs = t.steps / 2;
        let outputs = if pairs < above.rows() {
            above.make_all(token.0);
            0
        } else {
            above.rows()
        };
        let each = pairs / outputs.max(1);
        let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
        if !t.from.is_null() {
            // Copies of registers take no time.
            sums = [load_two(t.from); ROWS];
            if t.from_stride > 0 {
                for (i, row) in sums.iter_mut().enumerate() {
                    *row = load_two(t.from.add(t.from_stride * i));
                }
            }
        }
        let (mut x, mut panel, mut next) = (t.x, t.panel, t.next);
        for row in 0..=outputs {
            let count = if row < outputs {
                each
            } else {
                pairs - outputs * each
            };
            for _ in 0..count {
                for _ in 0..t.ahead {
                    _mm_prefetch::<_MM_HINT_T0>(next);
                    next = next.wrapping_add(64);
                }
                vnni_step(&mut sums, x, t.x_stride, panel);
                vnni_step(&mut sums, x.add(4), t.x_stride, panel.add(128));
                x = x.add(8);
                panel = panel.add(256);
            }
            if row < outputs {
                above.make(token.0, row);
            }
        }
        if !t.steps.is_multiple_of(2) {
            vnni_step(&mut sums, x, t.x_stride, panel);
        }
        if let Some(epilogue) = &t.epilogue {
            return epilogue.write::<Avx512, ROWS, 2>(
                token.0,
                0,
                #[inline(always)]
                |i, j| _mm512_cvtepi32_ps(sums[i][j]),
            );
        }
        for (i, &[a, b]) in sums.iter().enumerate() {
            _mm512_storeu_si512(t.sums.add(32 * i).cast(), a);
            _mm512_storeu_si512(t.sums.add(32 * i + 16).cast(), b);
        }
    }
}

/// Two registers of sums.
///
/// # Safety
/// On a processor with AVX-512; `from` points to 32 values.
#[inline(always)]
unsafe fn load_two(from: *const i32) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            _mm512_loadu_si512(from.cast()),
            _mm512_loadu_si512(from.add(16).cast()),
        ]
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
