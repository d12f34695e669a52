//! Linear layers: weights packed once, multiplied by a few rows; here in f32.

pub(crate) mod layer;
pub(crate) mod pack;
pub(crate) mod tile;

use std::ops::Range;

use crate::dispatch::{FloatKernels, GroupRows, Kernels, LinearGroup, Order, Residual};
use crate::scratch::Aligned;
use crate::select::kernels;
use crate::threads::{self, Shared};
use crate::types::{Nonlinearity, StridedRows};
use crate::{reference, scratch};
use layer::{MOST_ROWS, Packed, Product, Weights, for_each_group};
use pack::{blocks, pack_panel, pack_rows};
use pinhole_model::Activation;

/// A linear layer in f32: y = activation(x W + b) + residual.
pub type PackedLinear = Packed<F32>;

/// f32 weights as the kernels read them.
#[derive(Clone)]
pub struct F32(Form);

#[derive(Clone)]
enum Form {
    /// weight [k, n], bias [n]
    Reference {
        weight: Vec<f32>,
        bias: Vec<f32>,
    },
    Panels(Panels),
}

/// Weights [k, n] and biases: [panel][bias, then k rounded up to 4 rows][columns of a tile], padded with zeros.
#[derive(Clone)]
pub(crate) struct Panels {
    k: usize,
    n: usize,
    vector: &'static dyn FloatKernels,
    panels: Aligned<f32>,
}

/// Rows of k values that are multiplied by [`Panels`].
pub(crate) trait Rows: Sync {
    /// Packs columns of the `rows`, as [`pack_rows`]; `columns` starts at a multiple of 4.
    fn pack(&self, rows: Range<usize>, columns: Range<usize>, most: usize, to: &mut [f32]);

    /// From row `first` on, if they are in memory as they are.
    fn in_place(&self, _first: usize) -> Option<StridedRows<'_>> {
        None
    }
}

impl Rows for StridedRows<'_> {
    fn pack(&self, rows: Range<usize>, columns: Range<usize>, most: usize, to: &mut [f32]) {
        let from = StridedRows {
            data: &self.data[rows.start * self.stride..],
            ..*self
        };
        pack_rows(from, rows.len(), columns, most, to);
    }

    fn in_place(&self, first: usize) -> Option<StridedRows<'_>> {
        Some(StridedRows {
            data: &self.data[first * self.stride..],
            ..*self
        })
    }
}

/// Most bytes of weights that several blocks of rows share in the cache: then threads compute blocks, each all columns.
const MOST_SHARED: usize = 1 << 20;

/// Fewest rows of such a block.
const FEWEST_ROWS: usize = 48;

/// Most panels for which rows are not packed: packing costs as much for one as for many.
const MOST_PANELS_IN_PLACE: usize = 24;

/// Bytes of a way of the first-level cache: rows this far apart push each other out.
const WAY: usize = 4096;

impl PackedLinear {
    /// From weights [n, k], row-major, as in PyTorch's `nn.Linear`.
    pub fn from_out_in(weight: &[f32], n: usize, k: usize, bias: Option<&[f32]>) -> Self {
        assert_eq!(Some(weight.len()), n.checked_mul(k), "weight: [{n}, {k}]");
        Self::pack(kernels(), k, n, bias, |p, j| weight[j * k + p])
    }

    /// From weights [k, n], row-major, as in ONNX's MatMul.
    pub fn from_in_out(weight: &[f32], k: usize, n: usize, bias: Option<&[f32]>) -> Self {
        assert_eq!(Some(weight.len()), n.checked_mul(k), "weight: [{k}, {n}]");
        Self::pack(kernels(), k, n, bias, |p, j| weight[p * n + j])
    }

    /// `weight(p, j)` is the weight from input p to output j.
    pub(crate) fn pack(
        kernels: Kernels,
        k: usize,
        n: usize,
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        assert!(bias.is_none_or(|b| b.len() == n), "bias: [{n}]");
        let form = match kernels.float {
            None => Form::Reference {
                weight: (0..k * n).map(|i| weight(i / n, i % n)).collect(),
                bias: bias.map_or_else(|| vec![0.0; n], <[f32]>::to_vec),
            },
            Some(vector) => Form::Panels(Panels::pack(vector, k, n, bias, weight)),
        };
        let weights = F32(form);
        Packed { k, n, weights }
    }

    /// out [m, n] = activation(x [m, k] W + b) + residual [m, n]
    ///
    /// A row's result does not depend on the other rows: rows computed together or separately are bit-identical.
    pub fn apply(
        &self,
        x: &[f32],
        m: usize,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        self.multiply(x, m, activation, residual, out);
    }
}

impl Weights for F32 {
    const NAME: &'static str = "f32";

    /// [`Panels::apply`] chooses the blocks.
    const MOST_ROWS: usize = usize::MAX;

    type Rows<'a> = &'a [f32];

    fn kernel(&self) -> &'static str {
        match &self.0 {
            Form::Reference { .. } => "scalar",
            Form::Panels(panels) => panels.kernel(),
        }
    }

    fn multiply(&self, x: &[f32], product: &Product, out: &mut [f32]) {
        let &Product {
            rows,
            k,
            n,
            activation,
            residual,
        } = product;
        match &self.0 {
            Form::Reference { weight, bias } => {
                threads::for_each_chunk(threads::count(rows * n * k), out, n, |i, out| {
                    let x = &x[i * k..][..k];
                    let residual = product.residual_row(i);
                    reference::linear(x, 1, weight, k, n, bias, activation, residual, out);
                });
            }
            Form::Panels(panels) => {
                let residual = residual.map(|values| Residual {
                    values,
                    order: Order::AfterActivation,
                });
                let rows = StridedRows { data: x, stride: k };
                let activation = activation.map(Nonlinearity::Mlp);
                panels.apply(&rows, MOST_ROWS, activation, residual, n, out);
            }
        }
    }
}

impl Panels {
    /// `weight(p, j)` is the weight from input p to output j.
    pub(crate) fn pack(
        vector: &'static dyn FloatKernels,
        k: usize,
        n: usize,
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        let columns = vector.shape().columns;
        let size = panel_size(k, columns);
        let mut panels = Aligned::zeros(n.div_ceil(columns) * size);
        threads::for_each_chunk(threads::count(k * n), &mut panels, size, |i, panel| {
            let range = i * columns..n.min((i + 1) * columns);
            pack_panel(k, range, columns, bias, &weight, panel);
        });
        Panels {
            k,
            n,
            vector,
            panels,
        }
    }

    /// The name of the kernels.
    pub(crate) fn kernel(&self) -> &'static str {
        self.vector.name()
    }

    /// The first n values of each row of out [m, width] = activation(x W + b), with the residual [m, width] in its order;
    /// `out` and the residual may end with the last row's n values. At most `most` rows are computed together.
    pub(crate) fn apply(
        &self,
        x: &impl Rows,
        most: usize,
        activation: Option<Nonlinearity>,
        residual: Option<Residual>,
        width: usize,
        out: &mut [f32],
    ) {
        let m = out.len().div_ceil(width.max(1));
        if m == 0 || self.n == 0 {
            return;
        }
        assert!(
            self.n <= width && (m - 1) * width + self.n <= out.len(),
            "out: [{m}, {width}]"
        );
        let threads = threads::count(m * self.n * self.k);
        // Blocks in parallel wait for each other once, the parts of a block twice for every block.
        let split = threads > 1
            && m >= 4 * threads * FEWEST_ROWS
            && self.panels.len() * size_of::<f32>() <= MOST_SHARED;
        let (most, outer, inner) = if split {
            (most.min(m.div_ceil(4 * threads)), threads, 1)
        } else {
            (most, 1, threads)
        };
        // SAFETY: each block writes rows of its own.
        let out = unsafe { Shared::new(out) };
        threads::for_each(outer, m.div_ceil(most), |i| {
            let Some((first, rows)) = blocks(m, most).nth(i) else {
                return;
            };
            let residual = residual.map(|r| Residual {
                values: &r.values[first * width..],
                ..r
            });
            let out = out.pointer().wrapping_add(first * width);
            let rows = first..first + rows;
            // SAFETY: `out` has these rows, which only this block accesses.
            unsafe { self.block(x, rows, inner, activation, residual, width, out) };
        });
    }

    /// Some rows, whose parts are computed by `threads`.
    ///
    /// # Safety
    /// `out` is writable from the first of the rows on, which nothing else accesses meanwhile; rows are `width` apart.
    #[allow(clippy::too_many_arguments)]
    unsafe fn block(
        &self,
        x: &impl Rows,
        range: Range<usize>,
        threads: usize,
        activation: Option<Nonlinearity>,
        residual: Option<Residual>,
        width: usize,
        out: *mut f32,
    ) {
        let (k, n, rows) = (self.k, self.n, range.len());
        let shape = self.vector.shape();
        let depth = k.next_multiple_of(4);
        let size = panel_size(k, shape.columns);
        // SAFETY: each group writes columns of its own.
        let out = unsafe { Shared::at(out) };
        let multiply = |x: GroupRows| {
            for_each_group(threads, n, shape.columns, rows, |columns, sums| {
                let Range { start, end } = columns.panels;
                let group = LinearGroup {
                    x,
                    rows,
                    depth,
                    panels: &self.panels[start * size..end * size],
                    columns: columns.range,
                    activation,
                    residual,
                    width,
                    out: out.pointer(),
                };
                // SAFETY: `out` has these rows, and the groups' columns do not overlap.
                unsafe { self.vector.group(&group, sums) };
            });
        };
        if shape.in_place
            && k == depth
            && n <= MOST_PANELS_IN_PLACE * shape.columns
            && let Some(x) = x.in_place(range.start)
            && !(x.stride * size_of::<f32>()).is_multiple_of(WAY)
        {
            return multiply(GroupRows::InPlace(x));
        }
        scratch::with(rows * depth, |packed| {
            threads::for_each_chunk(threads, packed, rows * shape.depth, |block, packed| {
                let columns = block * shape.depth..k.min((block + 1) * shape.depth);
                x.pack(range.clone(), columns, shape.rows, packed);
            });
            multiply(GroupRows::Packed(packed));
        });
    }
}

/// Values of a panel: its bias, then k rounded up to a multiple of 4 rows.
fn panel_size(k: usize, columns: usize) -> usize {
    (1 + k.next_multiple_of(4)) * columns
}
