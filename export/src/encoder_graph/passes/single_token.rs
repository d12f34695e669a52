//! A token that is read alone, as the class token behind the last block.

use std::collections::HashMap;

use pinhole_bundle::dialect::{Op, Range};
use tract_onnx::pb::{NodeProto, TensorProto};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{axis, int64_tensor};
use crate::graph::functions::op_of;
use crate::graph::proto;

/// Standard operators that compute each element from the elements at the same place.
const ELEMENTWISE: [&str; 11] = [
    "Add",
    "Div",
    "Erf",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Mul",
    "Relu",
    "Sigmoid",
    "Sub",
    "Tanh",
];

impl EncoderGraph {
    /// Where a single token of values `[N, T, D]` is read, computes it alone, back to where tokens are mixed.
    pub(super) fn narrow_to_single_token(&mut self) -> Result<(), String> {
        let narrowed = self.narrowed();
        // A token of a value that keeps all of them.
        let mut taken: HashMap<(String, usize), String> = HashMap::new();
        for i in 0..self.nodes.len() {
            let Some(output) = self.nodes[i].output.first().cloned() else {
                continue;
            };
            if let Some((token, operands)) = narrowed.get(&output) {
                for &operand in operands {
                    let input = self.nodes[i].input[operand].clone();
                    if narrowed.contains_key(&input) {
                        continue;
                    }
                    let key = (input, *token);
                    let name = match taken.get(&key) {
                        Some(name) => name.clone(),
                        None => self.take_token(i, &key.0, *token),
                    };
                    self.nodes[i].input[operand].clone_from(&name);
                    taken.insert(key, name);
                }
                self.set_single_token(&output, &output);
            } else if self.token_read(&self.nodes[i]).is_some()
                && narrowed.contains_key(&self.nodes[i].input[0])
            {
                // What is left is the first.
                let index = self.nodes[i].input[1].clone();
                let dims = self.shape(&index).unwrap_or_default();
                let dims = dims.iter().map(|&size| size as i64).collect();
                let zero = TensorProto {
                    dims,
                    ..int64_tensor(&self.fresh(&output, "index"), &[0])
                };
                self.nodes[i].input[1].clone_from(&zero.name);
                self.initializers.insert(zero.name.clone(), zero);
            }
        }
        Ok(())
    }

    /// The results of functions of each token of which one token alone is needed, with its index and the function's operands
    /// that have tokens.
    fn narrowed(&self) -> HashMap<String, (usize, Vec<usize>)> {
        // The token that all readers of a value need; None if they need more.
        let mut needed: HashMap<&str, Option<usize>> = HashMap::new();
        for output in &self.outputs {
            needed.insert(output, None);
        }
        let mut narrowed = HashMap::new();
        for node in self.nodes.iter().rev() {
            let of_output = match &node.output[..] {
                [output] => needed.get(&**output).copied().flatten(),
                _ => None,
            };
            let by_token = self.operands_by_token(node);
            let read = self.token_read(node);
            for (i, input) in node.input.iter().enumerate() {
                let token = if by_token.contains(&i) {
                    of_output
                } else {
                    read.filter(|_| i == 0)
                };
                needed
                    .entry(input)
                    .and_modify(|all| *all = all.filter(|_| *all == token))
                    .or_insert(token);
            }
            if let Some(token) = of_output.filter(|_| !by_token.is_empty()) {
                narrowed.insert(node.output[0].clone(), (token, by_token));
            }
        }
        narrowed
    }

    /// Index of the one token that a node reads of its first input.
    fn token_read(&self, node: &NodeProto) -> Option<usize> {
        let [input, index] = &node.input[..] else {
            return None;
        };
        let shape = self.shape(input).filter(|shape| shape.len() == 3)?;
        let of_tokens = node.op_type == "Gather" && is_standard(node) && axis(node, 0, 3)? == 1;
        let &[index] = self.numbers(index).filter(|_| of_tokens)? else {
            return None;
        };
        let index = if index < 0.0 {
            index + shape[1] as f64
        } else {
            index
        };
        Some(index as usize)
    }

    /// The operands `[N, T, D]` of a node whose result `[N, T, E]` is, for each token, a function of the same token of these.
    fn operands_by_token(&self, node: &NodeProto) -> Vec<usize> {
        let tokens = |name: &str| match self.shape(name) {
            Some(&[_, tokens, _]) => Some(tokens),
            _ => None,
        };
        let Some(count) = node.output.first().and_then(|output| tokens(output)) else {
            return vec![];
        };
        let elementwise = is_standard(node) && ELEMENTWISE.contains(&&*node.op_type);
        if count < 2 || !(elementwise || is_of_tokens(op_of(node))) {
            return vec![];
        }
        let mut operands = vec![];
        for (i, name) in node.input.iter().enumerate() {
            match self.shape(name) {
                // The same for all tokens.
                Some([] | [_] | [1, _] | [_, 1, _]) if elementwise => {}
                _ if tokens(name) == Some(count) => operands.push(i),
                _ => return vec![],
            }
        }
        operands
    }

    /// Inserts the selection of a token of `value` before the node at `at`; its name.
    fn take_token(&mut self, at: usize, value: &str, token: usize) -> String {
        let index = int64_tensor(&self.fresh(value, "token_index"), &[token as i64]);
        let name = self.fresh(value, "token");
        let axis = proto::int("axis", 1);
        self.insert(
            at,
            proto::node("", "Gather", &[value, &index.name], &name, vec![axis]),
        );
        self.initializers.insert(index.name.clone(), index);
        self.set_single_token(&name, value);
        name
    }

    /// States that `name` has one token, and otherwise the shape of `of`.
    fn set_single_token(&mut self, name: &str, of: &str) {
        if let Some(&[images, _, width]) = self.shape(of) {
            self.set_shape(name, vec![images, 1, width]);
        }
    }
}

/// Whether a function computes each token from the tokens at the same place. A range found at run time depends on all of
/// them.
fn is_of_tokens(op: Option<Op>) -> bool {
    matches!(
        op,
        Some(
            Op::Activate(_)
                | Op::AffineLinear(Range::Static, _)
                | Op::FakeQuantize(Range::Static)
                | Op::L2Normalize
                | Op::LayerNorm
                | Op::Linear(_)
                | Op::QuantizedTable
        )
    )
}
