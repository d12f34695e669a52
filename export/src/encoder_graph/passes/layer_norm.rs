//! Layer normalisations, as one operator and decomposed.

use pinhole_bundle::dialect::Op;
use tract_onnx::pb::NodeProto;

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{both_orders, float_tensor, replacement};
use crate::graph::proto::float;
use pinhole::internal::attributes;

impl EncoderGraph {
    /// Replaces layer normalisations.
    pub(super) fn replace_layer_norms(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let found = match &*node.op_type {
                "LayerNormalization" if is_standard(node) => self.layer_norm(node)?,
                "Add" if is_standard(node) => self.decomposed_layer_norm(node)?,
                _ => None,
            };
            if let Some(found) = found {
                self.nodes[i] = found;
            }
        }
        Ok(())
    }

    fn layer_norm(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        let ([x, gain, bias], [_]) = (&node.input[..], &node.output[..]) else {
            return Ok(None);
        };
        if attributes::integer(node, "axis", -1) != -1 {
            return Ok(None);
        }
        let epsilon = attributes::float(node, "epsilon", 1e-5);
        self.norm(node, x, gain, bias, epsilon)
    }

    fn norm(
        &self,
        node: &NodeProto,
        x: &str,
        gain: &str,
        bias: &str,
        epsilon: f32,
    ) -> Result<Option<NodeProto>, String> {
        let (Some((gain, dims)), Some((bias, found))) = (self.floats(gain)?, self.floats(bias)?)
        else {
            return Ok(None);
        };
        // One gain for all values is not the operator's.
        let width = self.shape(x).and_then(|shape| shape.last());
        if width.is_some_and(|&width| dims != [width as i64]) {
            return Ok(None);
        }
        if dims.len() != 1 || dims != found || !(epsilon.is_finite() && epsilon > 0.0) {
            return Ok(None);
        }
        let attributes = vec![
            attributes::of_tensor("gain", float_tensor("gain", &dims, &gain)),
            attributes::of_tensor("bias", float_tensor("bias", &dims, &bias)),
            float("epsilon", epsilon),
        ];
        let input = vec![x.to_owned()];
        Ok(Some(replacement(node, Op::LayerNorm, input, attributes)))
    }

    /// Add(Mul(Div(x - mean, Sqrt(variance + epsilon)), gain), bias), as exported before opset 17.
    fn decomposed_layer_norm(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        let mean_of = |name: &str| -> Option<&str> {
            let mean = self.producer(name, "ReduceMean")?;
            let last = match mean.input.len() {
                1 => attributes::integers(mean, "axes") == [-1],
                _ => false,
            };
            (last && attributes::integer(mean, "keepdims", 1) == 1).then(|| &*mean.input[0])
        };
        for (a, bias) in both_orders(node) {
            let Some(scaled) = self.producer(a, "Mul") else {
                continue;
            };
            for (normed, gain) in both_orders(scaled) {
                let Some([centred, deviation]) = self.producer(normed, "Div").map(|n| &n.input[..])
                else {
                    continue;
                };
                let parts = (|| {
                    let [x, mean] = &self.producer(centred, "Sub")?.input[..] else {
                        return None;
                    };
                    let root = self.producer(deviation, "Sqrt")?;
                    let sum = self.producer(root.input.first()?, "Add")?;
                    (mean_of(mean)? == x).then_some((x, sum))
                })();
                let Some((x, sum)) = parts else {
                    continue;
                };
                for (variance, epsilon) in both_orders(sum) {
                    let Some(squares) = mean_of(variance) else {
                        continue;
                    };
                    let square = match self.producer(squares, "Pow") {
                        Some(pow) if pow.input.len() == 2 => {
                            pow.input[0] == *centred && self.number(&pow.input[1])? == Some(2.0)
                        }
                        _ => match self.producer(squares, "Mul") {
                            Some(mul) => mul.input.iter().all(|i| i == centred),
                            None => false,
                        },
                    };
                    if let (true, Some(epsilon)) = (square, self.number(epsilon)?) {
                        return self.norm(node, x, gain, bias, epsilon);
                    }
                }
            }
        }
        Ok(None)
    }
}
