//! Float linear layers in 8-bit integers.

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{Linear, LinearInput, Op, Residual, Storage};
use tract_onnx::pb::{NodeProto, TensorProto};

use super::graph::EncoderGraph;
use super::node::{float_tensor, int8_tensor, replacement};
use crate::graph::functions::op_of;
use crate::graph::proto::float;
use crate::quantization::{FloatLinear, InputOrigin, QuantizationPlan, QuantizedLayer};

impl EncoderGraph {
    /// Replaces the float linear layers by those that `plan` chooses and records. A layer behind a layer norm takes the
    /// norm into itself, with its own gain and shift: other readers of the norm are not affected.
    pub(super) fn quantize_linear(&mut self, plan: &mut QuantizationPlan) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let Some(Op::Linear(linear)) = op_of(node) else {
                continue;
            };
            let float_layer = Linear {
                activation: linear.activation,
                ..Linear::plain(Storage::Float)
            };
            if linear != float_layer || plan.is_float(&node.name) {
                continue;
            }
            let (Some(weight), Some(bias)) = (values(node, "weight"), values(node, "bias")) else {
                return Err(format!(
                    "node {}: expected weight and bias, found none",
                    node.name
                ));
            };
            let producer = self.function(&node.input[0]);
            let norm = producer.filter(|(op, _)| *op == Op::LayerNorm);
            let origin = match producer {
                Some((Op::LayerNorm, _)) => InputOrigin::Scalable,
                Some((Op::Activate(_), _)) => InputOrigin::Activation,
                Some((Op::Linear(before), _)) if before.activation.is_some() => {
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
        residual: Residual::None,
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

/// The values of an f32 parameter.
fn values(node: &NodeProto, name: &str) -> Option<Vec<f32>> {
    let tensor: &TensorProto = attributes::find(node, name)?.t.as_ref()?;
    let values = tensor.raw_data.as_chunks().0.iter();
    Some(values.map(|&bytes| f32::from_le_bytes(bytes)).collect())
}
