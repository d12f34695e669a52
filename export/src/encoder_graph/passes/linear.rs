//! Float products as linear layers, and biases.

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{Linear, Op, Storage};
use tract_onnx::pb::{NodeProto, tensor_proto::DataType};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{float_tensor, replacement};
use crate::encoder_graph::values::MAX_OUTPUTS;

impl EncoderGraph {
    /// Replaces float products with constants by linear layers, and merges biases into linear layers.
    pub(super) fn replace_linear(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if node.op_type == "MatMul" && is_standard(node) && node.input.len() == 2 {
                let weight = self.initializers.get(&node.input[1]);
                let weight = weight.filter(|w| {
                    let float = w.data_type == DataType::Float as i32;
                    w.dims.len() == 2 && float && self.is_read_once(&w.name)
                });
                if let Some(weight) = weight
                    && (1..=MAX_OUTPUTS as i64).contains(&weight.dims[1])
                    && weight.dims[0] > 0
                {
                    let outputs = weight.dims[1];
                    let zeros = vec![0.0; outputs as usize];
                    let attributes = vec![
                        attributes::of_tensor("weight", weight.clone()),
                        attributes::of_tensor("bias", float_tensor("", &[outputs], &zeros)),
                    ];
                    let input = vec![node.input[0].clone()];
                    let op = Op::Linear(Linear::plain(Storage::Float));
                    self.nodes[i] = replacement(node, op, input, attributes);
                }
                continue;
            }
            let ("Add", [a, b]) = (&*node.op_type, &node.input[..]) else {
                continue;
            };
            let mut found = None;
            for (product, bias) in [(a, b), (b, a)] {
                if let Some((op, linear)) = self.function(product)
                    && op.with_activation(None) == Some(op)
                    && self.is_read_once(product)
                    && self
                        .initializers
                        .get(bias)
                        .is_some_and(|t| t.dims.len() == 1)
                    && let Some(bias) = self.bias(bias)?
                    && outputs(linear) == Some(bias.len() as i64)
                    && without_bias(linear)
                {
                    found = Some((op, self.producers[product], bias));
                    break;
                }
            }
            if let Some((op, product, bias)) = found {
                let linear = &mut self.nodes[product];
                let input = linear.input.clone();
                let mut attributes = std::mem::take(&mut linear.attribute);
                attributes.retain(|a| a.name != "bias");
                let bias = float_tensor("", &[bias.len() as i64], &bias);
                attributes.push(attributes::of_tensor("bias", bias));
                self.nodes[i] = replacement(&self.nodes[i], op, input, attributes);
            }
        }
        Ok(())
    }
}

/// The number of outputs of a linear node.
fn outputs(node: &NodeProto) -> Option<i64> {
    let weight = attributes::find(node, "weight")?.t.as_ref()?;
    weight.dims.get(1).copied()
}

/// Whether the bias of a linear node is of zeros.
fn without_bias(node: &NodeProto) -> bool {
    attributes::find(node, "bias")
        .and_then(|b| b.t.as_ref())
        .is_some_and(|t| t.raw_data.iter().all(|&b| b == 0))
}
