//! Quantised products in their various forms.

use tract_onnx::pb::{AttributeProto, NodeProto, tensor_proto::DataType};

use super::graph::{Graph, is_standard};
use super::node::{
    InputQuantization, axis, float_tensor, input_quantization, quantization_attributes, replacement,
};
use crate::network::{attributes, inserted};

/// Most outputs of a layer. Bounds the memory that a hostile file can claim.
pub(super) const MAX_OUTPUTS: usize = 1 << 20;

/// The constant operand of a product.
struct Weight {
    /// The name of the 8-bit initialiser.
    values: String,
    /// One value, or one per output.
    scale: Vec<f32>,
    /// The name of the initialiser with the zero points.
    zero_point: Option<String>,
    /// Whether the shape is [outputs, inputs].
    transposed: bool,
}

/// An integer product, the value that is quantised for it, and the scale of its weight.
type DynamicProduct<'a> = (&'a NodeProto, &'a str, Vec<f32>);

impl Graph<'_> {
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
            let attributes = quantization_attributes(&InputQuantization::Static(after));
            self.nodes[i] = replacement(node, inserted::FAKE_QUANTIZE, vec![x], attributes);
        }
        Ok(())
    }

    /// Replaces products of quantised operands.
    pub(super) fn replace_quantized_products(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let found = match &*node.op_type {
                "MatMul" | "Gemm" if is_standard(node) => self.static_product(node)?,
                "Conv" if is_standard(node) => self.static_convolution(node)?,
                "Mul" if is_standard(node) => match self.dynamic_product(node)? {
                    Some(found) => Some(found),
                    None => self.dynamic_convolution(i)?,
                },
                "DynamicQuantizeMatMul" | "MatMulIntegerToFloat" => {
                    Some(self.com_microsoft_product(node)?)
                }
                _ => None,
            };
            if let Some(found) = found {
                self.nodes[i] = found;
            }
        }
        Ok(())
    }

    /// The constant `name`, if it has 8 bits, `rank` dimensions, and one scale or one per index of `output_axis`.
    fn weight(
        &self,
        name: &str,
        rank: usize,
        output_axis: usize,
    ) -> Result<Option<Weight>, String> {
        if let Some(node) = self.producer(name, "Transpose") {
            let swaps_axes = rank == 2 && attributes::integers(node, "perm") == [1, 0];
            return match node.input.first() {
                Some(input)
                    if swaps_axes
                        && self.is_read_once(name)
                        && self.producer(input, "Transpose").is_none() =>
                {
                    self.weight(input, 2, 1 - output_axis)
                }
                _ => Ok(None),
            };
        }
        let Some(node) = self.producer(name, "DequantizeLinear") else {
            return Ok(None);
        };
        let Some(tensor) = node.input.first().and_then(|i| self.initializers.get(i)) else {
            return Ok(None);
        };
        let bytes = [DataType::Int8 as i32, DataType::Uint8 as i32];
        // A weight is packed once per reader, and a hostile file can have many readers.
        let single_reader = self.is_read_once(name) && self.is_read_once(&tensor.name);
        if tensor.dims.len() != rank || !bytes.contains(&tensor.data_type) || !single_reader {
            return Ok(None);
        }
        let scale = node.input.get(1).map_or(Ok(None), |s| self.floats(s))?;
        let Some((scale, _)) = scale else {
            return Ok(None);
        };
        if scale.len() > 1 && axis(node, 1, rank) != Some(output_axis) {
            return Ok(None);
        }
        Ok(Some(Weight {
            values: tensor.name.clone(),
            scale,
            zero_point: node.input.get(2).filter(|z| !z.is_empty()).cloned(),
            transposed: output_axis == 0,
        }))
    }

    /// MatMul or Gemm after a fake quantisation.
    fn static_product(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        let [a, b, rest @ ..] = &node.input[..] else {
            return Ok(None);
        };
        let Some(quantize) = self.producer(a, inserted::FAKE_QUANTIZE) else {
            return Ok(None);
        };
        let gemm = node.op_type == "Gemm";
        let transposed = gemm && attributes::integer(node, "transB", 0) != 0;
        let plain = attributes::integer(node, "transA", 0) == 0
            && attributes::float(node, "alpha", 1.0) == 1.0
            && attributes::float(node, "beta", 1.0) == 1.0;
        if gemm && !plain {
            return Ok(None);
        }
        let weight = self.weight(b, 2, if transposed { 0 } else { 1 })?;
        let Some(mut weight) = weight else {
            return Ok(None);
        };
        // `weight` cannot see Gemm's transB.
        weight.transposed = transposed != self.producer(b, "Transpose").is_some();
        self.static_node(
            node,
            inserted::AFFINE_LINEAR,
            quantize,
            &weight,
            rest.first(),
        )
    }

    /// A patch convolution after a fake quantisation.
    fn static_convolution(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        let [a, b, rest @ ..] = &node.input[..] else {
            return Ok(None);
        };
        let (Some(quantize), Some(weight)) = (
            self.producer(a, inserted::FAKE_QUANTIZE),
            self.weight(b, 4, 0)?,
        ) else {
            return Ok(None);
        };
        if !is_patches(node, &self.initializers[&weight.values].dims) {
            return Ok(None);
        }
        self.static_node(
            node,
            inserted::AFFINE_PATCHES,
            quantize,
            &weight,
            rest.first(),
        )
    }

    /// Replaces `node` by `op` on the input of `quantize`; `None` if the bias is not constant.
    fn static_node(
        &self,
        node: &NodeProto,
        op: &str,
        quantize: &NodeProto,
        weight: &Weight,
        bias: Option<&String>,
    ) -> Result<Option<NodeProto>, String> {
        let bias = match bias.filter(|b| !b.is_empty()) {
            Some(bias) => match self.bias(bias)? {
                Some(bias) => Some(bias),
                None => return Ok(None),
            },
            None => None,
        };
        let attributes = self.product(node, weight, input_quantization(quantize), bias)?;
        let input = vec![quantize.input[0].clone()];
        Ok(Some(replacement(node, op, input, attributes)))
    }

    /// Matches Mul(Cast(`op`(..)), Mul(scale of x, scale of weight)).
    fn dynamic(&self, node: &NodeProto, op: &str) -> Result<Option<DynamicProduct<'_>>, String> {
        let [a, b] = &node.input[..] else {
            return Ok(None);
        };
        for (sums, scales) in [(a, b), (b, a)] {
            let Some(product) = self
                .producer(sums, "Cast")
                .and_then(|cast| self.producer(cast.input.first()?, op))
            else {
                continue;
            };
            let quantized = product.input.first().map_or("", |x| x);
            let Some(quantize) = self.producer(quantized, "DynamicQuantizeLinear") else {
                continue;
            };
            let [_, x_scale, x_zero_point] = &quantize.output[..] else {
                continue;
            };
            let zero_point = product.input.get(2).is_some_and(|z| z == x_zero_point);
            let Some(scales) = self.producer(scales, "Mul") else {
                continue;
            };
            let [c, d] = &scales.input[..] else {
                continue;
            };
            let scale = match x_scale {
                x if x == c => d,
                x if x == d => c,
                _ => continue,
            };
            let Some((scale, _)) = self.floats(scale)? else {
                continue;
            };
            let (true, Some(x)) = (zero_point, quantize.input.first()) else {
                continue;
            };
            return Ok(Some((product, x, scale)));
        }
        Ok(None)
    }

    /// DynamicQuantizeLinear, MatMulInteger, Cast and Mul.
    fn dynamic_product(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        let Some((product, x, scale)) = self.dynamic(node, "MatMulInteger")? else {
            return Ok(None);
        };
        let Some(weight) = self.integer_operand(product, 1, 3, scale, 2) else {
            return Ok(None);
        };
        let attributes = self.product(product, &weight, InputQuantization::Dynamic, None)?;
        Ok(Some(replacement(
            node,
            inserted::AFFINE_LINEAR,
            vec![x.into()],
            attributes,
        )))
    }

    /// An 8-bit constant of `rank` dimensions as an input of an integer product.
    fn integer_operand(
        &self,
        product: &NodeProto,
        weight: usize,
        zero_point: usize,
        scale: Vec<f32>,
        rank: usize,
    ) -> Option<Weight> {
        let tensor = self.initializers.get(product.input.get(weight)?)?;
        let zero_point = product.input.get(zero_point).filter(|z| !z.is_empty());
        (tensor.dims.len() == rank && self.is_read_once(&tensor.name)).then(|| Weight {
            values: tensor.name.clone(),
            scale,
            zero_point: zero_point.cloned(),
            transposed: rank != 2,
        })
    }

    /// DynamicQuantizeLinear, ConvInteger, Cast and Mul. A convolution other than of patches becomes a float one with
    /// dequantised weights.
    fn dynamic_convolution(&mut self, i: usize) -> Result<Option<NodeProto>, String> {
        let node = &self.nodes[i];
        let Some((product, x, scale)) = self.dynamic(node, "ConvInteger")? else {
            return Ok(None);
        };
        let rank = product.input.get(1).and_then(|w| self.initializers.get(w));
        let rank = rank.map_or(0, |w| w.dims.len());
        let Some(weight) = self.integer_operand(product, 1, 3, scale, rank) else {
            return Ok(None);
        };
        let dims = &self.initializers[&weight.values].dims;
        if is_patches(product, dims) {
            let attributes = self.product(product, &weight, InputQuantization::Dynamic, None)?;
            return Ok(Some(replacement(
                node,
                inserted::AFFINE_PATCHES,
                vec![x.into()],
                attributes,
            )));
        }
        let (x, product) = (x.to_owned(), product.clone());
        let at = self.producers[&product.output[0]];
        let Some(name) = product
            .output
            .first()
            .filter(|o| self.is_read_once(o))
            .cloned()
        else {
            return Ok(None);
        };
        let dims = dims.clone();
        // As a DequantizeLinear along the output axis.
        let scale = format!("{name}/scale");
        let count = weight.scale.len() as i64;
        self.initializers
            .insert(scale.clone(), float_tensor(&scale, &[count], &weight.scale));
        let mut input = vec![weight.values, scale];
        input.extend(weight.zero_point);
        let dequantize = NodeProto {
            name: product.name.clone(),
            input,
            attribute: vec![attributes::of_integer("axis", 0)],
            ..Default::default()
        };
        let Some((values, _)) = self.dequantized(&dequantize)? else {
            return Ok(None);
        };
        let float = format!("{name}/weight");
        self.initializers
            .insert(float.clone(), float_tensor(&float, &dims, &values));
        self.nodes[at] = replacement(&product, inserted::FAKE_QUANTIZE, vec![x], vec![]);
        let mut convolution =
            replacement(&self.nodes[i], "Conv", vec![name, float], product.attribute);
        convolution.domain.clear();
        Ok(Some(convolution))
    }

    /// The two fused products of ONNX Runtime's domain com.microsoft.
    fn com_microsoft_product(&self, node: &NodeProto) -> Result<NodeProto, String> {
        let fail = |what: &str| {
            Err(format!(
                "node {} ({}): {what}; quantise a graph that ONNX Runtime has optimised at level basic only",
                node.name, node.op_type
            ))
        };
        let input = |i: usize| node.input.get(i).map_or("", |n| n.as_str());
        let (x, scale, zero_point, bias) = match &*node.op_type {
            "DynamicQuantizeMatMul" => (input(0), 2, 3, 4),
            _ => {
                let Some(quantize) = self.producer(input(0), "DynamicQuantizeLinear") else {
                    return fail(
                        "A: expected an output of DynamicQuantizeLinear, found something else",
                    );
                };
                if quantize.output.get(1).is_none_or(|s| s != input(2))
                    || quantize.output.get(2).is_none_or(|z| z != input(4))
                {
                    return fail("a_scale, a_zero_point: expected those of A, found others");
                }
                (quantize.input.first().map_or("", |x| x), 3, 5, 6)
            }
        };
        let Some((scale, _)) = self.floats(input(scale))? else {
            return fail("b_scale: expected a constant, found none");
        };
        let Some(weight) = self.integer_operand(node, 1, zero_point, scale, 2) else {
            return fail(
                "B: expected a two-dimensional constant that only this node reads, found something else",
            );
        };
        let bias = match input(bias) {
            "" => None,
            name => match self.bias(name)? {
                Some(bias) => Some(bias),
                None => return fail("bias: expected a constant, found none"),
            },
        };
        let attributes = self.product(node, &weight, InputQuantization::Dynamic, bias)?;
        Ok(replacement(
            node,
            inserted::AFFINE_LINEAR,
            vec![x.into()],
            attributes,
        ))
    }

    /// A constant with one value per output, as an attribute.
    pub(super) fn bias(&self, name: &str) -> Result<Option<AttributeProto>, String> {
        let found = self.floats(name)?.filter(|(values, dims)| {
            let last = dims.last().is_some_and(|&d| d == values.len() as i64);
            last && values.len() <= MAX_OUTPUTS
        });
        Ok(found.map(|(values, _)| {
            let dims = [values.len() as i64];
            attributes::of_tensor("bias", float_tensor(name, &dims, &values))
        }))
    }

    /// The attributes of a quantised product. Errors name `node`.
    fn product(
        &self,
        node: &NodeProto,
        weight: &Weight,
        quantization: InputQuantization,
        bias: Option<AttributeProto>,
    ) -> Result<Vec<AttributeProto>, String> {
        let missing = |name: &str| {
            format!(
                "node {} ({}): zero point {name:?}: expected a constant, found none",
                node.name, node.op_type
            )
        };
        let mut attributes = quantization_attributes(&quantization);
        let values = self.initializers[&weight.values].clone();
        attributes.push(attributes::of_tensor("weight", values));
        let scale = float_tensor("scale", &[weight.scale.len() as i64], &weight.scale);
        attributes.push(attributes::of_tensor("scale", scale));
        if let Some(name) = &weight.zero_point {
            let tensor = self.initializers.get(name).ok_or_else(|| missing(name))?;
            attributes.push(attributes::of_tensor("zero_point", tensor.clone()));
        }
        attributes.push(attributes::of_integer(
            "transposed",
            weight.transposed.into(),
        ));
        attributes.extend(bias);
        Ok(attributes)
    }
}

/// Whether a convolution with a weight of `dims` divides its input into patches.
fn is_patches(node: &NodeProto, dims: &[i64]) -> bool {
    let &[_, _, height, width] = dims else {
        return false;
    };
    let square = |name: &str, value: i64| {
        let found = attributes::integers(node, name);
        found.is_empty() && value == 1 || found == [value, value]
    };
    let padding = attributes::text(node, "auto_pad");
    height == width
        && square("strides", height)
        && square("dilations", 1)
        && attributes::integers(node, "pads").iter().all(|&p| p == 0)
        && ["", "NOTSET", "VALID"].contains(&&*padding)
        && attributes::integer(node, "group", 1) == 1
}
