//! Float products as linear layers, and biases.

use tract_onnx::pb::{NodeProto, tensor_proto::DataType};

use super::graph::{Graph, is_standard};
use super::node::{float_tensor, linear, replacement};
use super::products::MAX_OUTPUTS;
use crate::network::{attributes, inserted};

impl Graph<'_> {
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
                {
                    let outputs = weight.dims[1];
                    let zeros = vec![0.0; outputs as usize];
                    let attributes = vec![
                        attributes::of_tensor("weight", weight.clone()),
                        attributes::of_tensor("bias", float_tensor("bias", &[outputs], &zeros)),
                    ];
                    let input = vec![node.input[0].clone()];
                    self.nodes[i] = replacement(node, &linear(None), input, attributes);
                }
                continue;
            }
            let ("Add", [a, b]) = (&*node.op_type, &node.input[..]) else {
                continue;
            };
            let mut found = None;
            for (product, bias) in [(a, b), (b, a)] {
                let linear = [inserted::AFFINE_LINEAR, &linear(None)]
                    .into_iter()
                    .find_map(|op| self.producer(product, op));
                if let Some(linear) = linear
                    && self.is_read_once(product)
                    && self
                        .initializers
                        .get(bias)
                        .is_some_and(|t| t.dims.len() == 1)
                    && let Some(bias) = self.bias(bias)?
                    && outputs(linear) == bias.t.as_ref().and_then(|t| t.dims.first().copied())
                    && without_bias(linear)
                {
                    found = Some((self.producers[product], bias));
                    break;
                }
            }
            if let Some((product, bias)) = found {
                let linear = &mut self.nodes[product];
                let (op, input) = (linear.op_type.clone(), linear.input.clone());
                let mut attributes = std::mem::take(&mut linear.attribute);
                attributes.retain(|a| a.name != "bias");
                attributes.push(bias);
                self.nodes[i] = replacement(&self.nodes[i], &op, input, attributes);
            }
        }
        Ok(())
    }
}

/// The number of outputs of a linear node.
fn outputs(node: &NodeProto) -> Option<i64> {
    let weight = attributes::find(node, "weight")?.t.as_ref()?;
    let [rows, columns] = weight.dims[..] else {
        return None;
    };
    Some(if attributes::integer(node, "transposed", 0) != 0 {
        rows
    } else {
        columns
    })
}

/// Whether a linear node has no bias, or one of zeros.
fn without_bias(node: &NodeProto) -> bool {
    attributes::find(node, "bias")
        .and_then(|b| b.t.as_ref())
        .is_none_or(|t| t.raw_data.iter().all(|&b| b == 0))
}
