//! Bounds what a graph asks for, before tract sees it.
//!
//! tract trusts an ONNX file: some ranks and permutations out of range end in loops that never end, and sizes are
//! allocated as asked for. This computes the shape of every value from the shapes of pixels and weights, as the ONNX
//! specification defines them, with the values of small constants, which sizes are computed from. Ranks, axes,
//! permutations and pads are checked on the way. What it cannot compute is refused, so that nothing of unknown size
//! reaches tract.

mod convolutions;
mod folding;
mod known;
mod products;
mod reshapes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use pinhole_bundle::dialect::{self, ChannelOrder};
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::attributes;
use super::budget::{self, Budget};
use known::Known;

/// Values, beside weights and constants, that are needed at the same time: 256 MiB in f32. ViT-L at 336 pixels needs a
/// tenth.
const MAX_LIVE: u64 = 1 << 26;
/// Values that all nodes compute for one image; ViT-H at 336 pixels computes a tenth.
const MAX_COMPUTED: u64 = 1 << 33;
/// Multiplications for one image; ViT-bigG needs a half.
const MAX_PRODUCTS: u64 = 1 << 40;
/// Values that are computed from constants alone, while the graph is loaded: this many, and [`CONSTANT_RATIO`] times
/// the initialisers'.
const MAX_CONSTANT: u64 = 1 << 24;
const CONSTANT_RATIO: u64 = 8;
/// Multiplications of constants while the graph is loaded.
const MAX_CONSTANT_PRODUCTS: u64 = 1 << 30;
/// Dimensions of a value.
const MAX_RANK: usize = 12;

/// What is known of a value before an image is.
#[derive(Clone, Debug, Default)]
struct Value {
    shape: Vec<usize>,
    /// The values, if they are constant and few.
    known: Option<Known>,
    /// Whether it depends on no image.
    constant: bool,
}

impl Value {
    fn of_shape(shape: Vec<usize>) -> Value {
        Value {
            shape,
            ..Value::default()
        }
    }
}

/// The number of values in a shape.
fn count(shape: &[usize]) -> Result<u64, String> {
    let count = (shape.iter()).try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    count.ok_or_else(|| format!("its result would have the shape {shape:?}"))
}

/// What a node computes.
struct Computed {
    /// The outputs, in order.
    outputs: Vec<Value>,
    /// Multiplications.
    products: u64,
}

impl Computed {
    fn one(shape: Vec<usize>) -> Computed {
        Computed::known(shape, None)
    }

    fn known(shape: Vec<usize>, known: Option<Known>) -> Computed {
        let value = Value {
            known,
            ..Value::of_shape(shape)
        };
        Computed {
            outputs: vec![value],
            products: 0,
        }
    }
}

/// A node with its inputs.
struct Node<'a> {
    proto: &'a NodeProto,
    inputs: Vec<Option<&'a Value>>,
}

impl Node<'_> {
    fn optional(&self, index: usize) -> Option<&Value> {
        self.inputs.get(index).copied().flatten()
    }

    fn input(&self, index: usize) -> Result<&Value, String> {
        self.optional(index)
            .ok_or_else(|| format!("input {index}: expected one, found none"))
    }

    fn shape(&self, index: usize) -> Result<&[usize], String> {
        Ok(&self.input(index)?.shape)
    }

    /// The values of an input that sizes depend on.
    fn constant(&self, index: usize) -> Result<&Known, String> {
        self.input(index)?.known.as_ref().ok_or_else(|| {
            format!(
                "input {index}: expected a constant, because sizes depend on it, found a value that is computed \
                 (simplify the graph, for example with onnxsim)"
            )
        })
    }

    fn integers(&self, index: usize) -> Result<Vec<i64>, String> {
        self.constant(index).map(Known::integers)
    }

    /// The attribute `name`, or since an operator set an input, that lists axes or sizes.
    fn list(&self, name: &str, index: usize) -> Result<Option<Vec<i64>>, String> {
        if self.optional(index).is_some() {
            return self.integers(index).map(Some);
        }
        Ok(attributes::find(self.proto, name).map(|a| a.ints.clone()))
    }

    fn integer(&self, name: &str, default: i64) -> i64 {
        attributes::integer(self.proto, name, default)
    }

    /// The attribute `axis` as an index below `rank`.
    fn axis(&self, default: i64, rank: usize) -> Result<usize, String> {
        axis(self.integer("axis", default), rank)
    }

    fn refuse<T>(&self, index: usize, expected: &str) -> Result<T, String> {
        let found = self.shape(index)?;
        Err(format!(
            "input {index}: expected {expected}, found the shape {found:?}"
        ))
    }
}

/// `axis`, from the end if it is negative, as an index below `rank`.
fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let rank = rank as i64;
    match axis {
        _ if (0..rank).contains(&axis) => Ok(axis as usize),
        _ if (-rank..0).contains(&axis) => Ok((axis + rank) as usize),
        _ => Err(format!(
            "axis: expected one of {rank} dimensions, found {axis}"
        )),
    }
}

/// The broadcast shape of `shapes`.
fn broadcast<'a>(shapes: impl IntoIterator<Item = &'a [usize]>) -> Result<Vec<usize>, String> {
    let mut result: Vec<usize> = vec![];
    for shape in shapes {
        if shape.len() > result.len() {
            result.splice(0..0, vec![1; shape.len() - result.len()]);
        }
        let from = result.len() - shape.len();
        for (have, &size) in result[from..].iter_mut().zip(shape) {
            match (*have, size) {
                (_, 1) => {}
                (1, _) => *have = size,
                (have, size) if have == size => {}
                _ => {
                    return Err(format!(
                        "expected shapes that broadcast, found {shape:?} with {result:?}"
                    ));
                }
            }
        }
    }
    Ok(result)
}

/// Operators whose result has the shape of the first input, which the others broadcast to.
const POINTWISE: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BiasGelu",
    "BitwiseNot",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "CumSum",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "FastGelu",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "IsInf",
    "IsNaN",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "MeanVarianceNormalization",
    "Mish",
    "Neg",
    "Not",
    "QuickGelu",
    "RMSNormalization",
    "Reciprocal",
    "Relu",
    "Round",
    "Rsqrt",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "SimplifiedLayerNormalization",
    "Sin",
    "Sinh",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Trilu",
];
/// Operators whose result has the broadcast shape of all inputs.
const BROADCAST: &[&str] = &[
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
];

fn compute(node: &Node) -> Result<Computed, String> {
    if node.proto.domain == dialect::DOMAIN {
        return products::dialect(node);
    }
    match &*node.proto.op_type {
        op if POINTWISE.contains(&op) => pointwise(node),
        op if BROADCAST.contains(&op) => {
            let shapes = node.inputs.iter().flatten().map(|v| &*v.shape);
            let shape = broadcast(shapes)?;
            Ok(Computed::known(shape, folding::pointwise(node)))
        }
        "Where" => {
            let shape = broadcast([node.shape(0)?, node.shape(1)?, node.shape(2)?])?;
            Ok(Computed::known(shape, folding::select(node)))
        }
        "BatchNormalization" | "InstanceNormalization" | "GroupNormalization" => {
            let shape = node.shape(0)?;
            let channels = *shape.get(1).ok_or("input 0: expected [N, C, ..]")?;
            for index in 1..node.inputs.len() {
                let length = count(node.shape(index)?)?;
                if !(1..=channels as u64).contains(&length) {
                    return node.refuse(index, &format!("one value per channel, {channels}"));
                }
            }
            Ok(Computed::one(shape.to_vec()))
        }
        "QuantizeLinear" | "DequantizeLinear" => quantization(node),
        "DynamicQuantizeLinear" => {
            let mut computed = Computed::one(node.shape(0)?.to_vec());
            computed
                .outputs
                .extend([Value::default(), Value::default()]);
            Ok(computed)
        }
        "ArgMax" | "ArgMin" => {
            let mut shape = node.shape(0)?.to_vec();
            let axis = node.axis(0, shape.len())?;
            match node.integer("keepdims", 1) {
                0 => drop(shape.remove(axis)),
                _ => shape[axis] = 1,
            }
            Ok(Computed::one(shape))
        }
        op if op.starts_with("Reduce") => reduce(node),
        "MatMul" | "MatMulInteger" | "DynamicQuantizeMatMul" | "MatMulIntegerToFloat" => {
            products::matmul(node, 0, 1)
        }
        "QLinearMatMul" => products::matmul(node, 0, 3),
        "Gemm" => products::gemm(node),
        "Einsum" => products::einsum(node),
        "Conv" | "ConvInteger" => convolutions::conv(node, 1, ChannelOrder::First),
        "QLinearConv" => convolutions::conv(node, 3, ChannelOrder::First),
        "ConvTranspose" => convolutions::transposed(node),
        "MaxPool" | "AveragePool" => convolutions::pool(node),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
            let mut shape = node.shape(0)?.to_vec();
            shape.iter_mut().skip(2).for_each(|d| *d = 1);
            Ok(Computed::one(shape))
        }
        "Resize" => convolutions::resize(node),
        _ => reshapes::compute(node),
    }
}

fn pointwise(node: &Node) -> Result<Computed, String> {
    let shape = node.shape(0)?;
    if attributes::find(node.proto, "axis").is_some() {
        node.axis(0, shape.len())?;
    }
    if &*node.proto.op_type != "CastLike" {
        for index in 1..node.inputs.len() {
            if let Some(other) = node.optional(index)
                && broadcast([shape, &other.shape])? != shape
            {
                return node.refuse(index, &format!("a shape that broadcasts to {shape:?}"));
            }
        }
    }
    Ok(Computed::known(shape.to_vec(), folding::pointwise(node)))
}

fn quantization(node: &Node) -> Result<Computed, String> {
    let shape = node.shape(0)?;
    for index in 1..node.inputs.len() {
        let Some(parameter) = node.optional(index) else {
            continue;
        };
        let length = count(&parameter.shape)?;
        if length != 1 && length != shape[node.axis(1, shape.len())?] as u64 {
            let name = if index == 1 { "scale" } else { "zero point" };
            return Err(format!(
                "{name}: expected one value, or one per channel, found {length}"
            ));
        }
    }
    Ok(Computed::one(shape.to_vec()))
}

fn reduce(node: &Node) -> Result<Computed, String> {
    let mut shape = node.shape(0)?.to_vec();
    let rank = shape.len();
    let axes = node.list("axes", 1)?.filter(|axes| !axes.is_empty());
    let axes = match axes {
        Some(axes) => axes,
        None if node.integer("noop_with_empty_axes", 0) != 0 => vec![],
        None => (0..rank as i64).collect(),
    };
    let mut reduced = vec![false; rank];
    for a in axes {
        let a = axis(a, rank).map_err(|e| e.replacen("axis", "axes", 1))?;
        if std::mem::replace(&mut reduced[a], true) {
            return Err(format!("axes: expected each once, found {a} again"));
        }
        shape[a] = 1;
    }
    if node.integer("keepdims", 1) == 0 {
        let mut reduced = reduced.iter();
        shape.retain(|_| reduced.next() != Some(&true));
    }
    let f: Option<fn(f64, f64) -> f64> = match &*node.proto.op_type {
        "ReduceProd" => Some(|a, b| a * b),
        "ReduceSum" => Some(|a, b| a + b),
        "ReduceMax" => Some(f64::max),
        "ReduceMin" => Some(f64::min),
        _ => None,
    };
    let known = node.input(0)?.known.as_ref();
    let known = f.zip(known).filter(|_| count(&shape) == Ok(1));
    Ok(Computed::known(
        shape,
        known.and_then(|(f, known)| known.reduced(f)),
    ))
}

/// The shape and the values of a constant, whose dimensions have been checked.
fn constant(tensor: &TensorProto) -> Value {
    Value {
        shape: tensor.dims.iter().map(|&d| d as usize).collect(),
        known: Known::of_tensor(tensor),
        constant: true,
    }
}

/// What is known of a value of a graph before an image is.
#[derive(Clone, Debug, Default)]
pub struct GraphValue {
    /// For one image.
    pub shape: Vec<usize>,
    /// The numbers in row-major order, if they are constant and few.
    pub numbers: Option<Vec<f64>>,
}

/// Every value of `graph`, whose tensors and order have been checked, by name, for an input of the shape `input`. Their
/// sizes are checked.
pub(super) fn graph_values(
    graph: &GraphProto,
    input: &[usize],
    budget: Budget,
) -> Result<HashMap<String, GraphValue>, String> {
    let values = values(graph, input, budget)?.into_iter();
    let public = |(name, value): (&str, Value)| {
        let value = GraphValue {
            shape: value.shape,
            numbers: value.known.map(|known| known.values),
        };
        (name.to_owned(), value)
    };
    Ok(values.map(public).collect())
}

/// Every value of `graph` by name, for an input of the shape `input`.
fn values<'a>(
    graph: &'a GraphProto,
    input: &[usize],
    budget: Budget,
) -> Result<HashMap<&'a str, Value>, String> {
    let mut values: HashMap<&str, Value> = HashMap::new();
    let mut constants = 0;
    for tensor in &graph.initializer {
        let value = constant(tensor);
        constants += count(&value.shape)?;
        values.insert(&tensor.name, value);
    }
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    for tensor in attributes.filter_map(|a| a.t.as_ref()) {
        constants += count(&constant(tensor).shape)?;
    }
    for value in &graph.input {
        values.insert(&value.name, Value::of_shape(input.to_vec()));
    }
    // The node after which a value is not needed any more.
    let mut last: HashMap<&str, usize> = HashMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        last.extend(node.input.iter().map(|name| (&**name, i)));
    }
    last.extend(graph.output.iter().map(|o| (&*o.name, usize::MAX)));
    let most_constant = MAX_CONSTANT + CONSTANT_RATIO * constants;
    let (mut live, mut computed, mut products) = (0, 0, 0);
    let (mut folded, mut folded_products) = (0, 0);
    let (mut nodes, mut pairs, mut constant_nodes) = (0, 0, graph.initializer.len() as u64);
    for (i, proto) in graph.node.iter().enumerate() {
        let fail = |reason: String| format!("node {} ({}): {reason}", proto.name, proto.op_type);
        budget::check_operands(proto).map_err(fail)?;
        let node = Node {
            proto,
            // An omitted input has no name, nor has an omitted output.
            inputs: (proto.input.iter())
                .map(|name| values.get(&**name).filter(|_| !name.is_empty()))
                .collect(),
        };
        let result = compute(&node).map_err(fail)?;
        let by_inputs = node.inputs.iter().flatten().all(|value| value.constant);
        // Shape and Size depend on no image, whatever their input does.
        let constant = by_inputs || result.outputs.iter().all(|value| value.constant);
        let mut sum = 0;
        for (output, value) in proto.output.iter().zip(&result.outputs) {
            if value.shape.len() > MAX_RANK {
                let found = value.shape.len();
                return Err(fail(format!(
                    "expected at most {MAX_RANK} dimensions, found {found}"
                )));
            }
            let size = count(&value.shape).map_err(fail)?;
            // Before it is added, so that no sum overflows.
            let most = if constant { most_constant } else { MAX_LIVE };
            if size > most {
                let shape = &value.shape;
                return Err(fail(format!(
                    "output {output}: expected at most {most} values, found {size}, of the shape {shape:?}"
                )));
            }
            sum += size;
        }
        if let Some(output) =
            (proto.output.iter().skip(result.outputs.len())).find(|o| !o.is_empty())
        {
            return Err(fail(format!(
                "output {output}: expected at most {} outputs",
                result.outputs.len()
            )));
        }
        let (sizes, multiplications) = if constant {
            (&mut folded, &mut folded_products)
        } else {
            live += sum;
            (&mut computed, &mut products)
        };
        if constant {
            constant_nodes += 1;
        } else {
            nodes += budget::weight(proto);
            pairs += budget::pairs(proto);
        }
        budget.check(nodes, pairs, constant_nodes).map_err(fail)?;
        *sizes += sum;
        *multiplications += result.products;
        for (what, found, most) in [
            ("values at the same time", live, MAX_LIVE),
            ("values for one image", computed, MAX_COMPUTED),
            ("multiplications for one image", products, MAX_PRODUCTS),
            ("values from constants", folded, most_constant),
            (
                "multiplications of constants",
                folded_products,
                MAX_CONSTANT_PRODUCTS,
            ),
        ] {
            if found > most {
                return Err(fail(format!(
                    "expected at most {most} {what} up to here, found {found}"
                )));
            }
        }
        for (output, mut value) in proto.output.iter().zip(result.outputs) {
            // Equal numbers of values may broadcast to more.
            let size = count(&value.shape)?;
            value.known = value
                .known
                .filter(|known| known.values.len() as u64 == size);
            let unused = !last.contains_key(&**output);
            if unused && !constant {
                live -= size;
            }
            values.insert(output, Value { constant, ..value });
        }
        let mut inputs: Vec<&str> = proto.input.iter().map(|name| &**name).collect();
        inputs.sort_unstable();
        inputs.dedup();
        for input in inputs {
            if last.get(input) == Some(&i)
                && let Some(value) = values.get(input)
                && !value.constant
                && !graph.input.iter().any(|pixels| pixels.name == input)
            {
                live -= count(&value.shape)?;
            }
        }
    }
    Ok(values)
}
