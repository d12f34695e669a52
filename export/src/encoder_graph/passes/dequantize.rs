//! Quantised constants that are no weights of integer products.

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::float_tensor;

impl EncoderGraph {
    /// Dequantises quantised constants. An error for quantisations that tract computes incorrectly.
    pub(super) fn dequantize_constants(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if !is_standard(node) {
                continue;
            }
            match &*node.op_type {
                "DequantizeLinear" => {
                    if let Some((values, dims)) = self.dequantized(node)? {
                        let name = node.output[0].clone();
                        let tensor = float_tensor(&name, &dims, &values);
                        if self.outputs.contains(&name) {
                            return Err(format!(
                                "output {name}: expected a computed value, found a constant"
                            ));
                        }
                        self.nodes[i].output.clear();
                        self.initializers.insert(name, tensor);
                    } else {
                        self.params(node)?;
                    }
                }
                "QuantizeLinear" => {
                    self.params(node)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
