//! Attention: for each head two matrix products with a softmax between them.

use crate::dispatch::{AttentionHead, Kernels, Shape};
use crate::linear::pack::blocks;
use crate::norm::softmax;
use crate::simd::{Simd, Tile};
use crate::threads::Shared;
use crate::transpose::transposed;
use crate::types::{AttentionStages, Pointwise, StridedRows};
use crate::{pointwise, reference, scratch, threads};

/// [`crate::attention`] and [`crate::staged_attention`] by the given kernels, with their operands checked.
#[allow(clippy::too_many_arguments)]
pub(crate) fn attention(
    kernels: Kernels,
    q: StridedRows,
    tq: usize,
    k: StridedRows,
    v: StridedRows,
    tk: usize,
    heads: usize,
    head_width: usize,
    causal: bool,
    scale: f32,
    stages: &AttentionStages,
    out: &mut [f32],
) {
    let Some(vector) = kernels.float else {
        return reference::attention(
            q, tq, k, v, tk, heads, head_width, causal, scale, stages, out,
        );
    };
    if out.is_empty() || tk == 0 {
        return out.fill(0.0);
    }
    let sizes = Sizes::new(vector.shape(), tq, tk, head_width, stages);
    let threads = threads::count(2 * heads * tq * tk * head_width);
    // SAFETY: each head writes columns of its own.
    let out = unsafe { Shared::new(out) };
    threads::for_each(threads, heads, |head| {
        let operands = AttentionHead {
            q: q.starting_at(head * head_width),
            tq,
            k: k.starting_at(head * head_width),
            v: v.starting_at(head * head_width),
            tk,
            width: head_width,
            causal,
            scale,
            stages,
            out: out.pointer().wrapping_add(head * head_width),
            stride: heads * head_width,
        };
        scratch::with(sizes.all(), |memory| {
            // SAFETY: `out` has tq rows of heads * head_width values, and the heads' columns do not overlap.
            unsafe { vector.head(&operands, memory) };
        });
    });
}

/// The sizes of the parts of a head's working memory, in values.
struct Sizes {
    /// 0 if the rows are used in place.
    queries: usize,
    keys: usize,
    scores: usize,
    values: usize,
    sums: usize,
    /// Keys or values after the functions of their stage.
    staged: usize,
}

impl Sizes {
    fn new(shape: Shape, tq: usize, tk: usize, width: usize, stages: &AttentionStages) -> Self {
        let staged = !stages.k.is_empty() || !stages.v.is_empty();
        let (width4, tk4) = (width.next_multiple_of(4), tk.next_multiple_of(4));
        Sizes {
            queries: match stages.q.is_empty() && width == width4 {
                true => 0,
                false => (tq * width4).next_multiple_of(16),
            },
            keys: tk.next_multiple_of(shape.columns) * width4,
            scores: tq * tk.next_multiple_of(shape.columns),
            values: width.next_multiple_of(shape.columns) * tk4,
            sums: tq * shape.columns,
            staged: if staged { tk * width4 } else { 0 },
        }
    }

    fn all(&self) -> usize {
        let packed = self.queries + self.keys + self.values;
        packed + self.scores + self.sums + self.staged
    }
}

/// Computes a head. `memory` has `Sizes::all` values of arbitrary content.
///
/// # Safety
/// As [`AttentionHead::out`] states.
#[inline(always)]
pub(crate) unsafe fn head<S: Simd>(simd: S, shape: Shape, h: &AttentionHead, memory: &mut [f32]) {
    let sizes = Sizes::new(shape, h.tq, h.tk, h.width, h.stages);
    let (queries, memory) = memory.split_at_mut(sizes.queries);
    let (keys, memory) = memory.split_at_mut(sizes.keys);
    let (scores, memory) = memory.split_at_mut(sizes.scores);
    let (values, memory) = memory.split_at_mut(sizes.values);
    let (sums, memory) = memory.split_at_mut(sizes.sums);
    let (width4, tk4) = (h.width.next_multiple_of(4), h.tk.next_multiple_of(4));
    let stride = h.tk.next_multiple_of(S::COLUMNS);

    let q = match queries {
        [] => h.q,
        _ => copied(simd, &h.stages.q, h.q, h.tq, h.width, queries),
    };
    let k = staged(simd, &h.stages.k, h.k, h.tk, h.width, memory);
    pack_keys::<S>(k, h.tk, h.width, keys);
    for (i, panel) in keys.chunks_exact(width4 * S::COLUMNS).enumerate() {
        let scores = &mut scores[i * S::COLUMNS..][..(h.tq - 1) * stride + S::COLUMNS];
        // SAFETY: `scores` has tq rows of COLUMNS values, `stride` apart.
        unsafe {
            product(simd, q, h.tq, panel, width4, scores.as_mut_ptr(), stride);
        }
    }

    let seen = |i: usize| match h.causal {
        true => i + 1 + (h.tk - h.tq),
        false => h.tk,
    };
    apply_to_rows(simd, &h.stages.scores, scores, stride, seen);
    softmax(simd, scores, stride, seen, h.scale);
    apply_to_rows(simd, &h.stages.weights, scores, stride, seen);
    if h.causal {
        for (i, row) in scores.chunks_exact_mut(stride).enumerate() {
            row[seen(i)..tk4].fill(0.0);
        }
    }

    let weights = StridedRows {
        data: scores,
        stride,
    };
    let v = staged(simd, &h.stages.v, h.v, h.tk, h.width, memory);
    pack_values(simd, v, h.tk, h.width, values);
    for (i, panel) in values.chunks_exact(tk4 * S::COLUMNS).enumerate() {
        let columns = i * S::COLUMNS..h.width.min((i + 1) * S::COLUMNS);
        if columns.len() == S::COLUMNS {
            let out = h.out.wrapping_add(columns.start);
            // SAFETY: `out` has tq rows, `stride` apart, of these columns, which only this head accesses.
            unsafe { product(simd, weights, h.tq, panel, tk4, out, h.stride) };
            continue;
        }
        // SAFETY: `sums` has tq rows of COLUMNS values.
        unsafe {
            product(
                simd,
                weights,
                h.tq,
                panel,
                tk4,
                sums.as_mut_ptr(),
                S::COLUMNS,
            )
        };
        for (i, sums) in sums.chunks_exact(S::COLUMNS).enumerate() {
            // SAFETY: `out` has row i and these columns, which only this head accesses.
            let out = unsafe {
                std::slice::from_raw_parts_mut(
                    h.out.add(i * h.stride + columns.start),
                    columns.len(),
                )
            };
            out.copy_from_slice(&sums[..columns.len()]);
        }
    }
    if !h.stages.out.is_empty() {
        for i in 0..h.tq {
            // SAFETY: `out` has row i, whose `width` values only this head accesses and has written.
            let out = unsafe { std::slice::from_raw_parts_mut(h.out.add(i * h.stride), h.width) };
            pointwise::apply(simd, &h.stages.out, out);
        }
    }
}

/// Applies `steps` to the `seen` values of each row, rounded up to whole registers.
#[inline(always)]
fn apply_to_rows<S: Simd>(
    simd: S,
    steps: &[Pointwise],
    rows: &mut [f32],
    stride: usize,
    seen: impl Fn(usize) -> usize,
) {
    if !steps.is_empty() {
        for (i, row) in rows.chunks_exact_mut(stride).enumerate() {
            pointwise::apply(simd, steps, &mut row[..seen(i).next_multiple_of(S::LANES)]);
        }
    }
}

/// `count` rows of `width` values after `steps`: in place if there are no steps, else in `memory`.
#[inline(always)]
fn staged<'a, S: Simd>(
    simd: S,
    steps: &[Pointwise],
    rows: StridedRows<'a>,
    count: usize,
    width: usize,
    memory: &'a mut [f32],
) -> StridedRows<'a> {
    match steps {
        [] => rows,
        _ => copied(simd, steps, rows, count, width, memory),
    }
}

/// `count` rows of `width` values in `memory`, after `steps`, with zeros up to a multiple of 4 values.
#[inline(always)]
fn copied<'a, S: Simd>(
    simd: S,
    steps: &[Pointwise],
    rows: StridedRows,
    count: usize,
    width: usize,
    memory: &'a mut [f32],
) -> StridedRows<'a> {
    let stride = width.next_multiple_of(4);
    for (i, to) in memory.chunks_exact_mut(stride).take(count).enumerate() {
        let (values, rest) = to.split_at_mut(width);
        values.copy_from_slice(rows.row(i, width));
        pointwise::apply(simd, steps, values);
        rest.fill(0.0);
    }
    StridedRows {
        data: memory,
        stride,
    }
}

/// sums [rows, COLUMNS] = x [rows, depth] · panel [depth, COLUMNS]
///
/// # Safety
/// `sums` has `rows` rows of COLUMNS writable values, `stride` apart.
#[inline(always)]
unsafe fn product<S: Simd>(
    simd: S,
    x: StridedRows,
    rows: usize,
    panel: &[f32],
    depth: usize,
    sums: *mut f32,
    stride: usize,
) {
    let panel = panel[..depth * S::COLUMNS].as_ptr();
    for (first, count) in blocks(rows, S::ROWS) {
        let tile = Tile {
            x: x.data[first * x.stride..][..(count - 1) * x.stride + depth].as_ptr(),
            x_stride: x.stride,
            panel,
            depth,
            sums: sums.wrapping_add(first * stride),
            stride,
            add: false,
            next: panel,
            ahead: 0,
        };
        // SAFETY: the slices are as long as the tile needs, blocks() gives at most ROWS rows, and the rest is the
        // caller's promise.
        unsafe { simd.tile::<true>(count, tile) };
    }
}

/// Packs the tk keys into panels [width4, COLUMNS]: each is the transpose of COLUMNS keys, padded with zeros.
#[inline(always)]
fn pack_keys<S: Simd>(k: StridedRows, tk: usize, width: usize, to: &mut [f32]) {
    const { assert!(S::COLUMNS.is_multiple_of(4)) };
    let width4 = width.next_multiple_of(4);
    for (i, panel) in to.chunks_exact_mut(width4 * S::COLUMNS).enumerate() {
        for j in (0..S::COLUMNS).step_by(4) {
            let first = i * S::COLUMNS + j;
            let squares = panel.chunks_exact_mut(4 * S::COLUMNS);
            if first + 4 <= tk && width == width4 {
                let key = |i| k.row(first + i, width).as_chunks::<4>().0;
                let keys = key(0).iter().zip(key(1)).zip(key(2)).zip(key(3));
                for (square, (((a, b), c), d)) in squares.zip(keys) {
                    let columns = transposed([*a, *b, *c, *d]);
                    for (to, column) in square.chunks_exact_mut(S::COLUMNS).zip(columns) {
                        to[j..][..4].copy_from_slice(&column);
                    }
                }
                continue;
            }
            let key = |i| match first + i < tk {
                true => k.row(first + i, width),
                false => &[],
            };
            let [a, b, c, d] = [key(0), key(1), key(2), key(3)];
            for (p, square) in squares.enumerate() {
                let columns = transposed([quad(a, p), quad(b, p), quad(c, p), quad(d, p)]);
                for (to, column) in square.chunks_exact_mut(S::COLUMNS).zip(columns) {
                    to[j..][..4].copy_from_slice(&column);
                }
            }
        }
    }
}

/// The values 4 p .. 4 p + 4 of `values`, padded with zeros.
#[inline(always)]
fn quad(values: &[f32], p: usize) -> [f32; 4] {
    let (quads, rest) = values.as_chunks();
    match quads.get(p) {
        Some(quad) => *quad,
        None => {
            let mut quad = [0.0; 4];
            if p == quads.len() {
                quad[..rest.len()].copy_from_slice(rest);
            }
            quad
        }
    }
}

/// Packs the tk rows of v into panels [tk4, COLUMNS] of COLUMNS columns each, padded with zeros.
#[inline(always)]
fn pack_values<S: Simd>(simd: S, v: StridedRows, tk: usize, width: usize, to: &mut [f32]) {
    let tk4 = tk.next_multiple_of(4);
    for (i, panel) in to.chunks_exact_mut(tk4 * S::COLUMNS).enumerate() {
        let from = i * S::COLUMNS..width.min((i + 1) * S::COLUMNS);
        let (values, rest) = panel.split_at_mut(tk * S::COLUMNS);
        rest.fill(0.0);
        for (p, to) in values.chunks_exact_mut(S::COLUMNS).enumerate() {
            let value = &v.row(p, width)[from.clone()];
            if value.len() == S::COLUMNS {
                for j in (0..S::COLUMNS).step_by(S::LANES) {
                    // SAFETY: both have COLUMNS values, whole registers.
                    unsafe { simd.store(simd.load(value.as_ptr().add(j)), to.as_mut_ptr().add(j)) };
                }
            } else {
                let (to, rest) = to.split_at_mut(value.len());
                to.copy_from_slice(value);
                rest.fill(0.0);
            }
        }
    }
}
