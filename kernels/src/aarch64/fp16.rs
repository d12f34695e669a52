//! FP16 of ARMv8.2: FMLA of eight f16 values. Rust's intrinsics need a newer compiler than this crate, so registers of f16 have
//! the type of u16 registers here.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::neon::Neon;
use crate::dispatch::{F16Group, F16Kernels, Order, Residual, Shape};
use crate::linear::pack::blocks;
use crate::linear::tile::epilogue;
use crate::quantize::largest;
use crate::reference::{self, F16_BLOCK};
use crate::simd::{InstructionSet, Simd, token};
use crate::types::Nonlinearity;

/// FP16, with NEON for f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fp16(Neon);

impl Fp16 {
    pub(crate) fn new() -> Option<Self> {
        let float = Neon::new()?;
        is_aarch64_feature_detected!("fp16").then_some(Fp16(float))
    }
}

token!(Fp16, "fp16", "neon,fp16");

/// Rows of a tile; a register holds one value of each.
const ROWS: usize = 8;
/// Registers of columns.
const VECTORS: usize = 3;
const COLUMNS: usize = 8 * VECTORS;
/// Values of k per panel block, a multiple of [`F16_BLOCK`]: a panel's block of 24 KiB and a rows' block of 8 KiB fit the
/// first-level cache together.
const DEPTH: usize = 512;
const _: () = assert!(DEPTH.is_multiple_of(F16_BLOCK) && F16_BLOCK.is_multiple_of(4));

impl F16Kernels for Fp16 {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn shape(&self) -> Shape {
        Shape {
            rows: ROWS,
            columns: COLUMNS,
            depth: DEPTH,
            in_place: false,
        }
    }

    fn pack_rows(&self, x: &[f32], k: usize, exponent: i32, scales: &mut [f32], to: &mut [u16]) {
        self.enter(
            #[inline(always)]
            |token| pack_rows(token.0, x, k, exponent, scales, to),
        );
    }

    unsafe fn group(&self, g: &F16Group, sums: &mut [f32]) {
        self.enter(
            #[inline(always)]
            // SAFETY: the caller's promise.
            |token| unsafe { group(token.0, g, sums) },
        );
    }
}

/// See [`F16Kernels::pack_rows`].
#[inline(always)]
fn pack_rows(simd: Neon, x: &[f32], k: usize, exponent: i32, scales: &mut [f32], to: &mut [u16]) {
    assert!(scales.len() <= ROWS && x.len() == scales.len() * k);
    let mut factors = [0.0; ROWS];
    for (i, scale) in scales.iter_mut().enumerate() {
        let largest = largest(simd, &x[i * k..][..k]);
        (*scale, factors[i]) = reference::row_scale_f16(largest, exponent);
    }
    for (step, to) in to.chunks_mut(8 * ROWS).enumerate() {
        // SAFETY: every aarch64 has NEON.
        let mut rows = [unsafe { vdupq_n_u16(0) }; ROWS];
        for (i, row) in rows[..scales.len()].iter_mut().enumerate() {
            // A non-finite row stays zeros; its scale is NaN.
            if factors[i] == 0.0 {
                continue;
            }
            let mut part = [0.0; 8];
            let x = &x[i * k..][..k][8 * step..];
            let x = match x.first_chunk::<8>() {
                Some(x) => x,
                None => {
                    part[..x.len()].copy_from_slice(x);
                    &part
                }
            };
            let factor = simd.splat(factors[i]);
            // SAFETY: eight values; every aarch64 has NEON.
            unsafe {
                let low = simd.mul(simd.load(x.as_ptr()), factor);
                let high = simd.mul(simd.load(x.as_ptr().add(4)), factor);
                *row = narrow(low, high);
            }
        }
        let columns = transposed(rows);
        for (column, to) in columns.iter().zip(to.as_chunks_mut::<ROWS>().0) {
            // SAFETY: eight values.
            unsafe { vst1q_u16(to.as_mut_ptr(), *column) };
        }
    }
}

/// The transpose of eight rows of eight values.
#[inline(always)]
fn transposed(rows: [uint16x8_t; 8]) -> [uint16x8_t; 8] {
    // SAFETY: every aarch64 has NEON.
    unsafe {
        let mut pairs = [[vdupq_n_u32(0); 2]; 4];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let (a, b) = (rows[2 * i], rows[2 * i + 1]);
            *pair = [
                vreinterpretq_u32_u16(vtrn1q_u16(a, b)),
                vreinterpretq_u32_u16(vtrn2q_u16(a, b)),
            ];
        }
        // Columns c and c + 4 of four rows.
        let mut fours = [[vdupq_n_u64(0); 4]; 2];
        for (i, four) in fours.iter_mut().enumerate() {
            for c in 0..4 {
                let (a, b) = (pairs[2 * i][c % 2], pairs[2 * i + 1][c % 2]);
                four[c] = vreinterpretq_u64_u32(match c / 2 {
                    0 => vtrn1q_u32(a, b),
                    _ => vtrn2q_u32(a, b),
                });
            }
        }
        let mut columns = rows;
        for c in 0..4 {
            let (a, b) = (fours[0][c], fours[1][c]);
            columns[c] = vreinterpretq_u16_u64(vtrn1q_u64(a, b));
            columns[c + 4] = vreinterpretq_u16_u64(vtrn2q_u64(a, b));
        }
        columns
    }
}

/// To f16, rounded to nearest, half to even.
#[inline(always)]
fn narrow(low: float32x4_t, high: float32x4_t) -> uint16x8_t {
    let mut all: uint16x8_t;
    // SAFETY: every aarch64 has the instructions, which access only registers.
    unsafe {
        asm!(
            "fcvtn {all:v}.4h, {low:v}.4s",
            "fcvtn2 {all:v}.8h, {high:v}.4s",
            all = out(vreg) all,
            low = in(vreg) low,
            high = in(vreg) high,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    all
}

/// The lower and the upper four values to f32.
#[inline(always)]
fn widen(all: uint16x8_t) -> [float32x4_t; 2] {
    let (mut low, mut high): (float32x4_t, float32x4_t);
    // SAFETY: every aarch64 has the instructions, which access only registers.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {all:v}.4h",
            "fcvtl2 {high:v}.4s, {all:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            all = in(vreg) all,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    [low, high]
}

/// Computes a group of panels, blocks of k outermost, as [`crate::linear::tile::group`].
///
/// `sums` has a value for each row and column of the panels.
///
/// # Safety
/// In a function that enables fp16, and as [`F16Group::out`] states.
#[inline(always)]
unsafe fn group(simd: Neon, g: &F16Group, sums: &mut [f32]) {
    let rows = g.scales.len();
    let panel_size = g.depth * COLUMNS;
    let panel_sums = rows * COLUMNS;
    for start in (0..g.depth).step_by(DEPTH) {
        let depth = DEPTH.min(g.depth - start);
        let panels = g.panels.chunks_exact(panel_size);
        for (panel, sums) in panels.zip(sums.chunks_exact_mut(panel_sums)) {
            let panel = &panel[start * COLUMNS..][..depth * COLUMNS];
            for (i, (row, rows)) in blocks(rows, ROWS).enumerate() {
                let x = &g.x[(i * g.depth + start) * ROWS..][..depth * ROWS];
                let sums = &mut sums[row * COLUMNS..][..rows * COLUMNS];
                let tile = Tile {
                    x: x.as_ptr(),
                    panel: panel.as_ptr(),
                    depth,
                    sums: sums.as_mut_ptr(),
                    add: start > 0,
                };
                // SAFETY: the slices are as long as the tile needs; fp16 is the caller's promise.
                unsafe {
                    match rows {
                        1 => tile_of::<1>(tile),
                        2 => tile_of::<2>(tile),
                        3 => tile_of::<3>(tile),
                        4 => tile_of::<4>(tile),
                        5 => tile_of::<5>(tile),
                        6 => tile_of::<6>(tile),
                        7 => tile_of::<7>(tile),
                        8 => tile_of::<8>(tile),
                        _ => unreachable!("a tile of {rows} rows"),
                    }
                }
            }
        }
    }
    let panels = g.bias.chunks_exact(COLUMNS);
    for (p, (bias, sums)) in panels.zip(sums.chunks_exact(panel_sums)).enumerate() {
        let first = g.columns.start + p * COLUMNS;
        let width = COLUMNS.min(g.columns.end - first);
        for (i, &scale) in g.scales.iter().enumerate() {
            let at = i * g.width + first;
            let residual = g.residual.map(|values| Residual {
                values: &values[at..][..width],
                order: Order::AfterActivation,
            });
            let activation = g.activation.map(Nonlinearity::Mlp);
            let sums = &sums[i * COLUMNS..][..COLUMNS];
            // SAFETY: `out` has row i and the columns first .. first + width, which only this group accesses.
            let out = unsafe { std::slice::from_raw_parts_mut(g.out.add(at), width) };
            let scale = simd.splat(scale);
            epilogue(simd, sums, scale, bias, activation, residual, out);
        }
    }
}

/// A tile's operands.
#[derive(Clone, Copy)]
struct Tile {
    /// [depth, ROWS], for any number of rows.
    x: *const u16,
    /// [depth, COLUMNS]
    panel: *const u16,
    /// A multiple of 4.
    depth: usize,
    /// [rows, COLUMNS]
    sums: *mut f32,
    /// Whether to add to `sums`, which then has the sums of previous steps of k.
    add: bool,
}

/// sums [HEIGHT, COLUMNS] = (sums if `add`) + x · panel, with additions in the order of [`reference::sums_f16`]. The first step
/// begins a block.
///
/// # Safety
/// On a processor with fp16. `x` and `panel` have `depth` steps, `sums` HEIGHT rows, which are initialised if `add`.
#[target_feature(enable = "neon,fp16")]
#[inline(never)]
unsafe fn tile_of<const HEIGHT: usize>(t: Tile) {
    let (mut x, mut panel) = (t.x, t.panel);
    for start in (0..t.depth).step_by(F16_BLOCK) {
        let mut block = [[vdupq_n_u16(0); VECTORS]; HEIGHT];
        for _ in 0..F16_BLOCK.min(t.depth - start) / 4 {
            // SAFETY: the caller's promise: four steps of both are left.
            unsafe {
                let [a, b, c, d] = load_rows(&mut x);
                step(&mut block, load_panel(&mut panel), a);
                step(&mut block, load_panel(&mut panel), b);
                step(&mut block, load_panel(&mut panel), c);
                step(&mut block, load_panel(&mut panel), d);
            }
        }
        let first = start == 0 && !t.add;
        for (i, row) in block.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                for (half, sum) in widen(sum).into_iter().enumerate() {
                    // SAFETY: `sums` has row i < HEIGHT of COLUMNS values; the caller's promise for what is in it.
                    unsafe {
                        let to = t.sums.add(i * COLUMNS + 8 * j + 4 * half);
                        // Adding 0 too, which clears the sign of a zero.
                        let before = match first {
                            true => vdupq_n_f32(0.0),
                            false => vld1q_f32(to),
                        };
                        vst1q_f32(to, vaddq_f32(before, sum));
                    }
                }
            }
        }
    }
}

/// One step of k: a value of each row in `x`, times the columns in `w`.
///
/// # Safety
/// In a function that enables fp16.
#[inline(always)]
unsafe fn step<const HEIGHT: usize>(
    block: &mut [[uint16x8_t; VECTORS]; HEIGHT],
    w: [uint16x8_t; VECTORS],
    x: uint16x8_t,
) {
    // Unrolled by hand: the compiler does not unroll a loop with so much assembly, and keeps its sums in memory.
    macro_rules! rows {
        ($($row:literal)*) => {$(
            if $row < HEIGHT {
                let [a, b, c] = block[$row];
                // SAFETY: the caller's promise.
                block[$row] = unsafe {
                    [fmla::<$row>(a, w[0], x), fmla::<$row>(b, w[1], x), fmla::<$row>(c, w[2], x)]
                };
            }
        )*};
    }
    rows!(0 1 2 3 4 5 6 7);
}

/// sum + w · x[LANE], rounded once, for each of w's eight columns.
///
/// # Safety
/// In a function that enables fp16.
#[inline(always)]
unsafe fn fmla<const LANE: usize>(mut sum: uint16x8_t, w: uint16x8_t, x: uint16x8_t) -> uint16x8_t {
    // SAFETY: the caller's promise; the instruction accesses only registers.
    unsafe {
        asm!(
            "fmla {sum:v}.8h, {w:v}.8h, {x:v}.h[{lane}]",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            // The instruction has four bits for the register of an f16 element.
            x = in(vreg_low16) x,
            lane = const LANE,
            // Not `pure`, so that it stays behind the loads, which have few registers.
            options(nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Loads four steps of packed rows.
///
/// # Safety
/// `at` points to as many readable values.
#[inline(always)]
unsafe fn load_rows(at: &mut *const u16) -> [uint16x8_t; 4] {
    let (a, b, c, d): (uint16x8_t, uint16x8_t, uint16x8_t, uint16x8_t);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "ld1 {{v0.8h-v3.8h}}, [{at}], #64",
            at = inout(reg) *at,
            out("v0") a,
            out("v1") b,
            out("v2") c,
            out("v3") d,
            options(readonly, nostack, preserves_flags)
        );
    }
    [a, b, c, d]
}

/// Loads one step of a panel.
///
/// # Safety
/// `at` points to as many readable values.
#[inline(always)]
unsafe fn load_panel(at: &mut *const u16) -> [uint16x8_t; VECTORS] {
    let (a, b, c): (uint16x8_t, uint16x8_t, uint16x8_t);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "ld1 {{v4.8h-v6.8h}}, [{at}], #48",
            at = inout(reg) *at,
            out("v4") a,
            out("v5") b,
            out("v6") c,
            options(readonly, nostack, preserves_flags)
        );
    }
    [a, b, c]
}
