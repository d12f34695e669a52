//! Quantisations that change nothing.

use std::collections::HashMap;

use pinhole_bundle::dialect::{Op, Range};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{AffineParams, InputQuantization};
use crate::graph::functions::op_of;

/// Operators that only move the values of their first input.
const MOVES: [&str; 10] = [
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Gather",
    "Slice",
    "Split",
    "Expand",
    "Concat",
];

impl EncoderGraph {
    /// Removes a quantisation if every reader, also through operators that only move values, applies the same one.
    pub(super) fn remove_redundant_quantization(&mut self) -> Result<(), String> {
        // The quantisation that all readers of a value apply; None if they differ.
        let mut quantization: HashMap<&str, Option<AffineParams>> = HashMap::new();
        for output in &self.outputs {
            quantization.insert(output, None);
        }
        for node in self.nodes.iter().rev() {
            let own = match &*node.op_type {
                _ if quantizes(op_of(node)) => match InputQuantization::of(node) {
                    InputQuantization::Static(params) => Some(params),
                    InputQuantization::Dynamic => None,
                },
                op if is_standard(node) && MOVES.contains(&op) => {
                    let mut all = node.output.iter();
                    let first = all
                        .next()
                        .and_then(|o| quantization.get(o.as_str()).copied().flatten());
                    let same =
                        all.all(|o| quantization.get(o.as_str()).copied().flatten() == first);
                    first.filter(|_| same)
                }
                _ => None,
            };
            for (i, input) in node.input.iter().enumerate() {
                // The other inputs are shapes and indices.
                let own = own.filter(|_| i == 0 || node.op_type == "Concat");
                quantization
                    .entry(input)
                    .and_modify(|all| *all = all.filter(|all| Some(*all) == own))
                    .or_insert(own);
            }
        }
        let mut removed: HashMap<String, String> = HashMap::new();
        for node in &self.nodes {
            if op_of(node) == Some(Op::FakeQuantize(Range::Static))
                && let InputQuantization::Static(params) = InputQuantization::of(node)
                && quantization.get(node.output[0].as_str()).copied().flatten() == Some(params)
            {
                let input = &node.input[0];
                let input = removed.get(input).unwrap_or(input).clone();
                removed.insert(node.output[0].clone(), input);
            }
        }
        for input in self.nodes.iter_mut().flat_map(|n| &mut n.input) {
            if let Some(original) = removed.get(input) {
                *input = original.clone();
            }
        }
        Ok(())
    }
}

/// Whether a function quantises its input first.
fn quantizes(op: Option<Op>) -> bool {
    matches!(
        op,
        Some(Op::FakeQuantize(_) | Op::AffineLinear(..) | Op::AffineConvolution(..))
    )
}
