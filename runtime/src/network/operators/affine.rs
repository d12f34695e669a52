//! Linear layers and convolutions as other programs quantise them: 8-bit operands with scales and zero points.

use pinhole_bundle::dialect::{ChannelOrder, Op, Range};
use pinhole_kernels::{
    Affine, ConvolutionInput, ConvolutionOutput, ConvolutionWeights, ImageLayout,
    PackedConvolution, PackedLinearAffine,
};
use pinhole_model::Activation;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::linear::linear_shape;
use super::operator::{Built, Compute, build, floats};
use super::parameters::{channels, folder, shape, tensor, weight};
use super::weights::Packed;
use crate::network::{initializer, window};

/// How x is quantised; `None` if that is computed at run time, as by DynamicQuantizeLinear.
pub(super) fn affine_of(
    context: &ParsingContext,
    node: &NodeProto,
    range: Range,
) -> TractResult<Option<Affine>> {
    match range {
        Range::Static => static_affine(context, node, "x").map(Some),
        Range::Dynamic => Ok(None),
    }
}

/// The parameters `x_scale` and `x_zero_point`, if `of` is x.
pub(super) fn static_affine(
    context: &ParsingContext,
    node: &NodeProto,
    of: &str,
) -> TractResult<Affine> {
    let (scale, _) = weight(context, node, &format!("{of}_scale"), 0)?;
    let (zero_point, _) = int8(context, node, &format!("{of}_zero_point"), 0)?;
    let ([scale], [zero_point]) = (&scale[..], &zero_point[..]) else {
        bail!("{of}_scale, {of}_zero_point: expected one value each");
    };
    ensure!(
        *scale > 0.0,
        "{of}_scale: expected a number above 0, found {scale}"
    );
    Ok(Affine {
        scale: *scale,
        zero_point: *zero_point,
    })
}

/// The parameters that quantise `of` to bytes: a scale, and a zero point in u8.
pub(super) fn byte_affine(
    context: &ParsingContext,
    node: &NodeProto,
    of: &str,
) -> TractResult<Affine> {
    let (scale, _) = weight(context, node, &format!("{of}_scale"), 0)?;
    let name = format!("{of}_zero_point");
    let proto = tensor(node, &name)?;
    shape(proto, &name, 0)?;
    let zero_point = initializer::uint8(proto, folder(context))
        .with_context(|| format!("{name}: {}", proto.name))?;
    let ([scale], [zero_point]) = (&scale[..], &zero_point[..]) else {
        bail!("{of}_scale, {of}_zero_point: expected one value each");
    };
    ensure!(
        *scale > 0.0,
        "{of}_scale: expected a number above 0, found {scale}"
    );
    Ok(Affine {
        scale: *scale,
        // 128 is subtracted.
        zero_point: (zero_point ^ 0x80).cast_signed(),
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

/// The operands of a layer, one value of each per output.
struct Operands {
    weight: Vec<i8>,
    dims: Vec<usize>,
    scale: Vec<f32>,
    zero_point: Vec<i8>,
    bias: Vec<f32>,
}

impl Operands {
    /// A weight of `rank` 2 is [inputs, outputs], another one [outputs, ..].
    fn read(context: &ParsingContext, node: &NodeProto, rank: usize) -> TractResult<Self> {
        let (values, dims) = int8(context, node, "weight", rank)?;
        let (scale, scales) = weight(context, node, "scale", 1)?;
        let (zero_point, zero_points) = int8(context, node, "zero_point", 1)?;
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
        Ok(Operands {
            weight: values,
            dims,
            scale,
            zero_point,
            bias,
        })
    }
}

#[derive(Debug)]
struct AffineLinear {
    weights: PackedLinearAffine,
    /// `None`: computed at run time.
    x_affine: Option<Affine>,
    activation: Option<Activation>,
}

pub(super) fn linear(
    context: &ParsingContext,
    node: &NodeProto,
    range: Range,
    activation: Option<Activation>,
) -> Built {
    let x_affine = affine_of(context, node, range)?;
    let operands = Operands::read(context, node, 2)?;
    let (inputs, outputs) = (operands.dims[0], operands.dims[1]);
    let weights = PackedLinearAffine::from_in_out(
        &operands.weight,
        &operands.scale,
        &operands.zero_point,
        inputs,
        outputs,
        Some(&operands.bias),
    );
    let layer = AffineLinear {
        weights: weights?,
        x_affine,
        activation,
    };
    build(Op::AffineLinear(range, activation), layer)
}

impl Compute for AffineLinear {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let weights = &self.weights;
        linear_shape(inputs, weights.inputs(), weights.outputs())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let x = floats(&inputs[0])?;
        let rows = output.len() / self.weights.outputs().max(1);
        let affine = self.x_affine.unwrap_or_else(|| Affine::dynamic(x));
        self.weights
            .apply(x, rows, affine, self.activation, None, output);
        Ok(())
    }

    fn kernel(&self) -> String {
        self.weights.kernel_name()
    }
}

#[derive(Debug)]
struct AffineConvolution {
    weights: PackedConvolution,
    /// `None`: computed at run time.
    x_affine: Option<Affine>,
    order: ChannelOrder,
}

pub(super) fn convolution(
    context: &ParsingContext,
    node: &NodeProto,
    range: Range,
    order: ChannelOrder,
) -> Built {
    let x_affine = affine_of(context, node, range)?;
    let operands = Operands::read(context, node, 4)?;
    let &[outputs, group_inputs, height, width] = &operands.dims[..] else {
        bail!("weight: expected 4 dimensions, found {:?}", operands.dims);
    };
    let window = window::read(node, [height, width]).map_err(|e| format_err!("{e}"))?;
    let (inputs, groups) = channels(node, group_inputs, outputs)?;
    let weights = ConvolutionWeights {
        values: &operands.weight,
        scales: &operands.scale,
        zero_points: &operands.zero_point,
        bias: Some(&operands.bias),
        outputs,
        inputs,
        groups,
    };
    let layer = AffineConvolution {
        weights: PackedConvolution::new(weights, window)?,
        x_affine,
        order,
    };
    build(Op::AffineConvolution(range, order), layer)
}

impl AffineConvolution {
    /// The number of images, their channels, and their height and width.
    fn sizes(&self, shape: &[usize]) -> TractResult<(usize, usize, [usize; 2])> {
        match (self.order, shape) {
            (ChannelOrder::First, &[n, c, h, w]) | (ChannelOrder::Last, &[n, h, w, c]) => {
                Ok((n, c, [h, w]))
            }
            _ => bail!("x: expected 4 dimensions, found {shape:?}"),
        }
    }
}

impl Compute for AffineConvolution {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let (n, channels, image) = self.sizes(inputs[0])?;
        let size = self.weights.window().output(image);
        let size = size.filter(|_| channels == self.weights.inputs());
        let [height, width] = size.with_context(|| {
            format!(
                "x: expected {} channels of at least the size of {:?}, found {:?}",
                self.weights.inputs(),
                self.weights.window(),
                inputs[0]
            )
        })?;
        let outputs = self.weights.outputs();
        Ok(match self.order {
            ChannelOrder::First => tvec![n, outputs, height, width],
            ChannelOrder::Last => tvec![n, height, width, outputs],
        })
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let (n, _, image) = self.sizes(inputs[0].shape())?;
        let x = floats(&inputs[0])?;
        // A dynamic scale is that of all images, as of DynamicQuantizeLinear.
        let affine = self.x_affine.unwrap_or_else(|| Affine::dynamic(x));
        let layout = match self.order {
            ChannelOrder::First => ImageLayout::ChannelsFirst,
            ChannelOrder::Last => ImageLayout::ChannelsLast,
        };
        let by = vec![affine; n];
        let (x, output) = (
            ConvolutionInput::F32(x, &by),
            ConvolutionOutput::F32(output),
        );
        self.weights
            .apply(x, image, [layout; 2], None, None, output);
        Ok(())
    }

    fn kernel(&self) -> String {
        format!("int8 {}", self.weights.kernel())
    }
}
