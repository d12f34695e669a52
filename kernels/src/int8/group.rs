//! Generic over variants: the order in which tiles are computed, and the epilogue from sums to outputs.

use std::ops::Range;

use super::output::{SumRows, Writer};
use super::pack::{Layout, MOST_COLUMNS};
use super::taps::DepthwiseTile;
use crate::activation::by_activation;
use crate::dispatch::{Int8Group, Residual, Target};
use crate::linear::pack::heights;
use crate::simd::{InstructionSet, Simd};

/// An instruction set's products of bytes, as [`Simd`] for f32.
pub(crate) trait Int8Simd: InstructionSet {
    /// For the epilogue.
    type Float: Simd;

    /// With two registers of columns.
    const LAYOUT: Layout;
    /// Values of k between a load and a store of the sums, a multiple of the step: a panel's and a rows' block fit the
    /// first-level cache together.
    const DEPTH: usize;

    /// Whether a tile of a whole panel leaves its sums as [`Outputs`], which the next tile makes between its steps: on a Zen 4
    /// instructions other than multiplications and divisions then take no time of their own. Otherwise outputs that pass an
    /// activation function or become bytes are made of the sums of some tiles together, and other tiles, as all of narrower
    /// panels, apply their [`Epilogue`].
    const OVERLAPS: bool = false;

    fn float(self) -> Self::Float;

    /// Computes `count` tiles of `rows` rows, 1 ..= LAYOUT.rows, one below the other: sums [rows, columns] = the sums so far
    /// + packed rows · panel, then `t.epilogue`, or `t.outputs` by way of `unfinished`. `t` is then the tile below.
    ///
    /// # Safety
    /// For each tile: `t.x` points to a block's `t.steps` steps of `rows` rows, `t.panel` to as many of a panel;
    /// `t.from`, unless null, to rows of as many sums as the panel has columns; `t.sums` to rows * columns writable
    /// values, and the pointers of `t.epilogue`, `t.outputs` and `unfinished` to what [`Epilogue`] and [`Outputs`] state.
    unsafe fn tiles(self, rows: usize, count: usize, t: &mut Int8Tile, unfinished: &mut Outputs);

    /// Pixels of a tile of the depthwise kernel.
    const PIXELS: usize;

    /// Computes PIXELS outputs of a depthwise convolution: see [`DepthwiseTile`].
    ///
    /// # Safety
    /// As [`DepthwiseTile`] states.
    unsafe fn depthwise(self, t: &DepthwiseTile);
}

/// Implements [`Int8Simd::tiles`] with a function for each number of rows.
macro_rules! tiles_int8 {
    ($($rows:literal => $tile:expr),+ $(,)?) => {
        #[inline(always)]
        unsafe fn tiles(
            self,
            rows: usize,
            count: usize,
            t: &mut crate::int8::group::Int8Tile,
            unfinished: &mut crate::int8::group::Outputs,
        ) {
            let columns = <Self as crate::int8::group::Int8Simd>::LAYOUT.columns;
            match rows {
                $($rows => crate::simd::InstructionSet::enter(
                    self,
                    #[inline(always)]
                    |token| {
                        for _ in 0..count {
                            // SAFETY: the caller's promise.
                            unsafe { $tile(token, t, unfinished) }
                            if <Self as crate::int8::group::Int8Simd>::OVERLAPS {
                                unfinished.take($rows, t);
                                t.row += $rows;
                            }
                            t.advance($rows, columns);
                        }
                    },
                ),)+
                _ => unreachable!("a tile of {rows} rows"),
            }
        }
    };
}
pub(crate) use tiles_int8;

/// A tile's operands.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "see PREFETCHES")]
pub(crate) struct Int8Tile {
    /// Blocks of rows, `block_size` bytes apart.
    pub(crate) x: *const u8,
    /// Bytes between two rows of a layout of whole rows.
    pub(crate) x_stride: usize,
    pub(crate) block_size: usize,
    pub(crate) panel: *const i8,
    pub(crate) steps: usize,
    /// The sums so far, rows `from_stride` apart; null for zeros.
    pub(crate) from: *const i32,
    pub(crate) from_stride: usize,
    /// [rows, columns]; unspecified after a tile with an epilogue.
    pub(crate) sums: *mut i32,
    /// After the last steps of k, unless the tile leaves its sums.
    pub(crate) epilogue: Option<Epilogue>,
    /// The panel whose outputs the sums become after the last steps of k, with [`Int8Simd::OVERLAPS`].
    pub(crate) outputs: Option<OutputPanel>,
    /// The first row's number in the group.
    pub(crate) row: usize,
    /// What a later tile reads, to be prefetched: `ahead` cache lines in every two steps. May be any address.
    pub(crate) next: *const i8,
    pub(crate) ahead: usize,
}

impl Int8Tile {
    /// Advances by a tile of `rows` rows.
    #[inline(always)]
    pub(crate) fn advance(&mut self, rows: usize, columns: usize) {
        self.x = self.x.wrapping_add(self.block_size);
        if PREFETCHES {
            let ahead = self.steps / 2 * self.ahead * LINE;
            self.next = self.next.wrapping_add(ahead);
        }
        self.from = self.from.wrapping_add(rows * self.from_stride);
        self.sums = self.sums.wrapping_add(rows * columns);
        if let Some(epilogue) = &mut self.epilogue {
            epilogue.scales = epilogue.scales.wrapping_add(rows);
            if !epilogue.residual.is_null() {
                epilogue.residual = epilogue.residual.wrapping_add(rows * epilogue.stride);
            }
            epilogue.out = epilogue.out.wrapping_add(rows * epilogue.stride);
        }
    }
}

/// From a tile's sums to outputs: out = sums · scales + bias + residual.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue {
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

impl Epilogue {
    /// Writes N registers of columns, from register `first` on, of ROWS rows; `sum(i, j)` is row i, register j.
    ///
    /// # Safety
    /// The pointers are valid for the rows and columns that the fields state.
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

/// Sums of tiles that are yet to become outputs: activation(sums · scales + bias), with the residual in its order.
pub(crate) struct Outputs<'a> {
    group: &'a Int8Group<'a>,
    /// [`Target::to_bytes`]
    to_bytes: [f32; 2],
    panel: OutputPanel,
    /// [rows, 2 LANES]
    sums: *const i32,
    /// The first row's number in the group.
    row: usize,
    /// 0 if no outputs are left to be made.
    rows: usize,
}

/// What the outputs of a panel have in common.
#[derive(Clone, Copy)]
pub(crate) struct OutputPanel {
    /// [2 LANES]
    scales: *const f32,
    /// [2 LANES]
    bias: *const f32,
    /// The first column's number in the group.
    column: usize,
}

impl<'a> Outputs<'a> {
    #[inline(always)]
    fn none(group: &'a Int8Group<'a>) -> Self {
        Outputs {
            group,
            to_bytes: group.out.to_bytes(),
            panel: OutputPanel {
                scales: std::ptr::null(),
                bias: std::ptr::null(),
                column: 0,
            },
            sums: std::ptr::null(),
            row: 0,
            rows: 0,
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Takes over the sums of a tile of `rows` rows, in place of those that the tile has made outputs of.
    ///
    /// Field by field: a copy of the whole would wait for what was just written, and for all that precedes it.
    #[inline(always)]
    pub(crate) fn take(&mut self, rows: usize, t: &Int8Tile) {
        self.rows = 0;
        if let Some(panel) = t.outputs {
            self.panel = panel;
            self.sums = t.sums;
            self.row = t.row;
            self.rows = rows;
        }
    }

    /// Makes those of a row.
    ///
    /// # Safety
    /// The pointers are valid for the rows and columns that the fields state, and nothing else accesses the outputs.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) unsafe fn make<S: Simd>(&self, simd: S, row: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            by_activation!(
                self.group.activation,
                simd,
                Self::make_by,
                self,
                simd,
                row..row + 1
            )
        }
    }

    /// Makes all of them.
    ///
    /// # Safety
    /// As [`Self::make`].
    #[inline(always)]
    pub(crate) unsafe fn make_all<S: Simd>(&self, simd: S) {
        if self.rows > 0 {
            // SAFETY: the caller's promise.
            unsafe {
                by_activation!(
                    self.group.activation,
                    simd,
                    Self::make_by,
                    self,
                    simd,
                    0..self.rows
                )
            }
        }
    }

    /// Makes those of some rows with the activation function `f`.
    ///
    /// # Safety
    /// As [`Self::make`].
    #[inline(always)]
    unsafe fn make_by<S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        f: impl Fn(S::V) -> S::V + Copy,
    ) {
        let g = self.group;
        // SAFETY: the caller's promise.
        unsafe {
            let rows_of_sums = SumRows {
                sums: self.sums,
                pitch: 2 * S::LANES,
                row_scales: Some(g.scales.as_ptr().add(self.row)),
                scales: self.panel.scales,
                bias: self.panel.bias,
                residual: g.residual,
                out: g.out,
                first: self.row * g.width + self.panel.column,
                width: g.width,
            };
            rows_of_sums.write::<S, 2>(simd, rows, self.to_bytes, f);
        }
    }
}

/// Whether tiles prefetch: the ARM kernels rely on the hardware.
const PREFETCHES: bool = cfg!(target_arch = "x86_64");

/// Bytes of a cache line.
const LINE: usize = 64;

/// Rows of sums that stay in the first-level cache until outputs are made of them.
const FINISHED_ROWS: usize = 64;

/// Computes a group of panels, the block of k outermost as in [`crate::linear::tile::group`].
///
/// `sums` has a value for each row and column of the panels.
///
/// # Safety
/// As [`Int8Group::out`] states.
#[inline(always)]
pub(crate) unsafe fn group<I: Int8Simd>(simd: I, g: &Int8Group, sums: &mut [i32]) {
    let layout = I::LAYOUT;
    let k = g.steps * layout.step;
    let panel_size = layout.panel_size(k);
    let block_size = layout.block_size(g.rows, k);
    assert_eq!(g.scales.len(), g.rows);
    if let Some(Residual { values, .. }) = g.residual {
        assert!(values.len() >= g.rows.saturating_sub(1) * g.width + g.columns.end);
    }
    let most = I::DEPTH / layout.step;
    // Cache lines of two steps, shared among the tiles.
    let ahead = (2 * layout.columns * layout.step)
        .div_ceil(LINE)
        .div_ceil(g.rows.div_ceil(layout.rows).max(1));
    // Without any step the sums are zeros.
    let parts = g.steps.div_ceil(most).max(1);
    let mut unfinished = Outputs::none(g);
    for part in 0..parts {
        let start = part * most;
        let steps = most.min(g.steps - start);
        for (p, panel) in g.panels.chunks_exact(panel_size).enumerate() {
            // With a single part all panels use the same sums, which stay in the cache.
            let slot = if parts == 1 { 0 } else { p };
            let sums = &mut sums[slot * g.rows * layout.columns..][..g.rows * layout.columns];
            let (header, weights) = layout.split(panel);
            let step = layout.columns * layout.step;
            let weights = &weights[start * step..][..steps * step];
            let first = g.columns.start + p * layout.columns;
            let columns = first..g.columns.end.min(first + layout.columns);
            // The tiles of this panel prefetch the next panel's part.
            let mut next = match start {
                _ if !PREFETCHES => std::ptr::null(),
                0 => panel.as_ptr().wrapping_add(panel_size),
                _ => weights.as_ptr().wrapping_add(panel_size),
            };
            if PREFETCHES && parts > 1 && next >= g.panels.as_ptr_range().end {
                let ahead = layout.header_size() + (start + steps) * step;
                next = g.panels.as_ptr().wrapping_add(ahead);
            }
            let mut uniform = [0; MOST_COLUMNS];
            let corrections = g.shifted.then_some(header.corrections);
            let (from, from_stride) = if start > 0 {
                (sums.as_ptr(), layout.columns)
            } else if let Some(offsets) = g.offsets {
                if offsets.are_uniform() {
                    let row = &mut uniform[..layout.columns];
                    offsets.write(corrections, columns.clone(), layout.columns, row);
                    (uniform.as_ptr(), 0)
                } else {
                    if I::OVERLAPS {
                        // SAFETY: the caller's promise; the sums have not been overwritten.
                        unsafe { unfinished.make_all(simd.float()) }
                        unfinished.rows = 0;
                    }
                    offsets.write(corrections, columns.clone(), layout.columns, sums);
                    (sums.as_ptr(), layout.columns)
                }
            } else if g.shifted {
                (header.corrections.as_ptr(), 0)
            } else {
                (std::ptr::null(), 0)
            };
            let last = start + steps == g.steps;
            // The tiles write the outputs directly if nothing has to be done in between, else f32 in place of their sums.
            let direct = match g.out {
                Target::F32(out) if columns.len() == layout.columns && g.activation.is_none() => {
                    Some(out)
                }
                _ => None,
            };
            let mut epilogue = Epilogue {
                scales: g.scales.as_ptr(),
                column_scales: header.scales.as_ptr(),
                bias: header.bias.as_ptr(),
                residual: std::ptr::null(),
                out: sums.as_mut_ptr().cast(),
                stride: layout.columns,
            };
            if let Some(out) = direct {
                if let Some(Residual { values, .. }) = g.residual {
                    epilogue.residual = values[columns.start..].as_ptr();
                }
                epilogue.out = out.wrapping_add(columns.start);
                epilogue.stride = g.width;
            }
            let outputs = OutputPanel {
                scales: header.scales.as_ptr(),
                bias: header.bias.as_ptr(),
                column: columns.start,
            };
            let whole = columns.len() == layout.columns;
            let overlaps = I::OVERLAPS && whole;
            // The tiles apply their epilogue, or leave sums of which outputs are made.
            let leaves_sums = whole && (I::OVERLAPS || direct.is_none());
            let mut tile = Int8Tile {
                x: g.x.as_ptr(),
                x_stride: g.in_place.unwrap_or(layout.row_size(k)),
                block_size,
                panel: weights.as_ptr().cast(),
                steps,
                from,
                from_stride,
                sums: sums.as_mut_ptr(),
                epilogue: (last && !leaves_sums).then_some(epilogue),
                outputs: (last && overlaps).then_some(outputs),
                row: 0,
                next: next.cast(),
                ahead,
            };
            let finishes = last && direct.is_none() && !overlaps;
            let (mut at, mut row) = (0, 0);
            for (count, rows) in heights(g.rows, layout.rows) {
                let (block_size, bytes) = match g.in_place {
                    Some(stride) => (rows * stride, rows.saturating_sub(1) * stride + k),
                    None => (block_size, layout.block_bytes(rows, k)),
                };
                let step = layout.row_step(if layout.whole_rows { 1 } else { rows });
                // Tiles whose outputs are made together.
                let most = match finishes {
                    true => (FINISHED_ROWS / rows.max(1)).max(1),
                    false => count.max(1),
                };
                tile.block_size = block_size;
                for first in (0..count).step_by(most) {
                    let count = most.min(count - first);
                    assert!(at + (count - 1) * block_size + bytes <= g.x.len());
                    tile.x = g.x.as_ptr().wrapping_add(at + start * step);
                    let tile_sums = tile.sums;
                    // SAFETY: `x`, `sums` and the residual are as long as the tiles need, `out` has these columns, which
                    // only this group accesses, and heights() gives at most the layout's rows.
                    unsafe { simd.tiles(rows, count, &mut tile, &mut unfinished) };
                    at += count * block_size;
                    if finishes {
                        // SAFETY: the caller's promise; the tiles left a panel's columns of sums for each row, or of f32.
                        unsafe {
                            if leaves_sums {
                                let all = Outputs {
                                    panel: outputs,
                                    sums: tile_sums,
                                    row,
                                    rows: count * rows,
                                    ..unfinished
                                };
                                all.make_all(simd.float());
                            } else {
                                let len = count * rows * layout.columns;
                                let y = std::slice::from_raw_parts(tile_sums.cast(), len);
                                finish(simd.float(), g, columns.clone(), row, y);
                            }
                        }
                    }
                    row += count * rows;
                }
            }
        }
    }
    if I::OVERLAPS {
        // SAFETY: the caller's promise; the last tile left its sums.
        unsafe { unfinished.make_all(simd.float()) }
    }
}

/// Makes outputs of y [rows, 2 * LANES]: the rows from `row` on and the columns `columns`, to which the activation function
/// and the residual are still to be applied.
///
/// # Safety
/// As [`Int8Group::out`] states.
#[inline(always)]
unsafe fn finish<S: Simd>(simd: S, g: &Int8Group, columns: Range<usize>, row: usize, y: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { by_activation!(g.activation, simd, finish_by, simd, g, columns, row, y) }
}

/// [`finish`] with the activation function `f`.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn finish_by<S: Simd>(
    simd: S,
    g: &Int8Group,
    columns: Range<usize>,
    row: usize,
    y: &[f32],
    f: impl Fn(S::V) -> S::V + Copy,
) {
    let panel = 2 * S::LANES;
    assert!(columns.end <= g.width && columns.len() <= panel);
    let rows = y.chunks_exact(panel).enumerate();
    let writer = Writer::new(simd, g.residual, g.out);
    for (i, y) in rows {
        let to = (row + i) * g.width + columns.start;
        for at in (0..columns.len()).step_by(S::LANES) {
            // SAFETY: `y` has two registers; the row has these columns, which only this group accesses.
            unsafe {
                let v = simd.load(y.as_ptr().add(at));
                writer.write(v, f, to + at, S::LANES.min(columns.len() - at));
            }
        }
    }
}
