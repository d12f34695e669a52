//! The micro-kernel: a tile of the product with its sums in registers.

use super::pack::blocks;
use crate::activation::{activated, by_activation};
use crate::dispatch::{GroupRows, LinearGroup, Order, Residual};
use crate::simd::{Simd, Tile, load_part, store_part};
use crate::types::Nonlinearity;

/// Values of a cache line.
pub(crate) const LINE: usize = 16;

/// sums [ROWS, VECTORS * LANES] = (sums if `add`) + x [ROWS, depth] · panel [depth, VECTORS * LANES]. Each sum is one chain of
/// fused multiply-adds in the order of k, so that the tile's height and the block's depth do not change the result.
///
/// # Safety
/// - `x` points to ROWS * depth readable values, packed, or if IN_PLACE in rows `x_stride` apart; `panel` to
///   depth * VECTORS * LANES.
/// - `sums` points to ROWS rows of VECTORS * LANES writable values, which are initialised if `add`.
/// - depth is a multiple of 4.
#[inline(always)]
pub(crate) unsafe fn tile<
    S: Simd,
    const ROWS: usize,
    const VECTORS: usize,
    const IN_PLACE: bool,
>(
    simd: S,
    t: Tile,
) {
    let (stride, step) = if IN_PLACE {
        (t.x_stride, 4)
    } else {
        (4, 4 * ROWS)
    };
    let mut sums = [[simd.splat(0.0); VECTORS]; ROWS];
    if t.add {
        for (i, row) in sums.iter_mut().enumerate() {
            for (j, sum) in row.iter_mut().enumerate() {
                // SAFETY: row i < ROWS of `sums` has VECTORS registers.
                *sum = unsafe { simd.load(t.sums.add(i * t.stride + j * S::LANES)) };
            }
        }
    }
    let (mut x, mut panel, mut next) = (t.x, t.panel, t.next);
    for _ in 0..t.depth / 4 {
        for _ in 0..t.ahead {
            simd.prefetch(next);
            next = next.wrapping_add(LINE);
        }
        // One of a quad's four steps of k.
        macro_rules! step {
            ($quads:ident, $lane:literal) => {
                let mut w = [simd.splat(0.0); VECTORS];
                for (j, w) in w.iter_mut().enumerate() {
                    // SAFETY: the panel has 4 rows of VECTORS registers for each quad.
                    *w = unsafe { simd.load(panel.add(($lane * VECTORS + j) * S::LANES)) };
                }
                for (row, &quad) in sums.iter_mut().zip(&$quads) {
                    for (sum, &w) in row.iter_mut().zip(&w) {
                        *sum = simd.mul_add_lane::<$lane>(w, quad, *sum);
                    }
                }
            };
        }
        // SAFETY: x has a quad for each row and 4 steps of k.
        let mut quads = [unsafe { simd.quad(x) }; ROWS];
        for (i, quad) in quads.iter_mut().enumerate() {
            // SAFETY: as above.
            *quad = unsafe { simd.quad(x.add(i * stride)) };
        }
        step!(quads, 0);
        step!(quads, 1);
        step!(quads, 2);
        step!(quads, 3);
        x = x.wrapping_add(step);
        panel = panel.wrapping_add(4 * VECTORS * S::LANES);
    }
    for (i, row) in sums.iter().enumerate() {
        for (j, &sum) in row.iter().enumerate() {
            // SAFETY: row i < ROWS of `sums` has VECTORS registers.
            unsafe { simd.store(sum, t.sums.add(i * t.stride + j * S::LANES)) };
        }
    }
}

/// Implements [`Simd::tile`] with a function for each number of rows, and `$vectors` registers of columns.
macro_rules! tiles {
    ($vectors:literal, $($rows:literal)+) => {
        #[inline(always)]
        unsafe fn tile<const IN_PLACE: bool>(self, rows: usize, t: crate::simd::Tile) {
            use crate::linear::tile::tile;
            use crate::simd::InstructionSet;
            match rows {
                $($rows => self.enter(
                    #[inline(always)]
                    // SAFETY: the caller's promise.
                    |simd| unsafe { tile::<Self, $rows, $vectors, IN_PLACE>(simd, t) },
                ),)+
                _ => unreachable!("a tile of {rows} rows"),
            }
        }
    };
}

pub(crate) use tiles;

/// Computes a group of panels. The outermost loop is over blocks of k, so that the packed rows of a block stay in the
/// second-level cache for all panels, and a panel's block in the first-level cache for all rows: each weight is loaded from
/// memory once.
///
/// `sums` has a value for each row and column of the panels.
///
/// # Safety
/// As [`LinearGroup::out`] states.
#[inline(always)]
pub(crate) unsafe fn group<S: Simd>(simd: S, g: &LinearGroup, sums: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { by_activation!(g.activation, simd, group_with, simd, g, sums) }
}

/// [`group`] with the activation function `f`.
///
/// # Safety
/// As [`LinearGroup::out`] states.
#[inline(always)]
unsafe fn group_with<S: Simd>(
    simd: S,
    g: &LinearGroup,
    sums: &mut [f32],
    f: impl Fn(S::V) -> S::V + Copy,
) {
    let panel_size = (1 + g.depth) * S::COLUMNS;
    let panel_sums = g.rows * S::COLUMNS;
    let ahead = (4 * S::COLUMNS / LINE).div_ceil(g.rows.div_ceil(S::ROWS));
    // Without inputs there is one block, of no steps.
    for start in (0..g.depth.max(1)).step_by(S::DEPTH) {
        let depth = S::DEPTH.min(g.depth - start);
        let last = start + depth == g.depth;
        for (p, panel) in g.panels.chunks_exact(panel_size).enumerate() {
            let block = &panel[(1 + start) * S::COLUMNS..][..depth * S::COLUMNS];
            // The tiles of this panel prefetch the next panel's block, a part each.
            let mut next = block.as_ptr().wrapping_add(panel_size);
            if next >= g.panels.as_ptr_range().end {
                next = g
                    .panels
                    .as_ptr()
                    .wrapping_add((1 + start + depth) * S::COLUMNS);
            }
            for (row, rows) in blocks(g.rows, S::ROWS) {
                // What no later block adds to stays in the first-level cache.
                let at = if g.depth > S::DEPTH {
                    p * panel_sums + row * S::COLUMNS
                } else {
                    0
                };
                let sums = &mut sums[at..][..rows * S::COLUMNS];
                let sums_at = sums.as_mut_ptr();
                let tile = |x: &[f32], x_stride| Tile {
                    x: x.as_ptr(),
                    x_stride,
                    panel: block.as_ptr(),
                    depth,
                    sums: sums_at,
                    stride: S::COLUMNS,
                    add: start > 0,
                    next,
                    ahead,
                };
                match g.x {
                    GroupRows::Packed(x) => {
                        let x = &x[g.rows * start + row * depth..][..rows * depth];
                        // SAFETY: the slices are as long as the tile needs, and blocks() gives at most ROWS rows.
                        unsafe { simd.tile::<false>(rows, tile(x, 0)) };
                    }
                    GroupRows::InPlace(x) => {
                        let part = &x.data[row * x.stride + start..];
                        assert!(part.len() >= (rows - 1) * x.stride + depth);
                        // SAFETY: as above.
                        unsafe { simd.tile::<true>(rows, tile(part, x.stride)) };
                    }
                }
                next = next.wrapping_add(depth / 4 * ahead * LINE);
                if last {
                    let bias = &panel[..S::COLUMNS];
                    let first = g.columns.start + p * S::COLUMNS;
                    // SAFETY: the group has these rows and columns.
                    unsafe { finish(simd, g, row, first, sums, bias, f) };
                }
            }
        }
    }
}

/// Writes the outputs of a tile, which begins at a row and a column, from its sums, with the activation function `f`.
///
/// # Safety
/// As [`LinearGroup::out`] states.
#[inline(always)]
unsafe fn finish<S: Simd>(
    simd: S,
    g: &LinearGroup,
    row: usize,
    first: usize,
    sums: &[f32],
    bias: &[f32],
    f: impl Fn(S::V) -> S::V + Copy,
) {
    let order = g.residual.map_or(Order::AfterActivation, |r| r.order);
    let width = S::COLUMNS.min(g.columns.end - first);
    for (i, sums) in sums.chunks_exact(S::COLUMNS).enumerate() {
        let at = (row + i) * g.width + first;
        let residual = g.residual.map(|r| &r.values[at..][..width]);
        // SAFETY: `out` has the row and the columns first .. first + width, which only this group accesses.
        let out = unsafe { std::slice::from_raw_parts_mut(g.out.add(at), width) };
        if width < S::COLUMNS {
            let one = simd.splat(1.0);
            let residual = g.residual.map(|r| r.part(at, width));
            epilogue(simd, sums, one, bias, g.activation, residual, out);
            continue;
        }
        for at in (0..S::COLUMNS).step_by(S::LANES) {
            // SAFETY: sums, bias, residual and out have COLUMNS values, a multiple of LANES.
            unsafe {
                let sum = simd.load(sums.as_ptr().add(at));
                let v = simd.add(sum, simd.load(bias.as_ptr().add(at)));
                let y = match residual.map(|r| simd.load(r.as_ptr().add(at))) {
                    None => f(v),
                    Some(residual) => match order {
                        Order::AfterActivation => simd.add(f(v), residual),
                        Order::BeforeActivation => f(simd.add(v, residual)),
                    },
                };
                simd.store(y, out.as_mut_ptr().add(at));
            }
        }
    }
}

/// out [width] = activation(sums · scale + bias) + residual, the residual in its [`Order`], for width <= sums.len().
#[inline(always)]
pub(crate) fn epilogue<S: Simd>(
    simd: S,
    sums: &[f32],
    scale: S::V,
    bias: &[f32],
    activation: Option<Nonlinearity>,
    residual: Option<Residual>,
    out: &mut [f32],
) {
    assert!(sums.len() == bias.len() && out.len() <= sums.len());
    assert!(sums.len().is_multiple_of(S::LANES));
    let order = residual.map_or(Order::AfterActivation, |r| r.order);
    for (j, out) in out.chunks_mut(S::LANES).enumerate() {
        let at = j * S::LANES;
        // SAFETY: at + LANES is at most the length of both.
        let sum = unsafe {
            simd.mul_add(
                simd.load(sums.as_ptr().add(at)),
                scale,
                simd.load(bias.as_ptr().add(at)),
            )
        };
        let residual = residual.map(|r| &r.values[at..][..out.len()]);
        write(
            simd,
            sum,
            #[inline(always)]
            |v| activated(simd, v, activation),
            residual,
            order,
            out,
        );
    }
}

/// out = f(v) + residual, the residual in its [`Order`]; at most LANES values.
///
/// `f` is the function itself: a call through a reference to it, as `Fn` of `&F`, would not be inlined, and neither would the
/// instructions in it.
#[inline(always)]
pub(crate) fn write<S: Simd>(
    simd: S,
    v: S::V,
    f: impl Fn(S::V) -> S::V,
    residual: Option<&[f32]>,
    order: Order,
    out: &mut [f32],
) {
    let v = match residual {
        None => f(v),
        Some(residual) => {
            let residual = if residual.len() == S::LANES {
                // SAFETY: the slice has LANES values.
                unsafe { simd.load(residual.as_ptr()) }
            } else {
                load_part(simd, residual)
            };
            match order {
                Order::AfterActivation => simd.add(f(v), residual),
                Order::BeforeActivation => f(simd.add(v, residual)),
            }
        }
    };
    if out.len() == S::LANES {
        // SAFETY: the slice has LANES values.
        unsafe { simd.store(v, out.as_mut_ptr()) };
    } else {
        store_part(simd, v, out);
    }
}
