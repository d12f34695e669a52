//! Convolutions, channels last.

use pinhole_bundle::dialect::{self, ConvolutionActivation, Op};
use pinhole_kernels::{FloatConvolutionWeights, Nonlinearity, PackedFloatConvolution};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Compute, build, floats};
use super::parameters::{shape, tensor, weight};
use super::window;

#[derive(Debug)]
struct Convolution {
    weights: PackedFloatConvolution,
    activation: Option<Nonlinearity>,
}

pub(super) fn convolution(
    context: &ParsingContext,
    node: &NodeProto,
    layer: dialect::Convolution,
) -> Built {
    let dims = shape(tensor(node, "weight")?, "weight", 4)?;
    let &[outputs, group_inputs, height, width] = &dims[..] else {
        bail!("weight: expected 4 dimensions, found {dims:?}");
    };
    let window = window::read(node, [height, width])?;
    let (inputs, groups) = window::channels(node, group_inputs, outputs)?;
    let (bias, found) = weight(context, node, "bias", 1)?;
    ensure!(
        found == [outputs],
        "bias: expected [{outputs}], found {found:?}"
    );
    let (values, _) = weight(context, node, "weight", 4)?;
    let weights = FloatConvolutionWeights {
        values: &values,
        bias: Some(&bias),
        outputs,
        inputs,
        groups,
    };
    let weights = PackedFloatConvolution::new(weights, window);
    let activation = layer.activation.map(|activation| match activation {
        ConvolutionActivation::Mlp(activation) => Nonlinearity::Mlp(activation),
        ConvolutionActivation::Relu => Nonlinearity::RELU,
        ConvolutionActivation::Silu => Nonlinearity::Silu,
        ConvolutionActivation::HardSwish => Nonlinearity::HardSwish,
    });
    build(
        Op::Convolution(layer),
        Convolution {
            weights,
            activation,
        },
    )
}

impl Compute for Convolution {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[n, height, width, channels] = inputs[0] else {
            bail!("x: expected [N, H, W, C], found {:?}", inputs[0]);
        };
        let (window, expected) = (self.weights.window(), self.weights.inputs());
        let size = window.output([height, width]);
        let size = size.filter(|_| channels == expected);
        let [height, width] = size.with_context(|| {
            format!(
                "x: expected [N, H, W, {expected}] of at least the size of {window:?}, found {:?}",
                inputs[0]
            )
        })?;
        let shape = tvec![n, height, width, self.weights.outputs()];
        if let Some(residual) = inputs.get(1) {
            ensure!(
                **residual == *shape,
                "residual: expected {shape:?}, found {residual:?}"
            );
        }
        Ok(shape)
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[n, height, width, _] = inputs[0].shape() else {
            bail!("x: expected 4 dimensions")
        };
        let x = floats(&inputs[0])?;
        let residual = inputs.get(1).map(floats).transpose()?;
        let (image, activation) = ([height, width], self.activation);
        self.weights
            .apply(x, n, image, activation, residual, output);
        Ok(())
    }

    fn kernel(&self) -> String {
        format!("f32 {}", self.weights.kernel())
    }
}
