//! Rewrites what other programs leave in a graph before tract parses it: quantised products become operators on
//! our integer kernels, and the usual float blocks our own ones.
//!
//! A rewrite puts one node in the place of the last node of a pattern, under the same output name; what nobody
//! reads any more goes at the end. So a rewrite never has to know who else reads the values in between. What is
//! not recognised stays tract's; what tract is known to compute wrongly is an error.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use pinhole_bundle::dialect;
use tract_onnx::pb::{
    AttributeProto, ModelProto, NodeProto, TensorProto, attribute_proto::AttributeType,
    tensor_proto::DataType,
};

use super::{check, initializer};

/// `x @ weight + bias` on quantised operands; `PATCHES` is a convolution whose stride is its kernel's side, over
/// `[N, C, H, W]`. See `affine.rs` for their attributes.
pub(super) const LINEAR: &str = "AffineLinear";
pub(super) const PATCHES: &str = "AffinePatches";
/// QuantizeLinear and DequantizeLinear in one; without `x_scale`, with what DynamicQuantizeLinear finds.
pub(super) const FAKE_QUANTIZE: &str = "FakeQuantize";
/// A function of one value, tabulated over what a quantised value can be.
pub(super) const TABLE: &str = "QuantizedTable";
/// Activation functions; "Gelu" is a standard operator that can also approximate.
pub(super) const QUICK_GELU: &str = "ActivateQuickGelu";
pub(super) const GELU: &str = "ActivateGelu";
/// `[N, H, W, 3]` u8 to f32 `[N, 3, H, W]`, times `scale` plus `offset`, one a channel.
pub(super) const NORMALIZE_PIXELS: &str = "NormalizePixels";

/// Those that no file has.
const OURS: [&str; 7] = [
    LINEAR,
    PATCHES,
    FAKE_QUANTIZE,
    TABLE,
    QUICK_GELU,
    GELU,
    NORMALIZE_PIXELS,
];

/// Rewrites `proto`, which has been checked. `folder` holds the external data.
pub(super) fn rewrite(proto: &mut ModelProto, folder: &Path) -> Result<(), String> {
    let Some(graph) = proto.graph.as_mut() else {
        return Ok(());
    };
    if let Some(node) = graph.node.iter().find(|n| OURS.contains(&&*n.op_type)) {
        return Err(format!(
            "node {}: expected a standard operator, found {}",
            node.name, node.op_type
        ));
    }
    let named = |t: TensorProto| (t.name.clone(), t);
    let mut foreign = Foreign {
        nodes: std::mem::take(&mut graph.node),
        initializers: graph.initializer.drain(..).map(named).collect(),
        outputs: graph.output.iter().map(|o| o.name.clone()).collect(),
        folder,
        producers: HashMap::new(),
        uses: HashMap::new(),
    };
    foreign.constants();
    foreign.index();
    for pass in [
        Foreign::pairs,
        Foreign::products,
        Foreign::redundant,
        Foreign::tables,
        Foreign::biases,
        Foreign::blocks,
        Foreign::activations,
        Foreign::leftovers,
    ] {
        pass(&mut foreign)?;
        foreign.index();
    }
    graph.node = foreign.nodes;
    graph.initializer = foreign.initializers.into_values().collect();
    graph.initializer.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

struct Foreign<'a> {
    /// In topological order, which every rewrite keeps.
    nodes: Vec<NodeProto>,
    initializers: HashMap<String, TensorProto>,
    outputs: HashSet<String>,
    folder: &'a Path,
    /// The node that makes a value.
    producers: HashMap<String, usize>,
    /// How often a value is read.
    uses: HashMap<String, usize>,
}

/// One scale and zero point, the zero point as for s8: that of u8 numbers is 128 less.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Params {
    scale: f32,
    zero_point: i64,
}

/// What a product's operand x is quantised by.
enum By {
    Static(Params),
    Dynamic,
}

/// The constant operand of a product.
struct Weight {
    /// The name of the initialiser with the 8-bit numbers.
    numbers: String,
    /// One value, or one an output.
    scale: Vec<f32>,
    /// The name of the initialiser with the zero points.
    zero_point: Option<String>,
    /// Whether the shape is [outputs, inputs].
    transposed: bool,
}

/// Values and their shape.
type Floats = (Vec<f32>, Vec<i64>);

/// A product of integers, the value that was quantised for it, and the scale of its weight.
type Dynamic<'a> = (&'a NodeProto, &'a str, Vec<f32>);

impl Foreign<'_> {
    /// Constants become initialisers, and what copies a value goes.
    fn constants(&mut self) {
        let mut copies: HashMap<String, String> = HashMap::new();
        for mut node in std::mem::take(&mut self.nodes) {
            for input in &mut node.input {
                if let Some(original) = copies.get(input) {
                    *input = original.clone();
                }
            }
            let inner = match &node.output[..] {
                [output] if standard(&node) && !self.outputs.contains(output) => output.clone(),
                _ => {
                    self.nodes.push(node);
                    continue;
                }
            };
            let tensor = match &*node.op_type {
                "Constant" => node.attribute.iter().find_map(|a| raw(a.t.as_ref()?)),
                _ => None,
            };
            match (tensor, &node.input[..]) {
                (Some(tensor), _) => {
                    let name = inner.clone();
                    let tensor = TensorProto { name, ..tensor };
                    self.initializers.insert(inner, tensor);
                }
                (None, [input]) if node.op_type == "Identity" => {
                    copies.insert(inner, input.clone());
                }
                _ => self.nodes.push(node),
            }
        }
    }

    /// Drops what nobody reads, and finds producers and readers.
    fn index(&mut self) {
        let mut read: HashSet<&str> = self.outputs.iter().map(String::as_str).collect();
        let mut live = vec![false; self.nodes.len()];
        for (live, node) in live.iter_mut().zip(&self.nodes).rev() {
            *live = node.output.iter().any(|o| read.contains(o.as_str()));
            if *live {
                read.extend(node.input.iter().map(String::as_str));
            }
        }
        self.initializers = {
            let mut all = std::mem::take(&mut self.initializers);
            all.retain(|name, _| read.contains(name.as_str()));
            all
        };
        let mut live = live.into_iter();
        self.nodes.retain(|_| live.next().unwrap_or(true));
        (self.producers, self.uses) = Default::default();
        for (i, node) in self.nodes.iter().enumerate() {
            self.producers
                .extend(node.output.iter().map(|o| (o.clone(), i)));
            for input in &node.input {
                *self.uses.entry(input.clone()).or_default() += 1;
            }
        }
        for output in &self.outputs {
            *self.uses.entry(output.clone()).or_default() += 1;
        }
    }

    /// The node of operator `op` that makes `name` as its first output.
    fn made_by(&self, name: &str, op: &str) -> Option<&NodeProto> {
        let node = &self.nodes[*self.producers.get(name)?];
        (node.op_type == op && node.output.first().is_some_and(|o| o == name)).then_some(node)
    }

    fn read_once(&self, name: &str) -> bool {
        self.uses.get(name) == Some(&1)
    }

    /// An f32 constant, dequantised if need be.
    fn floats(&self, name: &str) -> Result<Option<Floats>, String> {
        match self.made_by(name, "DequantizeLinear") {
            Some(node) => self.dequantized(node),
            None => self.initial_floats(name),
        }
    }

    /// An f32 initialiser.
    fn initial_floats(&self, name: &str) -> Result<Option<Floats>, String> {
        let float = |t: &&TensorProto| t.data_type == DataType::Float as i32;
        let Some(tensor) = self.initializers.get(name).filter(float) else {
            return Ok(None);
        };
        let values = initializer::floats(tensor, self.folder)
            .map_err(|e| format!("initializer {name}: {e}"))?;
        Ok(Some((values, tensor.dims.clone())))
    }

    /// A constant of one value.
    fn number(&self, name: &str) -> Result<Option<f32>, String> {
        let few = |t: &TensorProto| t.dims.len() <= 1 && t.dims.iter().all(|&d| d == 1);
        // Nothing large is read only to be counted.
        let source = match self.made_by(name, "DequantizeLinear") {
            Some(node) => node.input.first().map_or(name, |i| i),
            None => name,
        };
        if !self.initializers.get(source).is_some_and(few) {
            return Ok(None);
        }
        let found = self.floats(name)?;
        Ok(found.and_then(|(values, _)| values.first().copied()))
    }

    /// A constant of whole numbers of 8 or 32 bits.
    fn integers(&self, name: &str) -> Result<Option<Vec<i32>>, String> {
        let Some(tensor) = self.initializers.get(name) else {
            return Ok(None);
        };
        initializer::integers(tensor, self.folder).map_err(|e| format!("initializer {name}: {e}"))
    }

    /// What a DequantizeLinear of a constant gives, if it is that.
    fn dequantized(&self, node: &NodeProto) -> Result<Option<Floats>, String> {
        let Some(tensor) = node.input.first().and_then(|i| self.initializers.get(i)) else {
            return Ok(None);
        };
        let fail = |what: &str| Err(format!("node {} (DequantizeLinear): {what}", node.name));
        let Some(numbers) = self.integers(&tensor.name)? else {
            return fail("x: expected 8 or 32 bits, found others");
        };
        let scale = node.input.get(1);
        let Some((scales, _)) = scale.map_or(Ok(None), |s| self.initial_floats(s))? else {
            return fail("x_scale: expected a constant, found none");
        };
        let zeros = match node.input.get(2).filter(|z| !z.is_empty()) {
            None => vec![0; scales.len()],
            Some(zero) => match self.integers(zero)? {
                Some(zeros) => zeros,
                None => return fail("x_zero_point: expected a constant, found none"),
            },
        };
        let dims = tensor.dims.clone();
        // How many values share a scale.
        let (channels, inner) = match scales.len() {
            1 => (1, numbers.len()),
            channels => {
                let axis = axis(node, 1, dims.len());
                let Some(axis) = axis.filter(|&a| dims[a] == channels as i64) else {
                    return fail("x_scale: expected one value, or one for each of the axis");
                };
                (channels, dims[axis + 1..].iter().product::<i64>() as usize)
            }
        };
        if zeros.len() != scales.len() || scales.is_empty() || inner == 0 {
            return fail("x_zero_point: expected as many values as x_scale");
        }
        let one = |(i, q): (usize, i32)| {
            let channel = i / inner % channels;
            (i64::from(q) - i64::from(zeros[channel])) as f32 * scales[channel]
        };
        Ok(Some((
            numbers.into_iter().enumerate().map(one).collect(),
            dims,
        )))
    }

    /// The one scale and zero point of a QuantizeLinear or DequantizeLinear of computed values.
    fn params(&self, node: &NodeProto) -> Result<Params, String> {
        let fail = |what: &str| {
            Err(format!(
                "node {} ({}): {what}; quantise activations with one constant scale for the whole tensor",
                node.name, node.op_type
            ))
        };
        let scale = node.input.get(1).map_or(Ok(None), |s| self.number(s))?;
        let Some(scale) = scale else {
            return fail("scale: expected one constant value, found none or several");
        };
        if !(scale.is_finite() && scale > 0.0) {
            return fail(&format!("scale: expected a number above 0, found {scale}"));
        }
        let Some(zero) = node.input.get(2).filter(|z| !z.is_empty()) else {
            return Ok(Params {
                scale,
                zero_point: -128,
            });
        };
        let data_type = self.initializers.get(zero).map(|t| t.data_type);
        let shift = match data_type.map(DataType::try_from) {
            Some(Ok(DataType::Uint8)) => 128,
            Some(Ok(DataType::Int8)) => 0,
            _ => return fail("zero point: expected a constant of 8 bits, found another"),
        };
        match self.integers(zero)?.as_deref() {
            Some([zero]) => Ok(Params {
                scale,
                zero_point: i64::from(*zero) - shift,
            }),
            _ => fail("zero point: expected one value, found several"),
        }
    }

    /// DequantizeLinear of QuantizeLinear is one operator.
    fn pairs(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if node.op_type != "DequantizeLinear" || !standard(node) {
                continue;
            }
            let input = node.input.first().map_or("", |i| i);
            if self.initializers.contains_key(input) {
                continue;
            }
            let after = self.params(node)?;
            let Some(before) = self.made_by(input, "QuantizeLinear") else {
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
            let attributes = by_attributes(&By::Static(after));
            self.nodes[i] = replacement(node, FAKE_QUANTIZE, vec![x], attributes);
        }
        Ok(())
    }

    /// Products of quantised operands.
    fn products(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let found = match &*node.op_type {
                "MatMul" | "Gemm" if standard(node) => self.paired_product(node)?,
                "Conv" if standard(node) => self.paired_convolution(node)?,
                "Mul" if standard(node) => match self.dynamic_product(node)? {
                    Some(found) => Some(found),
                    None => self.dynamic_convolution(i)?,
                },
                "DynamicQuantizeMatMul" | "MatMulIntegerToFloat" => Some(self.microsoft(node)?),
                _ => None,
            };
            if let Some(found) = found {
                self.nodes[i] = found;
            }
        }
        Ok(())
    }

    /// What `name` is made of, if it is an 8-bit constant of `rank` dimensions with one scale, or one for each of
    /// `outputs`, an axis of it.
    fn weight(&self, name: &str, rank: usize, outputs: usize) -> Result<Option<Weight>, String> {
        if let Some(node) = self.made_by(name, "Transpose") {
            let two = rank == 2 && integers_of(node, "perm") == [1, 0];
            return match node.input.first() {
                Some(input)
                    if two
                        && self.read_once(name)
                        && self.made_by(input, "Transpose").is_none() =>
                {
                    self.weight(input, 2, 1 - outputs)
                }
                _ => Ok(None),
            };
        }
        let Some(node) = self.made_by(name, "DequantizeLinear") else {
            return Ok(None);
        };
        let Some(tensor) = node.input.first().and_then(|i| self.initializers.get(i)) else {
            return Ok(None);
        };
        let bytes = [DataType::Int8 as i32, DataType::Uint8 as i32];
        // A weight is packed once for each reader, which a file can have many of.
        let own = self.read_once(name) && self.read_once(&tensor.name);
        if tensor.dims.len() != rank || !bytes.contains(&tensor.data_type) || !own {
            return Ok(None);
        }
        let scale = node.input.get(1).map_or(Ok(None), |s| self.floats(s))?;
        let Some((scale, _)) = scale else {
            return Ok(None);
        };
        if scale.len() > 1 && axis(node, 1, rank) != Some(outputs) {
            return Ok(None);
        }
        Ok(Some(Weight {
            numbers: tensor.name.clone(),
            scale,
            zero_point: node.input.get(2).filter(|z| !z.is_empty()).cloned(),
            transposed: outputs == 0,
        }))
    }

    /// MatMul or Gemm behind a pair.
    fn paired_product(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        let [a, b, rest @ ..] = &node.input[..] else {
            return Ok(None);
        };
        let Some(pair) = self.made_by(a, FAKE_QUANTIZE) else {
            return Ok(None);
        };
        let gemm = node.op_type == "Gemm";
        let transposed = gemm && integer(node, "transB", 0) != 0;
        let plain = integer(node, "transA", 0) == 0
            && number_of(node, "alpha", 1.0) == 1.0
            && number_of(node, "beta", 1.0) == 1.0;
        if gemm && !plain {
            return Ok(None);
        }
        let weight = self.weight(b, 2, if transposed { 0 } else { 1 })?;
        let Some(mut weight) = weight else {
            return Ok(None);
        };
        // The axis of the outputs says how it lies.
        weight.transposed = transposed != self.made_by(b, "Transpose").is_some();
        let bias = match rest {
            [bias, ..] if !bias.is_empty() => match self.bias(bias)? {
                Some(bias) => Some(bias),
                None => return Ok(None),
            },
            _ => None,
        };
        let Some(by) = static_params(pair) else {
            return Ok(None);
        };
        let attributes = self.product(node, &weight, by, bias)?;
        Ok(Some(replacement(
            node,
            LINEAR,
            vec![pair.input[0].clone()],
            attributes,
        )))
    }

    /// Conv of patches behind a pair.
    fn paired_convolution(&self, node: &NodeProto) -> Result<Option<NodeProto>, String> {
        let [a, b, rest @ ..] = &node.input[..] else {
            return Ok(None);
        };
        let (Some(pair), Some(weight)) = (self.made_by(a, FAKE_QUANTIZE), self.weight(b, 4, 0)?)
        else {
            return Ok(None);
        };
        if !patches(node, &self.initializers[&weight.numbers].dims) {
            return Ok(None);
        }
        let bias = match rest.first().filter(|b| !b.is_empty()) {
            Some(bias) => match self.bias(bias)? {
                Some(bias) => Some(bias),
                None => return Ok(None),
            },
            None => None,
        };
        let Some(by) = static_params(pair) else {
            return Ok(None);
        };
        let attributes = self.product(node, &weight, by, bias)?;
        Ok(Some(replacement(
            node,
            PATCHES,
            vec![pair.input[0].clone()],
            attributes,
        )))
    }

    /// The operands of Mul(Cast(`op`(..)), Mul(scale of x, scale of weight)).
    fn dynamic(&self, node: &NodeProto, op: &str) -> Result<Option<Dynamic<'_>>, String> {
        let [a, b] = &node.input[..] else {
            return Ok(None);
        };
        for (sums, scales) in [(a, b), (b, a)] {
            let Some(product) = self
                .made_by(sums, "Cast")
                .and_then(|cast| self.made_by(cast.input.first()?, op))
            else {
                continue;
            };
            let quantized = product.input.first().map_or("", |x| x);
            let Some(quantize) = self.made_by(quantized, "DynamicQuantizeLinear") else {
                continue;
            };
            let [_, x_scale, x_zero_point] = &quantize.output[..] else {
                continue;
            };
            let zero_point = product.input.get(2).is_some_and(|z| z == x_zero_point);
            let Some(scales) = self.made_by(scales, "Mul") else {
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
        let attributes = self.product(product, &weight, By::Dynamic, None)?;
        Ok(Some(replacement(node, LINEAR, vec![x.into()], attributes)))
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
        (tensor.dims.len() == rank && self.read_once(&tensor.name)).then(|| Weight {
            numbers: tensor.name.clone(),
            scale,
            zero_point: zero_point.cloned(),
            transposed: rank != 2,
        })
    }

    /// DynamicQuantizeLinear, ConvInteger, Cast and Mul; any other convolution than of patches becomes a float
    /// one of what the numbers stand for.
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
        let dims = &self.initializers[&weight.numbers].dims;
        if patches(product, dims) {
            let attributes = self.product(product, &weight, By::Dynamic, None)?;
            return Ok(Some(replacement(node, PATCHES, vec![x.into()], attributes)));
        }
        let (x, product) = (x.to_owned(), product.clone());
        let at = self.producers[&product.output[0]];
        let Some(name) = product
            .output
            .first()
            .filter(|o| self.read_once(o))
            .cloned()
        else {
            return Ok(None);
        };
        let dims = dims.clone();
        // As a DequantizeLinear along the outputs.
        let scale = format!("{name}/scale");
        let count = weight.scale.len() as i64;
        self.initializers
            .insert(scale.clone(), float_tensor(&scale, &[count], &weight.scale));
        let mut input = vec![weight.numbers, scale];
        input.extend(weight.zero_point);
        let dequantize = NodeProto {
            name: product.name.clone(),
            input,
            attribute: vec![integer_attribute("axis", 0)],
            ..Default::default()
        };
        let Some((values, _)) = self.dequantized(&dequantize)? else {
            return Ok(None);
        };
        let float = format!("{name}/weight");
        self.initializers
            .insert(float.clone(), float_tensor(&float, &dims, &values));
        self.nodes[at] = replacement(&product, FAKE_QUANTIZE, vec![x], vec![]);
        let mut convolution =
            replacement(&self.nodes[i], "Conv", vec![name, float], product.attribute);
        convolution.domain.clear();
        Ok(Some(convolution))
    }

    /// The two fused products of ONNX Runtime's own domain.
    fn microsoft(&self, node: &NodeProto) -> Result<NodeProto, String> {
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
                let Some(quantize) = self.made_by(input(0), "DynamicQuantizeLinear") else {
                    return fail("A: expected what a DynamicQuantizeLinear gives, found another");
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
                "B: expected a constant of two dimensions for this node alone, found another",
            );
        };
        let bias = match input(bias) {
            "" => None,
            name => match self.bias(name)? {
                Some(bias) => Some(bias),
                None => return fail("bias: expected a constant, found none"),
            },
        };
        let attributes = self.product(node, &weight, By::Dynamic, bias)?;
        Ok(replacement(node, LINEAR, vec![x.into()], attributes))
    }

    /// A constant with one value an output, as an attribute.
    fn bias(&self, name: &str) -> Result<Option<AttributeProto>, String> {
        let found = self.floats(name)?.filter(|(values, dims)| {
            // Along the last axis, and no longer than any layer is wide.
            let last = dims.last().is_some_and(|&d| d == values.len() as i64);
            last && values.len() <= MOST_OUTPUTS
        });
        Ok(found.map(|(values, _)| {
            let dims = [values.len() as i64];
            tensor_attribute("bias", float_tensor(name, &dims, &values))
        }))
    }

    /// The attributes of a quantised product, named in `node`'s errors.
    fn product(
        &self,
        node: &NodeProto,
        weight: &Weight,
        by: By,
        bias: Option<AttributeProto>,
    ) -> Result<Vec<AttributeProto>, String> {
        let missing = |name: &str| {
            format!(
                "node {} ({}): zero point {name:?}: expected a constant, found none",
                node.name, node.op_type
            )
        };
        let mut attributes = by_attributes(&by);
        let numbers = self.initializers[&weight.numbers].clone();
        attributes.push(tensor_attribute("weight", numbers));
        let scale = float_tensor("scale", &[weight.scale.len() as i64], &weight.scale);
        attributes.push(tensor_attribute("scale", scale));
        if let Some(name) = &weight.zero_point {
            let tensor = self.initializers.get(name).ok_or_else(|| missing(name))?;
            attributes.push(tensor_attribute("zero_point", tensor.clone()));
        }
        attributes.push(integer_attribute("transposed", weight.transposed.into()));
        attributes.extend(bias);
        Ok(attributes)
    }

    /// A quantisation whose every reader quantises alike again, moved values included, changes nothing.
    fn redundant(&mut self) -> Result<(), String> {
        // What all readers of a value quantise it by; None if one of them does not.
        let mut needs: HashMap<&str, Option<Params>> = HashMap::new();
        for output in &self.outputs {
            needs.insert(output, None);
        }
        for node in self.nodes.iter().rev() {
            let own = match &*node.op_type {
                FAKE_QUANTIZE | LINEAR | PATCHES => match static_params(node) {
                    Some(By::Static(params)) => Some(params),
                    _ => None,
                },
                op if standard(node) && MOVES.contains(&op) => {
                    let mut all = node.output.iter();
                    let first = all
                        .next()
                        .and_then(|o| needs.get(o.as_str()).copied().flatten());
                    let same = all.all(|o| needs.get(o.as_str()).copied().flatten() == first);
                    first.filter(|_| same)
                }
                _ => None,
            };
            for (i, input) in node.input.iter().enumerate() {
                // Shapes and indices are no values.
                let own = own.filter(|_| i == 0 || node.op_type == "Concat");
                needs
                    .entry(input)
                    .and_modify(|all| *all = all.filter(|all| Some(*all) == own))
                    .or_insert(own);
            }
        }
        let mut gone: HashMap<String, String> = HashMap::new();
        for node in &self.nodes {
            if node.op_type == FAKE_QUANTIZE
                && let Some(By::Static(params)) = static_params(node)
                && needs.get(node.output[0].as_str()).copied().flatten() == Some(params)
            {
                let input = &node.input[0];
                let input = gone.get(input).unwrap_or(input).clone();
                gone.insert(node.output[0].clone(), input);
            }
        }
        for input in self.nodes.iter_mut().flat_map(|n| &mut n.input) {
            if let Some(original) = gone.get(input) {
                *input = original.clone();
            }
        }
        Ok(())
    }

    /// Functions of one quantised value, with quantisations between, become a table of 256 values.
    fn tables(&mut self) -> Result<(), String> {
        struct Table {
            base: String,
            by: Params,
            values: Vec<f32>,
            /// How many operators it stands for.
            operators: usize,
        }
        let mut tables: HashMap<String, Table> = HashMap::new();
        let mut order = vec![];
        for (i, node) in self.nodes.iter().enumerate() {
            let (Some(x), [output]) = (node.input.first(), &node.output[..]) else {
                continue;
            };
            let table = if node.op_type == FAKE_QUANTIZE {
                let Some(By::Static(by)) = static_params(node) else {
                    continue;
                };
                match tables.get(x) {
                    Some(table) => Table {
                        base: table.base.clone(),
                        by: table.by,
                        values: table
                            .values
                            .iter()
                            .map(|&v| fake_quantized(v, by))
                            .collect(),
                        operators: table.operators + 1,
                    },
                    None => Table {
                        base: x.clone(),
                        by,
                        values: (0..256)
                            .map(|q| (q - 128 - by.zero_point) as f32 * by.scale)
                            .collect(),
                        operators: 1,
                    },
                }
            } else if !standard(node) {
                continue;
            } else if let (Some(f), Some(table)) = (unary(&node.op_type), tables.get(x)) {
                Table {
                    base: table.base.clone(),
                    by: table.by,
                    values: table.values.iter().map(|&v| f(v)).collect(),
                    operators: table.operators + 1,
                }
            } else if let (Some(f), [a, b]) = (binary(&node.op_type), &node.input[..]) {
                let (base, by, operators, pairs): (_, _, _, Vec<(f32, f32)>) =
                    match (tables.get(a), tables.get(b)) {
                        (Some(a), Some(b)) if a.base == b.base && a.by == b.by => {
                            let pairs = a.values.iter().copied().zip(b.values.iter().copied());
                            (&a.base, a.by, a.operators + b.operators, pairs.collect())
                        }
                        (Some(a), None) => match self.number(b)? {
                            Some(b) => {
                                let pairs = a.values.iter().map(|&a| (a, b)).collect();
                                (&a.base, a.by, a.operators, pairs)
                            }
                            None => continue,
                        },
                        (None, Some(b)) => match self.number(a)? {
                            Some(a) => {
                                let pairs = b.values.iter().map(|&b| (a, b)).collect();
                                (&b.base, b.by, b.operators, pairs)
                            }
                            None => continue,
                        },
                        _ => continue,
                    };
                Table {
                    base: base.clone(),
                    by,
                    values: pairs.into_iter().map(|(a, b)| f(a, b)).collect(),
                    operators: operators + 1,
                }
            } else {
                continue;
            };
            tables.insert(output.clone(), table);
            order.push(i);
        }
        // The last of a chain stands for all of it.
        let mut inner: HashSet<String> = HashSet::new();
        let mut outer: HashSet<&str> = self.outputs.iter().map(String::as_str).collect();
        for node in &self.nodes {
            let tabulated = node.output.first().is_some_and(|o| tables.contains_key(o));
            match tabulated {
                true => inner.extend(node.input.iter().cloned()),
                false => outer.extend(node.input.iter().map(String::as_str)),
            }
        }
        let ends: Vec<usize> = order
            .into_iter()
            .filter(|&i| {
                let output = self.nodes[i].output[0].as_str();
                outer.contains(output) && tables[output].operators > 1
            })
            .collect();
        for i in ends {
            let table = &tables[&self.nodes[i].output[0]];
            if !table.values.iter().all(|v| v.is_finite()) {
                continue;
            }
            let mut attributes = by_attributes(&By::Static(table.by));
            attributes.push(tensor_attribute(
                "values",
                float_tensor("values", &[256], &table.values),
            ));
            let input = vec![table.base.clone()];
            self.nodes[i] = replacement(&self.nodes[i], TABLE, input, attributes);
        }
        Ok(())
    }

    /// Float products with constants, and what is added to a product.
    fn biases(&mut self) -> Result<(), String> {
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
    fn blocks(&mut self) -> Result<(), String> {
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
    fn activations(&mut self) -> Result<(), String> {
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

    /// Constants in f32 where a quantised one is not part of a product, and errors for what tract gets wrong.
    fn leftovers(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if !standard(node) {
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

/// No layer is wider; what is claims memory for nothing.
const MOST_OUTPUTS: usize = 1 << 20;

/// Operators that move values and compute nothing, with the values as their first input.
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

fn standard(node: &NodeProto) -> bool {
    node.domain.is_empty() || node.domain == "ai.onnx"
}

fn either(node: &NodeProto) -> Vec<(&str, &str)> {
    match &node.input[..] {
        [a, b] => vec![(a, b), (b, a)],
        _ => vec![],
    }
}

fn unary(op: &str) -> Option<fn(f32) -> f32> {
    match op {
        "Sigmoid" => Some(|v| 1.0 / (1.0 + (-v).exp())),
        "Tanh" => Some(f32::tanh),
        "Exp" => Some(f32::exp),
        "Sqrt" => Some(f32::sqrt),
        "Neg" => Some(|v| -v),
        "Relu" => Some(|v| v.max(0.0)),
        _ => None,
    }
}

fn binary(op: &str) -> Option<fn(f32, f32) -> f32> {
    match op {
        "Add" => Some(|a, b| a + b),
        "Sub" => Some(|a, b| a - b),
        "Mul" => Some(|a, b| a * b),
        "Div" => Some(|a, b| a / b),
        _ => None,
    }
}

/// As the kernels do it.
fn fake_quantized(v: f32, by: Params) -> f32 {
    let zero = by.zero_point as f32;
    (v / by.scale)
        .clamp(-128.0 - zero, 127.0 - zero)
        .round_ties_even()
        * by.scale
}

/// Whether a convolution with a weight of `dims` cuts its input into patches.
fn patches(node: &NodeProto, dims: &[i64]) -> bool {
    let &[_, _, height, width] = dims else {
        return false;
    };
    let square = |name: &str, value: i64| {
        let found = integers_of(node, name);
        found.is_empty() && value == 1 || found == [value, value]
    };
    let padding = text(node, "auto_pad");
    height == width
        && square("strides", height)
        && square("dilations", 1)
        && integers_of(node, "pads").iter().all(|&p| p == 0)
        && ["", "NOTSET", "VALID"].contains(&&*padding)
        && integer(node, "group", 1) == 1
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

/// The axis attribute as an index below `rank`.
fn axis(node: &NodeProto, default: i64, rank: usize) -> Option<usize> {
    let axis = integer(node, "axis", default);
    let axis = if axis < 0 {
        axis.checked_add(rank as i64)?
    } else {
        axis
    };
    usize::try_from(axis).ok().filter(|&a| a < rank)
}

/// The constants in a node of ours.
fn static_params(node: &NodeProto) -> Option<By> {
    let scale = node.attribute.iter().find(|a| a.name == "x_scale");
    Some(match scale {
        Some(scale) => By::Static(Params {
            scale: scale.f,
            zero_point: integer(node, "x_zero_point", 0),
        }),
        None => By::Dynamic,
    })
}

fn by_attributes(by: &By) -> Vec<AttributeProto> {
    match by {
        By::Static(Params { scale, zero_point }) => vec![
            float_attribute("x_scale", *scale),
            integer_attribute("x_zero_point", *zero_point),
        ],
        By::Dynamic => vec![],
    }
}

/// A node of ours that makes what `node` made.
fn replacement(
    node: &NodeProto,
    op: &str,
    input: Vec<String>,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        input,
        output: node.output.clone(),
        name: node.name.clone(),
        op_type: op.into(),
        domain: dialect::DOMAIN.into(),
        attribute,
        doc_string: String::new(),
    }
}

fn integer(node: &NodeProto, name: &str, default: i64) -> i64 {
    let mut all = node.attribute.iter();
    all.find(|a| a.name == name).map_or(default, |a| a.i)
}

fn integers_of<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    let mut all = node.attribute.iter();
    all.find(|a| a.name == name).map_or(&[], |a| &a.ints)
}

fn number_of(node: &NodeProto, name: &str, default: f32) -> f32 {
    let mut all = node.attribute.iter();
    all.find(|a| a.name == name).map_or(default, |a| a.f)
}

pub(super) fn text(node: &NodeProto, name: &str) -> String {
    let mut all = node.attribute.iter();
    let found = all.find(|a| a.name == name);
    found.map_or(String::new(), |a| {
        String::from_utf8_lossy(&a.s).into_owned()
    })
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: kind as i32,
        ..Default::default()
    }
}

fn integer_attribute(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        i,
        ..attribute(name, AttributeType::Int)
    }
}

fn float_attribute(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        f,
        ..attribute(name, AttributeType::Float)
    }
}

fn string_attribute(name: &str, s: &str) -> AttributeProto {
    AttributeProto {
        s: s.into(),
        ..attribute(name, AttributeType::String)
    }
}

fn tensor_attribute(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto {
        t: Some(t),
        ..attribute(name, AttributeType::Tensor)
    }
}

fn float_tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: DataType::Float as i32,
        dims: dims.to_vec(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Default::default()
    }
}

/// The tensor of a node with its values as bytes; None where they are of an unusual type, not as many as its
/// dimensions say, or in another file.
fn raw(tensor: &TensorProto) -> Option<TensorProto> {
    if initializer::is_external(tensor) {
        return None;
    }
    let width = check::width(tensor.data_type)?;
    let bytes = (tensor.dims.iter()).try_fold(width, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
    let mut raw_data = tensor.raw_data.clone();
    if raw_data.is_empty() {
        raw_data = match DataType::try_from(tensor.data_type) {
            Ok(DataType::Float) => (tensor.float_data.iter())
                .flat_map(|v| v.to_le_bytes())
                .collect(),
            Ok(DataType::Int64) => (tensor.int64_data.iter())
                .flat_map(|v| v.to_le_bytes())
                .collect(),
            Ok(DataType::Int32) => (tensor.int32_data.iter())
                .flat_map(|v| v.to_le_bytes())
                .collect(),
            Ok(DataType::Int8 | DataType::Uint8 | DataType::Bool) => {
                tensor.int32_data.iter().map(|v| *v as u8).collect()
            }
            _ => return None,
        };
    }
    (!raw_data.is_empty() && bytes == Some(raw_data.len() as u64)).then(|| TensorProto {
        dims: tensor.dims.clone(),
        data_type: tensor.data_type,
        raw_data,
        ..Default::default()
    })
}
