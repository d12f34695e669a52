//! Operands in the order in which the inner loop reads them.

use crate::Rows;
use std::ops::Range;

/// `rows` in blocks of at most `most`, as equal as can be: (first row, number of rows).
pub(crate) fn blocks(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(most);
    let (each, longer) = (rows / count.max(1), rows % count.max(1));
    (0..count).map(move |i| (i * each + i.min(longer), each + usize::from(i < longer)))
}

/// The same blocks as (number of blocks, their rows), one after the other; the number may be 0, and is if the rows are.
pub(crate) fn heights(rows: usize, most: usize) -> [(usize, usize); 2] {
    let count = rows.div_ceil(most);
    let (each, longer) = (rows / count.max(1), rows % count.max(1));
    [(longer, each + 1), (count - longer, each)]
}

/// Packs the columns `columns` of `rows` rows of x for tiles of at most `most` rows: block by block of rows,
/// in a block by steps of four columns, in a step one quad a row. Columns beyond the last are zero, up to a
/// multiple of 4.
pub(crate) fn pack_rows(x: Rows, rows: usize, columns: Range<usize>, most: usize, to: &mut [f32]) {
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

/// One panel: the bias of its columns, then the weights [depth, panel columns]; `panel` comes zeroed, and
/// stays so beyond the last column and the last row. `weight(p, j)` is row p, column j of the matrix.
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

/// The weights of a panel [k, panel columns] or more rows; what has no weight is left as it is.
pub(crate) fn pack_weights<T>(
    k: usize,
    columns: Range<usize>,
    panel_columns: usize,
    weight: impl Fn(usize, usize) -> T,
    panel: &mut [T],
) {
    // In square blocks, so that neither order of the weights misses the cache at every value.
    for first in (0..k).step_by(16) {
        for (j, column) in columns.clone().enumerate() {
            for p in first..k.min(first + 16) {
                panel[p * panel_columns + j] = weight(p, column);
            }
        }
    }
}
