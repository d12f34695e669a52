//! What is the same for all variants: the order in which tiles are computed, and the way from sums to outputs.

use std::fmt::Debug;
use std::ops::Range;

use super::affine::Offsets;
use super::pack::{Header, Layout};
use crate::Activation;
use crate::activation::{gelu, quick_gelu};
use crate::linear::blocks;
use crate::simd::Simd;

/// Products of bytes in registers, as [`Simd`] is of f32. A value is the proof that the processor has the
/// instructions.
pub(crate) trait Int8: Copy + Debug + Send + Sync + 'static {
    /// For the way from sums to outputs.
    type Float: Simd;

    /// With two registers of columns.
    const LAYOUT: Layout;
    /// Values of k between two visits to memory for the sums, a multiple of the step: a block of a panel
    /// and one of rows stay in the first-level cache together.
    const DEPTH: usize;

    fn float(self) -> Self::Float;

    /// sums [rows, columns] = (sums if `add`) + packed rows · panel, for `rows` of 1 ..= LAYOUT.rows.
    ///
    /// # Safety
    /// `t.x` points to a block's `t.steps` steps of `rows` rows, `t.panel` to as many of a panel; `t.sums` to
    /// rows * columns writable values, which are initialised if `t.add`.
    unsafe fn tile(self, rows: usize, t: Tile);
}

/// A tile's operands.
#[derive(Clone, Copy)]
#[allow(
    dead_code,
    reason = "ARM's processors are left to fetch ahead by themselves"
)]
pub(crate) struct Tile {
    pub(crate) x: *const u8,
    pub(crate) panel: *const i8,
    pub(crate) steps: usize,
    /// [rows, columns]
    pub(crate) sums: *mut i32,
    /// Whether `sums` has sums already, of the steps before these.
    pub(crate) add: bool,
    /// What a later tile will read, for the cache to fetch meanwhile: `ahead` lines in each step. It may be any
    /// address.
    pub(crate) next: *const i8,
    pub(crate) ahead: usize,
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Panels that are computed together.
pub(crate) struct Group<'a> {
    /// Blocks of packed rows, each [`Layout::block_size`] from the one before.
    pub(crate) x: &'a [u8],
    pub(crate) rows: usize,
    /// [rows]
    pub(crate) scales: &'a [f32],
    /// Steps of k.
    pub(crate) steps: usize,
    /// Whether the packed values are off by 128.
    pub(crate) shifted: bool,
    /// What zero points add to the sums.
    pub(crate) offsets: Option<Offsets<'a>>,
    /// Whole panels.
    pub(crate) panels: &'a [u8],
    /// The columns of `out` that the panels make.
    pub(crate) columns: Range<usize>,
    pub(crate) activation: Activation,
    /// [rows, width]
    pub(crate) residual: Option<&'a [f32]>,
    /// n: the columns of `out` and `residual`.
    pub(crate) width: usize,
    /// [rows, width], of which the group writes `columns`, and nobody else touches them meanwhile.
    pub(crate) out: *mut f32,
}

/// Computes a group of panels, the block of k outermost as in [`crate::linear::group`].
///
/// `sums` has a value for each row and column of the panels.
///
/// # Safety
/// As [`Group::out`] says.
#[inline(always)]
pub(crate) unsafe fn group<I: Int8>(simd: I, g: &Group, sums: &mut [i32]) {
    let layout = I::LAYOUT;
    let k = g.steps * layout.step;
    let panel_size = layout.panel_size(k);
    let block_size = layout.block_size(g.rows, k);
    let most = I::DEPTH / layout.step;
    // Cache lines of a step, and tiles to share them among.
    let lines = (layout.columns * layout.step).div_ceil(LINE);
    let tiles = g.rows.div_ceil(layout.rows);
    // Without any step there are sums all the same: zeros.
    for part in 0..g.steps.div_ceil(most).max(1) {
        let start = part * most;
        let steps = most.min(g.steps - start);
        let panels = g.panels.chunks_exact(panel_size);
        let sums = sums.chunks_exact_mut(g.rows * layout.columns);
        for (p, (panel, sums)) in panels.zip(sums).enumerate() {
            let (header, weights) = layout.split(panel);
            let step = layout.columns * layout.step;
            let weights = &weights[start * step..][..steps * step];
            let first = g.columns.start + p * layout.columns;
            let columns = first..g.columns.end.min(first + layout.columns);
            // While the rows go by, the next panel's part comes from memory, a share with each tile.
            let mut next = weights.as_ptr().wrapping_add(panel_size);
            if next >= g.panels.as_ptr_range().end {
                let ahead = layout.header_size() + (start + steps) * step;
                next = g.panels.as_ptr().wrapping_add(ahead);
            }
            let corrected = (g.shifted || g.offsets.is_some()) && start == 0;
            if corrected && let Some(offsets) = g.offsets {
                let corrections = g.shifted.then_some(header.corrections);
                offsets.write(corrections, columns.clone(), layout.columns, sums);
            } else if corrected {
                for sums in sums.chunks_exact_mut(layout.columns) {
                    sums.copy_from_slice(header.corrections);
                }
            }
            for (i, (row, rows)) in blocks(g.rows, layout.rows).enumerate() {
                let ahead = lines / tiles + usize::from(i < lines % tiles);
                let step = layout.row_step(rows);
                let x = &g.x[i * block_size..][start * step..][..steps * step];
                let sums = &mut sums[row * layout.columns..][..rows * layout.columns];
                let tile = Tile {
                    x: x.as_ptr(),
                    panel: weights.as_ptr().cast(),
                    steps,
                    sums: sums.as_mut_ptr(),
                    add: start > 0 || corrected,
                    next: next.cast(),
                    ahead,
                };
                next = next.wrapping_add(steps * ahead * LINE);
                // SAFETY: the slices are as long as the tile needs, and blocks() gives at most its rows.
                unsafe { simd.tile(rows, tile) };
            }
            if start + steps == g.steps {
                // SAFETY: the caller's promise.
                unsafe { finish(simd.float(), g, header, columns, sums) };
            }
        }
    }
}

/// Writes the columns of `out` that `sums`, a panel's, belongs to, and uses up `sums`.
///
/// # Safety
/// As [`Group::out`] says.
#[inline(always)]
unsafe fn finish<S: Simd>(
    simd: S,
    g: &Group,
    header: Header,
    columns: Range<usize>,
    sums: &mut [i32],
) {
    let panel = 2 * S::LANES;
    assert!(header.scales.len() == panel && header.bias.len() == panel);
    assert!(columns.end <= g.width && columns.len() <= panel);
    assert!(g.residual.is_none_or(|r| r.len() == g.rows * g.width));
    assert!(sums.len() == g.rows * panel && g.scales.len() == g.rows);
    // One loop for each function, its constants in registers.
    // SAFETY: the caller's promise.
    unsafe {
        match g.activation {
            Activation::None => {
                finish_by(
                    simd,
                    g,
                    header,
                    columns,
                    sums,
                    #[inline(always)]
                    |v| v,
                );
            }
            Activation::QuickGelu => finish_by(
                simd,
                g,
                header,
                columns,
                sums,
                #[inline(always)]
                |v| quick_gelu(simd, v),
            ),
            Activation::Gelu => finish_by(
                simd,
                g,
                header,
                columns,
                sums,
                #[inline(always)]
                |v| gelu(simd, v),
            ),
        }
    }
}

/// [`finish`] by an activation function.
///
/// # Safety
/// As [`finish`], whose lengths have been checked.
#[inline(always)]
unsafe fn finish_by<S: Simd>(
    simd: S,
    g: &Group,
    header: Header,
    columns: Range<usize>,
    sums: &mut [i32],
    f: impl Fn(S::V) -> S::V,
) {
    let panel = 2 * S::LANES;
    let whole = columns.len() == panel;
    let from = sums.as_mut_ptr();
    // SAFETY: `out` has these columns, which are this group's alone, `residual` has them too, and `sums` has rows
    // of a panel's columns.
    unsafe {
        let out = g.out.add(columns.start);
        let residual = g.residual.map(|r| r.as_ptr().add(columns.start));
        match residual {
            None if whole => scale::<S, false>(simd, header, g.scales, from, out, g.width, out, f),
            Some(residual) if whole => {
                scale::<S, true>(simd, header, g.scales, from, out, g.width, residual, f);
            }
            _ => {
                let y = from.cast::<f32>();
                scale::<S, false>(simd, header, g.scales, from, y, panel, y, f);
                let y = std::slice::from_raw_parts(y, g.rows * panel);
                for (i, y) in y.chunks_exact(panel).enumerate() {
                    let out = std::slice::from_raw_parts_mut(out.add(i * g.width), columns.len());
                    for (j, (out, y)) in out.iter_mut().zip(y).enumerate() {
                        *out = residual.map_or(*y, |r| y + *r.add(i * g.width + j));
                    }
                }
            }
        }
    }
}

/// out = f(sums · scales + bias) (+ residual if RESIDUAL), row by row of a panel's columns. Where RESIDUAL is false,
/// `residual` is not read.
///
/// # Safety
/// `sums` has a row of 2 * LANES columns for each of `scales`, and so have `out` and `residual`, whose rows are
/// `stride` apart. `out` may be `sums`. The header has as many columns.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn scale<S: Simd, const RESIDUAL: bool>(
    simd: S,
    header: Header,
    scales: &[f32],
    sums: *const i32,
    out: *mut f32,
    stride: usize,
    residual: *const f32,
    f: impl Fn(S::V) -> S::V,
) {
    // SAFETY: the caller's promise for all.
    unsafe {
        let both = |from: &[f32]| {
            let from = from.as_ptr();
            [simd.load(from), simd.load(from.add(S::LANES))]
        };
        let (column_scales, bias) = (both(header.scales), both(header.bias));
        for (i, &scale) in scales.iter().enumerate() {
            let scale = simd.splat(scale);
            let sums = sums.add(i * 2 * S::LANES);
            // What lies in `out` has been read where it is `sums`.
            for (j, (column_scale, bias)) in column_scales.into_iter().zip(bias).enumerate() {
                let at = i * stride + j * S::LANES;
                let sum = simd.load_i32(sums.add(j * S::LANES));
                let mut y = f(simd.mul_add(sum, simd.mul(scale, column_scale), bias));
                if RESIDUAL {
                    y = simd.add(y, simd.load(residual.add(at)));
                }
                simd.store(y, out.add(at));
            }
        }
    }
}

/// Gives the token `$token` its [`crate::select::VectorInt8`].
macro_rules! vector_int8 {
    ($token:ident, $name:literal, $features:literal) => {
        impl crate::select::VectorInt8 for $token {
            fn name(&self) -> &'static str {
                $name
            }

            fn layout(&self) -> crate::int8::Layout {
                <$token as crate::int8::Int8>::LAYOUT
            }

            #[cfg(test)]
            fn depth(&self) -> usize {
                <$token as crate::int8::Int8>::DEPTH
            }

            unsafe fn group(&self, group: &crate::int8::Group, sums: &mut [i32]) {
                #[target_feature(enable = $features)]
                unsafe fn run(token: $token, group: &crate::int8::Group, sums: &mut [i32]) {
                    // SAFETY: the caller's promise.
                    unsafe { crate::int8::group(token, group, sums) }
                }
                // SAFETY: the token proves the features; the rest is the caller's promise.
                unsafe { run(*self, group, sums) }
            }
        }
    };
}

/// `Int8::tile` by the function of each height up to the most rows.
macro_rules! tiles_int8 {
    ($features:literal, $($rows:literal => $tile:expr),+ $(,)?) => {
        #[inline(always)]
        unsafe fn tile(self, rows: usize, t: crate::int8::Tile) {
            match rows {
                $($rows => {
                    #[target_feature(enable = $features)]
                    #[inline(never)]
                    unsafe fn run(t: crate::int8::Tile) {
                        // SAFETY: the caller's promise.
                        unsafe { $tile(t) }
                    }
                    // SAFETY: the token proves the features; the rest is the caller's promise.
                    unsafe { run(t) }
                })+
                _ => unreachable!("a tile of {rows} rows"),
            }
        }
    };
}

pub(crate) use {tiles_int8, vector_int8};
