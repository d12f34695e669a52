//! What the bodies of functions are made of.

use tract_onnx::pb::{
    AttributeProto, NodeProto, attribute_proto::AttributeType, tensor_proto::DataType,
};

use super::proto::{self, float, int, ints};

/// A standard operator.
pub(super) fn node(
    op: &str,
    inputs: &[&str],
    output: &str,
    attributes: Vec<AttributeProto>,
) -> NodeProto {
    proto::node("", op, inputs, output, attributes)
}

/// An attribute that takes the value of the function's attribute `of`.
pub(super) fn reference(name: &str, of: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        ref_attr_name: of.into(),
        r#type: kind as i32,
        ..Default::default()
    }
}

pub(super) fn constant(output: &str, value: AttributeProto) -> NodeProto {
    node("Constant", &[], output, vec![value])
}

/// Weights may be stored as f16; the arithmetic is f32.
pub(super) fn to_float(input: &str, output: &str) -> NodeProto {
    cast(input, output, DataType::Float)
}

pub(super) fn cast(input: &str, output: &str, kind: DataType) -> NodeProto {
    node("Cast", &[input], output, vec![int("to", kind as i64)])
}

pub(super) fn transposed(input: &str, output: &str, perm: &[i64]) -> NodeProto {
    node("Transpose", &[input], output, vec![ints("perm", perm)])
}

/// `op` over `axis`, which is kept. Since version 18 the axes are an input.
pub(super) fn reduced(op: &str, x: &str, output: &str, axis: i64, version: i64) -> Vec<NodeProto> {
    let keep = int("keepdims", 1);
    if version < 18 {
        return vec![node(op, &[x], output, vec![ints("axes", &[axis]), keep])];
    }
    let axes = format!("{output}_axes");
    vec![
        constant(&axes, ints("value_ints", &[axis])),
        node(op, &[x, &axes], output, vec![keep]),
    ]
}

/// The attributes of a convolution that are those of the function.
pub(super) fn window() -> Vec<AttributeProto> {
    let lists = ["strides", "pads", "dilations"];
    let lists = lists.map(|name| reference(name, name, AttributeType::Ints));
    let group = reference("group", "group", AttributeType::Int);
    lists.into_iter().chain([group]).collect()
}

pub(super) fn quick_gelu(x: &str, output: &str) -> Vec<NodeProto> {
    vec![
        constant("slope", float("value_float", 1.702)),
        node("Mul", &[x, "slope"], "scaled", vec![]),
        node("Sigmoid", &["scaled"], "gate", vec![]),
        node("Mul", &[x, "gate"], output, vec![]),
    ]
}

pub(super) fn gelu(x: &str, output: &str) -> Vec<NodeProto> {
    vec![
        constant(
            "sqrt_half",
            float("value_float", std::f32::consts::FRAC_1_SQRT_2),
        ),
        constant("one", float("value_float", 1.0)),
        constant("half", float("value_float", 0.5)),
        node("Mul", &[x, "sqrt_half"], "scaled", vec![]),
        node("Erf", &["scaled"], "erf", vec![]),
        node("Add", &["erf", "one"], "gate", vec![]),
        node("Mul", &[x, "gate"], "twice", vec![]),
        node("Mul", &["twice", "half"], output, vec![]),
    ]
}

/// x (1 + tanh u) / 2 = x sigmoid(2 u), with 2 u = 2 √(2/π) (x + 0.044715 x³).
pub(super) fn gelu_tanh(x: &str, output: &str) -> Vec<NodeProto> {
    const FACTOR: f32 = 1.595_769_2;
    vec![
        constant("cubic", float("value_float", 0.044_715 * FACTOR)),
        constant("slope", float("value_float", FACTOR)),
        node("Mul", &[x, x], "square", vec![]),
        node("Mul", &["square", "cubic"], "bend", vec![]),
        node("Add", &["bend", "slope"], "slopes", vec![]),
        node("Mul", &[x, "slopes"], "scaled", vec![]),
        node("Sigmoid", &["scaled"], "gate", vec![]),
        node("Mul", &[x, "gate"], output, vec![]),
    ]
}
