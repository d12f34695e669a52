//! Float products as linear layers, and biases.

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{Linear, Op, Storage};
use tract_onnx::pb::{NodeProto, TensorProto, tensor_proto::DataType};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{float_tensor, replacement};
use crate::encoder_graph::values::MAX_OUTPUTS;

impl EncoderGraph {
    /// Replaces float products with constants by linear layers, and merges biases into linear layers.
    pub(super) fn replace_linear(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let product = match &*node.op_type {
                _ if !is_standard(node) => continue,
                "MatMul" => self.float_product(node),
                "Gemm" => self.float_gemm(node)?,
                _ => None,
            };
            if let Some(product) = product {
                self.nodes[i] = product;
                continue;
            }
            let ("Add", [a, b]) = (&*node.op_type, &node.input[..]) else {
                continue;
            };
            let mut found = None;
            for (product, bias) in [(a, b), (b, a)] {
                if let Some((op, linear)) = self.function(product)
                    && op.with_activation(None) == Some(op)
                    // Of another shape of weights; its bias is merged with the convolution.
                    && !matches!(op, Op::Convolution(_))
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

    /// A MatMul with a constant as a linear layer.
    fn float_product(&self, node: &NodeProto) -> Option<NodeProto> {
        let [x, weight] = &node.input[..] else {
            return None;
        };
        let weight = self.float_matrix(weight)?;
        let bias = vec![0.0; weight.dims[1] as usize];
        Some(linear(node, x, weight.clone(), &bias))
    }

    /// A Gemm with constants, `alpha * x @ weight + beta * bias`, as a linear layer.
    fn float_gemm(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        let [x, weight, bias @ ..] = &node.input[..] else {
            return Ok(None);
        };
        let Some(weight) = self.float_matrix(weight) else {
            return Ok(None);
        };
        if attributes::integer(node, "transA", 0) != 0 {
            return Ok(None);
        }
        let mut weight = weight.clone();
        if attributes::integer(node, "transB", 0) != 0 {
            transpose(&mut weight);
        }
        let factor = |name: &str| {
            let factor = attributes::float(node, name, 1.0);
            (factor != 1.0).then_some(factor)
        };
        if let Some(alpha) = factor("alpha") {
            let values = weight.raw_data.as_chunks().0.iter();
            let values = values.map(|&bytes| alpha * f32::from_le_bytes(bytes));
            weight.raw_data = values.flat_map(f32::to_le_bytes).collect();
        }
        let outputs = weight.dims[1] as usize;
        let bias = match bias.first().filter(|bias| !bias.is_empty()) {
            None => Some(vec![0.0; outputs]),
            Some(bias) => self.floats(bias)?.and_then(|(values, dims)| {
                // One value for all outputs, or one for each; never one for each row of x.
                let rows = dims.iter().rev().skip(1).all(|&d| d == 1);
                match values.len() {
                    1 => Some(vec![values[0]; outputs]),
                    count => (rows && count == outputs).then_some(values),
                }
            }),
        };
        let Some(mut bias) = bias else {
            return Ok(None);
        };
        if let Some(beta) = factor("beta") {
            bias.iter_mut().for_each(|bias| *bias *= beta);
        }
        Ok(Some(linear(node, x, weight, &bias)))
    }

    /// A constant f32 matrix of sizes that a linear layer may have. A weight is packed once per reader, and a hostile file
    /// can have many readers.
    fn float_matrix(&self, name: &str) -> Option<&TensorProto> {
        let tensor = self.initializers.get(name)?;
        let float = tensor.data_type == DataType::Float as i32;
        let sizes = |&size: &i64| (1..=MAX_OUTPUTS as i64).contains(&size);
        let matrix = tensor.dims.len() == 2 && tensor.dims.iter().all(sizes);
        (float && matrix && self.is_read_once(name)).then_some(tensor)
    }
}

/// A linear layer over `x` in place of `node`; `weight` is `[inputs, outputs]`.
fn linear(node: &NodeProto, x: &str, weight: TensorProto, bias: &[f32]) -> NodeProto {
    let bias = float_tensor("", &[bias.len() as i64], bias);
    let attributes = vec![
        attributes::of_tensor("weight", weight),
        attributes::of_tensor("bias", bias),
    ];
    let op = Op::Linear(Linear::plain(Storage::Float));
    replacement(node, op, vec![x.to_owned()], attributes)
}

/// Transposes an f32 matrix.
fn transpose(matrix: &mut TensorProto) {
    let (rows, columns) = (matrix.dims[0] as usize, matrix.dims[1] as usize);
    let values = matrix.raw_data.as_chunks::<4>().0;
    let column = |c: usize| (0..rows).flat_map(move |r| values[r * columns + c]);
    matrix.raw_data = (0..columns).flat_map(column).collect();
    matrix.dims.reverse();
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
