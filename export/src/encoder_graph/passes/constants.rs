//! Constant and Identity nodes.

use std::collections::HashMap;

use pinhole::internal::raw_tensor;
use tract_onnx::pb::TensorProto;

use crate::encoder_graph::graph::{EncoderGraph, is_standard};

impl EncoderGraph {
    /// Turns Constant nodes into initialisers, and removes Identity nodes.
    pub(super) fn fold_constants(&mut self) -> Result<(), String> {
        let mut copies: HashMap<String, String> = HashMap::new();
        for mut node in std::mem::take(&mut self.nodes) {
            for input in &mut node.input {
                if let Some(original) = copies.get(input) {
                    *input = original.clone();
                }
            }
            let name = match &node.output[..] {
                [output] if is_standard(&node) && !self.outputs.contains(output) => output.clone(),
                _ => {
                    self.nodes.push(node);
                    continue;
                }
            };
            let tensor = match &*node.op_type {
                "Constant" => node
                    .attribute
                    .iter()
                    .find_map(|a| raw_tensor(a.t.as_ref()?)),
                _ => None,
            };
            match (tensor, &node.input[..]) {
                (Some(tensor), _) => {
                    let tensor = TensorProto {
                        name: name.clone(),
                        ..tensor
                    };
                    self.initializers.insert(name, tensor);
                }
                (None, [input]) if node.op_type == "Identity" => {
                    copies.insert(name, input.clone());
                }
                _ => self.nodes.push(node),
            }
        }
        Ok(())
    }
}
