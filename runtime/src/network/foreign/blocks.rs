//! Float blocks as operators of ours: linear layers with their biases and activation functions, layer norms, the
//! pixels' way in.

use pinhole_bundle::dialect;
use tract_onnx::pb::{NodeProto, tensor_proto::DataType};

use super::node::{
    float_attribute, float_tensor, integer, integers_of, number_of, replacement, string_attribute,
    tensor_attribute,
};
use super::products::MOST_OUTPUTS;
use super::{Foreign, GELU, LINEAR, NORMALIZE_PIXELS, QUICK_GELU, standard};

impl Foreign<'_> {
    /// Float products with constants, and what is added to a product.
    pub(super) fn biases(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if node.op_type == "MatMul" && standard(node) && node.input.len() == 2 {
                let weight = self.initializers.get(&node.input[1]);
                let weight = weight.filter(|w| {
                    let float = w.data_type == DataType::Float as i32;
                    w.dims.len() == 2 && float && self.read_once(&w.name)
                });
                if let Some(weight) = weight
                    && (1..=MOST_OUTPUTS as i64).contains(&weight.dims[1])
                {
                    let outputs = weight.dims[1];
                    let zeros = vec![0.0; outputs as usize];
                    let attributes = vec![
                        tensor_attribute("weight", weight.clone()),
                        tensor_attribute("bias", float_tensor("bias", &[outputs], &zeros)),
                    ];
                    let input = vec![node.input[0].clone()];
                    self.nodes[i] = replacement(node, dialect::LINEAR.name, input, attributes);
                }
                continue;
            }
            let ("Add", [a, b]) = (&*node.op_type, &node.input[..]) else {
                continue;
            };
            let mut found = None;
            for (product, bias) in [(a, b), (b, a)] {
                let linear = [LINEAR, dialect::LINEAR.name]
                    .iter()
                    .find_map(|op| self.made_by(product, op));
                if let Some(linear) = linear
                    && self.read_once(product)
                    && self
                        .initializers
                        .get(bias)
                        .is_some_and(|t| t.dims.len() == 1)
                    && let Some(bias) = self.bias(bias)?
                    && outputs(linear) == bias.t.as_ref().and_then(|t| t.dims.first().copied())
                    && without_bias(linear)
                {
                    found = Some((self.producers[product], bias));
                    break;
                }
            }
            if let Some((product, bias)) = found {
                let linear = &mut self.nodes[product];
                let (op, input) = (linear.op_type.clone(), linear.input.clone());
                let mut attributes = std::mem::take(&mut linear.attribute);
                attributes.retain(|a| a.name != "bias");
                attributes.push(bias);
                self.nodes[i] = replacement(&self.nodes[i], &op, input, attributes);
            }
        }
        Ok(())
    }

    /// Layer norms and the pixels' way in.
    pub(super) fn blocks(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if !standard(node) {
                continue;
            }
            let found = match &*node.op_type {
                "LayerNormalization" => self.layer_norm(node)?,
                "Add" => self.decomposed_layer_norm(node)?,
                "Transpose" => self.pixels(node)?,
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
        if integer(node, "axis", -1) != -1 {
            return Ok(None);
        }
        let epsilon = number_of(node, "epsilon", 1e-5);
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
        if dims.len() != 1 || dims != found || !(epsilon.is_finite() && epsilon > 0.0) {
            return Ok(None);
        }
        let attributes = vec![
            tensor_attribute("gain", float_tensor("gain", &dims, &gain)),
            tensor_attribute("bias", float_tensor("bias", &dims, &bias)),
            float_attribute("epsilon", epsilon),
        ];
        let input = vec![x.to_owned()];
        Ok(Some(replacement(
            node,
            dialect::LAYER_NORM.name,
            input,
            attributes,
        )))
    }

    /// Add(Mul(Div(x - mean, Sqrt(variance + epsilon)), gain), bias), as exports before opset 17 have it.
    fn decomposed_layer_norm(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        let mean_of = |name: &str| -> Option<&str> {
            let mean = self.made_by(name, "ReduceMean")?;
            let last = match mean.input.len() {
                1 => integers_of(mean, "axes") == [-1],
                _ => false,
            };
            (last && integer(mean, "keepdims", 1) == 1).then(|| &*mean.input[0])
        };
        for (a, bias) in either(node) {
            let Some(scaled) = self.made_by(a, "Mul") else {
                continue;
            };
            for (normed, gain) in either(scaled) {
                let Some([centred, deviation]) = self.made_by(normed, "Div").map(|n| &n.input[..])
                else {
                    continue;
                };
                let parts = (|| {
                    let [x, mean] = &self.made_by(centred, "Sub")?.input[..] else {
                        return None;
                    };
                    let root = self.made_by(deviation, "Sqrt")?;
                    let sum = self.made_by(root.input.first()?, "Add")?;
                    (mean_of(mean)? == x).then_some((x, sum))
                })();
                let Some((x, sum)) = parts else {
                    continue;
                };
                for (variance, epsilon) in either(sum) {
                    let Some(squares) = mean_of(variance) else {
                        continue;
                    };
                    let square = match self.made_by(squares, "Pow") {
                        Some(pow) if pow.input.len() == 2 => {
                            pow.input[0] == *centred && self.number(&pow.input[1])? == Some(2.0)
                        }
                        _ => match self.made_by(squares, "Mul") {
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

    /// Transpose(Cast(pixels) · scale + offset) to channels first.
    fn pixels(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        if integers_of(node, "perm") != [0, 3, 1, 2] {
            return Ok(None);
        }
        let parts = (|| {
            let [scaled, offset] = &self.made_by(node.input.first()?, "Add")?.input[..] else {
                return None;
            };
            let [float, scale] = &self.made_by(scaled, "Mul")?.input[..] else {
                return None;
            };
            let cast = self.made_by(float, "Cast")?;
            let pixels = cast.input.first().filter(|p| *p == "pixels")?;
            (integer(cast, "to", 0) == DataType::Float as i64).then_some((pixels, scale, offset))
        })();
        let Some((pixels, scale, offset)) = parts else {
            return Ok(None);
        };
        let (scale, offset) = (self.floats(scale)?, self.floats(offset)?);
        let (Some((scale, a)), Some((offset, b))) = (scale, offset) else {
            return Ok(None);
        };
        if a != [3] || b != [3] {
            return Ok(None);
        }
        let attributes = vec![
            tensor_attribute("scale", float_tensor("scale", &[3], &scale)),
            tensor_attribute("offset", float_tensor("offset", &[3], &offset)),
        ];
        Ok(Some(replacement(
            node,
            NORMALIZE_PIXELS,
            vec![pixels.clone()],
            attributes,
        )))
    }

    /// Activation functions, inside the product before them where there is one.
    pub(super) fn activations(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if node.op_type != "Mul" || !standard(node) {
                continue;
            }
            let (op, x) = match (self.quick_gelu(node)?, self.gelu(node)?) {
                (Some(x), _) => (QUICK_GELU, x.to_owned()),
                (None, Some(x)) => (GELU, x.to_owned()),
                _ => continue,
            };
            // The pattern reads x twice, and a change of shape between does not matter.
            let mut source = x.as_str();
            let shape = self.made_by(source, "Reshape");
            let once = self.uses.get(source) == Some(&2);
            if let (true, Some(input)) = (once, shape.and_then(|s| s.input.first())) {
                source = input;
            }
            let only = once && (source == x || self.read_once(source));
            let linear = [LINEAR, dialect::LINEAR.name]
                .iter()
                .find_map(|op| self.made_by(source, op))
                .filter(|l| only && !l.attribute.iter().any(|a| a.name == "activation"));
            let Some(linear) = linear else {
                self.nodes[i] = replacement(node, op, vec![x], vec![]);
                continue;
            };
            let at = self.producers[&linear.output[0]];
            let shape = shape.filter(|_| source != x).cloned();
            let end = &self.nodes[i];
            let (end_name, end_output) = (end.name.clone(), end.output.clone());
            let linear = &mut self.nodes[at];
            match (linear.op_type == LINEAR, op) {
                (true, _) => {
                    let name = string_attribute("activation", op);
                    linear.attribute.push(name);
                }
                (false, QUICK_GELU) => linear.op_type = dialect::LINEAR_QUICK_GELU.name.into(),
                (false, _) => linear.op_type = dialect::LINEAR_GELU.name.into(),
            }
            let last = match shape {
                Some(shape) => NodeProto {
                    name: end_name,
                    output: end_output,
                    ..shape
                },
                None => {
                    let mut product = std::mem::take(linear);
                    product.output = end_output;
                    product
                }
            };
            self.nodes[i] = last;
        }
        Ok(())
    }

    /// x of x · sigmoid(1.702 x)
    fn quick_gelu<'s>(&'s self, node: &'s NodeProto) -> Result<Option<&'s str>, String> {
        for (x, gate) in either(node) {
            let Some(inner) = self
                .made_by(gate, "Sigmoid")
                .and_then(|s| self.made_by(s.input.first()?, "Mul"))
            else {
                continue;
            };
            for (a, factor) in either(inner) {
                if a == x && self.number(factor)? == Some(1.702) {
                    return Ok(Some(a));
                }
            }
        }
        Ok(None)
    }

    /// x of x / 2 · (1 + erf(x / sqrt 2)), in any order.
    fn gelu<'s>(&'s self, node: &'s NodeProto) -> Result<Option<&'s str>, String> {
        // The three factors: x, a half, and the error function's.
        for (a, b) in either(node) {
            let Some(inner) = self.made_by(a, "Mul") else {
                continue;
            };
            for (c, d) in either(inner) {
                for [x, half, erf] in [[b, c, d], [c, b, d], [c, d, b], [b, d, c]] {
                    if self.number(half)? == Some(0.5) && self.erf(erf)? == Some(x) {
                        return Ok(Some(x));
                    }
                }
            }
        }
        Ok(None)
    }

    /// x of 1 + erf(x / sqrt 2)
    fn erf<'s>(&'s self, name: &str) -> Result<Option<&'s str>, String> {
        let Some(sum) = self.made_by(name, "Add") else {
            return Ok(None);
        };
        let near = |found: Option<f32>, value: f32| found.is_some_and(|f| (f - value).abs() < 1e-4);
        for (erf, one) in either(sum) {
            let Some(erf) = self.made_by(erf, "Erf") else {
                continue;
            };
            let argument = erf.input.first().map_or("", |i| i);
            if !near(self.number(one)?, 1.0) {
                continue;
            }
            if let Some([x, root]) = self.made_by(argument, "Div").map(|n| &n.input[..])
                && near(self.number(root)?, std::f32::consts::SQRT_2)
            {
                return Ok(Some(x));
            }
            if let Some(product) = self.made_by(argument, "Mul") {
                for (x, factor) in either(product) {
                    if near(self.number(factor)?, std::f32::consts::FRAC_1_SQRT_2) {
                        return Ok(Some(x));
                    }
                }
            }
        }
        Ok(None)
    }
}

fn either(node: &NodeProto) -> Vec<(&str, &str)> {
    match &node.input[..] {
        [a, b] => vec![(a, b), (b, a)],
        _ => vec![],
    }
}

/// The outputs of a linear node.
fn outputs(node: &NodeProto) -> Option<i64> {
    let weight = node
        .attribute
        .iter()
        .find(|a| a.name == "weight")?
        .t
        .as_ref()?;
    let [rows, columns] = weight.dims[..] else {
        return None;
    };
    Some(if integer(node, "transposed", 0) != 0 {
        rows
    } else {
        columns
    })
}

fn without_bias(node: &NodeProto) -> bool {
    let bias = node.attribute.iter().find(|a| a.name == "bias");
    bias.and_then(|b| b.t.as_ref())
        .is_none_or(|t| t.raw_data.iter().all(|&b| b == 0))
}
