//! Linear layers with affine quantisation, as in ONNX files: zero points on both sides, one scale for all of x.

use super::{Form, Int8, Int8Input, PackedLinearInt8, WeightError};
use crate::dispatch::{Kernels, Offsets};
use crate::linear::layer::{Packed, Product, Weights};
use crate::linear::pack::Weight;
use crate::select::kernels;
use crate::types::Affine;
use crate::{affine, reference, scratch, threads};
use pinhole_model::Activation;

/// A linear layer with zero points: y = activation((x - zero point) (W - zero points) + b) + residual. W is s8 with one scale
/// and zero point per output; x is f32, quantised by an [`Affine`]. It runs the kernels of [`PackedLinearInt8`]: the zero
/// points add exact multiples of W's column sums and x's row sums.
pub type PackedLinearAffine = Packed<AffineInt8>;

/// s8 weights with zero points as the kernels read them.
#[derive(Clone)]
pub struct AffineInt8 {
    weights: Int8,
    /// [n]: sums of the weight's columns.
    column_sums: Vec<i32>,
    /// [n], or empty if all are zero.
    zero_points: Vec<i32>,
}

impl PackedLinearAffine {
    /// Most inputs with zero points of weights: the sum of 32,768 products of at most 255 · 255 fits an i32.
    pub const MOST_INPUTS: usize = 1 << 15;

    /// From weights [outputs, inputs], row-major. `scales` and `zero_points` have one value per output; `zero_points` may be
    /// empty for zeros. An output's weights must not contain both -128 and 127: with -128 they are shifted by one, with the
    /// zero point.
    pub fn from_out_in(
        weight: &[i8],
        scales: &[f32],
        zero_points: &[i8],
        outputs: usize,
        inputs: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, WeightError> {
        Self::pack(
            kernels(),
            Weight::OutIn(weight),
            scales,
            zero_points,
            outputs,
            inputs,
            bias,
        )
    }

    /// As [`Self::from_out_in`] from weights [inputs, outputs].
    pub fn from_in_out(
        weight: &[i8],
        scales: &[f32],
        zero_points: &[i8],
        inputs: usize,
        outputs: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, WeightError> {
        Self::pack(
            kernels(),
            Weight::InOut(weight),
            scales,
            zero_points,
            outputs,
            inputs,
            bias,
        )
    }

    pub(crate) fn pack(
        kernels: Kernels,
        weight: Weight<i8>,
        scales: &[f32],
        zero_points: &[i8],
        n: usize,
        k: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, WeightError> {
        let data = weight.data();
        assert_eq!(Some(data.len()), n.checked_mul(k), "weight: {n} x {k}");
        assert!(
            zero_points.is_empty() || zero_points.len() == n,
            "zero points: [{n}]"
        );
        let column = |at: usize| match weight {
            Weight::OutIn(_) => at / k,
            Weight::InOut(_) => at % n,
        };
        let mut zero_points: Vec<i32> = match zero_points {
            [] => vec![0; n],
            some => some.iter().map(|&z| z.into()).collect(),
        };
        let moved = without_minimum(data, column, &mut zero_points)
            .map_err(|output| WeightError::Span { output })?;
        let weight = match (weight, &moved) {
            (Weight::OutIn(_), Some(all)) => Weight::OutIn(all),
            (Weight::InOut(_), Some(all)) => Weight::InOut(all),
            (weight, None) => weight,
        };
        if zero_points.iter().all(|&z| z == 0) {
            zero_points.clear();
        } else if k > Self::MOST_INPUTS {
            return Err(WeightError::Inputs {
                most: Self::MOST_INPUTS,
                found: k,
            });
        }
        let layer = PackedLinearInt8::pack(kernels, weight, scales, n, k, bias)?;
        let mut column_sums = vec![0i32; n];
        match weight {
            Weight::OutIn(weight) => {
                for (sum, row) in column_sums.iter_mut().zip(weight.chunks_exact(k.max(1))) {
                    *sum = row.iter().map(|&w| i32::from(w)).sum();
                }
            }
            Weight::InOut(weight) => {
                for row in weight.chunks_exact(n.max(1)) {
                    for (sum, &w) in column_sums.iter_mut().zip(row) {
                        *sum += i32::from(w);
                    }
                }
            }
        }
        let weights = AffineInt8 {
            weights: layer.weights,
            column_sums,
            zero_points,
        };
        Ok(Packed { k, n, weights })
    }

    /// out [m, n] = activation(sum · (scale of x · output scale) + bias) + residual [m, n], with x [m, k] quantised by `by`.
    /// The sum is exact, and variants are bit-identical as for [`PackedLinearInt8::apply`].
    pub fn apply(
        &self,
        x: &[f32],
        m: usize,
        by: Affine,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        self.multiply((x, by), m, activation, residual, out);
    }
}

impl Weights for AffineInt8 {
    const NAME: &'static str = "int8";

    /// x, and how it is quantised.
    type Rows<'a> = (&'a [f32], Affine);

    fn kernel(&self) -> &'static str {
        self.weights.kernel()
    }

    fn multiply(&self, (x, by): (&[f32], Affine), product: &Product, out: &mut [f32]) {
        let &Product { rows, k, n, .. } = product;
        scratch::with(rows * k, |quantized: &mut [i8]| {
            scratch::with(rows, |scales: &mut [f32]| {
                scratch::with(rows + n, |offsets: &mut [i32]| {
                    let (sums, columns) = offsets.split_at_mut(rows);
                    affine::quantize(self.weights.kernels, x, k, by, quantized, sums, scales);
                    let z = i32::from(by.zero_point);
                    for sum in &mut *sums {
                        *sum = z * k as i32 - *sum;
                    }
                    for (to, sum) in columns.iter_mut().zip(&self.column_sums) {
                        *to = sum.wrapping_mul(-z);
                    }
                    let offsets = Offsets {
                        columns,
                        rows: sums,
                        zero_points: &self.zero_points,
                    };
                    self.multiply_quantized((quantized, scales, z), product, offsets, out);
                });
            });
        });
    }
}

impl AffineInt8 {
    /// x: the quantised values, their scales and their zero point.
    fn multiply_quantized(
        &self,
        (x, scales, z): (&[i8], &[f32], i32),
        product: &Product,
        offsets: Offsets,
        out: &mut [f32],
    ) {
        let &Product { k, n, .. } = product;
        match &self.weights.form {
            Form::Panels { vector, panels } => {
                let x = Int8Input::S8 { x, scales };
                let offsets = Some(offsets);
                (self.weights).apply_panels(*vector, panels, x, product, offsets, out);
            }
            Form::Reference(weights) => {
                threads::for_each_chunk(threads::count(out.len() * k), out, n, |i, out| {
                    reference::linear_affine(
                        &x[i * k..][..k],
                        z,
                        scales[i],
                        &weights.weight,
                        &self.zero_points,
                        &weights.scales,
                        &weights.bias,
                        product.activation,
                        product.residual_row(i),
                        out,
                    );
                });
            }
        }
    }
}

/// The weights in -127 ..= 127, which the kernels support: those of outputs with -128 are moved by one, with their zero
/// points. `None` if no weight is -128; an error with the output if its weights contain 127 too. `output` gives the output
/// of a weight.
pub(crate) fn without_minimum(
    weights: &[i8],
    output: impl Fn(usize) -> usize,
    zero_points: &mut [i32],
) -> Result<Option<Vec<i8>>, usize> {
    if !weights.contains(&i8::MIN) {
        return Ok(None);
    }
    let mut low = vec![false; zero_points.len()];
    for (at, _) in weights.iter().enumerate().filter(|&(_, &w)| w == i8::MIN) {
        low[output(at)] = true;
    }
    let mut moved = weights.to_vec();
    for (at, w) in moved
        .iter_mut()
        .enumerate()
        .filter(|(at, _)| low[output(*at)])
    {
        *w = w.checked_add(1).ok_or(output(at))?;
    }
    for (zero, _) in zero_points.iter_mut().zip(&low).filter(|(_, low)| **low) {
        *zero += 1;
    }
    Ok(Some(moved))
}
