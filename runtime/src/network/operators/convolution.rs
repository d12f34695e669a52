//! Convolutions, channels last.

use pinhole_bundle::dialect::{self, ConvolutionActivation, Op, Storage};
use pinhole_kernels::{
    Affine, ConvolutionWeights, FloatConvolutionWeights, ImageLayout, Nonlinearity,
    PackedConvolution, PackedFloatConvolution, Window,
};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Compute, build, floats};
use super::parameters::{channels, folder, shape, tensor, weight};
use crate::network::attach::IMAGE;
use crate::network::{attributes, initializer, window};

#[derive(Debug)]
struct Convolution {
    weights: Weights,
    activation: Option<Nonlinearity>,
}

#[derive(Debug)]
enum Weights {
    Float(PackedFloatConvolution),
    Int8(PackedConvolution),
}

impl Weights {
    /// The window, and the channels of the input and the output.
    fn sizes(&self) -> (&Window, usize, usize) {
        match self {
            Self::Float(weights) => (weights.window(), weights.inputs(), weights.outputs()),
            Self::Int8(weights) => (weights.window(), weights.inputs(), weights.outputs()),
        }
    }
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
    let window = window::read(node, [height, width]).map_err(|e| format_err!("{e}"))?;
    let (inputs, groups) = channels(node, group_inputs, outputs)?;
    let per_output = |name: &str| {
        let (values, found) = weight(context, node, name, 1)?;
        ensure!(
            found == [outputs],
            "{name}: expected [{outputs}], found {found:?}"
        );
        Ok(values)
    };
    let bias = per_output("bias")?;
    let weights = match layer.storage {
        Storage::Float => {
            let (values, _) = weight(context, node, "weight", 4)?;
            let weights = FloatConvolutionWeights {
                values: &values,
                bias: Some(&bias),
                outputs,
                inputs,
                groups,
            };
            let image = match attributes::integers(node, IMAGE) {
                &[height, width] => [height as usize, width as usize],
                _ => bail!("x: expected [N, H, W, C]"),
            };
            Weights::Float(PackedFloatConvolution::new(weights, window, image))
        }
        Storage::Int8 => {
            let proto = tensor(node, "weight")?;
            let values = initializer::int8(proto, folder(context), Vec::new())
                .with_context(|| format!("weight: {}", proto.name))?;
            let weights = ConvolutionWeights {
                values: &values,
                scales: &per_output("scale")?,
                zero_points: &[],
                bias: Some(&bias),
                outputs,
                inputs,
                groups,
            };
            Weights::Int8(PackedConvolution::new(weights, window)?)
        }
    };
    let activation = layer.activation.map(nonlinearity);
    build(
        Op::Convolution(layer),
        Convolution {
            weights,
            activation,
        },
    )
}

/// What the kernels compute as an activation function.
pub fn nonlinearity(activation: ConvolutionActivation) -> Nonlinearity {
    match activation {
        ConvolutionActivation::Mlp(activation) => Nonlinearity::Mlp(activation),
        ConvolutionActivation::Relu => Nonlinearity::RELU,
        ConvolutionActivation::Silu => Nonlinearity::Silu,
        ConvolutionActivation::HardSwish => Nonlinearity::HardSwish,
    }
}

impl Compute for Convolution {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[n, height, width, channels] = inputs[0] else {
            bail!("x: expected [N, H, W, C], found {:?}", inputs[0]);
        };
        let (window, expected, outputs) = self.weights.sizes();
        let size = window.output([height, width]);
        let size = size.filter(|_| channels == expected);
        let [height, width] = size.with_context(|| {
            format!(
                "x: expected [N, H, W, {expected}] of at least the size of {window:?}, found {:?}",
                inputs[0]
            )
        })?;
        let shape = tvec![n, height, width, outputs];
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
        match &self.weights {
            Weights::Float(weights) => weights.apply(x, n, image, activation, residual, output),
            Weights::Int8(weights) => {
                let size = (x.len() / n.max(1)).max(1);
                let by: Vec<Affine> = x.chunks_exact(size).map(Affine::dynamic).collect();
                let layouts = [ImageLayout::ChannelsLast; 2];
                weights.apply(x, image, layouts, &by, activation, residual, output);
            }
        }
        Ok(())
    }

    fn kernel(&self) -> String {
        match &self.weights {
            Weights::Float(weights) => format!("f32 {}", weights.kernel()),
            Weights::Int8(weights) => format!("int8 {}", weights.kernel()),
        }
    }
}
