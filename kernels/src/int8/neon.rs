//! ARM: NEON, and its extensions dotprod and i8mm.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::group::{Int8, Tile, tiles_int8, vector_int8};
use super::pack::{Layout, Operand};
use crate::neon::Neon;

/// Registers that follow each other from `$at`, which moves by `$bytes`, in one instruction; the compiler would
/// make two and move the pointer apart.
macro_rules! load {
    ($at:ident, $registers:literal, $bytes:literal, $($register:tt $variable:ident)+) => {{
        $(let $variable: int8x16_t;)+
        asm!(
            concat!("ld1 {{", $registers, "}}, [{at}], #", $bytes),
            at = inout(reg) *$at,
            $(out($register) $variable,)+
            options(readonly, nostack, preserves_flags)
        );
        [$($variable),+]
    }};
}

/// The next four registers of a panel, which moves on by `bytes`.
///
/// # Safety
/// `at` points to 64 readable values.
#[inline(always)]
unsafe fn load_panel(at: &mut *const i8, bytes: usize) -> [int8x16_t; 4] {
    let (a, b, c, d): (int8x16_t, int8x16_t, int8x16_t, int8x16_t);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "ld1 {{v28.16b-v31.16b}}, [{at}], {bytes}",
            at = inout(reg) *at,
            bytes = in(reg) bytes,
            out("v28") a,
            out("v29") b,
            out("v30") c,
            out("v31") d,
            options(readonly, nostack, preserves_flags)
        );
    }
    [a, b, c, d]
}

/// The next N registers of packed rows, of 1 ..= 4; others than a panel's.
///
/// # Safety
/// `at` points to 16 N readable values.
#[inline(always)]
unsafe fn load_rows<const N: usize>(at: &mut *const i8) -> [int8x16_t; N] {
    // SAFETY: the caller's promise.
    let mut all = [unsafe { vdupq_n_s8(0) }; 4];
    // SAFETY: the caller's promise.
    unsafe {
        match N {
            1 => all[..1].copy_from_slice(&load!(at, "v27.16b", 16, "v27" a)),
            2 => all[..2].copy_from_slice(&load!(at, "v26.16b-v27.16b", 32, "v26" a "v27" b)),
            3 => {
                all[..3].copy_from_slice(&load!(at, "v25.16b-v27.16b", 48, "v25" a "v26" b "v27" c))
            }
            4 => all = load!(at, "v24.16b-v27.16b", 64, "v24" a "v25" b "v26" c "v27" d),
            _ => unreachable!("{N} registers"),
        }
    }
    std::array::from_fn(|i| all[i])
}

vector_int8!(Neon, "neon", "neon");

/// ARMv8.0: SMULL and SMLAL2 make two products in each of 8 lanes of 16 bits, which hold them (2 · 128 · 127 is
/// below 2^15), and SADALP adds pairs of lanes to four sums, so that each row and column have four sums, of
/// every fourth value, until the end.
impl Int8 for Neon {
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

    fn float(self) -> Neon {
        self
    }

    tiles_int8!(Neon, "neon", 1 => neon::<1>, 2 => neon::<2>, 3 => neon::<3>, 4 => neon::<4>);
}

/// # Safety
/// As [`Int8::tiles`], of one.
#[inline(always)]
unsafe fn neon<const ROWS: usize>(float: Neon, t: &Tile) {
    // Bytes of a step of the panel.
    const STEP: usize = 128;
    // Four columns fill the registers.
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
            match &t.finish {
                Some(finish) => finish.write::<Neon, ROWS, 1>(
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

/// ARMv8.2's dotprod: SDOT adds four products to each of four sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dotprod(Neon);

impl Dotprod {
    pub(crate) fn new() -> Option<Self> {
        let float = Neon::new()?;
        is_aarch64_feature_detected!("dotprod").then_some(Dotprod(float))
    }
}

vector_int8!(Dotprod, "dotprod", "neon,dotprod");

impl Int8 for Dotprod {
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

    fn float(self) -> Neon {
        self.0
    }

    tiles_int8!(Dotprod, "neon,dotprod", 1 => dotprod::<1, 1>, 2 => dotprod::<2, 1>, 3 => dotprod::<3, 1>, 4 => dotprod::<4, 1>, 5 => dotprod::<5, 2>, 6 => dotprod::<6, 2>, 7 => dotprod::<7, 2>, 8 => dotprod::<8, 2>, 9 => dotprod::<9, 3>, 10 => dotprod::<10, 3>, 11 => dotprod::<11, 3>, 12 => dotprod::<12, 3>);
}

/// sum + w · x's values 4 LANE .. 4 LANE + 4, for each of w's four columns. The compiler's own intrinsic is not
/// stable yet.
///
/// # Safety
/// In a function with dotprod turned on.
#[inline(always)]
unsafe fn sdot<const LANE: usize>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction touches registers alone.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            // Not `pure`, so that it keeps its place after the loads, whose registers are few.
            options(nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// # Safety
/// As [`Int8::tiles`], of one, on a processor with dotprod; QUADS is ROWS / 4, rounded up.
#[inline(always)]
unsafe fn dotprod<const ROWS: usize, const QUADS: usize>(token: Dotprod, t: &Tile) {
    // SAFETY: the caller's promise; every step has 4 values of each of 8 columns, and of each row, whose number
    // is filled up to a multiple of 4.
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
        if let Some(finish) = &t.finish {
            return finish.write::<Neon, ROWS, 2>(
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
/// In a function with dotprod turned on; `panel` and `x` point to two steps each.
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
/// In a function with dotprod turned on.
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

/// ARMv8.6's i8mm: SMMLA multiplies two rows of 8 values with two columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct I8mm(Neon);

impl I8mm {
    pub(crate) fn new() -> Option<Self> {
        let float = Neon::new()?;
        is_aarch64_feature_detected!("i8mm").then_some(I8mm(float))
    }
}

vector_int8!(I8mm, "i8mm", "neon,i8mm");

impl Int8 for I8mm {
    type Float = Neon;

    const LAYOUT: Layout = Layout {
        rows: 12,
        rows_multiple: 2,
        columns: 8,
        step: 8,
        whole_rows: false,
        operand: Operand::Signed,
    };
    const DEPTH: usize = 1536;

    fn float(self) -> Neon {
        self.0
    }

    tiles_int8!(I8mm, "neon,i8mm", 1 => i8mm::<1, 1>, 2 => i8mm::<2, 1>, 3 => i8mm::<3, 2>, 4 => i8mm::<4, 2>, 5 => i8mm::<5, 3>, 6 => i8mm::<6, 3>, 7 => i8mm::<7, 4>, 8 => i8mm::<8, 4>, 9 => i8mm::<9, 5>, 10 => i8mm::<10, 5>, 11 => i8mm::<11, 6>, 12 => i8mm::<12, 6>);
}

/// sum [2, 2] + x [2, 8] · the transpose of w [2, 8].
///
/// # Safety
/// In a function with i8mm turned on.
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction touches registers alone.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {x:v}.16b, {w:v}.16b",
            sum = inout(vreg) sum,
            x = in(vreg) x,
            w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// # Safety
/// As [`Int8::tiles`], of one, on a processor with i8mm; PAIRS is ROWS / 2, rounded up.
#[inline(always)]
unsafe fn i8mm<const ROWS: usize, const PAIRS: usize>(token: I8mm, t: &Tile) {
    // SAFETY: the caller's promise; every step has 8 values of each of 8 columns, and of each row, whose number
    // is filled up to a multiple of 2.
    unsafe {
        // Two rows and two columns each.
        let mut sums = [[vdupq_n_s32(0); 4]; PAIRS];
        let (mut x, mut panel) = (t.x.cast::<i8>(), t.panel);
        for _ in 0..t.steps {
            let w = load_panel(&mut panel, 64);
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = vld1q_s8(x.add(16 * i));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = smmla(*sum, x, w);
                }
            }
            x = x.add(16 * PAIRS);
        }
        let mut rows = [[vdupq_n_s32(0); 2]; ROWS];
        for (i, row) in rows.iter_mut().enumerate() {
            for (j, sum) in row.iter_mut().enumerate() {
                let [a, b] = [sums[i / 2][2 * j], sums[i / 2][2 * j + 1]];
                let [a, b] = [vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)];
                *sum = vreinterpretq_s32_s64(match i % 2 {
                    0 => vzip1q_s64(a, b),
                    _ => vzip2q_s64(a, b),
                });
                if !t.from.is_null() {
                    *sum = vaddq_s32(*sum, vld1q_s32(t.from.add(t.from_stride * i + 4 * j)));
                }
            }
        }
        match &t.finish {
            Some(finish) => finish.write::<Neon, ROWS, 2>(
                token.0,
                0,
                #[inline(always)]
                |i, j| vcvtq_f32_s32(rows[i][j]),
            ),
            None => {
                for (i, &[a, b]) in rows.iter().enumerate() {
                    vst1q_s32(t.sums.add(8 * i), a);
                    vst1q_s32(t.sums.add(8 * i + 4), b);
                }
            }
        }
    }
}
