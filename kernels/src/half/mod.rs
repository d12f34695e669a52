//! Linear layers in f16: weights packed once as they are, rows turned to f16 on the way in, sums of a few
//! products in f16, and f32 for all that follows.

mod emulated;
#[cfg(target_arch = "aarch64")]
mod neon;

use std::fmt;
use std::ops::Range;

use crate::activation::activate;
use crate::linear::{MOST_ROWS, blocks, group_size, pack_weights};
use crate::reference::{self, F16_BLOCK};
use crate::scratch::{self, Aligned};
use crate::select::{Kernels, Shape, VectorF16, kernels};
use crate::threads::{self, Shared};
use emulated::COLUMNS;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Fp16;
use pinhole_model::Activation;

/// A linear layer with weights in f16, packed once for the chosen kernels: y = act(x W + b) + residual.
#[derive(Clone)]
pub struct PackedLinearF16 {
    k: usize,
    n: usize,
    kernels: Kernels,
    /// [`reference::f16_exponent`]
    exponent: i32,
    packed: Packed,
}

/// The one copy of the weights that stays in memory.
#[derive(Clone)]
enum Packed {
    /// weight [n / COLUMNS][k][COLUMNS], bias [n]
    Emulated { weight: Vec<f32>, bias: Vec<f32> },
    /// panels [panel][depth of k][columns of a tile], bias [panel][columns of a tile], zeros where there
    /// is no weight.
    Panels {
        vector: &'static dyn VectorF16,
        panels: Aligned<u16>,
        bias: Aligned<f32>,
    },
}

/// Panels that are computed together.
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "ARM's alone"))]
pub(crate) struct Group<'a> {
    /// Packed rows: blocks of a tile's rows, each as [`VectorF16::pack_rows`] leaves it.
    pub(crate) x: &'a [u16],
    /// [rows]
    pub(crate) scales: &'a [f32],
    /// [`depth`] of k.
    pub(crate) depth: usize,
    /// Whole panels.
    pub(crate) panels: &'a [u16],
    /// One value a column of the panels.
    pub(crate) bias: &'a [f32],
    /// The columns of `out` that the panels make.
    pub(crate) columns: Range<usize>,
    pub(crate) activation: Option<Activation>,
    /// [rows, width]
    pub(crate) residual: Option<&'a [f32]>,
    /// n: the columns of `out` and `residual`.
    pub(crate) width: usize,
    /// [rows, width], of which the group writes `columns`, and nobody else touches them meanwhile.
    pub(crate) out: *mut f32,
}

/// A weight that is infinite or not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("weight: output {output}, input {input}: expected a finite number, found NaN or infinity")]
pub struct NotFinite {
    /// The column of the product.
    pub output: usize,
    /// The row's value that it belongs to.
    pub input: usize,
}

/// A weight in either order, as bits of f16.
#[derive(Clone, Copy)]
pub(crate) enum Weight<'a> {
    /// [n, k]
    OutIn(&'a [u16]),
    /// [k, n]
    InOut(&'a [u16]),
}

impl Weight<'_> {
    fn data(&self) -> &[u16] {
        match self {
            Weight::OutIn(data) | Weight::InOut(data) => data,
        }
    }

    /// From input p to output j.
    fn get(&self, p: usize, j: usize, k: usize, n: usize) -> u16 {
        match self {
            Weight::OutIn(data) => data[j * k + p],
            Weight::InOut(data) => data[p * n + j],
        }
    }
}

impl PackedLinearF16 {
    /// From a weight [n, k], row-major, each value the 16 bits of an f16 (IEEE 754's binary16): an output's
    /// weights are adjacent, as in PyTorch's `nn.Linear`.
    pub fn from_out_in(
        weight: &[u16],
        n: usize,
        k: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, NotFinite> {
        Self::pack(kernels(), Weight::OutIn(weight), k, n, bias)
    }

    /// As [`Self::from_out_in`] from a weight [k, n], row-major, as in ONNX's MatMul.
    pub fn from_in_out(
        weight: &[u16],
        k: usize,
        n: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, NotFinite> {
        Self::pack(kernels(), Weight::InOut(weight), k, n, bias)
    }

    pub(crate) fn pack(
        kernels: Kernels,
        weight: Weight,
        k: usize,
        n: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, NotFinite> {
        let data = weight.data();
        assert_eq!(Some(data.len()), n.checked_mul(k), "weight: {n} x {k}");
        assert!(bias.is_none_or(|b| b.len() == n), "bias: [{n}]");
        const INFINITY: u16 = 0x7c00;
        if let Some(at) = data.iter().position(|w| w & INFINITY == INFINITY) {
            let (output, input) = match weight {
                Weight::OutIn(_) => (at / k, at % k),
                Weight::InOut(_) => (at % n, at / n),
            };
            return Err(NotFinite { output, input });
        }
        let exponent = reference::f16_exponent(reach(weight, k, n));
        let packed = match kernels.half {
            None => {
                let mut packed = vec![0.0; n.div_ceil(COLUMNS) * k * COLUMNS];
                let size = (k * COLUMNS).max(1);
                threads::share_chunks(threads::count(k * n), &mut packed, size, |i, chunk| {
                    let columns = i * COLUMNS..n.min((i + 1) * COLUMNS);
                    let value = |p, j| reference::f16_value(weight.get(p, j, k, n));
                    pack_weights(k, columns, COLUMNS, value, chunk);
                });
                Packed::Emulated {
                    weight: packed,
                    bias: bias.map_or_else(|| vec![0.0; n], <[f32]>::to_vec),
                }
            }
            Some(vector) => {
                let width = vector.shape().columns;
                let count = n.div_ceil(width);
                let size = depth(k) * width;
                let mut panels = Aligned::zeros(count * size);
                threads::share_chunks(threads::count(k * n), &mut panels, size, |i, panel| {
                    let columns = i * width..n.min((i + 1) * width);
                    pack_weights(k, columns, width, |p, j| weight.get(p, j, k, n), panel);
                });
                let mut padded = Aligned::zeros(count * width);
                if let Some(bias) = bias {
                    padded[..n].copy_from_slice(bias);
                }
                Packed::Panels {
                    vector,
                    panels,
                    bias: padded,
                }
            }
        };
        Ok(PackedLinearF16 {
            k,
            n,
            kernels,
            exponent,
            packed,
        })
    }

    /// k: the values of an input row.
    pub fn inputs(&self) -> usize {
        self.k
    }

    /// n: the values of an output row.
    pub fn outputs(&self) -> usize {
        self.n
    }

    /// The name of the kernel that [`Self::apply`] runs on.
    pub fn kernel(&self) -> &'static str {
        match &self.packed {
            Packed::Emulated { .. } => "emulated",
            Packed::Panels { vector, .. } => vector.name(),
        }
    }

    /// out [m, n] = activation(x [m, k] W + b) + residual [m, n], the product in f16.
    ///
    /// Each row of x is multiplied by a power of two, which brings its largest value to where no sum can leave the
    /// range of f16, and rounded to f16. A sum of 64 products in the order of k is made in f16 by fused
    /// multiply-adds, each rounded to nearest, half to even. These sums are added up in f32, and the row's scale,
    /// the bias and what follows are in f32 too: sum · scale + bias is rounded once. So all kernels give the same
    /// bits, apart from those of a NaN and from the activation function, whose bound is that of [`crate::activate`].
    ///
    /// A row with an infinity or a NaN, or with a magnitude of 2^112 or more, gives NaN. A row's result does not
    /// depend on the other rows.
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

    /// As [`Self::apply`] with a product that counts `scale`.
    pub(crate) fn apply_scaled(
        &self,
        x: &[f32],
        m: usize,
        scale: f32,
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
        for (first, rows) in blocks(m, MOST_ROWS) {
            let x = &x[first * k..][..rows * k];
            let residual = residual.map(|r| &r[first * n..][..rows * n]);
            let out = &mut out[first * n..][..rows * n];
            match &self.packed {
                Packed::Emulated { weight, bias } => {
                    self.emulate(weight, bias, x, rows, scale, activation, residual, out);
                }
                Packed::Panels {
                    vector,
                    panels,
                    bias,
                } => {
                    self.apply_panels(
                        *vector, panels, bias, x, rows, scale, activation, residual, out,
                    );
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn emulate(
        &self,
        weight: &[f32],
        bias: &[f32],
        x: &[f32],
        rows: usize,
        scale: f32,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (k, n) = (self.k, self.n);
        let (mut halves, mut scales) = (vec![0.0; rows * k], vec![0.0; rows]);
        for (i, row_scale) in scales.iter_mut().enumerate() {
            let row = i * k..(i + 1) * k;
            *row_scale =
                reference::row_f16(&x[row.clone()], self.exponent, &mut halves[row]) * scale;
        }
        let mut sums = vec![[0.0; COLUMNS]; n.div_ceil(COLUMNS) * rows];
        // A product takes the time of a dozen in f32.
        let threads = threads::count(rows * n * k * 12);
        threads::share_chunks(threads, &mut sums, rows, |chunk, sums| {
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
        activate(self.kernels, out, activation);
        if let Some(residual) = residual {
            out.iter_mut().zip(residual).for_each(|(y, r)| *y += r);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn apply_panels(
        &self,
        vector: &dyn VectorF16,
        panels: &[u16],
        bias: &[f32],
        x: &[f32],
        rows: usize,
        scale: f32,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (k, n) = (self.k, self.n);
        let Shape {
            rows: tile,
            columns: width,
            ..
        } = vector.shape();
        let depth = depth(k);
        // Two products in f16 take the time of one in f32.
        let threads = threads::count(rows * n * k / 2);
        let group = group_size(n.div_ceil(width), threads, rows * width * size_of::<f32>());
        // SAFETY: each group writes columns of its own.
        let out = unsafe { Shared::new(out) };
        scratch::with(rows, |scales: &mut [f32]| {
            scratch::with(
                rows.div_ceil(tile) * tile * depth,
                |packed: &mut [u16]| {
                    // SAFETY: each block of rows writes its own scales.
                    let shared = unsafe { Shared::new(scales) };
                    threads::share_chunks(threads, packed, tile * depth, |i, packed| {
                        let Some((first, count)) = blocks(rows, tile).nth(i) else {
                            return;
                        };
                        // SAFETY: the block's rows have scales, which are this job's alone.
                        let scales = unsafe {
                            std::slice::from_raw_parts_mut(shared.pointer().add(first), count)
                        };
                        let x = &x[first * k..][..count * k];
                        vector.pack_rows(x, k, self.exponent, scales, packed);
                        scales.iter_mut().for_each(|s| *s *= scale);
                    });
                    let (packed, scales) = (&*packed, &*scales);
                    let columns = group * width;
                    threads::share(threads, n.div_ceil(columns), |i| {
                        let columns = i * columns..n.min((i + 1) * columns);
                        let count = columns.len().div_ceil(width);
                        let group = Group {
                            x: packed,
                            scales,
                            depth,
                            panels: &panels[columns.start * depth..][..count * width * depth],
                            bias: &bias[columns.start..][..count * width],
                            columns,
                            activation,
                            residual,
                            width: n,
                            out: out.pointer(),
                        };
                        scratch::with(count * rows * width, |sums| {
                            // SAFETY: `out` has rows * n values, and the groups' columns do not overlap.
                            unsafe { vector.group(&group, sums) };
                        });
                    });
                },
            );
        });
    }
}

/// k rounded up to a multiple of 4, and at least that, so that there is a sum.
fn depth(k: usize) -> usize {
    k.next_multiple_of(4).max(4)
}

/// The largest sum of magnitudes of a column's weights in a block.
fn reach(weight: Weight, k: usize, n: usize) -> f32 {
    let mut most = vec![0.0f32; n.div_ceil(COLUMNS)];
    threads::share_chunks(threads::count(k * n), &mut most, 1, |i, most| {
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

impl fmt::Debug for PackedLinearF16 {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (k, n, kernel) = (self.k, self.n, self.kernel());
        write!(f, "PackedLinearF16({k} -> {n}, {kernel})")
    }
}
