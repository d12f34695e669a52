//! Convolutions, channels last.

use pinhole_bundle::dialect::{self, ConvolutionActivation, Element, Op, Storage};
use pinhole_kernels::{
    Affine, ConvolutionInput, ConvolutionOutput, ConvolutionWeights, FloatConvolutionWeights,
    ImageLayout, Nonlinearity, PackedConvolution, PackedFloatConvolution, Window,
};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::affine::byte_affine;
use super::operator::{Built, Compute, build, bytes, floats};
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
    Int8(PackedConvolution, Bytes),
}

/// How the images that are bytes are quantised.
#[derive(Debug)]
struct Bytes {
    x: Option<Affine>,
    y: Option<Affine>,
}

impl Weights {
    /// The window, and the channels of the input and the output.
    fn sizes(&self) -> (&Window, usize, usize) {
        match self {
            Self::Float(weights) => (weights.window(), weights.inputs(), weights.outputs()),
            Self::Int8(weights, _) => (weights.window(), weights.inputs(), weights.outputs()),
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
            let affine = |element: Element, of: &str| match element {
                Element::F32 => Ok(None),
                Element::U8 => byte_affine(context, node, of).map(Some),
            };
            let bytes = Bytes {
                x: affine(layer.x, "x")?,
                y: affine(layer.y, "y")?,
            };
            Weights::Int8(PackedConvolution::new(weights, window)?, bytes)
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
        match &self.weights {
            Weights::Float(weights) => {
                let &[n, height, width, _] = inputs[0].shape() else {
                    bail!("x: expected 4 dimensions")
                };
                let x = floats(&inputs[0])?;
                let residual = inputs.get(1).map(floats).transpose()?;
                let image = [height, width];
                weights.apply(x, n, image, self.activation, residual, output);
                Ok(())
            }
            Weights::Int8(weights, bytes) => {
                self.run_int8(weights, bytes, inputs, ConvolutionOutput::F32(output))
            }
        }
    }

    fn run_to_bytes(&self, inputs: &[TValue], output: &mut [u8]) -> TractResult<()> {
        let Weights::Int8(weights, bytes) = &self.weights else {
            bail!("y: expected an int8 convolution, found one in floating point");
        };
        let by = bytes.y.context("y: expected a scale, found none")?;
        self.run_int8(weights, bytes, inputs, ConvolutionOutput::Bytes(output, by))
    }

    fn kernel(&self) -> String {
        match &self.weights {
            Weights::Float(weights) => format!("f32 {}", weights.kernel()),
            Weights::Int8(weights, _) => format!("int8 {}", weights.kernel()),
        }
    }
}

impl Convolution {
    fn run_int8(
        &self,
        weights: &PackedConvolution,
        by: &Bytes,
        inputs: &[TValue],
        output: ConvolutionOutput,
    ) -> TractResult<()> {
        let &[n, height, width, _] = inputs[0].shape() else {
            bail!("x: expected 4 dimensions")
        };
        let residual = inputs.get(1).map(floats).transpose()?;
        let dynamic: Vec<Affine>;
        let x = match by.x {
            Some(by) => ConvolutionInput::Bytes(bytes(&inputs[0])?, n, by),
            None => {
                let x = floats(&inputs[0])?;
                let size = (x.len() / n.max(1)).max(1);
                dynamic = x.chunks_exact(size).map(Affine::dynamic).collect();
                ConvolutionInput::F32(x, &dynamic)
            }
        };
        let layouts = [ImageLayout::ChannelsLast; 2];
        let image = [height, width];
        weights.apply(x, image, layouts, self.activation, residual, output);
        Ok(())
    }
}
