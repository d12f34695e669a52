//! Linear layers in 8-bit integers: weights packed once with their scales, multiplied by rows that are quantised at run
//! time.

pub(crate) mod affine;
pub(crate) mod attention;
pub(crate) mod depthwise;
pub(crate) mod group;
mod output;
pub(crate) mod pack;
pub(crate) mod taps;

use crate::dispatch::{Int8Group, Int8Kernels, Kernels, Offsets, Order, Residual, Target};
use crate::linear::layer::{Packed, Product, Rows, Weights, for_each_group};
use crate::linear::pack::{Weight, blocks};
use crate::scratch::{self, Aligned};
use crate::select::kernels;
use crate::threads::{self, Shared};
use crate::types::{Nonlinearity, Prologue};
use crate::{quantize, reference};
use pack::Layout;
use pinhole_model::Activation;

/// A quantised linear layer: y = activation(x W + b) + residual. W is s8 with one scale per output; x is s8 or u8 with one
/// scale per row.
pub type PackedLinearInt8 = Packed<Int8>;

/// s8 weights as the kernels read them.
#[derive(Clone)]
pub struct Int8 {
    kernels: Kernels,
    form: Form,
}

#[derive(Clone)]
enum Form {
    Reference(Reference),
    /// Panels by [`pack::pack_panel`].
    Panels {
        vector: &'static dyn Int8Kernels,
        panels: Aligned<u8>,
    },
}

/// As the scalar reference reads them.
#[derive(Clone)]
struct Reference {
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
        weight: Weight<i8>,
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
            && let Some((output, input)) = weight.find(k, n, |w| w == i8::MIN)
        {
            return Err(WeightError::Range { output, input });
        }
        let form = match kernels.int8 {
            None => Form::Reference(Reference {
                weight: (0..n * k).map(|i| weight.get(i % k, i / k, k, n)).collect(),
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
                Form::Panels { vector, panels }
            }
        };
        let weights = Int8 { kernels, form };
        Ok(Packed { k, n, weights })
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
        self.multiply(x, m, activation, residual, out);
    }
}

impl Weights for Int8 {
    const NAME: &'static str = "int8";

    type Rows<'a> = Int8Input<'a>;

    fn kernel(&self) -> &'static str {
        match &self.form {
            Form::Reference(_) => "scalar",
            Form::Panels { vector, .. } => vector.name(),
        }
    }

    fn multiply(&self, x: Int8Input, product: &Product, out: &mut [f32]) {
        match &self.form {
            Form::Reference(weights) => weights.apply(self.kernels, x, product, out),
            Form::Panels { vector, panels } => {
                self.apply_panels(*vector, panels, x, product, None, out);
            }
        }
    }
}

impl Int8 {
    fn apply_panels(
        &self,
        vector: &dyn Int8Kernels,
        panels: &[u8],
        x: Int8Input,
        product: &Product,
        offsets: Option<Offsets>,
        out: &mut [f32],
    ) {
        let &Product { rows, k, n, .. } = product;
        let layout = vector.layout();
        let size = layout.panel_size(k);
        // Four products of bytes take as long as one in f32.
        let threads = threads::count(rows * n * k / 4);
        let residual = product.residual.map(|values| Residual {
            values,
            order: Order::AfterActivation,
        });
        // SAFETY: each group writes columns of its own.
        let out = unsafe { Shared::new(out) };
        scratch::with(rows, |scales: &mut [f32]| {
            scratch::with(layout.rows_size(rows, k), |packed: &mut [u8]| {
                self.pack_rows(layout, x, product, threads, packed, scales);
                let (packed, scales) = (&*packed, &*scales);
                for_each_group(threads, n, layout.columns, rows, |columns, sums| {
                    let group = Int8Group {
                        x: packed,
                        in_place: None,
                        rows,
                        scales,
                        steps: k.div_ceil(layout.step),
                        shifted: layout.shifted(x.is_unsigned()),
                        offsets,
                        panels: &panels[columns.panels.start * size..columns.panels.end * size],
                        columns: columns.range,
                        activation: product.activation.map(Nonlinearity::Mlp),
                        residual,
                        width: n,
                        out: Target::F32(out.pointer()),
                    };
                    // SAFETY: `out` has rows * n values, and the groups' columns do not overlap.
                    unsafe { vector.group(&group, sums) };
                });
            });
        });
    }

    /// Quantises the rows of x and packs them for the tiles.
    fn pack_rows(
        &self,
        layout: Layout,
        x: Int8Input,
        &Product { rows, k, .. }: &Product,
        threads: usize,
        packed: &mut [u8],
        scales: &mut [f32],
    ) {
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

impl Reference {
    fn apply(&self, kernels: Kernels, x: Int8Input, product: &Product, out: &mut [f32]) {
        let &Product { rows, k, .. } = product;
        let mut scales = vec![0.0; rows];
        match x {
            Int8Input::F32 { x, prologue } => {
                let mut quantized = vec![0; x.len()];
                quantize::rows(kernels, x, k, prologue, &mut quantized, &mut scales);
                self.apply_to(&quantized, &scales, product, out);
            }
            Int8Input::Offset { x, offset } => {
                let mut quantized = vec![0; x.len()];
                quantize::rows_offset(kernels, x, k, offset, &mut quantized, &mut scales);
                self.apply_to(&quantized, &scales, product, out);
            }
            Int8Input::S8 { x, scales } => self.apply_to(x, scales, product, out),
            Int8Input::U8 { x, scale } => {
                scales.fill(scale);
                self.apply_to(x, &scales, product, out);
            }
        }
    }

    fn apply_to<T: Copy + Into<i32> + Sync>(
        &self,
        x: &[T],
        scales: &[f32],
        product: &Product,
        out: &mut [f32],
    ) {
        let &Product { k, n, .. } = product;
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
                product.activation,
                product.residual_row(i),
                out,
            );
        });
    }
}
