//! Packs operands into the order in which the inner loops read them: [steps of k][rows or columns][values that one
//! instruction sums]; or whole rows.

use std::ops::Range;

use crate::linear::pack::Weight;
use crate::transpose::transposed;

/// The order of the operands of a variant's inner loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Most rows of a tile.
    pub(crate) rows: usize,
    /// A block's rows are padded to a multiple of this.
    pub(crate) rows_multiple: usize,
    /// Columns of a tile and of a panel.
    pub(crate) columns: usize,
    /// Values of k in a step: 2, 4, 8 or 16.
    pub(crate) step: usize,
    /// Whether a block consists of whole rows, for instructions that read a step of a single row.
    pub(crate) whole_rows: bool,
    pub(crate) operand: Operand,
}

/// Most rows of a tile.
pub(crate) const MOST_TILE_ROWS: usize = 12;

/// Most columns of a panel.
pub(crate) const MOST_COLUMNS: usize = 32;

/// The type of the rows' values in the product; the weights are always s8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each instruction set has its own")]
pub(crate) enum Operand {
    /// s8: 128 is subtracted from u8 values.
    Signed,
    /// u8: 128 is added to s8 values.
    Unsigned,
    /// i16: both fit.
    Wide,
}

/// A panel's parameters of the epilogue, one value per column.
#[derive(Clone, Copy)]
pub(crate) struct Header<'a> {
    /// Compensates the 128 that was added to or subtracted from each value of a row.
    pub(crate) corrections: &'a [i32],
    pub(crate) scales: &'a [f32],
    pub(crate) bias: &'a [f32],
}

impl Layout {
    /// Bytes of a panel: its header, then [steps of k][columns][step], in whole cache lines.
    pub(crate) const fn panel_size(&self, k: usize) -> usize {
        self.header_size() + (self.columns * self.depth(k)).next_multiple_of(64)
    }

    pub(crate) const fn header_size(&self) -> usize {
        (3 * size_of::<f32>() * self.columns).next_multiple_of(64)
    }

    /// k rounded up to whole steps.
    const fn depth(&self, k: usize) -> usize {
        k.next_multiple_of(self.step)
    }

    /// Bytes of a step of `rows` rows.
    pub(crate) const fn row_step(&self, rows: usize) -> usize {
        rows.next_multiple_of(self.rows_multiple) * self.step * self.value_size()
    }

    const fn value_size(&self) -> usize {
        match self.operand {
            Operand::Wide => 2,
            Operand::Signed | Operand::Unsigned => 1,
        }
    }

    /// Bytes between the starts of two rows in a block of whole rows of k values.
    pub(crate) const fn row_size(&self, k: usize) -> usize {
        let size = self.depth(k) * self.value_size();
        // At such a distance the rows of a tile would evict each other from the first-level cache.
        if size > 0 && size.is_multiple_of(2048) {
            size + 64
        } else {
            size
        }
    }

    /// Bytes of a block of `rows` rows.
    pub(crate) const fn block_bytes(&self, rows: usize, k: usize) -> usize {
        if self.whole_rows {
            rows * self.row_size(k)
        } else {
            self.row_step(rows) * k.div_ceil(self.step)
        }
    }

    /// Bytes between the starts of two blocks of rows; blocks differ by at most one row, larger ones first.
    pub(crate) fn block_size(&self, rows: usize, k: usize) -> usize {
        let largest = rows.div_ceil(rows.div_ceil(self.rows).max(1));
        self.block_bytes(largest, k).next_multiple_of(64)
    }

    /// Bytes of all blocks of rows.
    pub(crate) fn rows_size(&self, rows: usize, k: usize) -> usize {
        rows.div_ceil(self.rows) * self.block_size(rows, k)
    }

    /// Whether 128 is added to or subtracted from the rows' values.
    pub(crate) fn shifted(&self, pixels: bool) -> bool {
        match self.operand {
            Operand::Signed => pixels,
            Operand::Unsigned => !pixels,
            Operand::Wide => false,
        }
    }

    /// Splits a panel into header and weights.
    #[inline(always)]
    pub(crate) fn split<'a>(&self, panel: &'a [u8]) -> (Header<'a>, &'a [u8]) {
        let (header, weights) = panel.split_at(self.header_size());
        let values = |i: usize| {
            let bytes = &header[i * 4 * self.columns..][..4 * self.columns];
            assert!(bytes.as_ptr().cast::<f32>().is_aligned());
            (bytes.as_ptr(), self.columns)
        };
        let ((corrections, len), (scales, _), (bias, _)) = (values(0), values(1), values(2));
        // SAFETY: each is `len` aligned values of 4 bytes inside the header, and any bytes are a number.
        let header = unsafe {
            Header {
                corrections: std::slice::from_raw_parts(corrections.cast(), len),
                scales: std::slice::from_raw_parts(scales.cast(), len),
                bias: std::slice::from_raw_parts(bias.cast(), len),
            }
        };
        (header, weights)
    }
}

/// A value of a row.
pub(crate) trait Value: Copy + Sync {
    fn byte(self) -> u8;
    fn bytes(values: &[Self; 16]) -> [u8; 16];
    fn wide(self) -> i16;
    const PIXELS: bool;

    /// The bytes of the values, each plus or minus 128 if `shifted`, in place.
    fn operands(values: &mut [Self], shifted: bool) -> &[u8];
}

/// Flips the highest bits: adds 128 to signed bytes, or subtracts it from unsigned ones.
fn shift(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte ^= 0x80);
}

impl Value for i8 {
    fn byte(self) -> u8 {
        self.cast_unsigned()
    }

    fn bytes(values: &[i8; 16]) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (byte, value) in bytes.iter_mut().zip(values) {
            *byte = value.cast_unsigned();
        }
        bytes
    }

    fn wide(self) -> i16 {
        self.into()
    }

    const PIXELS: bool = false;

    fn operands(values: &mut [i8], shifted: bool) -> &[u8] {
        // SAFETY: bytes of either sign have the same size, and any byte is a value of both.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) };
        if shifted {
            shift(bytes);
        }
        bytes
    }
}

impl Value for u8 {
    fn byte(self) -> u8 {
        self
    }

    fn bytes(values: &[u8; 16]) -> [u8; 16] {
        *values
    }

    fn wide(self) -> i16 {
        self.into()
    }

    const PIXELS: bool = true;

    fn operands(values: &mut [u8], shifted: bool) -> &[u8] {
        if shifted {
            shift(values);
        }
        values
    }
}

/// Packs `count` rows of x [count, k] as one block. Rows are padded with zeros; rows of padding are not written, as their
/// sums are not used.
pub(crate) fn pack_rows<T: Value>(layout: Layout, x: &[T], k: usize, count: usize, to: &mut [u8]) {
    let to = &mut to[..layout.block_bytes(count, k)];
    let rows = count.next_multiple_of(layout.rows_multiple);
    // Adding 128 to a signed byte and subtracting it from an unsigned one both flip the highest bit.
    let turn = if layout.shifted(T::PIXELS) { 0x80 } else { 0 };
    // The bytes of a whole step as one number.
    let (t4, t8, t16) = (
        u32::from_ne_bytes([turn; 4]),
        u64::from_ne_bytes([turn; 8]),
        u128::from_ne_bytes([turn; 16]),
    );
    if layout.whole_rows {
        let rows = to.chunks_exact_mut(layout.row_size(k).max(1));
        for (x, to) in x.chunks_exact(k.max(1)).zip(rows) {
            for (to, &x) in to.iter_mut().zip(x) {
                *to = x.byte() ^ turn;
            }
            to[k..].fill(0);
        }
        return;
    }
    let block = Block { x, k, rows, count };
    match (layout.operand, layout.step) {
        (Operand::Wide, 2) => block.pack(to, |v: [T; 2]| {
            let ([a, b], [c, d]) = (v[0].wide().to_ne_bytes(), v[1].wide().to_ne_bytes());
            [a, b, c, d]
        }),
        (_, 4) => {
            let done = block.pack_squares(to, turn);
            block.pack_from(done, to, |v: [T; 4]| {
                (u32::from_ne_bytes(v.map(T::byte)) ^ t4).to_ne_bytes()
            });
        }
        (_, 8) => block.pack(to, |v: [T; 8]| {
            (u64::from_ne_bytes(v.map(T::byte)) ^ t8).to_ne_bytes()
        }),
        (_, 16) => block.pack(to, |v: [T; 16]| {
            (u128::from_ne_bytes(v.map(T::byte)) ^ t16).to_ne_bytes()
        }),
        (operand, step) => unreachable!("{operand:?} in steps of {step}"),
    }
}

/// A row in lines of values, the starts of which are `pitch` values apart.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) pitch: usize,
}

impl Layout {
    /// Whether [`pack_lines`] packs lines of `line` values.
    pub(crate) fn packs_lines(&self, line: usize) -> bool {
        let squares = self.step == 4 && self.rows_multiple.is_multiple_of(4);
        squares && !self.whole_rows && line > 0 && line.is_multiple_of(16)
    }
}

/// [`pack_rows`] of rows that are `count` lines of `line` values each.
pub(crate) fn pack_lines<T: Value>(
    layout: Layout,
    rows: &[Lines<T>],
    count: usize,
    line: usize,
    to: &mut [u8],
) {
    assert!(layout.packs_lines(line));
    let to = &mut to[..layout.block_bytes(rows.len(), count * line)];
    let turn = if layout.shifted(T::PIXELS) { 0x80 } else { 0 };
    let padded = rows.len().next_multiple_of(layout.rows_multiple);
    for first in (0..rows.len()).step_by(4) {
        // The rows of padding repeat the last one.
        let rows = [0, 1, 2, 3].map(|i| rows[(first + i).min(rows.len() - 1)]);
        for (i, to) in to.chunks_exact_mut(line * padded).enumerate() {
            let lines = rows.map(|row| &row.values[i * row.pitch..][..line]);
            pack_squares(lines, padded, first, to, turn);
        }
    }
}

/// Packs four of `rows` rows, from `first` on, in steps of four values, and flips the bits `turn` of each byte: four rows by
/// four steps are a transposition of words. The rows' values are a multiple of 16.
#[inline(always)]
fn pack_squares<T: Value>(x: [&[T]; 4], rows: usize, first: usize, to: &mut [u8], turn: u8) {
    let x = x.map(|row| row.as_chunks::<16>().0);
    let count = x[0].len();
    let step = 4 * rows;
    assert!(x.iter().all(|row| row.len() == count));
    assert!(first + 4 <= rows && to.len() >= 4 * count * step);
    for i in 0..count {
        // Loops, because a closure passed to an array's map() is not always inlined.
        let mut square = [[0; 16]; 4];
        for (to, row) in square.iter_mut().zip(x) {
            // SAFETY: each row has `count` chunks.
            *to = T::bytes(unsafe { row.get_unchecked(i) });
            to.iter_mut().for_each(|byte| *byte ^= turn);
        }
        for (j, column) in transposed(square).into_iter().enumerate() {
            let at = (4 * i + j) * step + 4 * first;
            // SAFETY: there are 4 * count steps of `rows` words, of which these are four.
            unsafe { to.as_mut_ptr().add(at).cast::<[u8; 16]>().write(column) };
        }
    }
}

/// The first `count` of `rows` rows.
struct Block<'a, T> {
    /// [count, k]
    x: &'a [T],
    k: usize,
    rows: usize,
    count: usize,
}

impl<T: Value> Block<'_, T> {
    /// [`pack_squares`] of as many rows as possible; returns their number. Rows of padding repeat the last one.
    fn pack_squares(&self, to: &mut [u8], turn: u8) -> usize {
        let mut first = 0;
        while self.k.is_multiple_of(16) && first < self.count && first + 4 <= self.rows {
            let rows = [0, 1, 2, 3].map(|i| {
                let row = (first + i).min(self.count - 1);
                &self.x[row * self.k..][..self.k]
            });
            pack_squares(rows, self.rows, first, to, turn);
            first += 4;
        }
        first.min(self.count)
    }

    /// Packs STEP values at a time, which `bytes` converts to BYTES.
    #[inline(always)]
    fn pack<const STEP: usize, const BYTES: usize>(
        &self,
        to: &mut [u8],
        bytes: impl Fn([T; STEP]) -> [u8; BYTES],
    ) {
        self.pack_from(0, to, bytes);
    }

    /// [`Self::pack`] of the rows from `first` on.
    #[inline(always)]
    fn pack_from<const STEP: usize, const BYTES: usize>(
        &self,
        first: usize,
        to: &mut [u8],
        bytes: impl Fn([T; STEP]) -> [u8; BYTES],
    ) {
        // Four rows at a time write adjacent memory.
        let fours = self.count - self.count % 4;
        for first in (first..fours).step_by(4) {
            self.pack_some::<4, STEP, BYTES>(first, to, &bytes);
        }
        for first in fours.max(first)..self.count {
            self.pack_some::<1, STEP, BYTES>(first, to, &bytes);
        }
    }

    /// N rows, the first with index `first`.
    #[inline(always)]
    fn pack_some<const N: usize, const STEP: usize, const BYTES: usize>(
        &self,
        first: usize,
        to: &mut [u8],
        bytes: impl Fn([T; STEP]) -> [u8; BYTES],
    ) {
        let x: [&[T]; N] = std::array::from_fn(|i| &self.x[(first + i) * self.k..][..self.k]);
        let whole = self.k / STEP;
        let steps: [&[[T; STEP]]; N] = x.map(|x| &x.as_chunks().0[..whole]);
        let mut to = to.chunks_exact_mut(self.rows * BYTES);
        for (i, to) in to.by_ref().take(whole).enumerate() {
            let to = &mut to[first * BYTES..][..N * BYTES];
            for (to, steps) in to.chunks_exact_mut(BYTES).zip(&steps) {
                to.copy_from_slice(&bytes(steps[i]));
            }
        }
        let Some(to) = to.next() else {
            return;
        };
        for (to, x) in to[first * BYTES..].chunks_exact_mut(BYTES).zip(x) {
            // The weights of the padding are zero, so any value will do.
            let rest = &x[whole * STEP..];
            let mut step = [rest[0]; STEP];
            step[..rest.len()].copy_from_slice(rest);
            to.copy_from_slice(&bytes(step));
        }
    }
}

/// Packs a panel: at most `layout.columns` columns of weights of k inputs and n outputs, with their scales and bias. `panel`
/// must be zeroed, as padding is not written.
#[allow(clippy::too_many_arguments)]
pub(crate) fn pack_panel(
    layout: Layout,
    weight: Weight<i8>,
    k: usize,
    n: usize,
    columns: Range<usize>,
    scales: &[f32],
    bias: Option<&[f32]>,
    panel: &mut [u8],
) {
    let (header, body) = panel.split_at_mut(layout.header_size());
    let mut sums = [0i32; MOST_COLUMNS];
    pack_steps(
        layout,
        weight,
        k,
        n,
        &columns,
        body,
        &mut sums[..columns.len()],
    );
    let header = header.as_chunks_mut::<4>().0;
    for (j, column) in columns.enumerate() {
        let correction = match layout.operand {
            Operand::Signed => 128 * sums[j],
            Operand::Unsigned => -128 * sums[j],
            Operand::Wide => 0,
        };
        header[j] = correction.to_ne_bytes();
        header[layout.columns + j] = scales[column].to_ne_bytes();
        header[2 * layout.columns + j] = bias.map_or(0.0, |b| b[column]).to_ne_bytes();
    }
}

/// Bytes of the narrowest vector register.
const WIDE: usize = 16;

/// Packs the weights of a panel; adds the columns' sums to `sums`.
#[inline(never)]
fn pack_steps(
    layout: Layout,
    weight: Weight<i8>,
    k: usize,
    n: usize,
    columns: &Range<usize>,
    body: &mut [u8],
    sums: &mut [i32],
) {
    match weight {
        // Whole steps of a panel are packed as those of a block of rows.
        Weight::OutIn(weight) if k.is_multiple_of(layout.step) => {
            let x = &weight[columns.start * k..columns.end * k];
            for (sum, row) in sums.iter_mut().zip(x.chunks_exact(k.max(1))) {
                *sum += row.iter().map(|&w| i32::from(w)).sum::<i32>();
            }
            let (rows, count) = (layout.columns, columns.len());
            let block = Block { x, k, rows, count };
            let body = &mut body[..k * rows];
            return match layout.step {
                2 => block.pack(body, |v: [i8; 2]| v.map(i8::byte)),
                4 => {
                    let done = block.pack_squares(body, 0);
                    block.pack_from(done, body, |v: [i8; 4]| v.map(i8::byte));
                }
                8 => block.pack(body, |v: [i8; 8]| v.map(i8::byte)),
                16 => block.pack(body, |v: [i8; 16]| v.map(i8::byte)),
                step => unreachable!("steps of {step}"),
            };
        }
        _ => {}
    }
    match layout.step {
        #[cfg(target_arch = "x86_64")]
        2 | 4 if is_x86_feature_detected!("avx2") => {
            // SAFETY: the processor has AVX2.
            unsafe { pack_steps_avx2(layout, weight, k, n, columns, body, sums) }
        }
        2 => pack_weight::<2>(layout, weight, k, n, columns, body, sums),
        4 => pack_weight::<4>(layout, weight, k, n, columns, body, sums),
        8 => pack_weight::<8>(layout, weight, k, n, columns, body, sums),
        16 => pack_weight::<16>(layout, weight, k, n, columns, body, sums),
        step => unreachable!("steps of {step}"),
    }
}

/// [`pack_steps`] for steps of 2 or 4, compiled for wider vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn pack_steps_avx2(
    layout: Layout,
    weight: Weight<i8>,
    k: usize,
    n: usize,
    columns: &Range<usize>,
    body: &mut [u8],
    sums: &mut [i32],
) {
    match layout.step {
        2 => pack_weight::<2>(layout, weight, k, n, columns, body, sums),
        _ => pack_weight::<4>(layout, weight, k, n, columns, body, sums),
    }
}

/// [`pack_steps`] for steps of STEP.
#[inline(always)]
fn pack_weight<const STEP: usize>(
    layout: Layout,
    weight: Weight<i8>,
    k: usize,
    n: usize,
    columns: &Range<usize>,
    body: &mut [u8],
    sums: &mut [i32],
) {
    let steps = body.chunks_exact_mut(layout.columns * STEP);
    for (i, to) in steps.take(k.div_ceil(STEP)).enumerate() {
        let rows = i * STEP..k.min((i + 1) * STEP);
        let slots = to.as_chunks_mut::<STEP>().0;
        match weight {
            // WIDE columns at a time.
            Weight::InOut(weight) if rows.len() == STEP && columns.len().is_multiple_of(WIDE) => {
                let rows: [&[[i8; WIDE]]; STEP] = std::array::from_fn(|r| {
                    let row = &weight[(rows.start + r) * n..][columns.clone()];
                    row.as_chunks().0
                });
                let slots = slots.as_chunks_mut::<WIDE>().0.iter_mut();
                let sums = sums.as_chunks_mut::<WIDE>().0;
                for (i, (slots, sums)) in slots.zip(sums).enumerate() {
                    let rows = rows.map(|row| row[i]);
                    for (j, slot) in slots.iter_mut().enumerate() {
                        for (to, row) in slot.iter_mut().zip(&rows) {
                            *to = row[j].cast_unsigned();
                        }
                    }
                    for (j, sum) in sums.iter_mut().enumerate() {
                        // At most 16 values of at most 127 fit 16 bits.
                        *sum += i32::from(rows.iter().map(|row| i16::from(row[j])).sum::<i16>());
                    }
                }
            }
            Weight::InOut(weight) if rows.len() == STEP => {
                let rows: [&[i8]; STEP] =
                    std::array::from_fn(|r| &weight[(rows.start + r) * n..][columns.clone()]);
                for (j, (slot, sum)) in slots.iter_mut().zip(&mut *sums).enumerate() {
                    for (to, row) in slot.iter_mut().zip(rows) {
                        *to = row[j].cast_unsigned();
                        *sum += i32::from(row[j]);
                    }
                }
            }
            _ => {
                for ((slot, sum), j) in slots.iter_mut().zip(&mut *sums).zip(columns.clone()) {
                    for (to, p) in slot.iter_mut().zip(rows.clone()) {
                        let value = weight.get(p, j, k, n);
                        *to = value.cast_unsigned();
                        *sum += i32::from(value);
                    }
                }
            }
        }
    }
}
