//! Linear layers in 8-bit integers: weights packed once with their scales, multiplied by rows that are quantised at run
//! time.

pub(crate) mod affine;
pub(crate) mod depthwise;
pub(crate) mod group;
pub(crate) mod pack;
pub(crate) mod taps;

use std::fmt;

use crate::dispatch::{Int8Group, Int8Kernels, Kernels, Offsets, Order, Residual};
use crate::linear::pack::blocks;
use crate::linear::{MOST_ROWS, group_size};
use crate::scratch::{self, Aligned};
use crate::select::kernels;
use crate::threads::{self, Shared};
use crate::types::{Nonlinearity, Prologue};
use crate::{quantize, reference};
use pack::{Layout, Weight};
use pinhole_model::Activation;

/// A quantised linear layer, packed for the chosen variant: y = activation(x W + b) + residual. W is s8 with one scale per
/// output; x is s8 or u8 with one scale per row.
#[derive(Clone)]
pub struct PackedLinearInt8 {
    k: usize,
    n: usize,
    kernels: Kernels,
    packed: Packed,
}

/// The weights as the kernels read them.
#[derive(Clone)]
enum Packed {
    Reference(Weights),
    /// Panels by [`pack::pack_panel`].
    Panels {
        vector: &'static dyn Int8Kernels,
        panels: Aligned<u8>,
    },
}

/// As the scalar reference reads them.
#[derive(Clone)]
struct Weights {
    /// [n, k]
    weight: Vec<i8>,
    /// [n]
    scales: Vec<f32>,
    /// [n]
    bias: Vec<f32>,
}

/// The rows that [`PackedLinearInt8::apply`] multiplies.
#[derive(Clone, Copy, Debug)]
pub enum Int8Input<'a> {
    /// [m, k], each row quantised as by [`crate::quantize_rows`].
    F32 {
        /// The values.
        x: &'a [f32],
        /// Applied to each row before it is quantised.
        prologue: Prologue<'a>,
    },
    /// [m, k], quantised to u8 after adding `offset`: twice as fine as s8 for rows without values far below 0, such as the
    /// outputs of an activation function. A row's scale is its largest magnitude plus `offset`, divided by 255; values below
    /// -`offset` are clamped. Rounding and non-finite values as in [`crate::quantize_rows`].
    Offset {
        /// The values.
        x: &'a [f32],
        /// Finite, 0 or above.
        offset: f32,
    },
    /// [m, k], already quantised.
    S8 {
        /// The values; -128 is allowed.
        x: &'a [i8],
        /// One scale per row.
        scales: &'a [f32],
    },
    /// [m, k], pixels.
    U8 {
        /// The values.
        x: &'a [u8],
        /// The scale of all rows: 1/255, unless it is folded into the weights' scales.
        scale: f32,
    },
}

/// Weights that the integer kernels do not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// The kernels add two products in 16 bits, which hold 2 · 128 · 127 but not 2 · 128 · 128.
    #[error("weight: output {output}, input {input}: expected -127 to 127, found -128")]
    Range {
        /// The output, from 0.
        output: usize,
        /// The input, from 0.
        input: usize,
    },
    /// A sum of this many products could overflow 32 bits.
    #[error("weight: expected at most {most} inputs, found {found}")]
    Inputs {
        /// The most inputs.
        most: usize,
        /// k.
        found: usize,
    },
    /// An output's weights contain both -128 and 127, so that they cannot be shifted by one with their zero point.
    #[error("weight: output {output}: expected at most 255 different values, found -128 and 127")]
    Span {
        /// The output, from 0.
        output: usize,
    },
}

impl PackedLinearInt8 {
    /// Most inputs: the sum of 65,536 products of at most 255 · 127 fits an i32.
    pub const MOST_INPUTS: usize = 1 << 16;

    /// From weights [outputs, inputs], row-major, as in PyTorch's `nn.Linear`, in -127 ..= 127. `scales` has one scale per
    /// output.
    pub fn from_out_in(
        weight: &[i8],
        scales: &[f32],
        outputs: usize,
        inputs: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, WeightError> {
        Self::pack(
            kernels(),
            Weight::OutIn(weight),
            scales,
            outputs,
            inputs,
            bias,
        )
    }

    /// As [`Self::from_out_in`] from weights [inputs, outputs], row-major, as in ONNX's MatMulInteger.
    pub fn from_in_out(
        weight: &[i8],
        scales: &[f32],
        inputs: usize,
        outputs: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, WeightError> {
        Self::pack(
            kernels(),
            Weight::InOut(weight),
            scales,
            outputs,
            inputs,
            bias,
        )
    }

    pub(crate) fn pack(
        kernels: Kernels,
        weight: Weight,
        scales: &[f32],
        n: usize,
        k: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, WeightError> {
        let data = weight.data();
        assert_eq!(Some(data.len()), n.checked_mul(k), "weight: {n} x {k}");
        assert_eq!(scales.len(), n, "scales: [{n}]");
        assert!(bias.is_none_or(|b| b.len() == n), "bias: [{n}]");
        if k > Self::MOST_INPUTS {
            return Err(WeightError::Inputs {
                most: Self::MOST_INPUTS,
                found: k,
            });
        }
        // The minimum of a chunk is vectorised; the search for a position is not.
        let out_of_range = |chunk: &[i8]| chunk.iter().fold(0, |least, &w| w.min(least)) == i8::MIN;
        if data.chunks(4096).any(out_of_range)
            && let Some(at) = data.iter().position(|&w| w == i8::MIN)
        {
            let (output, input) = match weight {
                Weight::OutIn(_) => (at / k, at % k),
                Weight::InOut(_) => (at % n, at / n),
            };
            return Err(WeightError::Range { output, input });
        }
        let packed = match kernels.int8 {
            None => Packed::Reference(Weights {
                weight: (0..n * k)
                    .map(|i| data[weight.at(i % k, i / k, k, n)])
                    .collect(),
                scales: scales.to_vec(),
                bias: bias.map_or_else(|| vec![0.0; n], <[f32]>::to_vec),
            }),
            Some(vector) => {
                let layout = vector.layout();
                let (columns, size) = (layout.columns, layout.panel_size(k));
                let mut panels = Aligned::zeros(n.div_ceil(columns) * size);
                threads::for_each_chunk(threads::count(k * n), &mut panels, size, |i, panel| {
                    let columns = i * columns..n.min((i + 1) * columns);
                    pack::pack_panel(layout, weight, k, n, columns, scales, bias, panel);
                });
                Packed::Panels { vector, panels }
            }
        };
        Ok(PackedLinearInt8 {
            k,
            n,
            kernels,
            packed,
        })
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
            Packed::Reference(_) => "scalar",
            Packed::Panels { vector, .. } => vector.name(),
        }
    }

    /// out [m, n] = activation(sum · (row scale · output scale) + bias) + residual [m, n], with the exact integer sum of the
    /// products of x and W. The scales' product is rounded; its product with the sum plus the bias is rounded once. So all
    /// variants are bit-identical, apart from the bits of a NaN and from the activation function ([`crate::activate`]).
    ///
    /// A row's result does not depend on the other rows.
    pub fn apply(
        &self,
        x: Int8Input,
        m: usize,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (k, n) = (self.k, self.n);
        x.check(m, k);
        assert_eq!(Some(out.len()), m.checked_mul(n), "out: [{m}, {n}]");
        assert!(
            residual.is_none_or(|r| r.len() == m * n),
            "residual: [{m}, {n}]"
        );
        if out.is_empty() {
            return;
        }
        for (first, rows) in blocks(m, MOST_ROWS) {
            let x = x.rows(first, rows, k);
            let residual = residual.map(|r| &r[first * n..][..rows * n]);
            let out = &mut out[first * n..][..rows * n];
            match &self.packed {
                Packed::Reference(weights) => {
                    weights.apply(self, x, rows, activation, residual, out);
                }
                Packed::Panels { vector, panels } => {
                    self.apply_panels(*vector, panels, x, rows, activation, residual, out, None);
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn apply_panels(
        &self,
        vector: &dyn Int8Kernels,
        panels: &[u8],
        x: Int8Input,
        rows: usize,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
        offsets: Option<Offsets>,
    ) {
        let (k, n) = (self.k, self.n);
        let layout = vector.layout();
        let size = layout.panel_size(k);
        // Four products of bytes take as long as one in f32.
        let threads = threads::count(rows * n * k / 4);
        let group = group_size(
            n.div_ceil(layout.columns),
            threads,
            rows * layout.columns * size_of::<i32>(),
        );
        let residual = residual.map(|values| Residual {
            values,
            order: Order::AfterActivation,
        });
        // SAFETY: each group writes columns of its own.
        let out = unsafe { Shared::new(out) };
        scratch::with(rows, |scales: &mut [f32]| {
            scratch::with(layout.rows_size(rows, k), |packed: &mut [u8]| {
                self.pack_rows(layout, x, rows, threads, packed, scales);
                let (packed, scales) = (&*packed, &*scales);
                let width = group * layout.columns;
                threads::for_each(threads, n.div_ceil(width), |i| {
                    let columns = i * width..n.min((i + 1) * width);
                    let count = columns.len().div_ceil(layout.columns);
                    let group = Int8Group {
                        x: packed,
                        rows,
                        scales,
                        steps: k.div_ceil(layout.step),
                        shifted: layout.shifted(x.is_unsigned()),
                        offsets,
                        panels: &panels[i * group * size..][..count * size],
                        columns,
                        activation: activation.map(Nonlinearity::Mlp),
                        residual,
                        width: n,
                        out: out.pointer(),
                    };
                    scratch::with(count * rows * layout.columns, |sums| {
                        // SAFETY: `out` has rows * n values, and the groups' columns do not overlap.
                        unsafe { vector.group(&group, sums) };
                    });
                });
            });
        });
    }

    /// Quantises the rows of x and packs them for the tiles.
    fn pack_rows(
        &self,
        layout: Layout,
        x: Int8Input,
        rows: usize,
        threads: usize,
        packed: &mut [u8],
        scales: &mut [f32],
    ) {
        let k = self.k;
        let size = layout.block_size(rows, k);
        // SAFETY: each block of rows writes its own bytes and its own scales.
        let (packed, scales) = unsafe { (Shared::new(packed), Shared::new(scales)) };
        threads::for_each(threads, rows.div_ceil(layout.rows), |i| {
            let Some((first, count)) = blocks(rows, layout.rows).nth(i) else {
                return;
            };
            // SAFETY: the block has `size` bytes, and its rows have scales, which only this job accesses.
            let (packed, scales) = unsafe {
                (
                    std::slice::from_raw_parts_mut(packed.pointer().add(i * size), size),
                    std::slice::from_raw_parts_mut(scales.pointer().add(first), count),
                )
            };
            match x.part(first, count, k) {
                Int8Input::U8 { x, scale } => {
                    scales.fill(scale);
                    pack::pack_rows(layout, x, k, count, packed);
                }
                Int8Input::S8 { x, scales: from } => {
                    scales.copy_from_slice(from);
                    pack::pack_rows(layout, x, k, count, packed);
                }
                Int8Input::Offset { x, offset } => {
                    scratch::with(count * k, |quantized: &mut [u8]| {
                        quantize::rows_offset(self.kernels, x, k, offset, quantized, scales);
                        pack::pack_rows(layout, quantized, k, count, packed);
                    })
                }
                Int8Input::F32 { x, prologue } => {
                    scratch::with(count * k, |quantized: &mut [i8]| {
                        quantize::rows(self.kernels, x, k, prologue, quantized, scales);
                        pack::pack_rows(layout, quantized, k, count, packed);
                    })
                }
            }
        });
    }
}

impl Rows for Int8Input<'_> {
    fn check(self, m: usize, k: usize) {
        let (name, len) = match self {
            Int8Input::F32 { x, prologue } => {
                prologue.check(k);
                ("f32", x.len())
            }
            Int8Input::Offset { x, offset } => {
                let valid = offset.is_finite() && offset >= 0.0;
                assert!(valid, "offset: expected 0 or above, found {offset}");
                ("f32", x.len())
            }
            Int8Input::S8 { x, scales } => {
                assert_eq!(scales.len(), m, "scales of x: [{m}]");
                ("s8", x.len())
            }
            Int8Input::U8 { x, .. } => ("u8", x.len()),
        };
        assert_eq!(Some(len), m.checked_mul(k), "x: {name} [{m}, {k}]");
    }

    fn part(self, first: usize, count: usize, k: usize) -> Self {
        match self {
            Int8Input::F32 { x, prologue } => Int8Input::F32 {
                x: &x[first * k..][..count * k],
                prologue,
            },
            Int8Input::Offset { x, offset } => Int8Input::Offset {
                x: &x[first * k..][..count * k],
                offset,
            },
            Int8Input::S8 { x, scales } => Int8Input::S8 {
                x: &x[first * k..][..count * k],
                scales: &scales[first..][..count],
            },
            Int8Input::U8 { x, scale } => Int8Input::U8 {
                x: &x[first * k..][..count * k],
                scale,
            },
        }
    }
}

impl Int8Input<'_> {
    /// Whether the quantised rows are u8; otherwise they are s8.
    fn is_unsigned(self) -> bool {
        match self {
            Int8Input::F32 { .. } | Int8Input::S8 { .. } => false,
            Int8Input::Offset { .. } | Int8Input::U8 { .. } => true,
        }
    }
}

impl Weights {
    fn apply(
        &self,
        layer: &PackedLinearInt8,
        x: Int8Input,
        rows: usize,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        match x {
            Int8Input::F32 { x, prologue } => {
                let (mut quantized, mut scales) = (vec![0; x.len()], vec![0.0; rows]);
                let kernels = layer.kernels;
                quantize::rows(kernels, x, layer.k, prologue, &mut quantized, &mut scales);
                self.apply_to(layer, &quantized, &scales, activation, residual, out);
            }
            Int8Input::Offset { x, offset } => {
                let (mut quantized, mut scales) = (vec![0; x.len()], vec![0.0; rows]);
                let kernels = layer.kernels;
                let k = layer.k;
                quantize::rows_offset(kernels, x, k, offset, &mut quantized, &mut scales);
                self.apply_to(layer, &quantized, &scales, activation, residual, out);
            }
            Int8Input::S8 { x, scales } => {
                self.apply_to(layer, x, scales, activation, residual, out)
            }
            Int8Input::U8 { x, scale } => {
                self.apply_to(layer, x, &vec![scale; rows], activation, residual, out);
            }
        }
    }

    fn apply_to<T: Copy + Into<i32> + Sync>(
        &self,
        layer: &PackedLinearInt8,
        x: &[T],
        scales: &[f32],
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (k, n) = (layer.k, layer.n);
        threads::for_each_chunk(threads::count(out.len() * k), out, n, |i, out| {
            reference::linear_int8(
                &x[i * k..][..k],
                &scales[i..][..1],
                1,
                &self.weight,
                &self.scales,
                k,
                n,
                &self.bias,
                activation,
                residual.map(|r| &r[i * n..][..n]),
                out,
            );
        });
    }
}

impl fmt::Debug for PackedLinearInt8 {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (k, n, kernel) = (self.k, self.n, self.kernel());
        write!(f, "PackedLinearInt8({k} -> {n}, {kernel})")
    }
}
