//! Packs operands into the order in which the inner loop reads them.

use std::ops::Range;

use crate::types::StridedRows;

/// The weights of k inputs and n outputs, row-major.
#[derive(Clone, Copy)]
pub(crate) enum Weight<'a, T> {
    /// [n, k]
    OutIn(&'a [T]),
    /// [k, n]
    InOut(&'a [T]),
}

impl<'a, T: Copy> Weight<'a, T> {
    pub(crate) fn data(self) -> &'a [T] {
        match self {
            Weight::OutIn(data) | Weight::InOut(data) => data,
        }
    }

    /// The weight from input p to output j.
    pub(crate) fn get(self, p: usize, j: usize, k: usize, n: usize) -> T {
        match self {
            Weight::OutIn(data) => data[j * k + p],
            Weight::InOut(data) => data[p * n + j],
        }
    }

    /// The first weight that is `invalid`, as its output and input.
    pub(crate) fn find(
        self,
        k: usize,
        n: usize,
        invalid: impl Fn(T) -> bool,
    ) -> Option<(usize, usize)> {
        let at = self.data().iter().position(|&w| invalid(w))?;
        Some(match self {
            Weight::OutIn(_) => (at / k, at % k),
            Weight::InOut(_) => (at % n, at / n),
        })
    }
}

/// Splits `rows` into blocks of at most `most` of nearly equal size: (first row, number of rows).
pub(crate) fn blocks(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(most);
    let (each, longer) = (rows / count.max(1), rows % count.max(1));
    (0..count).map(move |i| (i * each + i.min(longer), each + usize::from(i < longer)))
}

/// The same blocks as (number of blocks, rows of each), larger ones first; a number may be 0.
pub(crate) fn heights(rows: usize, most: usize) -> [(usize, usize); 2] {
    let count = rows.div_ceil(most);
    let (each, longer) = (rows / count.max(1), rows % count.max(1));
    [(longer, each + 1), (count - longer, each)]
}

/// Packs the columns `columns` of `rows` rows of x for tiles of at most `most` rows: [block of rows][four columns][row][4],
/// padded with zeros to a multiple of 4 columns.
pub(crate) fn pack_rows(
    x: StridedRows,
    rows: usize,
    columns: Range<usize>,
    most: usize,
    to: &mut [f32],
) {
    let depth = columns.len().next_multiple_of(4);
    for (first, count) in blocks(rows, most) {
        let to = &mut to[first * depth..][..count * depth];
        for i in 0..count {
            let row = &x.row(first + i, columns.end)[columns.start..];
            let (quads, rest) = row.as_chunks::<4>();
            let mut slots = to.as_chunks_mut::<4>().0[i..].iter_mut().step_by(count);
            for (quad, slot) in quads.iter().zip(slots.by_ref()) {
                *slot = *quad;
            }
            if let Some(slot) = slots.next() {
                *slot = [0.0; 4];
                slot[..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// Packs a panel: the bias of its columns, then the weights [depth, panel columns]. `panel` must be zeroed, as padding is
/// not written. `weight(p, j)` is row p, column j of the matrix.
pub(crate) fn pack_panel(
    k: usize,
    columns: Range<usize>,
    panel_columns: usize,
    bias: Option<&[f32]>,
    weight: impl Fn(usize, usize) -> f32,
    panel: &mut [f32],
) {
    let (head, body) = panel.split_at_mut(panel_columns);
    if let Some(bias) = bias {
        head[..columns.len()].copy_from_slice(&bias[columns.clone()]);
    }
    pack_weights(k, columns, panel_columns, weight, body);
}

/// Packs the weights of a panel [at least k, panel columns]; padding is not written.
pub(crate) fn pack_weights<T>(
    k: usize,
    columns: Range<usize>,
    panel_columns: usize,
    weight: impl Fn(usize, usize) -> T,
    panel: &mut [T],
) {
    // In square blocks, so that neither order of the weights misses the cache with every value.
    for first in (0..k).step_by(16) {
        for (j, column) in columns.clone().enumerate() {
            for p in first..k.min(first + 16) {
                panel[p * panel_columns + j] = weight(p, column);
            }
        }
    }
}
