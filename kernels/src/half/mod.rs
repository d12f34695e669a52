//! Linear layers in f16: packed f16 weights, rows converted to f16, sums of up to 64 products in f16, all else in f32.

mod emulated;

use std::ops::Range;

use crate::activation::activate;
use crate::dispatch::{F16Group, F16Kernels, Kernels, Shape};
use crate::linear::layer::{Packed, Product, Weights, for_each_group};
use crate::linear::pack::{Weight, blocks, pack_weights};
use crate::reference::{self, F16_BLOCK};
use crate::scratch::{self, Aligned};
use crate::select::kernels;
use crate::threads::{self, Shared};
use crate::types::Nonlinearity;
use emulated::COLUMNS;
use pinhole_model::Activation;

/// A linear layer with f16 weights: y = activation(x W + b) + residual.
pub type PackedLinearF16 = Packed<F16>;

/// f16 weights as the kernels read them.
#[derive(Clone)]
pub struct F16 {
    kernels: Kernels,
    /// [`reference::f16_exponent`]
    exponent: i32,
    form: Form,
}

#[derive(Clone)]
enum Form {
    /// weight [n / COLUMNS][k][COLUMNS], bias [n]
    Emulated { weight: Vec<f32>, bias: Vec<f32> },
    /// panels [panel][depth of k][columns of a tile], bias [panel][columns of a tile], padded with zeros.
    Panels {
        vector: &'static dyn F16Kernels,
        panels: Aligned<u16>,
        bias: Aligned<f32>,
    },
}

/// A weight is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("weight: output {output}, input {input}: expected a finite number, found NaN or infinity")]
pub struct NonFiniteWeight {
    /// The column of the product.
    pub output: usize,
    /// The row of the product.
    pub input: usize,
}

impl PackedLinearF16 {
    /// From weights [n, k], row-major, as in PyTorch's `nn.Linear`; each is the bits of an f16 (IEEE 754's binary16).
    pub fn from_out_in(
        weight: &[u16],
        n: usize,
        k: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, NonFiniteWeight> {
        Self::pack(kernels(), Weight::OutIn(weight), k, n, bias)
    }

    /// As [`Self::from_out_in`] from weights [k, n], row-major, as in ONNX's MatMul.
    pub fn from_in_out(
        weight: &[u16],
        k: usize,
        n: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, NonFiniteWeight> {
        Self::pack(kernels(), Weight::InOut(weight), k, n, bias)
    }

    pub(crate) fn pack(
        kernels: Kernels,
        weight: Weight<u16>,
        k: usize,
        n: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, NonFiniteWeight> {
        let data = weight.data();
        assert_eq!(Some(data.len()), n.checked_mul(k), "weight: {n} x {k}");
        assert!(bias.is_none_or(|b| b.len() == n), "bias: [{n}]");
        const INFINITY: u16 = 0x7c00;
        if let Some((output, input)) = weight.find(k, n, |w| w & INFINITY == INFINITY) {
            return Err(NonFiniteWeight { output, input });
        }
        let exponent = reference::f16_exponent(reach(weight, k, n));
        let form = match kernels.half {
            None => {
                let mut packed = vec![0.0; n.div_ceil(COLUMNS) * k * COLUMNS];
                let size = (k * COLUMNS).max(1);
                threads::for_each_chunk(threads::count(k * n), &mut packed, size, |i, chunk| {
                    let columns = i * COLUMNS..n.min((i + 1) * COLUMNS);
                    let value = |p, j| reference::f16_value(weight.get(p, j, k, n));
                    pack_weights(k, columns, COLUMNS, value, chunk);
                });
                Form::Emulated {
                    weight: packed,
                    bias: bias.map_or_else(|| vec![0.0; n], <[f32]>::to_vec),
                }
            }
            Some(vector) => {
                let width = vector.shape().columns;
                let count = n.div_ceil(width);
                let size = depth(k) * width;
                let mut panels = Aligned::zeros(count * size);
                threads::for_each_chunk(threads::count(k * n), &mut panels, size, |i, panel| {
                    let columns = i * width..n.min((i + 1) * width);
                    pack_weights(k, columns, width, |p, j| weight.get(p, j, k, n), panel);
                });
                let mut padded = Aligned::zeros(count * width);
                if let Some(bias) = bias {
                    padded[..n].copy_from_slice(bias);
                }
                Form::Panels {
                    vector,
                    panels,
                    bias: padded,
                }
            }
        };
        let weights = F16 {
            kernels,
            exponent,
            form,
        };
        Ok(Packed { k, n, weights })
    }

    /// out [m, n] = activation(x [m, k] W + b) + residual [m, n], with the product in f16.
    ///
    /// Each row of x is multiplied by a power of two, such that no sum can exceed the range of f16, and rounded to f16. Blocks
    /// of 64 products, in the order of k, are summed in f16 by fused multiply-adds that round to nearest, half to even. The
    /// blocks' sums are added in f32, and so is all that follows; sum · scale + bias is rounded once. So all variants are
    /// bit-identical, apart from the bits of a NaN and from the activation function ([`crate::activate`]).
    ///
    /// A row with an infinity, a NaN or a magnitude of 2^112 or more gives NaN. A row's result does not depend on the other
    /// rows.
    pub fn apply(
        &self,
        x: &[f32],
        m: usize,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        self.apply_scaled(x, m, 1.0, activation, residual, out);
    }

    /// As [`Self::apply`] with the product multiplied by `scale`.
    pub(crate) fn apply_scaled(
        &self,
        x: &[f32],
        m: usize,
        scale: f32,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        self.multiply((x, scale), m, activation, residual, out);
    }
}

impl Weights for F16 {
    const NAME: &'static str = "f16";

    /// x, and the factor of the product.
    type Rows<'a> = (&'a [f32], f32);

    fn kernel(&self) -> &'static str {
        match &self.form {
            Form::Emulated { .. } => "emulated",
            Form::Panels { vector, .. } => vector.name(),
        }
    }

    fn multiply(&self, (x, scale): (&[f32], f32), product: &Product, out: &mut [f32]) {
        let &Product {
            rows,
            k,
            n,
            activation,
            residual,
        } = product;
        let (vector, panels, bias) = match &self.form {
            Form::Emulated { weight, bias } => {
                return self.emulate(weight, bias, x, scale, product, out);
            }
            Form::Panels {
                vector,
                panels,
                bias,
            } => (*vector, panels, bias),
        };
        let Shape {
            rows: tile,
            columns: width,
            ..
        } = vector.shape();
        let depth = depth(k);
        // Two products in f16 take as long as one in f32.
        let threads = threads::count(rows * n * k / 2);
        // SAFETY: each group writes columns of its own.
        let out = unsafe { Shared::new(out) };
        let size = rows.div_ceil(tile) * tile * depth;
        scratch::with(rows, |scales: &mut [f32]| {
            scratch::with(size, |packed: &mut [u16]| {
                // SAFETY: each block of rows writes its own scales.
                let shared = unsafe { Shared::new(scales) };
                threads::for_each_chunk(threads, packed, tile * depth, |i, packed| {
                    let Some((first, count)) = blocks(rows, tile).nth(i) else {
                        return;
                    };
                    // SAFETY: the block's rows have scales, which only this job accesses.
                    let scales = unsafe {
                        std::slice::from_raw_parts_mut(shared.pointer().add(first), count)
                    };
                    let x = &x[first * k..][..count * k];
                    vector.pack_rows(x, k, self.exponent, scales, packed);
                    scales.iter_mut().for_each(|s| *s *= scale);
                });
                let (packed, scales) = (&*packed, &*scales);
                for_each_group(threads, n, width, rows, |columns, sums| {
                    let Range { start, end } = columns.panels;
                    let group = F16Group {
                        x: packed,
                        scales,
                        depth,
                        panels: &panels[start * width * depth..end * width * depth],
                        bias: &bias[start * width..end * width],
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
        });
    }
}

impl F16 {
    fn emulate(
        &self,
        weight: &[f32],
        bias: &[f32],
        x: &[f32],
        scale: f32,
        product: &Product,
        out: &mut [f32],
    ) {
        let &Product { rows, k, n, .. } = product;
        let (mut halves, mut scales) = (vec![0.0; rows * k], vec![0.0; rows]);
        for (i, row_scale) in scales.iter_mut().enumerate() {
            let row = i * k..(i + 1) * k;
            *row_scale =
                reference::row_f16(&x[row.clone()], self.exponent, &mut halves[row]) * scale;
        }
        let mut sums = vec![[0.0; COLUMNS]; n.div_ceil(COLUMNS) * rows];
        // An emulated product takes as long as a dozen in f32.
        let threads = threads::count(rows * n * k * 12);
        threads::for_each_chunk(threads, &mut sums, rows, |chunk, sums| {
            let weight = &weight[chunk * k * COLUMNS..][..k * COLUMNS];
            for (i, sums) in sums.iter_mut().enumerate() {
                emulated::sums(&halves[i * k..][..k], weight.as_chunks().0, sums);
            }
        });
        for (i, (out, scale)) in out.chunks_exact_mut(n).zip(scales).enumerate() {
            for (j, out) in out.iter_mut().enumerate() {
                let sum = sums[j / COLUMNS * rows + i][j % COLUMNS];
                *out = sum.mul_add(scale, bias[j]);
            }
        }
        activate(self.kernels, out, product.activation.map(Nonlinearity::Mlp));
        if let Some(residual) = product.residual {
            out.iter_mut().zip(residual).for_each(|(y, r)| *y += r);
        }
    }
}

/// k rounded up to a multiple of 4, and at least that, so that there is a sum.
fn depth(k: usize) -> usize {
    k.next_multiple_of(4).max(4)
}

/// The largest sum of magnitudes of a column's weights within a block.
fn reach(weight: Weight<u16>, k: usize, n: usize) -> f32 {
    let mut most = vec![0.0f32; n.div_ceil(COLUMNS)];
    threads::for_each_chunk(threads::count(k * n), &mut most, 1, |i, most| {
        let columns = i * COLUMNS..n.min((i + 1) * COLUMNS);
        for first in (0..k).step_by(F16_BLOCK) {
            let mut sums = [0.0; COLUMNS];
            for p in first..k.min(first + F16_BLOCK) {
                for (sum, j) in sums.iter_mut().zip(columns.clone()) {
                    *sum += reference::f16_value(weight.get(p, j, k, n)).abs();
                }
            }
            most[0] = sums.into_iter().fold(most[0], f32::max);
        }
    });
    most.into_iter().fold(0.0, f32::max)
}
