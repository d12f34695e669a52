//! Linear layers: weights packed once, multiplied by a few rows; here in f32.

pub(crate) mod layer;
pub(crate) mod pack;
pub(crate) mod tile;

use crate::dispatch::{FloatKernels, Kernels, LinearGroup};
use crate::scratch::Aligned;
use crate::select::kernels;
use crate::threads::{self, Shared};
use crate::types::StridedRows;
use crate::{reference, scratch};
use layer::{Packed, Product, Weights, for_each_group};
use pack::{pack_panel, pack_rows};
use pinhole_model::Activation;

/// A linear layer in f32: y = activation(x W + b) + residual.
pub type PackedLinear = Packed<F32>;

/// f32 weights as the kernels read them.
#[derive(Clone)]
pub struct F32(Form);

#[derive(Clone)]
enum Form {
    /// weight [k, n], bias [n]
    Reference { weight: Vec<f32>, bias: Vec<f32> },
    /// [panel][bias, then k rounded up to 4 rows][columns of a tile], padded with zeros.
    Panels {
        vector: &'static dyn FloatKernels,
        panels: Aligned<f32>,
    },
}

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
            Some(vector) => {
                let columns = vector.shape().columns;
                let size = panel_size(k, columns);
                let mut panels = Aligned::zeros(n.div_ceil(columns) * size);
                threads::for_each_chunk(threads::count(k * n), &mut panels, size, |i, panel| {
                    let range = i * columns..n.min((i + 1) * columns);
                    pack_panel(k, range, columns, bias, &weight, panel);
                });
                Form::Panels { vector, panels }
            }
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

    type Rows<'a> = &'a [f32];

    fn kernel(&self) -> &'static str {
        match &self.0 {
            Form::Reference { .. } => "scalar",
            Form::Panels { vector, .. } => vector.name(),
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
        let (vector, panels) = match &self.0 {
            Form::Panels { vector, panels } => (*vector, panels),
            Form::Reference { weight, bias } => {
                return threads::for_each_chunk(threads::count(rows * n * k), out, n, |i, out| {
                    let x = &x[i * k..][..k];
                    let residual = product.residual_row(i);
                    reference::linear(x, 1, weight, k, n, bias, activation, residual, out);
                });
            }
        };
        let shape = vector.shape();
        let depth = k.next_multiple_of(4);
        let size = panel_size(k, shape.columns);
        let threads = threads::count(rows * n * k);
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
            for_each_group(threads, n, shape.columns, rows, |columns, sums| {
                let group = LinearGroup {
                    x: packed,
                    rows,
                    depth,
                    panels: &panels[columns.panels.start * size..columns.panels.end * size],
                    columns: columns.range,
                    activation,
                    residual,
                    width: n,
                    out: out.pointer(),
                };
                // SAFETY: `out` has rows * n values, and the groups' columns do not overlap.
                unsafe { vector.group(&group, sums) };
            });
        });
    }
}

/// Values of a panel: its bias, then k rounded up to a multiple of 4 rows.
fn panel_size(k: usize, columns: usize) -> usize {
    (1 + k.next_multiple_of(4)) * columns
}
