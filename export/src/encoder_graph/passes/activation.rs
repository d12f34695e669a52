//! Activation functions.

use pinhole_bundle::dialect::Op;
use pinhole_model::Activation;
use tract_onnx::pb::NodeProto;

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{both_orders, replacement};

impl EncoderGraph {
    /// Replaces activation functions, and merges them into the preceding product if there is one.
    pub(super) fn replace_activations(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if node.op_type != "Mul" || !is_standard(node) {
                continue;
            }
            let (activation, x) = match (self.quick_gelu(node)?, self.gelu(node)?) {
                (Some(x), _) => (Activation::QuickGelu, x.to_owned()),
                (None, Some(x)) => (Activation::Gelu, x.to_owned()),
                _ => continue,
            };
            // The pattern reads x twice. A Reshape in between does not matter.
            let mut source = x.as_str();
            let shape = self.producer(source, "Reshape");
            let once = self.uses.get(source) == Some(&2);
            if let (true, Some(input)) = (once, shape.and_then(|s| s.input.first())) {
                source = input;
            }
            let only =
                once && (source == x || self.is_read_once(source)) && self.is_read_within(node, &x);
            // A product takes only one activation function.
            let merged = self.function(source).and_then(|(op, _)| {
                let merged = op.with_activation(Some(activation))?;
                (only && op.with_activation(None) == Some(op)).then_some(merged)
            });
            let Some(merged) = merged else {
                let op = Op::Activate(activation);
                self.nodes[i] = replacement(node, op, vec![x], vec![]);
                continue;
            };
            let at = self.producers[source];
            let shape = shape.filter(|_| source != x).cloned();
            let end = &self.nodes[i];
            let (end_name, end_output) = (end.name.clone(), end.output.clone());
            let product = &mut self.nodes[at];
            product.op_type = merged.name();
            let last = match shape {
                Some(shape) => NodeProto {
                    name: end_name,
                    output: end_output,
                    ..shape
                },
                None => {
                    let mut product = std::mem::take(product);
                    product.output = end_output;
                    product
                }
            };
            self.nodes[i] = last;
        }
        Ok(())
    }

    /// Whether nothing else reads what is computed between `x` and `node`.
    fn is_read_within(&self, node: &NodeProto, x: &str) -> bool {
        (node.input.iter()).all(|input| match self.producers.get(input) {
            Some(&producer) if input != x => {
                self.is_read_once(input) && self.is_read_within(&self.nodes[producer], x)
            }
            _ => true,
        })
    }

    /// Matches x * sigmoid(1.702 x); returns x.
    fn quick_gelu<'s>(&'s self, node: &'s NodeProto) -> Result<Option<&'s str>, String> {
        for (x, gate) in both_orders(node) {
            let Some(inner) = self
                .producer(gate, "Sigmoid")
                .and_then(|s| self.producer(s.input.first()?, "Mul"))
            else {
                continue;
            };
            for (a, factor) in both_orders(inner) {
                if a == x && self.number(factor)? == Some(1.702) {
                    return Ok(Some(a));
                }
            }
        }
        Ok(None)
    }

    /// Matches x / 2 * (1 + erf(x / sqrt 2)) in any order of factors; returns x.
    fn gelu<'s>(&'s self, node: &'s NodeProto) -> Result<Option<&'s str>, String> {
        // The three factors: x, 1/2 and the one with the error function.
        for (a, b) in both_orders(node) {
            let Some(inner) = self.producer(a, "Mul") else {
                continue;
            };
            for (c, d) in both_orders(inner) {
                for [x, half, erf] in [[b, c, d], [c, b, d], [c, d, b], [b, d, c]] {
                    if self.number(half)? == Some(0.5) && self.erf(erf)? == Some(x) {
                        return Ok(Some(x));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Matches 1 + erf(x / sqrt 2); returns x.
    fn erf<'s>(&'s self, name: &str) -> Result<Option<&'s str>, String> {
        let Some(sum) = self.producer(name, "Add") else {
            return Ok(None);
        };
        let near = |found: Option<f32>, value: f32| found.is_some_and(|f| (f - value).abs() < 1e-4);
        for (erf, one) in both_orders(sum) {
            let Some(erf) = self.producer(erf, "Erf") else {
                continue;
            };
            let argument = erf.input.first().map_or("", |i| i);
            if !near(self.number(one)?, 1.0) {
                continue;
            }
            if let Some([x, root]) = self.producer(argument, "Div").map(|n| &n.input[..])
                && near(self.number(root)?, std::f32::consts::SQRT_2)
            {
                return Ok(Some(x));
            }
            if let Some(product) = self.producer(argument, "Mul") {
                for (x, factor) in both_orders(product) {
                    if near(self.number(factor)?, std::f32::consts::FRAC_1_SQRT_2) {
                        return Ok(Some(x));
                    }
                }
            }
        }
        Ok(None)
    }
}
