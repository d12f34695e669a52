//! Attention in 8-bit integers: both products are computed as those of quantised linear layers, with the keys and the values
//! of a head in the place of the weights.

use crate::dispatch::{FloatKernels, Int8Group, Int8Kernels, Kernels, Target};
use crate::int8::pack::{self, Layout, Value};
use crate::linear::pack::{Weight, blocks};
use crate::norm::{masked, weight};
use crate::reference;
use crate::scratch;
use crate::simd::Simd;
use crate::threads::{self, Shared};
use crate::types::{CentredRows, StridedRows};

/// Most bytes of the scores that are computed at a time, so that they stay in the second-level cache.
const MOST_SCORES: usize = 160 << 10;

/// [`crate::int8_attention`] by the given kernels, with its operands checked.
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
    scale: f32,
    out: &mut [f32],
) {
    let (Some(float), Some(int8)) = (kernels.float, kernels.int8) else {
        return reference::int8_attention(q, tq, k, v, tk, heads, head_width, scale, out);
    };
    if out.is_empty() || tk == 0 {
        return out.fill(0.0);
    }
    // Four products of bytes take as long as one in f32.
    let threads = threads::count(2 * heads * tq * tk * head_width / 4);
    // SAFETY: each head writes columns of its own.
    let out = unsafe { Shared::new(out) };
    threads::for_each(threads, heads, |head| {
        let head = Head {
            float,
            int8,
            q: q.starting_at(head * head_width),
            tq,
            k: k.starting_at(head * head_width),
            v: v.starting_at(head * head_width),
            tk,
            width: head_width,
            scale,
            out: out.pointer().wrapping_add(head * head_width),
            stride: heads * head_width,
        };
        // SAFETY: `out` has tq rows of heads * head_width values, and the heads' columns do not overlap.
        unsafe { head.run() };
    });
}

/// A head's operands: rows of `width` values.
struct Head<'a> {
    float: &'static dyn FloatKernels,
    int8: &'static dyn Int8Kernels,
    q: StridedRows<'a>,
    tq: usize,
    k: StridedRows<'a>,
    v: StridedRows<'a>,
    tk: usize,
    width: usize,
    scale: f32,
    /// tq rows of `width` values, `stride` apart.
    out: *mut f32,
    stride: usize,
}

impl Head<'_> {
    /// # Safety
    /// `out` has the rows that its documentation states, which nothing else accesses meanwhile.
    unsafe fn run(&self) {
        let layout = self.int8.layout();
        // The scores have whole panels of columns.
        let columns = self.tk.next_multiple_of(layout.columns);
        let most = MOST_SCORES / size_of::<f32>() / columns;
        let most = (most - most % layout.rows).max(layout.rows).min(self.tq);
        let keys = columns / layout.columns * layout.panel_size(self.width);
        let values = self.width.div_ceil(layout.columns) * layout.panel_size(self.tk);
        scratch::with(keys + values, |panels: &mut [u8]| {
            panels.fill(0);
            let (keys, values) = panels.split_at_mut(keys);
            self.pack(layout, keys, values);
            let sums = most * columns.max(self.width.next_multiple_of(layout.columns));
            scratch::with(sums, |sums: &mut [i32]| {
                scratch::with(most * (columns + 1), |scores: &mut [f32]| {
                    let (scores, scales) = scores.split_at_mut(most * columns);
                    for (first, rows) in blocks(self.tq, most) {
                        let scales = &mut scales[..rows];
                        self.score(layout, first, keys, scales, sums, scores, columns);
                        // SAFETY: the caller's promise.
                        unsafe { self.mix(layout, first, values, scales, sums, scores, columns) };
                    }
                });
            });
        });
    }

    /// Packs the keys as weights [tk outputs, width inputs] and the values as [tk inputs, width outputs], both less their means,
    /// which are the bias of the latter. The panels must be zeroed.
    fn pack(&self, layout: Layout, keys: &mut [u8], values: &mut [u8]) {
        let &Head {
            float, tk, width, ..
        } = self;
        let columns = layout.columns;
        scratch::with(3 * width + tk, |memory: &mut [f32]| {
            let (means, memory) = memory.split_at_mut(width);
            let (factors, memory) = memory.split_at_mut(width);
            let (value_scales, key_scales) = memory.split_at_mut(width);
            scratch::with(tk * width + SPARE, |quantized: &mut [i8]| {
                float.column_means(self.k, tk, means);
                let x = self.k.less(tk, means);
                float.quantize_rows(x, quantized, key_scales);
                let weight = Weight::OutIn(&quantized[..tk * width]);
                for (i, panel) in keys.chunks_exact_mut(layout.panel_size(width)).enumerate() {
                    let columns = i * columns..tk.min((i + 1) * columns);
                    pack::pack_panel(layout, weight, width, tk, columns, key_scales, None, panel);
                }
                float.column_means(self.v, tk, means);
                let x = self.v.less(tk, means);
                float.quantize_columns(x, value_scales, factors, quantized);
                let weight = Weight::InOut(&quantized[..tk * width]);
                let bias = Some(&*means);
                for (i, panel) in values.chunks_exact_mut(layout.panel_size(tk)).enumerate() {
                    let columns = i * columns..width.min((i + 1) * columns);
                    pack::pack_panel(
                        layout,
                        weight,
                        tk,
                        width,
                        columns,
                        value_scales,
                        bias,
                        panel,
                    );
                }
            });
        });
    }

    /// scores [scales.len(), columns] = the products of the queries from `first` on and the keys; `scales` becomes theirs.
    #[allow(clippy::too_many_arguments)]
    fn score(
        &self,
        layout: Layout,
        first: usize,
        keys: &[u8],
        scales: &mut [f32],
        sums: &mut [i32],
        scores: &mut [f32],
        columns: usize,
    ) {
        let width = self.width;
        scratch::with(width, |zeros: &mut [f32]| {
            zeros.fill(0.0);
            let queries = self.q.after_rows(first).less(scales.len(), zeros);
            scratch::with(scales.len() * width + SPARE, |quantized: &mut [i8]| {
                (self.float).quantize_rows(queries, quantized, scales);
                as_read(layout, quantized, scales.len(), width, |x, in_place| {
                    let group = Int8Group {
                        x,
                        in_place,
                        rows: scales.len(),
                        scales,
                        steps: width.div_ceil(layout.step),
                        shifted: layout.shifted(false),
                        offsets: None,
                        panels: keys,
                        columns: 0..columns,
                        activation: None,
                        residual: None,
                        width: columns,
                        out: Target::F32(scores.as_mut_ptr()),
                    };
                    // SAFETY: `scores` has rows of `columns` values.
                    unsafe { self.int8.group(&group, sums) };
                });
            });
        });
    }

    /// out = the values mixed by the softmax of the scores [scales.len(), columns], of the queries from `first` on.
    ///
    /// # Safety
    /// As [`Self::run`].
    #[allow(clippy::too_many_arguments)]
    unsafe fn mix(
        &self,
        layout: Layout,
        first: usize,
        values: &[u8],
        scales: &mut [f32],
        sums: &mut [i32],
        scores: &[f32],
        columns: usize,
    ) {
        let tk = self.tk;
        scratch::with(scales.len() * tk + SPARE, |shares: &mut [u8]| {
            (self.float).shares(scores, columns, tk, self.scale, shares, scales);
            as_read(layout, shares, scales.len(), tk, |x, in_place| {
                let group = Int8Group {
                    x,
                    in_place,
                    rows: scales.len(),
                    scales,
                    steps: tk.div_ceil(layout.step),
                    shifted: layout.shifted(true),
                    offsets: None,
                    panels: values,
                    columns: 0..self.width,
                    activation: None,
                    residual: None,
                    width: self.stride,
                    out: Target::F32(self.out.wrapping_add(first * self.stride)),
                };
                // SAFETY: the caller's promise.
                unsafe { self.int8.group(&group, sums) };
            });
        });
    }
}

/// Runs `f` on the bytes of `rows` rows of x as the kernels read them, packed or in place. x is [rows, k] and [`SPARE`] values,
/// and is changed.
fn as_read<T: Value>(
    layout: Layout,
    x: &mut [T],
    rows: usize,
    k: usize,
    f: impl FnOnce(&[u8], Option<usize>),
) {
    if layout.whole_rows {
        // What follows a row is multiplied by the zeros of the panels' padding.
        return f(T::operands(x, layout.shifted(T::PIXELS)), Some(k));
    }
    let size = layout.block_size(rows, k);
    scratch::with(layout.rows_size(rows, k), |to: &mut [u8]| {
        for ((first, count), to) in blocks(rows, layout.rows).zip(to.chunks_exact_mut(size)) {
            pack::pack_rows(layout, &x[first * k..][..count * k], k, count, to);
        }
        f(to, None);
    });
}

/// Values that may follow rows of shares and of quantised queries, keys and values: as many may be written and read.
pub(crate) const SPARE: usize = 64;

/// Softmax of scale · scores in each row's first `seen` values, in steps of 1/255 of the row's largest: out = round(255 e),
/// half to even, with e = exp(scale · (score - largest score)). Of each row `scales` becomes 1 / (255 · the sum of e), NaN if a
/// score is NaN. out is [rows, seen], and [`SPARE`] bytes.
///
/// The scores of a row are `stride` apart; the values from `seen` up to a whole number of registers must be finite.
#[inline(always)]
pub(crate) fn shares<S: Simd>(
    simd: S,
    scores: &[f32],
    stride: usize,
    seen: usize,
    scale: f32,
    out: &mut [u8],
    scales: &mut [f32],
) {
    let line = 4 * S::LANES;
    let rows = scales.len();
    assert!(
        stride >= seen.next_multiple_of(S::LANES)
            && scores.len() >= rows * stride
            && out.len() >= rows * seen + line
    );
    // In powers of two: e^(scale · x) = 2^(scale · log2 e · x).
    let factor = simd.splat(scale * std::f32::consts::LOG2_E);
    let steps = simd.splat(255.0);
    let lines = seen / line;
    let (whole, rest) = (seen / S::LANES, seen % S::LANES);
    for (i, to) in scales.iter_mut().enumerate() {
        let row = scores[i * stride..][..stride].as_ptr();
        // Those behind the last line.
        let mut last = [simd.splat(f32::NEG_INFINITY); 4];
        for (r, v) in (4 * lines..).zip(&mut last) {
            if r < whole {
                // SAFETY: the row has whole registers up to `seen`.
                *v = simd.mul(unsafe { register(simd, row, r) }, factor);
            } else if r == whole && rest > 0 {
                // SAFETY: as above.
                *v = masked(simd, unsafe { register(simd, row, r) }, rest, factor);
            }
        }
        let mut top = last;
        for r in (0..4 * lines).step_by(4) {
            for (j, top) in top.iter_mut().enumerate() {
                // SAFETY: as above.
                *top = simd.max(
                    *top,
                    simd.mul(unsafe { register(simd, row, r + j) }, factor),
                );
            }
        }
        let [a, b, c, d] = top;
        let top = simd.splat(simd.largest(simd.max(simd.max(a, b), simd.max(c, d))));
        let mut sums = [simd.splat(0.0); 4];
        let row_out = &mut out[i * seen..];
        for r in (0..seen.div_ceil(S::LANES)).step_by(4) {
            let mut y = last;
            if r < 4 * lines {
                for (j, y) in y.iter_mut().enumerate() {
                    // SAFETY: as above.
                    *y = simd.mul(unsafe { register(simd, row, r + j) }, factor);
                }
            }
            for (y, sum) in y.iter_mut().zip(&mut sums) {
                let e = weight(simd, *y, top);
                *sum = simd.add(*sum, e);
                *y = simd.mul(steps, e);
            }
            // SAFETY: `out` has a line behind the last row's values; the next row overwrites what is written behind this one's.
            unsafe { simd.store_u8(y, row_out[r * S::LANES..].as_mut_ptr()) };
        }
        let [a, b, c, d] = sums;
        let sum = simd.sum(simd.add(simd.add(a, b), simd.add(c, d)));
        *to = 1.0 / (255.0 * sum);
    }
}

/// Register `r` of a row.
///
/// # Safety
/// The row has it.
#[inline(always)]
unsafe fn register<S: Simd>(simd: S, row: *const f32, r: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { simd.load(row.add(r * S::LANES)) }
}

/// Calls `$by::<S, N>` for lines of N registers, as many as fit `$width` up to 4, or `$narrow` if not even one does.
macro_rules! by_line {
    ($width:expr, $narrow:expr, $by:ident($($argument:expr),+)) => {
        match $width / S::LANES {
            0 => $narrow,
            1 => $by::<S, 1>($($argument),+),
            2 => $by::<S, 2>($($argument),+),
            3 => $by::<S, 3>($($argument),+),
            _ => $by::<S, 4>($($argument),+),
        }
    };
}

/// means [width] = those of the columns of `count` rows.
#[inline(always)]
pub(crate) fn column_means<S: Simd>(simd: S, rows: StridedRows, count: usize, means: &mut [f32]) {
    by_line!(
        means.len(),
        reference::column_means(rows, count, means),
        column_means_by(simd, rows, count, means)
    );
}

#[inline(always)]
fn column_means_by<S: Simd, const N: usize>(
    simd: S,
    rows: StridedRows,
    count: usize,
    means: &mut [f32],
) {
    let (width, line) = (means.len(), N * S::LANES);
    let divisor = simd.splat(count as f32);
    for at in (0..width).step_by(line) {
        // The last line may overlap the one before.
        let at = at.min(width - line);
        let mut sums = [simd.splat(0.0); N];
        for i in 0..count {
            let row = rows.row(i, width)[at..][..line].as_ptr();
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a line has N registers.
                *sum = simd.add(*sum, unsafe { register(simd, row, j) });
            }
        }
        let means = means[at..][..line].as_mut_ptr();
        for (j, &sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { simd.store(simd.div(sum, divisor), means.add(j * S::LANES)) };
        }
    }
}

/// The line of row `i` from column `at` on.
#[inline(always)]
fn line_of<S: Simd, const N: usize>(simd: S, x: CentredRows, i: usize, at: usize) -> [S::V; N] {
    let line = N * S::LANES;
    let row = x.rows.row(i, x.means.len())[at..][..line].as_ptr();
    let means = x.means[at..][..line].as_ptr();
    let mut y = [simd.splat(0.0); N];
    for (j, y) in y.iter_mut().enumerate() {
        // SAFETY: a line has N registers.
        *y = unsafe { simd.sub(register(simd, row, j), register(simd, means, j)) };
    }
    y
}

/// Rounds a line to s8 from the start of `to` on, and writes zeros behind it, 4 registers' values in all.
#[inline(always)]
fn store_line<S: Simd, const N: usize>(simd: S, line: [S::V; N], to: &mut [i8]) {
    let mut y = [simd.splat(0.0); 4];
    y[..N].copy_from_slice(&line);
    // SAFETY: the slice has 4 registers' values.
    unsafe { simd.store_s8(y, to[..4 * S::LANES].as_mut_ptr()) };
}

/// Quantises x to s8, each row as [`reference::quantize_row`] does. scales is [count]; out is [count, width] and [`SPARE`] values.
#[inline(always)]
pub(crate) fn quantize_rows<S: Simd>(simd: S, x: CentredRows, out: &mut [i8], scales: &mut [f32]) {
    by_line!(
        x.means.len(),
        reference::quantize_rows_centred(x, out, scales),
        quantize_rows_by(simd, x, out, scales)
    );
}

#[inline(always)]
fn quantize_rows_by<S: Simd, const N: usize>(
    simd: S,
    x: CentredRows,
    out: &mut [i8],
    scales: &mut [f32],
) {
    let (width, line) = (x.means.len(), N * S::LANES);
    for (i, to) in scales[..x.count].iter_mut().enumerate() {
        // What is written behind a row is overwritten by the next one.
        let out = &mut out[i * width..];
        let mut largest = [simd.splat(0.0); N];
        for at in (0..width).step_by(line) {
            let y = line_of::<S, N>(simd, x, i, at.min(width - line));
            for (largest, y) in largest.iter_mut().zip(y) {
                *largest = simd.larger_magnitude(*largest, y);
            }
        }
        let mut all = largest[0];
        for &largest in &largest[1..] {
            all = simd.larger_magnitude(all, largest);
        }
        let (scale, factor) = reference::row_scale(simd.largest_magnitude(all));
        *to = scale;
        if scale.is_nan() {
            out[..width].fill(0);
            continue;
        }
        let factor = simd.splat(factor);
        for at in (0..width).step_by(line) {
            let at = at.min(width - line);
            let mut y = line_of::<S, N>(simd, x, i, at);
            for y in &mut y {
                *y = simd.mul(*y, factor);
            }
            // No value exceeds 127 by more than two roundings.
            store_line(simd, y, &mut out[at..]);
        }
    }
}

/// Quantises x to s8, each column as [`reference::quantize_row`] does a row. scales is [width], as is `factors`, which is working
/// memory; out is [count, width] and [`SPARE`] values.
#[inline(always)]
pub(crate) fn quantize_columns<S: Simd>(
    simd: S,
    x: CentredRows,
    scales: &mut [f32],
    factors: &mut [f32],
    out: &mut [i8],
) {
    by_line!(
        x.means.len(),
        reference::quantize_columns_centred(x, scales, out),
        quantize_columns_by(simd, x, scales, factors, out)
    );
}

#[inline(always)]
fn quantize_columns_by<S: Simd, const N: usize>(
    simd: S,
    x: CentredRows,
    scales: &mut [f32],
    factors: &mut [f32],
    out: &mut [i8],
) {
    let (width, line) = (x.means.len(), N * S::LANES);
    for at in (0..width).step_by(line) {
        let at = at.min(width - line);
        let mut largest = [simd.splat(0.0); N];
        for i in 0..x.count {
            let y = line_of::<S, N>(simd, x, i, at);
            for (largest, y) in largest.iter_mut().zip(y) {
                *largest = simd.larger_magnitude(*largest, y);
            }
        }
        let scales = scales[at..][..line].as_mut_ptr();
        for (j, &largest) in largest.iter().enumerate() {
            // SAFETY: a line has N registers.
            unsafe { simd.store(largest, scales.add(j * S::LANES)) };
        }
    }
    for (scale, factor) in scales.iter_mut().zip(&mut *factors) {
        (*scale, *factor) = reference::row_scale(scale.to_bits());
    }
    for i in 0..x.count {
        let out = &mut out[i * width..];
        for at in (0..width).step_by(line) {
            let at = at.min(width - line);
            let mut y = line_of::<S, N>(simd, x, i, at);
            let factors = factors[at..][..line].as_ptr();
            for (j, y) in y.iter_mut().enumerate() {
                // SAFETY: a line has N registers.
                *y = simd.mul(*y, unsafe { register(simd, factors, j) });
            }
            // No finite value exceeds 127 by more than two roundings, and of a column with others the result is NaN whatever is
            // stored.
            store_line(simd, y, &mut out[at..]);
        }
    }
}
