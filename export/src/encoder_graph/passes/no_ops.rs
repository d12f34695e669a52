//! Operators that change nothing.

use std::collections::{HashMap, HashSet};

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{Op, Residual};
use tract_onnx::pb::{NodeProto, tensor_proto::DataType};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::graph::functions::op_of;
use crate::graph::proto::ints;

/// Operators whose result is a float, whatever they read. All floats of the graph are f32.
const FLOAT: [&str; 14] = [
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "DequantizeLinear",
    "Erf",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LayerNormalization",
    "Sigmoid",
    "Softmax",
    "Sqrt",
    "Tanh",
    "InstanceNormalization",
];

/// Operators whose result has the type of their first input.
const OF_FIRST_INPUT: [&str; 22] = [
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Div",
    "Expand",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Mul",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
];

impl EncoderGraph {
    /// Removes conversions of floats to floats, dropout, and transpositions that move nothing; joins a transposition with
    /// the one before it.
    pub(super) fn remove_no_ops(&mut self) -> Result<(), String> {
        let float = DataType::Float as i32;
        let constants = self.initializers.values();
        let constants = constants.filter(|t| t.data_type == float);
        let mut floats: HashSet<String> = constants.map(|t| t.name.clone()).collect();
        let mut copies: HashMap<String, String> = HashMap::new();
        for i in 0..self.nodes.len() {
            for input in &mut self.nodes[i].input {
                if let Some(original) = copies.get(input) {
                    *input = original.clone();
                }
            }
            if let Some(joined) = self.joined_transposes(&self.nodes[i]) {
                self.nodes[i] = joined;
            }
            let node = &self.nodes[i];
            let (Some(input), Some(output)) = (node.input.first(), node.output.first()) else {
                continue;
            };
            let of_floats = floats.contains(input);
            let is_float = match &*node.op_type {
                _ if op_of(node).is_some() => true,
                "Cast" => attributes::integer(node, "to", 0) == i64::from(float),
                op => FLOAT.contains(&op) || OF_FIRST_INPUT.contains(&op) && of_floats,
            };
            let unchanged = is_standard(node)
                && match &*node.op_type {
                    "Cast" => of_floats && is_float,
                    "Dropout" => node.output.len() == 1 && node.input.len() < 3,
                    "Transpose" => attributes::find(node, "perm")
                        .is_some_and(|perm| perm.ints.is_sorted() && !perm.ints.is_empty()),
                    _ => false,
                };
            if is_float {
                floats.extend(node.output.iter().cloned());
            }
            if unchanged && !self.outputs.contains(output) {
                copies.insert(output.clone(), input.clone());
            }
        }
        Ok(())
    }

    /// The transposition `node` and the one before it as one.
    fn joined_transposes(&self, node: &NodeProto) -> Option<NodeProto> {
        if node.op_type != "Transpose" || !is_standard(node) {
            return None;
        }
        let before = self.producer(node.input.first()?, "Transpose")?;
        if !is_standard(before) {
            return None;
        }
        let first = attributes::integers(before, "perm");
        let second = attributes::integers(node, "perm");
        // Without a permutation, all axes are reversed.
        if first.is_empty() || first.len() != second.len() {
            return None;
        }
        let at = |&axis: &i64| first.get(usize::try_from(axis).ok()?).copied();
        let joined = second.iter().map(at).collect::<Option<Vec<i64>>>()?;
        Some(NodeProto {
            input: before.input.clone(),
            attribute: vec![ints("perm", &joined)],
            ..node.clone()
        })
    }

    /// Moves transpositions behind functions of each row, where they meet others.
    pub(super) fn sink_transposes(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let Some(input) = node.input.first().filter(|_| is_of_rows(node)) else {
                continue;
            };
            let Some(&at) = self.producers.get(input) else {
                continue;
            };
            let transpose = &self.nodes[at];
            let perm = attributes::integers(transpose, "perm");
            let keeps_rows = perm
                .last()
                .is_some_and(|&last| last + 1 == perm.len() as i64);
            let moves = transpose.op_type == "Transpose" && is_standard(transpose);
            if !(moves && keeps_rows && self.is_read_once(input)) {
                continue;
            }
            let name = self.fresh(&node.output[0], "rows");
            let behind = NodeProto {
                name: format!("{}/transpose", node.name),
                input: vec![name.clone()],
                output: node.output.clone(),
                ..transpose.clone()
            };
            let function = NodeProto {
                input: transpose.input.clone(),
                output: vec![name.clone()],
                ..node.clone()
            };
            // The transposition is not read any more: the function takes its place, which is before all readers.
            self.nodes[at] = function;
            self.nodes[i] = behind;
            self.producers.insert(name.clone(), at);
            self.uses.insert(name, 1);
        }
        Ok(())
    }
}

/// Whether a node is a function of one value that computes each row from the row at the same place.
fn is_of_rows(node: &NodeProto) -> bool {
    match op_of(node) {
        Some(Op::Linear(linear)) => linear.residual == Residual::None,
        Some(
            Op::LayerNorm
            | Op::Activate(_)
            | Op::AffineLinear(..)
            | Op::FakeQuantize(_)
            | Op::QuantizedTable,
        ) => true,
        _ => false,
    }
}
