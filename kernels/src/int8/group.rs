//! What is the same for all variants: the order in which tiles are computed, and the way from sums to outputs.

use std::fmt::Debug;
use std::ops::Range;

use super::affine::Offsets;
use super::pack::Layout;
use crate::Activation;
use crate::activation::{gelu, quick_gelu};
use crate::linear::blocks;
use crate::simd::{Simd, load_part, store_part};

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

    /// sums [rows, columns] = the sums so far + packed rows · panel, for `rows` of 1 ..= LAYOUT.rows; what becomes of
    /// them says `t.finish`.
    ///
    /// # Safety
    /// `t.x` points to a block's `t.steps` steps of `rows` rows, `t.panel` to as many of a panel; `t.from`, unless
    /// null, to rows of as many sums as the panel has columns; `t.finish` to what [`Finish`] says, or else `t.sums`
    /// to rows * columns writable values.
    unsafe fn tile(self, rows: usize, t: Tile);
}

/// A tile's operands.
#[derive(Clone, Copy)]
#[allow(
    dead_code,
    reason = "ARM's processors are left to fetch ahead by themselves"
)]
pub(crate) struct Tile<'a> {
    pub(crate) x: *const u8,
    pub(crate) panel: *const i8,
    pub(crate) steps: usize,
    /// The sums so far, rows `from_stride` apart; null for zeros.
    pub(crate) from: *const i32,
    pub(crate) from_stride: usize,
    /// [rows, columns], written if there is no `finish`.
    pub(crate) sums: *mut i32,
    /// After the last steps.
    pub(crate) finish: Option<&'a Finish>,
    /// What a later tile will read, for the cache to fetch meanwhile: `ahead` lines in every two steps. It may be any
    /// address.
    pub(crate) next: *const i8,
    pub(crate) ahead: usize,
}

/// From a tile's sums to outputs: out = sums · scales + bias (+ residual).
pub(crate) struct Finish {
    /// [rows]
    pub(crate) scales: *const f32,
    /// [columns]
    pub(crate) column_scales: *const f32,
    /// [columns]
    pub(crate) bias: *const f32,
    /// Null, or rows `stride` apart.
    pub(crate) residual: *const f32,
    /// Rows `stride` apart.
    pub(crate) out: *mut f32,
    pub(crate) stride: usize,
}

impl Finish {
    /// Writes N registers of columns, the first of which is `first`, of ROWS rows; `sum(i, j)` is that of row i and
    /// register j.
    ///
    /// # Safety
    /// The pointers have the rows and columns that the fields say.
    #[inline(always)]
    pub(crate) unsafe fn write<S: Simd, const ROWS: usize, const N: usize>(
        &self,
        simd: S,
        first: usize,
        sum: impl Fn(usize, usize) -> S::V,
    ) {
        let at = first * S::LANES;
        // SAFETY: the caller's promise for all.
        unsafe {
            let columns = |from: *const f32| -> [S::V; N] {
                std::array::from_fn(
                    #[inline(always)]
                    |j| simd.load(from.add(at + j * S::LANES)),
                )
            };
            let (column_scales, bias) = (columns(self.column_scales), columns(self.bias));
            let out = self.out.add(at);
            if self.residual.is_null() {
                for i in 0..ROWS {
                    let scale = simd.splat(*self.scales.add(i));
                    for j in 0..N {
                        let scale = simd.mul(scale, column_scales[j]);
                        let y = simd.mul_add(sum(i, j), scale, bias[j]);
                        simd.store(y, out.add(i * self.stride + j * S::LANES));
                    }
                }
                return;
            }
            let residual = self.residual.add(at);
            for i in 0..ROWS {
                let scale = simd.splat(*self.scales.add(i));
                for j in 0..N {
                    let scale = simd.mul(scale, column_scales[j]);
                    let y = simd.mul_add(sum(i, j), scale, bias[j]);
                    let at = i * self.stride + j * S::LANES;
                    simd.store(simd.add(y, simd.load(residual.add(at))), out.add(at));
                }
            }
        }
    }
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
    // Cache lines of two steps, and tiles to share them among.
    let lines = (2 * layout.columns * layout.step).div_ceil(LINE);
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
            if start == 0
                && let Some(offsets) = g.offsets
            {
                let corrections = g.shifted.then_some(header.corrections);
                offsets.write(corrections, columns.clone(), layout.columns, sums);
            }
            let last = start + steps == g.steps;
            // Without anything between, the tile writes the outputs; otherwise f32 in place of its sums.
            let direct = g.activation == Activation::None && columns.len() == layout.columns;
            for (i, (row, rows)) in blocks(g.rows, layout.rows).enumerate() {
                let ahead = lines / tiles + usize::from(i < lines % tiles);
                let step = layout.row_step(rows);
                let x = &g.x[i * block_size..][start * step..][..steps * step];
                let sums = &mut sums[row * layout.columns..][..rows * layout.columns];
                let (from, from_stride) = if start > 0 || g.offsets.is_some() {
                    (sums.as_ptr(), layout.columns)
                } else if g.shifted {
                    (header.corrections.as_ptr(), 0)
                } else {
                    (std::ptr::null(), 0)
                };
                let mut finish = Finish {
                    scales: g.scales[row..][..rows].as_ptr(),
                    column_scales: header.scales.as_ptr(),
                    bias: header.bias.as_ptr(),
                    residual: std::ptr::null(),
                    out: sums.as_mut_ptr().cast(),
                    stride: layout.columns,
                };
                if direct {
                    let at = row * g.width + columns.start;
                    finish.stride = g.width;
                    finish.out = g.out.wrapping_add(at);
                    if let Some(residual) = g.residual {
                        finish.residual =
                            residual[at..][..(rows - 1) * g.width + columns.len()].as_ptr();
                    }
                }
                let tile = Tile {
                    x: x.as_ptr(),
                    panel: weights.as_ptr().cast(),
                    steps,
                    from,
                    from_stride,
                    sums: sums.as_mut_ptr(),
                    finish: last.then_some(&finish),
                    next: next.cast(),
                    ahead,
                };
                next = next.wrapping_add(steps / 2 * ahead * LINE);
                // SAFETY: the slices are as long as the tile needs, `out` has these columns, which are this group's
                // alone, and blocks() gives at most the layout's rows.
                unsafe { simd.tile(rows, tile) };
            }
            if last && !direct {
                // SAFETY: the caller's promise; the tiles left a panel's columns of f32 for each row.
                unsafe {
                    let y = std::slice::from_raw_parts(sums.as_ptr().cast(), sums.len());
                    activate(simd.float(), g, columns, y);
                }
            }
        }
    }
}

/// out = f(y) + residual in the columns `columns` of `out`; y [rows, 2 * LANES].
///
/// # Safety
/// As [`Group::out`] says.
#[inline(always)]
unsafe fn activate<S: Simd>(simd: S, g: &Group, columns: Range<usize>, y: &[f32]) {
    // One loop for each function, its constants in registers.
    // SAFETY: the caller's promise.
    unsafe {
        match g.activation {
            Activation::None => activate_by(
                simd,
                g,
                columns,
                y,
                #[inline(always)]
                |v| v,
            ),
            Activation::QuickGelu => activate_by(
                simd,
                g,
                columns,
                y,
                #[inline(always)]
                |v| quick_gelu(simd, v),
            ),
            Activation::Gelu => activate_by(
                simd,
                g,
                columns,
                y,
                #[inline(always)]
                |v| gelu(simd, v),
            ),
        }
    }
}

/// [`activate`] by an activation function.
///
/// # Safety
/// As [`activate`].
#[inline(always)]
unsafe fn activate_by<S: Simd>(
    simd: S,
    g: &Group,
    columns: Range<usize>,
    y: &[f32],
    f: impl Fn(S::V) -> S::V,
) {
    let panel = 2 * S::LANES;
    assert!(columns.end <= g.width && columns.len() <= panel && y.len() == g.rows * panel);
    for (i, y) in y.chunks_exact(panel).enumerate() {
        let at = i * g.width + columns.start;
        let residual = g.residual.map(|r| &r[at..][..columns.len()]);
        // SAFETY: row i of `out` has these columns, which are this group's alone.
        let out = unsafe { std::slice::from_raw_parts_mut(g.out.add(at), columns.len()) };
        for (j, out) in out.chunks_mut(S::LANES).enumerate() {
            // SAFETY: `y` has two registers.
            let mut v = f(unsafe { simd.load(y.as_ptr().add(j * S::LANES)) });
            let residual = residual.map(|r| &r[j * S::LANES..][..out.len()]);
            if out.len() == S::LANES {
                // SAFETY: the slices have LANES values.
                unsafe {
                    if let Some(residual) = residual {
                        v = simd.add(v, simd.load(residual.as_ptr()));
                    }
                    simd.store(v, out.as_mut_ptr());
                }
            } else {
                if let Some(residual) = residual {
                    v = simd.add(v, load_part(simd, residual));
                }
                store_part(simd, v, out);
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

            #[cfg(test)]
            fn activate(&self, x: &mut [f32], activation: crate::Activation) {
                let float = crate::int8::Int8::float(*self);
                crate::select::Vector::activate(&float, x, activation);
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
    ($float:ident, $features:literal, $($rows:literal => $tile:expr),+ $(,)?) => {
        #[inline(always)]
        unsafe fn tile(self, rows: usize, t: crate::int8::Tile) {
            match rows {
                $($rows => {
                    #[target_feature(enable = $features)]
                    #[inline(never)]
                    unsafe fn run(float: $float, t: crate::int8::Tile) {
                        // SAFETY: the caller's promise.
                        unsafe { $tile(float, t) }
                    }
                    // SAFETY: the token proves the features; the rest is the caller's promise.
                    unsafe { run(self.float(), t) }
                })+
                _ => unreachable!("a tile of {rows} rows"),
            }
        }
    };
}

pub(crate) use {tiles_int8, vector_int8};
