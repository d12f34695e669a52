//! Linear layers and patch embeddings as other programs quantise them: 8-bit operands with scales and zero points.

use pinhole_bundle::dialect::{Op, Range};
use pinhole_kernels::{Affine, PackedLinearAffine};
use pinhole_model::Activation;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::linear::linear_shape;
use super::operator::{Built, Compute, build, floats};
use super::parameters::{folder, shape, tensor, weight};
use super::weights::Packed;
use crate::network::{attributes, initializer};

/// How x is quantised; `None` if that is computed at run time, as by DynamicQuantizeLinear.
pub(super) fn affine_of(
    context: &ParsingContext,
    node: &NodeProto,
    range: Range,
) -> TractResult<Option<Affine>> {
    match range {
        Range::Static => static_affine(context, node).map(Some),
        Range::Dynamic => Ok(None),
    }
}

/// The parameters `x_scale` and `x_zero_point`.
pub(super) fn static_affine(context: &ParsingContext, node: &NodeProto) -> TractResult<Affine> {
    let (scale, _) = weight(context, node, "x_scale", 0)?;
    let (zero_point, _) = int8(context, node, "x_zero_point", 0)?;
    let ([scale], [zero_point]) = (&scale[..], &zero_point[..]) else {
        bail!("x_scale, x_zero_point: expected one value each");
    };
    ensure!(
        *scale > 0.0,
        "x_scale: expected a number above 0, found {scale}"
    );
    Ok(Affine {
        scale: *scale,
        zero_point: *zero_point,
    })
}

/// An s8 parameter and its shape.
fn int8(
    context: &ParsingContext,
    node: &NodeProto,
    name: &str,
    rank: usize,
) -> TractResult<(Vec<i8>, Vec<usize>)> {
    let proto = tensor(node, name)?;
    let shape = shape(proto, name, rank)?;
    let values = initializer::int8(proto, folder(context), Vec::new())
        .with_context(|| format!("{name}: {}", proto.name))?;
    Ok((values, shape))
}

/// A layer without its input layout.
#[derive(Debug)]
struct Layer {
    weights: PackedLinearAffine,
    /// `None`: computed at run time.
    x_affine: Option<Affine>,
    activation: Option<Activation>,
}

impl Layer {
    /// A weight of `rank` 2 is [inputs, outputs], another one [outputs, ..].
    fn read(
        context: &ParsingContext,
        node: &NodeProto,
        rank: usize,
        range: Range,
        activation: Option<Activation>,
    ) -> TractResult<Self> {
        let x_affine = affine_of(context, node, range)?;
        let (values, dims) = int8(context, node, "weight", rank)?;
        let (scale, scales) = weight(context, node, "scale", 1)?;
        let (zeros, zero_points) = int8(context, node, "zero_point", 1)?;
        let (bias, biases) = weight(context, node, "bias", 1)?;
        let outputs = match dims[..] {
            [_, outputs] => outputs,
            _ => dims[0],
        };
        for (name, shape) in [
            ("scale", scales),
            ("zero_point", zero_points),
            ("bias", biases),
        ] {
            ensure!(
                shape == [outputs],
                "{name}: expected [{outputs}], found {shape:?}"
            );
        }
        let (inputs, bias) = (values.len() / outputs.max(1), Some(&*bias));
        let packed = if rank == 2 {
            PackedLinearAffine::from_in_out(&values, &scale, &zeros, inputs, outputs, bias)
        } else {
            PackedLinearAffine::from_out_in(&values, &scale, &zeros, outputs, inputs, bias)
        };
        Ok(Layer {
            weights: packed.map_err(|e| format_err!("{e}"))?,
            x_affine,
            activation,
        })
    }

    /// x [rows, inputs], quantised by `affine`, to out [rows, outputs].
    fn apply(&self, x: &[f32], rows: usize, affine: Affine, out: &mut [f32]) {
        (self.weights).apply(x, rows, affine, self.activation, None, out);
    }
}

#[derive(Debug)]
struct AffineLinear(Layer);

pub(super) fn linear(
    context: &ParsingContext,
    node: &NodeProto,
    range: Range,
    activation: Option<Activation>,
) -> Built {
    let layer = Layer::read(context, node, 2, range, activation)?;
    build(Op::AffineLinear(range, activation), AffineLinear(layer))
}

impl Compute for AffineLinear {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let weights = &self.0.weights;
        linear_shape(inputs, weights.inputs(), weights.outputs())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let x = floats(&inputs[0])?;
        let rows = output.len() / self.0.weights.outputs().max(1);
        let affine = self.0.x_affine.unwrap_or_else(|| Affine::dynamic(x));
        self.0.apply(x, rows, affine, output);
        Ok(())
    }

    fn kernel(&self) -> String {
        self.0.weights.kernel_name()
    }
}

/// A convolution whose stride equals its kernel size.
#[derive(Debug)]
struct AffinePatches {
    layer: Layer,
    channels: usize,
    /// Side of a patch in pixels.
    patch: usize,
}

pub(super) fn patches(context: &ParsingContext, node: &NodeProto, range: Range) -> Built {
    let layer = Layer::read(context, node, 4, range, None)?;
    let dims = &tensor(node, "weight")?.dims;
    let &[_, channels, patch, width] = &dims[..] else {
        bail!("weight: expected 4 dimensions, found {dims:?}");
    };
    ensure!(
        patch == width && patch > 0 && channels > 0,
        "weight: expected a square kernel, found {dims:?}"
    );
    let strides = attributes::integers(node, "strides");
    ensure!(
        strides == [patch, patch],
        "strides: expected [{patch}, {patch}] as of the weight, found {strides:?}"
    );
    let (channels, patch) = (channels as usize, patch as usize);
    build(
        Op::AffinePatches(range),
        AffinePatches {
            layer,
            channels,
            patch,
        },
    )
}

impl Compute for AffinePatches {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[n, channels, height, width] = inputs[0] else {
            bail!("x: expected [N, C, H, W], found {:?}", inputs[0]);
        };
        let (h, w) = (height / self.patch, width / self.patch);
        ensure!(
            channels == self.channels && h > 0 && w > 0,
            "x: expected [N, {}, H, W] of at least one patch of {}, found {:?}",
            self.channels,
            self.patch,
            inputs[0]
        );
        Ok(tvec![n, self.layer.weights.outputs(), h, w])
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[n, channels, height, width] = inputs[0].shape() else {
            bail!("x: expected 4 dimensions")
        };
        let x = floats(&inputs[0])?;
        let (p, outputs) = (self.patch, self.layer.weights.outputs());
        let (h, w) = (height / p, width / p);
        // A dynamic scale depends on all of x, including pixels outside the patches.
        let affine = self.layer.x_affine.unwrap_or_else(|| Affine::dynamic(x));
        let mut rows = Vec::with_capacity(n * h * w * channels * p * p);
        for image in x.chunks_exact(channels * height * width) {
            for at in 0..h * w {
                let corner = at / w * p * width + at % w * p;
                for channel in image.chunks_exact(height * width) {
                    for line in channel[corner..].chunks(width).take(p) {
                        rows.extend_from_slice(&line[..p]);
                    }
                }
            }
        }
        let mut found = vec![0.0; n * h * w * outputs];
        self.layer.apply(&rows, n * h * w, affine, &mut found);
        let images = found.chunks_exact(h * w * outputs);
        for (found, output) in images.zip(output.chunks_exact_mut(outputs * h * w)) {
            for (i, row) in found.chunks_exact(outputs).enumerate() {
                for (j, v) in row.iter().enumerate() {
                    output[j * h * w + i] = *v;
                }
            }
        }
        Ok(())
    }

    fn kernel(&self) -> String {
        self.layer.weights.kernel_name()
    }
}
