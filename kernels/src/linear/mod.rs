//! Linear layers in f32: weights packed once, multiplied by a few rows.

pub(crate) mod pack;
pub(crate) mod tile;

use std::fmt;

use crate::dispatch::{FloatKernels, Kernels, LinearGroup};
use crate::scratch::Aligned;
use crate::select::kernels;
use crate::threads::{self, Shared};
use crate::types::StridedRows;
use crate::{reference, scratch};
use pack::{blocks, pack_panel, pack_rows};
use pinhole_model::Activation;

/// A linear layer, packed for the chosen variant: y = activation(x W + b) + residual.
#[derive(Clone)]
pub struct PackedLinear {
    k: usize,
    n: usize,
    packed: Packed,
}

/// The weights as the kernels read them.
#[derive(Clone)]
enum Packed {
    /// weight [k, n], bias [n]
    Reference { weight: Vec<f32>, bias: Vec<f32> },
    /// [panel][bias, then k rounded up to 4 rows][columns of a tile], padded with zeros.
    Panels {
        vector: &'static dyn FloatKernels,
        panels: Aligned<f32>,
    },
}

/// More rows are computed in blocks of this many, so that the packed rows stay in the cache.
pub(crate) const MOST_ROWS: usize = 256;

/// Most bytes of sums that a group keeps between blocks of k.
const MOST_SUMS: usize = 96 << 10;

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
        let packed = match kernels.float {
            None => Packed::Reference {
                weight: (0..k * n).map(|i| weight(i / n, i % n)).collect(),
                bias: bias.map_or_else(|| vec![0.0; n], <[f32]>::to_vec),
            },
            Some(vector) => {
                let columns = vector.shape().columns;
                let size = panel_size(k, columns);
                let mut panels = Aligned::zeros(n.div_ceil(columns) * size);
                threads::for_each_chunk(threads::count(k * n), &mut panels, size, |i, panel| {
                    let range = i * columns..n.min((i + 1) * columns);
                    pack_panel(k, range, columns, bias, &weight, panel);
                });
                Packed::Panels { vector, panels }
            }
        };
        PackedLinear { k, n, packed }
    }

    /// k: values of an input row.
    pub fn inputs(&self) -> usize {
        self.k
    }

    /// n: values of an output row.
    pub fn outputs(&self) -> usize {
        self.n
    }

    /// The name of the kernels that [`Self::apply`] runs.
    pub fn kernel(&self) -> &'static str {
        match &self.packed {
            Packed::Reference { .. } => "scalar",
            Packed::Panels { vector, .. } => vector.name(),
        }
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
        let (k, n) = (self.k, self.n);
        assert_eq!(Some(x.len()), m.checked_mul(k), "x: [{m}, {k}]");
        assert_eq!(Some(out.len()), m.checked_mul(n), "out: [{m}, {n}]");
        assert!(
            residual.is_none_or(|r| r.len() == m * n),
            "residual: [{m}, {n}]"
        );
        if out.is_empty() {
            return;
        }
        match &self.packed {
            Packed::Reference { weight, bias } => {
                threads::for_each_chunk(threads::count(m * n * k), out, n, |i, out| {
                    let x = &x[i * k..][..k];
                    let residual = residual.map(|r| &r[i * n..][..n]);
                    reference::linear(x, 1, weight, k, n, bias, activation, residual, out);
                });
            }
            Packed::Panels { vector, panels } => {
                for (first, rows) in blocks(m, MOST_ROWS) {
                    let x = &x[first * k..][..rows * k];
                    let residual = residual.map(|r| &r[first * n..][..rows * n]);
                    let out = &mut out[first * n..][..rows * n];
                    self.apply_panels(*vector, panels, x, rows, activation, residual, out);
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn apply_panels(
        &self,
        vector: &dyn FloatKernels,
        panels: &[f32],
        x: &[f32],
        rows: usize,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (k, n) = (self.k, self.n);
        let shape = vector.shape();
        let depth = k.next_multiple_of(4);
        let size = panel_size(k, shape.columns);
        let threads = threads::count(rows * n * k);
        let group = group_size(
            n.div_ceil(shape.columns),
            threads,
            rows * shape.columns * size_of::<f32>(),
        );
        // SAFETY: each group writes columns of its own.
        let out = unsafe { Shared::new(out) };
        scratch::with(rows * depth, |packed| {
            threads::for_each_chunk(threads, packed, rows * shape.depth, |block, packed| {
                let columns = block * shape.depth..k.min((block + 1) * shape.depth);
                pack_rows(
                    StridedRows { data: x, stride: k },
                    rows,
                    columns,
                    shape.rows,
                    packed,
                );
            });
            let packed = &*packed;
            let width = group * shape.columns;
            threads::for_each(threads, n.div_ceil(width), |i| {
                let columns = i * width..n.min((i + 1) * width);
                let count = columns.len().div_ceil(shape.columns);
                let group = LinearGroup {
                    x: packed,
                    rows,
                    depth,
                    panels: &panels[i * group * size..][..count * size],
                    columns,
                    activation,
                    residual,
                    width: n,
                    out: out.pointer(),
                };
                scratch::with(count * rows * shape.columns, |sums| {
                    // SAFETY: `out` has rows * n values, and the groups' columns do not overlap.
                    unsafe { vector.group(&group, sums) };
                });
            });
        });
    }
}

/// Values of a panel: its bias, then k rounded up to a multiple of 4 rows.
fn panel_size(k: usize, columns: usize) -> usize {
    (1 + k.next_multiple_of(4)) * columns
}

/// How many of `panels` to compute together: two groups per thread balance the load; their sums, `bytes` per panel, must fit
/// the cache.
pub(crate) fn group_size(panels: usize, threads: usize, bytes: usize) -> usize {
    let most = (MOST_SUMS / bytes).clamp(1, 16);
    let share = if threads == 1 {
        panels
    } else {
        panels.div_ceil(2 * threads)
    };
    share.div_ceil(share.div_ceil(most).max(1)).max(1)
}

impl fmt::Debug for PackedLinear {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (k, n, kernel) = (self.k, self.n, self.kernel());
        write!(f, "PackedLinear({k} -> {n}, {kernel})")
    }
}
