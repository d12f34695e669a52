//! What is the same for all variants: the order in which tiles are computed, and the way from sums to outputs.

use std::fmt::Debug;
use std::ops::Range;

use super::pack::{Header, Layout};
use crate::Activation;
use crate::activation::activated;
use crate::linear::blocks;
use crate::simd::{Simd, load_part, store_part};

/// Products of bytes in registers, as [`Simd`] is of f32. A value is the proof that the processor has the
/// instructions.
pub(crate) trait Int8: Copy + Debug + Send + Sync + 'static {
    /// For the way from sums to outputs.
    type Float: Simd;

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
            let tiles = g.rows.div_ceil(layout.rows);
            let lines = |tiles_before: usize| (step.div_ceil(LINE) * tiles_before).div_ceil(tiles);
            for (i, (row, rows)) in blocks(g.rows, layout.rows).enumerate() {
                let ahead = lines(i + 1) - lines(i);
                let step = layout.row_step(rows);
                let x = &g.x[i * block_size..][start * step..][..steps * step];
                let sums = &mut sums[row * layout.columns..][..rows * layout.columns];
                let tile = Tile {
                    x: x.as_ptr(),
                    panel: weights.as_ptr().cast(),
                    steps,
                    sums: sums.as_mut_ptr(),
                    add: start > 0,
                    next: next.cast(),
                    ahead,
                };
                next = next.wrapping_add(steps * ahead * LINE);
                // SAFETY: the slices are as long as the tile needs, and blocks() gives at most its rows.
                unsafe { simd.tile(rows, tile) };
                if start + steps == g.steps {
                    // SAFETY: the caller's promise.
                    unsafe {
                        finish(
                            simd.float(),
                            g,
                            header,
                            row..row + rows,
                            columns.clone(),
                            sums,
                        )
                    };
                }
            }
        }
    }
}

/// Writes the rows and columns of `out` that `sums` belongs to.
///
/// # Safety
/// As [`Group::out`] says.
#[inline(always)]
unsafe fn finish<S: Simd>(
    simd: S,
    g: &Group,
    header: Header,
    rows: Range<usize>,
    columns: Range<usize>,
    sums: &[i32],
) {
    let panel = header.scales.len();
    assert!(rows.end <= g.scales.len() && sums.len() >= rows.len() * panel);
    assert!(header.bias.len() == panel && header.corrections.len() == panel);
    for j in (0..columns.len()).step_by(S::LANES) {
        let width = S::LANES.min(columns.len() - j);
        // SAFETY: a panel's columns are a multiple of LANES.
        let (scale, bias) = unsafe {
            (
                simd.load(header.scales.as_ptr().add(j)),
                simd.load(header.bias.as_ptr().add(j)),
            )
        };
        for (i, row) in rows.clone().enumerate() {
            // SAFETY: row i of the sums has the panel's columns, and so have the corrections.
            let sum = unsafe {
                let sums = sums.as_ptr().add(i * panel + j);
                match g.shifted {
                    true => simd.load_i32_sum(sums, header.corrections.as_ptr().add(j)),
                    false => simd.load_i32(sums),
                }
            };
            let scale = simd.mul(simd.splat(g.scales[row]), scale);
            let y = activated(simd, simd.mul_add(sum, scale, bias), g.activation);
            let at = row * g.width + columns.start + j;
            let residual = g.residual.map(|r| &r[at..][..width]);
            // SAFETY: `out` has this row and these columns, which are this group's alone.
            let out = unsafe { std::slice::from_raw_parts_mut(g.out.add(at), width) };
            if width == S::LANES {
                // SAFETY: both slices have LANES values.
                unsafe {
                    let y = match residual {
                        Some(residual) => simd.add(y, simd.load(residual.as_ptr())),
                        None => y,
                    };
                    simd.store(y, out.as_mut_ptr());
                }
            } else {
                let y = match residual {
                    Some(residual) => simd.add(y, load_part(simd, residual)),
                    None => y,
                };
                store_part(simd, y, out);
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
    ($token:ident, $features:literal, $tile:path, $($rows:literal)*) => {
        #[inline(always)]
        unsafe fn tile(self, rows: usize, t: crate::int8::Tile) {
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn run<const ROWS: usize>(t: crate::int8::Tile) {
                // SAFETY: the caller's promise.
                unsafe { $tile(t) }
            }
            // SAFETY: the token proves the features; the rest is the caller's promise.
            unsafe {
                match rows {
                    $($rows => run::<$rows>(t),)*
                    _ => unreachable!("a tile of {rows} rows"),
                }
            }
        }
    };
}

pub(crate) use {tiles_int8, vector_int8};
