//! Linear layers with affine quantisation, as in ONNX files: zero points on both sides, one scale for all of x.

use std::fmt;

use super::pack::Weight;
use super::{Int8Input, Packed, PackedLinearInt8, WeightError};
use crate::dispatch::{Kernels, Offsets};
use crate::linear::MOST_ROWS;
use crate::linear::pack::blocks;
use crate::select::kernels;
use crate::types::Affine;
use crate::{affine, reference, scratch, threads};
use pinhole_model::Activation;

/// A linear layer with zero points: y = activation((x - zero point) (W - zero points) + b) + residual. W is s8 with one scale
/// and zero point per output; x is f32, quantised by an [`Affine`]. It runs the kernels of [`PackedLinearInt8`]: the zero
/// points add exact multiples of W's column sums and x's row sums.
#[derive(Clone)]
pub struct PackedLinearAffine {
    layer: PackedLinearInt8,
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
        weight: Weight,
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
        Ok(PackedLinearAffine {
            layer,
            column_sums,
            zero_points,
        })
    }

    /// k: values of an input row.
    pub fn inputs(&self) -> usize {
        self.layer.inputs()
    }

    /// n: values of an output row.
    pub fn outputs(&self) -> usize {
        self.layer.outputs()
    }

    /// The name of the kernels that [`Self::apply`] runs.
    pub fn kernel(&self) -> &'static str {
        self.layer.kernel()
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
        let (k, n) = (self.inputs(), self.outputs());
        assert_eq!(Some(x.len()), m.checked_mul(k), "x: f32 [{m}, {k}]");
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
            scratch::with(rows * k, |quantized: &mut [i8]| {
                scratch::with(rows, |scales: &mut [f32]| {
                    scratch::with(rows + n, |offsets: &mut [i32]| {
                        let (sums, columns) = offsets.split_at_mut(rows);
                        affine::quantize(self.layer.kernels, x, k, by, quantized, sums, scales);
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
                        let x = (&*quantized, &*scales, z);
                        self.apply_rows(x, rows, activation, residual, out, offsets);
                    });
                });
            });
        }
    }

    /// x: the quantised values, their scales and their zero point.
    fn apply_rows(
        &self,
        (x, scales, z): (&[i8], &[f32], i32),
        rows: usize,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
        offsets: Offsets,
    ) {
        let (k, n) = (self.inputs(), self.outputs());
        match &self.layer.packed {
            Packed::Panels { vector, panels } => {
                let x = Int8Input::S8 { x, scales };
                let layer = &self.layer;
                layer.apply_panels(
                    *vector,
                    panels,
                    x,
                    rows,
                    activation,
                    residual,
                    out,
                    Some(offsets),
                );
            }
            Packed::Reference(weights) => {
                threads::for_each_chunk(threads::count(out.len() * k), out, n, |i, out| {
                    reference::linear_affine(
                        &x[i * k..][..k],
                        z,
                        scales[i],
                        &weights.weight,
                        &self.zero_points,
                        &weights.scales,
                        &weights.bias,
                        activation,
                        residual.map(|r| &r[i * n..][..n]),
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

impl fmt::Debug for PackedLinearAffine {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let zero_points = match self.zero_points.is_empty() {
            true => "",
            false => ", zero points",
        };
        write!(f, "{:?}{zero_points}", self.layer)
    }
}
