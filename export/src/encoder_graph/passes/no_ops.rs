//! Operators that change nothing.

use std::collections::{HashMap, HashSet};

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{Op, Residual};
use tract_onnx::pb::{NodeProto, TensorProto, tensor_proto::DataType};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::int64_tensor;
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
    /// Removes conversions of floats to floats, dropout, and transpositions and reshapes that change nothing; joins each of
    /// these with the one before it.
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
            let node = &self.nodes[i];
            let joined = self.joined_transposes(node);
            if let Some(joined) = joined.or_else(|| self.joined_reshapes(node)) {
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
                    // A target that is computed may be of a number of images.
                    "Reshape" => {
                        let same = self
                            .shape(input)
                            .is_some_and(|s| Some(s) == self.shape(output));
                        same && self.target(node).is_some()
                    }
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

    /// Moves operators that only move rows behind functions of each row, where they meet others.
    pub(super) fn sink_moves(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let Some(input) = node.input.first().filter(|_| is_of_rows(node)) else {
                continue;
            };
            let Some(&at) = self.producers.get(input) else {
                continue;
            };
            let (Some(target), true) = (self.moves_rows(at, node), self.is_read_once(input)) else {
                continue;
            };
            let name = self.fresh(&node.output[0], "rows");
            let mover = &self.nodes[at];
            let shapes = [&mover.input[0], &node.output[0]].map(|name| self.shape(name));
            let shape = match shapes {
                [Some([rows @ .., _]), Some([.., columns])] => Some([rows, &[*columns]].concat()),
                _ => None,
            };
            let mut behind = NodeProto {
                name: format!("{}/moved", node.output[0]),
                output: node.output.clone(),
                ..mover.clone()
            };
            behind.input[0] = name.clone();
            let function = NodeProto {
                input: vec![mover.input[0].clone()],
                output: vec![name.clone()],
                ..node.clone()
            };
            if let Some(tensor) = target {
                behind.input[1] = tensor.name.clone();
                self.initializers.insert(tensor.name.clone(), tensor);
            }
            if let Some(shape) = shape {
                self.set_shape(&name, shape);
            }
            // What moved is not read any more: the function takes its place, which is before all readers.
            self.nodes[at] = function;
            self.nodes[i] = behind;
            self.producers.insert(name.clone(), at);
            self.uses.insert(name, 1);
        }
        Ok(())
    }

    /// Whether the node at `at` only moves the rows that `function` reads; the target if it is a Reshape, for the function's
    /// results.
    fn moves_rows(&self, at: usize, function: &NodeProto) -> Option<Option<TensorProto>> {
        let node = &self.nodes[at];
        match &*node.op_type {
            _ if !is_standard(node) => None,
            "Transpose" => {
                let perm = attributes::integers(node, "perm");
                let last = perm
                    .last()
                    .is_some_and(|&last| last + 1 == perm.len() as i64);
                last.then_some(None)
            }
            "Reshape" => {
                let [from, to] = [node.input.first()?, node.output.first()?];
                let same = self.shape(from)?.last()? == self.shape(to)?.last()?;
                let columns = *self.shape(function.output.first()?)?.last()?;
                let mut sizes = self.target(node)?;
                *sizes.last_mut()? = columns as i64;
                let name = self.fresh(&function.output[0], "target");
                same.then(|| Some(int64_tensor(&name, &sizes)))
            }
            _ => None,
        }
    }

    /// The constant target of a Reshape, of sizes that do not depend on its input's.
    fn target(&self, node: &NodeProto) -> Option<Vec<i64>> {
        let tensor = self.initializers.get(node.input.get(1)?)?;
        let values = tensor.raw_data.as_chunks().0.iter();
        let sizes: Vec<i64> = values.map(|&bytes| i64::from_le_bytes(bytes)).collect();
        let standard = tensor.data_type == DataType::Int64 as i32;
        (standard && !sizes.contains(&0)).then_some(sizes)
    }

    /// The Reshape `node` and the one before it as one.
    fn joined_reshapes(&self, node: &NodeProto) -> Option<NodeProto> {
        if node.op_type != "Reshape" || !is_standard(node) {
            return None;
        }
        let before = self.producer(node.input.first()?, "Reshape")?;
        self.target(node).filter(|_| is_standard(before))?;
        Some(NodeProto {
            input: vec![before.input.first()?.clone(), node.input[1].clone()],
            ..node.clone()
        })
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
