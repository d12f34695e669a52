//! Float linear layers and convolutions in 8-bit integers.

use pinhole::internal::{attributes, nonlinearity};
use pinhole_bundle::dialect::{
    Convolution, ConvolutionActivation, Linear, LinearInput, Op, Residual, Storage,
};
use pinhole_kernels::{PackedConvolution, Window};
use tract_onnx::pb::{NodeProto, TensorProto};

use super::graph::EncoderGraph;
use super::node::{float_tensor, int8_tensor, replacement};
use crate::convolution_quantization::FloatConvolution;
use crate::graph::functions::op_of;
use crate::graph::proto::float;
use crate::quantization::{FloatLinear, InputOrigin, QuantizationPlan, QuantizedLayer};

impl EncoderGraph {
    /// Replaces the float linear layers and convolutions by those that `plan` chooses and records. A layer behind a layer
    /// norm takes the norm into itself, with its own gain and shift: other readers of the norm are not affected.
    pub(super) fn quantize(&mut self, plan: &mut QuantizationPlan) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if plan.is_float(&node.name) {
                continue;
            }
            let linear = match op_of(node) {
                Some(Op::Linear(linear)) => linear,
                Some(Op::Convolution(op)) if op.storage == Storage::Float => {
                    if let Some(quantized) = convolution(node, op, plan)? {
                        self.nodes[i] = quantized;
                    }
                    continue;
                }
                _ => continue,
            };
            if linear.input != LinearInput::Plain || linear.storage != Storage::Float {
                continue;
            }
            let (weight, bias) = weight_and_bias(node)?;
            let producer = self.function(&node.input[0]);
            // There is none that adds a residual.
            let norm = producer
                .filter(|(op, _)| *op == Op::LayerNorm && linear.residual == Residual::None);
            let origin = match producer.map(|(op, _)| op) {
                _ if norm.is_some() => InputOrigin::Scalable,
                // An offset is added in no layer with an activation function of its own.
                Some(op) if is_hardly_negative(op) && linear.activation.is_none() => {
                    InputOrigin::Activation
                }
                _ => InputOrigin::Other,
            };
            let exact = FloatLinear::new(&weight, &bias, linear.activation);
            let layer = plan
                .layer(&node.name, &exact, origin)
                .map_err(|e| format!("{e:#}"))?;
            let Some((_, norm)) = norm else {
                self.nodes[i] = alone(node, linear, layer);
                continue;
            };
            self.nodes[i] = behind_norm(node, norm, linear, layer)?;
        }
        Ok(())
    }
}

/// `layer` in place of the float layer `node`.
fn alone(node: &NodeProto, linear: Linear, layer: &QuantizedLayer) -> NodeProto {
    let mut attributes = parameters(layer);
    let input = match layer.offset {
        Some(offset) => {
            attributes.push(float("offset", offset));
            LinearInput::Offset
        }
        None => LinearInput::Plain,
    };
    let op = Op::Linear(Linear {
        input,
        storage: Storage::Int8,
        ..linear
    });
    replacement(node, op, node.input.clone(), attributes)
}

/// `layer` in place of the float layer `node` and the layer norm `norm` before it.
fn behind_norm(
    node: &NodeProto,
    norm: &NodeProto,
    linear: Linear,
    layer: &QuantizedLayer,
) -> Result<NodeProto, String> {
    let missing = || format!("node {}: expected gain and bias, found none", norm.name);
    let mut gain = values(norm, "gain").ok_or_else(missing)?;
    let mut shift = values(norm, "bias").ok_or_else(missing)?;
    layer.input_transform.divide(&mut gain);
    layer.input_transform.apply(&mut shift);
    let width = gain.len() as i64;
    let epsilon = attributes::float(norm, "epsilon", 1e-5);
    let mut attributes = vec![
        attributes::of_tensor("gain", float_tensor("", &[width], &gain)),
        attributes::of_tensor("shift", float_tensor("", &[width], &shift)),
        float("epsilon", epsilon),
    ];
    attributes.extend(parameters(layer));
    let op = Op::Linear(Linear {
        input: LinearInput::LayerNorm,
        storage: Storage::Int8,
        ..linear
    });
    Ok(replacement(node, op, norm.input.clone(), attributes))
}

fn parameters(layer: &QuantizedLayer) -> Vec<tract_onnx::pb::AttributeProto> {
    let outputs = layer.bias.len();
    let dims = [(layer.weight.len() / outputs) as i64, outputs as i64];
    let per_output = |values: &[f32]| float_tensor("", &dims[1..], values);
    vec![
        attributes::of_tensor("weight", int8_tensor("", &dims, &layer.weight)),
        attributes::of_tensor("scale", per_output(&layer.scale)),
        attributes::of_tensor("bias", per_output(&layer.offset_bias())),
    ]
}

/// Whether the results of a function end in an activation function without values far below 0.
fn is_hardly_negative(op: Op) -> bool {
    use ConvolutionActivation::{Mlp, Relu};
    match op {
        Op::Activate(_) => true,
        Op::Linear(before) => before.activation.is_some() && before.residual == Residual::None,
        Op::Convolution(before) => matches!(before.activation, Some(Mlp(_) | Relu)),
        _ => false,
    }
}

/// The convolution that `plan` chooses for the float one `node`; `None` if it stays in floating point.
fn convolution(
    node: &NodeProto,
    op: Convolution,
    plan: &mut QuantizationPlan,
) -> Result<Option<NodeProto>, String> {
    let (weight, bias) = weight_and_bias(node)?;
    let tensor = attributes::find(node, "weight").and_then(|a| a.t.as_ref());
    let dims = tensor.map_or(vec![], |t| t.dims.clone());
    let wrong = || format!("node {}: expected a convolution, found {dims:?}", node.name);
    let list = |name: &str| -> Vec<usize> {
        let values = attributes::integers(node, name).iter();
        values.map(|&v| usize::try_from(v).unwrap_or(0)).collect()
    };
    let sides: Vec<usize> = dims.iter().skip(2).map(|&side| side as usize).collect();
    let pair = |values: Vec<usize>| <[usize; 2]>::try_from(values).map_err(|_| wrong());
    let float = FloatConvolution {
        weight: &weight,
        bias: &bias,
        groups: attributes::integer(node, "group", 1) as usize,
        window: Window {
            kernel: pair(sides)?,
            stride: pair(list("strides"))?,
            dilation: pair(list("dilations"))?,
            padding: list("pads").try_into().map_err(|_| wrong())?,
        },
        activation: op.activation.map(nonlinearity),
    };
    if float.values() > PackedConvolution::MOST_INPUTS {
        return Ok(None);
    }
    let layer = plan
        .convolution(&node.name, &float)
        .map_err(|e| format!("{e:#}"))?
        .clone();
    if layer.stays_float() {
        plan.keep_float([layer.name]);
        return Ok(None);
    }
    let mut attribute = node.attribute.clone();
    attribute.retain(|a| a.t.is_none());
    let per_output = |values: &[f32]| float_tensor("", &dims[..1], values);
    attribute.extend([
        attributes::of_tensor("weight", int8_tensor("", &dims, &layer.weight)),
        attributes::of_tensor("scale", per_output(&layer.scale)),
        attributes::of_tensor("bias", per_output(&layer.bias)),
    ]);
    let op = Op::Convolution(Convolution {
        storage: Storage::Int8,
        ..op
    });
    Ok(Some(replacement(node, op, node.input.clone(), attribute)))
}

fn weight_and_bias(node: &NodeProto) -> Result<(Vec<f32>, Vec<f32>), String> {
    let found = values(node, "weight").zip(values(node, "bias"));
    found.ok_or_else(|| format!("node {}: expected weight and bias, found none", node.name))
}

/// The values of an f32 parameter.
fn values(node: &NodeProto, name: &str) -> Option<Vec<f32>> {
    let tensor: &TensorProto = attributes::find(node, name)?.t.as_ref()?;
    let values = tensor.raw_data.as_chunks().0.iter();
    Some(values.map(|&bytes| f32::from_le_bytes(bytes)).collect())
}
