//! Quantisations that are dequantised at once.

use pinhole_bundle::dialect::{Op, Range};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{InputQuantization, replacement};

impl EncoderGraph {
    /// Replaces DequantizeLinear of QuantizeLinear by one operator.
    pub(super) fn fuse_quantize_dequantize(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if node.op_type != "DequantizeLinear" || !is_standard(node) {
                continue;
            }
            let input = node.input.first().map_or("", |i| i);
            if self.initializers.contains_key(input) {
                continue;
            }
            let after = self.params(node)?;
            let Some(before) = self.producer(input, "QuantizeLinear") else {
                continue;
            };
            if self.params(before)? != after {
                return Err(format!(
                    "node {} (DequantizeLinear): expected the scale and zero point of {}, found others",
                    node.name, before.name
                ));
            }
            let Some(x) = before.input.first().cloned() else {
                continue;
            };
            let attributes = InputQuantization::Static(after).parameters();
            let op = Op::FakeQuantize(Range::Static);
            self.nodes[i] = replacement(node, op, vec![x], attributes);
        }
        Ok(())
    }
}
