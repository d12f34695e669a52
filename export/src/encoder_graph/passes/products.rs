//! Quantised products in their various forms.

use pinhole::internal::attributes;
use pinhole_bundle::dialect::{ChannelOrder, Linear, Op, Storage};
use pinhole_kernels::{PackedConvolution, PackedLinearAffine};
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto, tensor_proto::DataType};

use crate::encoder_graph::graph::{EncoderGraph, is_standard};
use crate::encoder_graph::node::{
    InputQuantization, axis, float_tensor, int8_tensor, replacement, window_attributes, window_of,
};

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

/// A product's constant operands, one per output.
struct Operands {
    /// [inputs, outputs], or of a convolution [outputs, C / group, p, q].
    weight: Vec<i8>,
    dims: Vec<i64>,
    scale: Vec<f32>,
    zero_point: Vec<i8>,
    bias: Vec<f32>,
}

/// An integer product, the value that is quantised for it, and the scale of its weight.
type DynamicProduct<'a> = (&'a NodeProto, &'a str, Vec<f32>);

impl EncoderGraph {
    /// Replaces products of quantised operands.
    pub(super) fn replace_quantized_products(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let found = match &*node.op_type {
                "MatMul" | "Gemm" if is_standard(node) => self.static_product(node)?,
                "Conv" if is_standard(node) => self.static_convolution(node)?,
                "Mul" if is_standard(node) => match self.dynamic_product(node)? {
                    Some(found) => Some(found),
                    None => self.dynamic_convolution(node)?,
                },
                "DynamicQuantizeMatMul" | "MatMulIntegerToFloat" => {
                    Some(self.com_microsoft_product(node)?)
                }
                _ => None,
            };
            let Some(found) = found else {
                continue;
            };
            if let Some(before) = found.before {
                self.insert(i, before);
            }
            if let Some(tensor) = found.initializer {
                self.initializers.insert(tensor.name.clone(), tensor);
            }
            self.nodes[i] = found.node;
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
    fn static_product(&self, node: &NodeProto) -> Result<Option<Replacement>, String> {
        let [a, b, rest @ ..] = &node.input[..] else {
            return Ok(None);
        };
        let Some((Op::FakeQuantize(_), quantize)) = self.function(a) else {
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
        let Some(bias) = self.optional_bias(rest.first())? else {
            return Ok(None);
        };
        let operands = self.operands(node, &weight, bias)?;
        let x = QuantizedInput::by(quantize);
        Ok(Some(self.linear(node, x, operands)))
    }

    /// A convolution after a fake quantisation. One that the integer kernels do not compute stays, with dequantised weights.
    fn static_convolution(&self, node: &NodeProto) -> Result<Option<Replacement>, String> {
        let [a, b, rest @ ..] = &node.input[..] else {
            return Ok(None);
        };
        let (Some((Op::FakeQuantize(_), quantize)), Some(weight)) =
            (self.function(a), self.weight(b, 4, 0)?)
        else {
            return Ok(None);
        };
        let Some(bias) = self.optional_bias(rest.first())? else {
            return Ok(None);
        };
        let operands = self.operands(node, &weight, bias)?;
        let x = QuantizedInput::by(quantize);
        let window = window(node, &operands.dims);
        Ok(window.map(|window| convolution(node, &x, operands, window)))
    }

    /// The bias `name`, of no values if there is none; `None` if it is not constant.
    fn optional_bias(&self, name: Option<&String>) -> Result<Option<Vec<f32>>, String> {
        match name.filter(|name| !name.is_empty()) {
            Some(name) => self.bias(name),
            None => Ok(Some(vec![])),
        }
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
    fn dynamic_product(&self, node: &NodeProto) -> Result<Option<Replacement>, String> {
        let Some((product, x, scale)) = self.dynamic(node, "MatMulInteger")? else {
            return Ok(None);
        };
        let Some(weight) = self.integer_operand(product, 1, 3, scale, 2) else {
            return Ok(None);
        };
        let operands = self.operands(product, &weight, vec![])?;
        Ok(Some(self.linear(
            node,
            QuantizedInput::dynamic(x),
            operands,
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

    /// DynamicQuantizeLinear, ConvInteger, Cast and Mul. A convolution that the integer kernels do not compute becomes a
    /// float one with dequantised weights.
    fn dynamic_convolution(&self, node: &NodeProto) -> Result<Option<Replacement>, String> {
        let Some((product, x, scale)) = self.dynamic(node, "ConvInteger")? else {
            return Ok(None);
        };
        let rank = product.input.get(1).and_then(|w| self.initializers.get(w));
        let rank = rank.map_or(0, |w| w.dims.len());
        let weight = self.integer_operand(product, 1, 3, scale, rank);
        let Some(weight) = weight.filter(|_| rank > 2) else {
            return Ok(None);
        };
        let operands = self.operands(product, &weight, vec![])?;
        let x = QuantizedInput::dynamic(x);
        if let Some(window) = window(product, &operands.dims) {
            return Ok(Some(convolution(node, &x, operands, window)));
        }
        let (value, before) = self.fake_quantized(node, x);
        let name = self.fresh(&node.output[0], "weight");
        let weight = float_tensor(&name, &operands.dims, &operands.dequantized());
        let convolution = NodeProto {
            op_type: "Conv".into(),
            input: vec![value, name],
            attribute: product.attribute.clone(),
            ..node.clone()
        };
        Ok(Some(Replacement {
            before,
            initializer: Some(weight),
            node: convolution,
        }))
    }

    /// The two fused products of ONNX Runtime's domain com.microsoft.
    fn com_microsoft_product(&self, node: &NodeProto) -> Result<Replacement, String> {
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
        let Some(bias) = self.optional_bias(node.input.get(bias))? else {
            return fail("bias: expected a constant, found none");
        };
        let operands = self.operands(node, &weight, bias)?;
        Ok(self.linear(node, QuantizedInput::dynamic(x), operands))
    }

    /// The constant operands of a product. No `bias` is one of zeros. Errors name `node`.
    fn operands(
        &self,
        node: &NodeProto,
        weight: &Weight,
        bias: Vec<f32>,
    ) -> Result<Operands, String> {
        let fail = |what: String| Err(format!("node {} ({}): {what}", node.name, node.op_type));
        let tensor = &self.initializers[&weight.values];
        // As s8, and what was subtracted.
        let signed = |bytes: &[u8]| -> Vec<i8> {
            let flip = if tensor.data_type == DataType::Uint8 as i32 {
                0x80
            } else {
                0
            };
            bytes.iter().map(|b| (b ^ flip).cast_signed()).collect()
        };
        if ![DataType::Int8 as i32, DataType::Uint8 as i32].contains(&tensor.data_type) {
            return fail(format!(
                "weight {}: expected int8 or uint8, found data type {}",
                tensor.name, tensor.data_type
            ));
        }
        let mut values = signed(&tensor.raw_data);
        let mut dims = tensor.dims.clone();
        let first = dims.first().map_or(0, |&d| d as usize);
        let others = dims.iter().skip(1).product::<i64>() as usize;
        let (outputs, inputs) = if weight.transposed {
            (first, others)
        } else {
            (others, first)
        };
        if outputs == 0 || inputs == 0 || values.len() != outputs * inputs {
            return fail(format!(
                "weight {}: expected values of the dimensions {dims:?}, found {}",
                tensor.name,
                values.len()
            ));
        }
        if weight.transposed && dims.len() == 2 {
            let old = values.clone();
            for (i, row) in values.chunks_exact_mut(outputs).enumerate() {
                for (o, value) in row.iter_mut().enumerate() {
                    *value = old[o * inputs + i];
                }
            }
            dims.reverse();
        }
        let zero_point = match &weight.zero_point {
            None => signed(&[0]),
            Some(name) => match self.initializers.get(name) {
                None => {
                    return fail(format!(
                        "zero point {name:?}: expected a constant, found none"
                    ));
                }
                Some(zero) if zero.data_type != tensor.data_type => {
                    return fail(format!(
                        "zero_point: expected the weight's type {}, found {}",
                        tensor.data_type, zero.data_type
                    ));
                }
                Some(zero) => signed(&zero.raw_data),
            },
        };
        for (name, found) in [
            ("scale", weight.scale.len()),
            ("zero_point", zero_point.len()),
        ] {
            if found != 1 && found != outputs {
                return fail(format!(
                    "{name}: expected 1 or {outputs} values, found {found}"
                ));
            }
        }
        let bias = match bias[..] {
            [] => vec![0.0; outputs],
            [all] => vec![all; outputs],
            _ => bias,
        };
        if bias.len() != outputs {
            let found = bias.len();
            return fail(format!("bias: expected {outputs} values, found {found}"));
        }
        let (scales, zeros) = (weight.scale.iter().cycle(), zero_point.iter().cycle());
        Ok(Operands {
            weight: values,
            scale: scales.copied().take(outputs).collect(),
            zero_point: zeros.copied().take(outputs).collect(),
            bias,
            dims,
        })
    }

    /// A linear layer in place of `node`: in integers, or if the kernels cannot represent the weights, in floating point
    /// with a quantised x.
    fn linear(&self, node: &NodeProto, x: QuantizedInput, operands: Operands) -> Replacement {
        if operands.fit() {
            let op = Op::AffineLinear(x.quantization.range(), None);
            let mut parameters = x.quantization.parameters();
            parameters.extend(operands.parameters());
            return replacement(node, op, vec![x.name], parameters).into();
        }
        let weight = float_tensor("", &operands.dims, &operands.dequantized());
        let outputs = operands.bias.len() as i64;
        let parameters = vec![
            attributes::of_tensor("weight", weight),
            attributes::of_tensor("bias", float_tensor("", &[outputs], &operands.bias)),
        ];
        let (value, before) = self.fake_quantized(node, x);
        let op = Op::Linear(Linear::plain(Storage::Float));
        Replacement {
            before,
            ..Replacement::from(replacement(node, op, vec![value], parameters))
        }
    }

    /// The name of x after its quantisation, and the node that computes it, if there is none yet.
    fn fake_quantized(&self, node: &NodeProto, x: QuantizedInput) -> (String, Option<NodeProto>) {
        if let Some(value) = x.fake_quantized {
            return (value, None);
        }
        let value = self.fresh(&node.output[0], "quantized");
        let op = Op::FakeQuantize(x.quantization.range());
        let parameters = x.quantization.parameters();
        let mut quantize = replacement(node, op, vec![x.name], parameters);
        quantize.name = value.clone();
        quantize.output = vec![value.clone()];
        (value, Some(quantize))
    }
}

/// A node in place of another one, with what it reads.
struct Replacement {
    /// A node in front of it.
    before: Option<NodeProto>,
    /// A new initialiser.
    initializer: Option<TensorProto>,
    node: NodeProto,
}

impl From<NodeProto> for Replacement {
    fn from(node: NodeProto) -> Self {
        Replacement {
            before: None,
            initializer: None,
            node,
        }
    }
}

/// The operand x of a product.
struct QuantizedInput {
    /// Before it is quantised.
    name: String,
    quantization: InputQuantization,
    /// After it was quantised and dequantised.
    fake_quantized: Option<String>,
}

impl QuantizedInput {
    /// As the fake quantisation `node` does it.
    fn by(node: &NodeProto) -> Self {
        QuantizedInput {
            name: node.input[0].clone(),
            quantization: InputQuantization::of(node),
            fake_quantized: node.output.first().cloned(),
        }
    }

    fn dynamic(x: &str) -> Self {
        QuantizedInput {
            name: x.into(),
            quantization: InputQuantization::Dynamic,
            fake_quantized: None,
        }
    }
}

impl Operands {
    /// Whether the integer kernels of linear layers can represent the weights.
    fn fit(&self) -> bool {
        let (inputs, outputs) = (self.dims[0] as usize, self.bias.len());
        let (scale, zero, bias) = (&self.scale, &self.zero_point, Some(&*self.bias));
        let packed =
            PackedLinearAffine::from_in_out(&self.weight, scale, zero, inputs, outputs, bias);
        packed.is_ok()
    }

    fn dequantized(&self) -> Vec<f32> {
        let outputs = self.bias.len();
        let inputs = self.weight.len() / outputs;
        let value = |(at, w): (usize, &i8)| {
            let output = match self.dims.len() {
                2 => at % outputs,
                _ => at / inputs,
            };
            (f32::from(*w) - f32::from(self.zero_point[output])) * self.scale[output]
        };
        self.weight.iter().enumerate().map(value).collect()
    }

    fn parameters(&self) -> Vec<AttributeProto> {
        let outputs = self.bias.len() as i64;
        let weight = int8_tensor("", &self.dims, &self.weight);
        let zero_point = int8_tensor("", &[outputs], &self.zero_point);
        vec![
            attributes::of_tensor("weight", weight),
            attributes::of_tensor("scale", float_tensor("", &[outputs], &self.scale)),
            attributes::of_tensor("zero_point", zero_point),
            attributes::of_tensor("bias", float_tensor("", &[outputs], &self.bias)),
        ]
    }
}

/// An integer convolution in place of `node`, with its name and output.
fn convolution(
    node: &NodeProto,
    x: &QuantizedInput,
    operands: Operands,
    window: Vec<AttributeProto>,
) -> Replacement {
    let op = Op::AffineConvolution(x.quantization.range(), ChannelOrder::First);
    let mut attributes = x.quantization.parameters();
    attributes.extend(operands.parameters());
    attributes.extend(window);
    replacement(node, op, vec![x.name.clone()], attributes).into()
}

/// The attributes of [`Op::AffineConvolution`] for a convolution with a weight of `dims`. `None` if the convolution does not
/// have two axes, is padded automatically, or exceeds the operator's limits.
fn window(node: &NodeProto, dims: &[i64]) -> Option<Vec<AttributeProto>> {
    let &[outputs, inputs, height, width] = dims else {
        return None;
    };
    let (window, group) = window_of(node, [height, width])?;
    let under = inputs.checked_mul(height)?.checked_mul(width)?;
    let usual = (1..=PackedConvolution::MOST_INPUTS as i64).contains(&under)
        && group > 0
        && outputs % group == 0;
    usual.then(|| window_attributes(&window, group))
}
