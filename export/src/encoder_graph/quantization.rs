//! Float linear layers and convolutions in 8-bit integers.

use std::collections::HashMap;

use pinhole::internal::{attributes, nonlinearity};
use pinhole_bundle::dialect::{
    AttentionInput, AttentionScores, Convolution, ConvolutionActivation, Element, Linear,
    LinearInput, Op, Residual, Storage,
};
use pinhole_kernels::{Affine, PackedConvolution, Window};
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

use super::graph::EncoderGraph;
use super::node::{float_tensor, int8_tensor, replacement, uint8_tensor, window_attributes};
use crate::convolution_quantization::{FloatConvolution, QuantizedConvolution};
use crate::graph::functions::op_of;
use crate::graph::proto::float;
use crate::quantization::{
    FloatLinear, InputOrigin, Int8Attention, QuantizationPlan, QuantizedLayer,
};

impl EncoderGraph {
    /// Replaces the float linear layers and convolutions by those that `plan` chooses and records. A layer behind a layer
    /// norm takes the norm into itself, with its own gain and shift: other readers of the norm are not affected.
    ///
    /// Values that integer convolutions alone read and write become bytes with a scale for all images, unless `plan` keeps
    /// them in f32. A linear layer over the pixels of such images is a convolution of one pixel.
    pub(super) fn quantize(&mut self, plan: &mut QuantizationPlan) -> Result<(), String> {
        let bytes = self.bytes(plan)?;
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if plan.is_float(&node.name) {
                continue;
            }
            let touched = node.input.iter().chain(&node.output);
            let touched = touched.into_iter().any(|name| bytes.contains_key(name));
            let one_pixel = touched.then(|| convolution_of(node)).flatten();
            let linear = match op_of(one_pixel.as_ref().unwrap_or(node)) {
                Some(Op::Linear(linear)) => linear,
                Some(Op::Convolution(op)) if op.storage == Storage::Float => {
                    let node = one_pixel.as_ref().unwrap_or(node);
                    if let Some(quantized) = convolution(node, op, plan, &bytes)? {
                        self.nodes[i] = quantized;
                    }
                    continue;
                }
                Some(Op::Attention(input, AttentionScores::Exact)) => {
                    if let Some(attention) = self.int8_attention(node, input) {
                        let op = Op::Attention(input, plan.attention(attention));
                        let (inputs, attributes) = (node.input.clone(), node.attribute.clone());
                        self.nodes[i] = replacement(node, op, inputs, attributes);
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

    /// The values that are to be bytes, by name. What is added to later sums stays f32: it would be rounded again at each
    /// addition, and the errors of all of them would reach the embedding.
    fn bytes(&self, plan: &mut QuantizationPlan) -> Result<HashMap<String, Affine>, String> {
        let mut integers = vec![];
        for node in &self.nodes {
            integers.push(self.becomes_integer_convolution(node, plan)?);
        }
        // Values that something else reads.
        let others = self.nodes.iter().zip(&integers).filter(|(_, is)| !**is);
        let residuals = self.nodes.iter().filter_map(|node| node.input.get(1));
        let others: Vec<&String> = others
            .flat_map(|(node, _)| &node.input)
            .chain(residuals)
            .collect();
        let mut bytes = HashMap::new();
        for (node, _) in self.nodes.iter().zip(&integers).filter(|(_, is)| **is) {
            let y = &node.output[0];
            if !self.outputs.contains(y)
                && !others.contains(&y)
                && let Some(by) = plan.bytes(&node.name)
            {
                bytes.insert(y.clone(), by);
            }
        }
        Ok(bytes)
    }

    /// Whether a node becomes a convolution in integers if one of its values is bytes.
    fn becomes_integer_convolution(
        &self,
        node: &NodeProto,
        plan: &mut QuantizationPlan,
    ) -> Result<bool, String> {
        if plan.is_float(&node.name) {
            return Ok(false);
        }
        Ok(match op_of(node) {
            Some(Op::Convolution(op)) if op.storage == Storage::Float => {
                let float = FloatWeights::of(node)?;
                let float = float.convolution(op);
                // Others stay in integers, whatever their error is.
                let depthwise = float.groups > 1;
                let stays = depthwise && fitted(node, &float, plan)?.stays_float();
                float.values() <= PackedConvolution::MOST_INPUTS && !stays
            }
            Some(Op::Linear(op)) if op.storage == Storage::Float => {
                let x = &node.input[0];
                let image = self.shape(x).is_some_and(|shape| shape.len() == 4);
                let norm = self.function(x).is_some_and(|(op, _)| op == Op::LayerNorm);
                image && !norm && convolution_of(node).is_some()
            }
            _ => false,
        })
    }

    /// The attention `node` in integers, if it is of every token to every other one: of a single query it would cost more to
    /// quantise the keys and values than integers save.
    fn int8_attention(&self, node: &NodeProto, input: AttentionInput) -> Option<Int8Attention> {
        let shape = |name: &String| {
            self.shape(name)
                .and_then(|s| <[usize; 3]>::try_from(s).ok())
        };
        let [_, tokens, width] = shape(node.output.first()?)?;
        let columns = match input {
            AttentionInput::QueryKeyValue => return None,
            AttentionInput::Joint => [0, width, 2 * width],
            AttentionInput::Columns => ["query_column", "key_column", "value_column"].map(|name| {
                attributes::integers(node, name)
                    .first()
                    .map_or(0, |&c| c as usize)
            }),
        };
        let of_all = |name| shape(name).is_some_and(|[_, rows, _]| rows == tokens);
        if !node.input.iter().all(of_all) {
            return None;
        }
        Some(Int8Attention {
            name: node.name.clone(),
            tokens,
            heads: *attributes::integers(node, "heads").first()? as usize,
            width,
            columns,
            scale: attributes::float(node, "scale", 1.0),
            sensitivity: None,
        })
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

/// The convolution of one pixel that computes the same as a linear layer in floating point over an image's pixels.
fn convolution_of(node: &NodeProto) -> Option<NodeProto> {
    let Some(Op::Linear(linear)) = op_of(node) else {
        return None;
    };
    let plain = linear.input == LinearInput::Plain && linear.storage == Storage::Float;
    // A convolution adds the residual before its activation function.
    let order = linear.activation.is_none() || linear.residual == Residual::None;
    if !plain || !order {
        return None;
    }
    let (weight, bias) = weight_and_bias(node).ok()?;
    let (outputs, inputs) = (bias.len(), weight.len() / bias.len().max(1));
    let moved = (0..weight.len()).map(|i| weight[i % inputs * outputs + i / inputs]);
    let moved: Vec<f32> = moved.collect();
    let window = Window {
        kernel: [1, 1],
        stride: [1, 1],
        dilation: [1, 1],
        padding: [0; 4],
    };
    let dims = [outputs as i64, inputs as i64, 1, 1];
    let mut attribute = window_attributes(&window, 1);
    attribute.push(attributes::of_tensor(
        "weight",
        float_tensor("", &dims, &moved),
    ));
    attribute.push(attributes::of_tensor(
        "bias",
        float_tensor("", &dims[..1], &bias),
    ));
    let op = Op::Convolution(Convolution {
        residual: linear.residual,
        activation: linear.activation.map(ConvolutionActivation::Mlp),
        ..Convolution::plain(Storage::Float)
    });
    Some(replacement(node, op, node.input.clone(), attribute))
}

/// The parameters of a float convolution.
struct FloatWeights {
    weight: Vec<f32>,
    bias: Vec<f32>,
    dims: Vec<i64>,
    window: Window,
    groups: usize,
}

impl FloatWeights {
    fn of(node: &NodeProto) -> Result<Self, String> {
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
        let window = Window {
            kernel: pair(sides)?,
            stride: pair(list("strides"))?,
            dilation: pair(list("dilations"))?,
            padding: list("pads").try_into().map_err(|_| wrong())?,
        };
        Ok(FloatWeights {
            weight,
            bias,
            window,
            groups: attributes::integer(node, "group", 1) as usize,
            dims,
        })
    }

    fn convolution(&self, op: Convolution) -> FloatConvolution<'_> {
        FloatConvolution {
            weight: &self.weight,
            bias: &self.bias,
            groups: self.groups,
            window: self.window,
            activation: op.activation.map(nonlinearity),
        }
    }
}

fn fitted<'a>(
    node: &NodeProto,
    float: &FloatConvolution,
    plan: &'a mut QuantizationPlan,
) -> Result<&'a mut QuantizedConvolution, String> {
    plan.convolution(&node.name, float)
        .map_err(|e| format!("{e:#}"))
}

/// The convolution that `plan` chooses for the float one `node`, some of whose values are `bytes`; `None` if it stays in
/// floating point.
fn convolution(
    node: &NodeProto,
    op: Convolution,
    plan: &mut QuantizationPlan,
    bytes: &HashMap<String, Affine>,
) -> Result<Option<NodeProto>, String> {
    let weights = FloatWeights::of(node)?;
    let float = weights.convolution(op);
    if float.values() > PackedConvolution::MOST_INPUTS {
        return Ok(None);
    }
    let layer = fitted(node, &float, plan)?;
    if layer.stays_float() {
        let name = layer.name.clone();
        plan.keep_float([name]);
        return Ok(None);
    }
    let (x, y) = (bytes.get(&node.input[0]), bytes.get(&node.output[0]));
    layer.input = match x {
        None => "u8 per image",
        Some(_) => "u8",
    };
    let mut attribute = node.attribute.clone();
    attribute.retain(|a| a.t.is_none());
    let dims = &weights.dims;
    let per_output = |values: &[f32]| float_tensor("", &dims[..1], values);
    attribute.extend([
        attributes::of_tensor("weight", int8_tensor("", dims, &layer.weight)),
        attributes::of_tensor("scale", per_output(&layer.scale)),
        attributes::of_tensor("bias", per_output(&layer.bias)),
    ]);
    for (name, by) in [("x", x), ("y", y)] {
        attribute.extend(by.into_iter().flat_map(|by| affine_parameters(name, *by)));
    }
    let element = |by: Option<&Affine>| match by {
        None => Element::F32,
        Some(_) => Element::U8,
    };
    let op = Op::Convolution(Convolution {
        storage: Storage::Int8,
        x: element(x),
        y: element(y),
        ..op
    });
    Ok(Some(replacement(node, op, node.input.clone(), attribute)))
}

/// The parameters that quantise `of` to bytes.
fn affine_parameters(of: &str, by: Affine) -> [AttributeProto; 2] {
    let zero_point = by.zero_point.cast_unsigned() ^ 0x80;
    let scale = float_tensor("", &[], &[by.scale]);
    [
        attributes::of_tensor(&format!("{of}_scale"), scale),
        attributes::of_tensor(
            &format!("{of}_zero_point"),
            uint8_tensor("", &[], &[zero_point]),
        ),
    ]
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
