//! The bodies of the dialect's functions in standard operators.

use pinhole_bundle::dialect::{self, Function};
use tract_onnx::pb::{
    AttributeProto, FunctionProto, ModelProto, NodeProto, attribute_proto::AttributeType,
    tensor_proto::DataType,
};

use super::proto::{float, int, ints, node, opset};

/// Every function with its body.
pub(super) fn all() -> Vec<FunctionProto> {
    vec![
        function(&dialect::PATCH_EMBEDDING, patch_embedding()),
        function(
            &dialect::QUANTIZED_PATCH_EMBEDDING,
            quantized_patch_embedding(),
        ),
        function(&dialect::TOKEN_EMBEDDING, token_embedding()),
        function(&dialect::LAYER_NORM, vec![layer_norm("bias", "y")]),
        function(&dialect::LINEAR, linear("y", vec![])),
        function(&dialect::LINEAR_QUICK_GELU, linear("linear", quick_gelu())),
        function(&dialect::LINEAR_GELU, linear("linear", gelu())),
        function(
            &dialect::LINEAR_ADD,
            linear(
                "linear",
                vec![op("Add", &["linear", "residual"], "y", vec![])],
            ),
        ),
        function(
            &dialect::QUANTIZED_LINEAR,
            quantized_linear("x", "y", vec![]),
        ),
        function(
            &dialect::QUANTIZED_LINEAR_QUICK_GELU,
            quantized_linear("x", "linear", quick_gelu()),
        ),
        function(
            &dialect::QUANTIZED_LINEAR_GELU,
            quantized_linear("x", "linear", gelu()),
        ),
        function(
            &dialect::QUANTIZED_LINEAR_ADD,
            quantized_linear(
                "x",
                "linear",
                vec![op("Add", &["linear", "residual"], "y", vec![])],
            ),
        ),
        function(
            &dialect::OFFSET_QUANTIZED_LINEAR_ADD,
            offset_quantized_linear_add(),
        ),
        function(
            &dialect::LAYER_NORM_QUANTIZED_LINEAR,
            layer_norm_quantized_linear("y", vec![]),
        ),
        function(
            &dialect::LAYER_NORM_QUANTIZED_LINEAR_QUICK_GELU,
            layer_norm_quantized_linear("linear", quick_gelu()),
        ),
        function(
            &dialect::LAYER_NORM_QUANTIZED_LINEAR_GELU,
            layer_norm_quantized_linear("linear", gelu()),
        ),
        function(
            &dialect::ATTENTION,
            attention("key_value", &["key", "value"]),
        ),
        function(
            &dialect::SELF_ATTENTION,
            attention("query_key_value", &["query", "key", "value"]),
        ),
        function(
            &dialect::L2_NORMALIZE,
            vec![
                op(
                    "ReduceL2",
                    &["x"],
                    "norm",
                    vec![ints("axes", &[-1]), int("keepdims", 1)],
                ),
                op("Div", &["x", "norm"], "y", vec![]),
            ],
        ),
    ]
}

/// Drops the functions that no node of the graph calls.
pub(super) fn keep_used(model: &mut ModelProto) {
    let called: Vec<&str> = model
        .graph
        .iter()
        .flat_map(|g| &g.node)
        .map(|n| n.op_type.as_str())
        .collect();
    model.functions.retain(|f| called.contains(&f.name()));
}

fn function(signature: &Function, node: Vec<NodeProto>) -> FunctionProto {
    let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
    FunctionProto {
        name: Some(signature.name.into()),
        domain: Some(dialect::DOMAIN.into()),
        input: [names(signature.inputs), names(signature.parameters)].concat(),
        output: vec!["y".into()],
        attribute: names(signature.attributes),
        node,
        opset_import: vec![opset("", dialect::OPSET)],
        ..Default::default()
    }
}

fn op(op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) -> NodeProto {
    node("", op, inputs, output, attributes)
}

/// An attribute that takes the value of the function's attribute `of`.
fn reference(name: &str, of: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        ref_attr_name: of.into(),
        r#type: kind as i32,
        ..Default::default()
    }
}

fn constant(output: &str, value: AttributeProto) -> NodeProto {
    op("Constant", &[], output, vec![value])
}

/// Weights may be stored as f16; the arithmetic is f32.
fn to_float(input: &str, output: &str) -> NodeProto {
    cast(input, output, DataType::Float)
}

fn cast(input: &str, output: &str, kind: DataType) -> NodeProto {
    op("Cast", &[input], output, vec![int("to", kind as i64)])
}

/// `x @ weight + bias` into `output`, then `rest`.
fn linear(output: &str, rest: Vec<NodeProto>) -> Vec<NodeProto> {
    let mut body = vec![
        to_float("weight", "weight_f32"),
        op("MatMul", &["x", "weight_f32"], "product", vec![]),
        op("Add", &["product", "bias"], output, vec![]),
    ];
    body.extend(rest);
    body
}

fn layer_norm(bias: &str, output: &str) -> NodeProto {
    op(
        "LayerNormalization",
        &["x", "gain", bias],
        output,
        vec![
            int("axis", -1),
            reference("epsilon", "epsilon", AttributeType::Float),
        ],
    )
}

fn layer_norm_quantized_linear(output: &str, rest: Vec<NodeProto>) -> Vec<NodeProto> {
    let mut body = vec![layer_norm("shift", "normed")];
    body.extend(quantized_linear("normed", output, rest));
    body
}

/// As [`linear`], `x` quantised with one scale per row; a row of zeros gets the scale 1.
fn quantized_linear(x: &str, output: &str, rest: Vec<NodeProto>) -> Vec<NodeProto> {
    let mut body = vec![
        op("Abs", &[x], "magnitude", vec![]),
        largest_magnitude(),
        constant("most", float("value_float", 127.0)),
        constant("least", float("value_float", -127.0)),
        cast("largest", "any", DataType::Bool),
        op("Where", &["any", "largest", "most"], "range", vec![]),
    ];
    let limit = op("Clip", &["rounded", "least", "most"], "limited", vec![]);
    body.extend(integer_product(x, limit, DataType::Int8, output));
    body.extend(rest);
    body
}

/// As [`quantized_linear`] plus `residual`, `x + offset` in unsigned bytes. No constant is 0: prost omits default values,
/// and onnx's checker then reports a missing one.
fn offset_quantized_linear_add() -> Vec<NodeProto> {
    let mut body = vec![
        op("Abs", &["x"], "magnitude", vec![]),
        largest_magnitude(),
        constant("most", float("value_float", 255.0)),
        constant(
            "offset_value",
            reference("value_float", "offset", AttributeType::Float),
        ),
        op("Add", &["largest", "offset_value"], "range", vec![]),
        op("Add", &["x", "offset_value"], "shifted", vec![]),
        op("Relu", &["shifted"], "positive", vec![]),
    ];
    let limit = op("Min", &["rounded", "most"], "limited", vec![]);
    let product = integer_product("positive", limit, DataType::Uint8, "linear");
    body.extend(product);
    body.push(op("Add", &["linear", "residual"], "y", vec![]));
    body
}

fn largest_magnitude() -> NodeProto {
    let last = vec![ints("axes", &[-1]), int("keepdims", 1)];
    op("ReduceMax", &["magnitude"], "largest", last)
}

/// The integer product of `x` and `weight`, scaled back and with `bias` added. Each row of `x` is quantised to type
/// `kind` so that `range` becomes `most`; the node `limit` clips `rounded` to `limited`.
fn integer_product(x: &str, limit: NodeProto, kind: DataType, output: &str) -> Vec<NodeProto> {
    vec![
        op("Div", &["range", "most"], "row_scale", vec![]),
        op("Div", &["most", "range"], "factor", vec![]),
        op("Mul", &[x, "factor"], "counted", vec![]),
        op("Round", &["counted"], "rounded", vec![]),
        limit,
        cast("limited", "quantized", kind),
        op("MatMulInteger", &["quantized", "weight"], "sum", vec![]),
        to_float("sum", "sum_f32"),
        // Not by the product of the scales: ONNX Runtime would fuse that as one scale for the whole tensor.
        op("Mul", &["sum_f32", "row_scale"], "by_row", vec![]),
        op("Mul", &["by_row", "scale"], "product", vec![]),
        op("Add", &["product", "bias"], output, vec![]),
    ]
}

fn quick_gelu() -> Vec<NodeProto> {
    vec![
        constant("slope", float("value_float", 1.702)),
        op("Mul", &["linear", "slope"], "scaled", vec![]),
        op("Sigmoid", &["scaled"], "gate", vec![]),
        op("Mul", &["linear", "gate"], "y", vec![]),
    ]
}

fn gelu() -> Vec<NodeProto> {
    vec![
        constant(
            "sqrt_half",
            float("value_float", std::f32::consts::FRAC_1_SQRT_2),
        ),
        constant("one", float("value_float", 1.0)),
        constant("half", float("value_float", 0.5)),
        op("Mul", &["linear", "sqrt_half"], "scaled", vec![]),
        op("Erf", &["scaled"], "erf", vec![]),
        op("Add", &["erf", "one"], "gate", vec![]),
        op("Mul", &["linear", "gate"], "twice", vec![]),
        op("Mul", &["twice", "half"], "y", vec![]),
    ]
}

fn patch_embedding() -> Vec<NodeProto> {
    let mut body = patches();
    body.extend([
        constant(
            "factor",
            reference("value_float", "scale", AttributeType::Float),
        ),
        to_float("flat", "flat_f32"),
        to_float("weight", "weight_f32"),
        op("MatMul", &["flat_f32", "weight_f32"], "product", vec![]),
        op("Mul", &["product", "factor"], "scaled", vec![]),
        op("Add", &["scaled", "bias"], "y", vec![]),
    ]);
    body
}

fn quantized_patch_embedding() -> Vec<NodeProto> {
    let mut body = patches();
    body.extend([
        op("MatMulInteger", &["flat", "weight"], "sum", vec![]),
        to_float("sum", "sum_f32"),
        op("Mul", &["sum_f32", "scale"], "scaled", vec![]),
        op("Add", &["scaled", "bias"], "y", vec![]),
    ]);
    body
}

/// `pixels` to `flat` [N, P, p*p*3], u8.
fn patches() -> Vec<NodeProto> {
    vec![
        constant("zero", ints("value_ints", &[0])),
        constant("rest", ints("value_ints", &[-1])),
        constant(
            "grid_size",
            reference("value_ints", "grid", AttributeType::Ints),
        ),
        constant(
            "patch_size",
            reference("value_ints", "patch", AttributeType::Ints),
        ),
        op(
            "Concat",
            &["zero", "grid_size", "patch_size", "grid_size", "rest"],
            "split_shape",
            vec![int("axis", 0)],
        ),
        op("Reshape", &["pixels", "split_shape"], "split", vec![]),
        op(
            "Transpose",
            &["split"],
            "patches_u8",
            vec![ints("perm", &[0, 1, 3, 2, 4])],
        ),
        op(
            "Shape",
            &["weight"],
            "inputs",
            vec![int("start", 0), int("end", 1)],
        ),
        op(
            "Concat",
            &["zero", "rest", "inputs"],
            "flat_shape",
            vec![int("axis", 0)],
        ),
        op("Reshape", &["patches_u8", "flat_shape"], "flat", vec![]),
    ]
}

fn token_embedding() -> Vec<NodeProto> {
    vec![
        op("Add", &["patches", "positions"], "placed", vec![]),
        constant("one", ints("value_ints", &[1])),
        op(
            "Shape",
            &["patches"],
            "batch",
            vec![int("start", 0), int("end", 1)],
        ),
        op(
            "Shape",
            &["class_embedding"],
            "width",
            vec![int("start", 1), int("end", 2)],
        ),
        op(
            "Concat",
            &["batch", "one", "width"],
            "class_shape",
            vec![int("axis", 0)],
        ),
        op(
            "Expand",
            &["class_embedding", "class_shape"],
            "class",
            vec![],
        ),
        op("Concat", &["class", "placed"], "y", vec![int("axis", 1)]),
    ]
}

/// Attention of `query` to `key` and `value`. The input `joint` is split into `parts`, which are some of these three.
fn attention(joint: &str, parts: &[&str]) -> Vec<NodeProto> {
    let swap = || vec![ints("perm", &[0, 2, 1, 3])];
    let mut split = op("Split", &[joint], parts[0], vec![int("axis", -1)]);
    split.output.extend(parts[1..].iter().map(|&p| p.into()));
    vec![
        split,
        constant("keep", ints("value_ints", &[0, 0])),
        constant("rest", ints("value_ints", &[-1])),
        constant(
            "head_count",
            reference("value_ints", "heads", AttributeType::Ints),
        ),
        op(
            "Concat",
            &["keep", "head_count", "rest"],
            "head_shape",
            vec![int("axis", 0)],
        ),
        op(
            "Concat",
            &["keep", "rest"],
            "merged_shape",
            vec![int("axis", 0)],
        ),
        op("Reshape", &["query", "head_shape"], "query_split", vec![]),
        op("Reshape", &["key", "head_shape"], "key_split", vec![]),
        op("Reshape", &["value", "head_shape"], "value_split", vec![]),
        op("Transpose", &["query_split"], "query_heads", swap()),
        op(
            "Transpose",
            &["key_split"],
            "key_heads",
            vec![ints("perm", &[0, 2, 3, 1])],
        ),
        op("Transpose", &["value_split"], "value_heads", swap()),
        op("MatMul", &["query_heads", "key_heads"], "scores", vec![]),
        op("Softmax", &["scores"], "shares", vec![int("axis", -1)]),
        op("MatMul", &["shares", "value_heads"], "mixed", vec![]),
        op("Transpose", &["mixed"], "swapped", swap()),
        op("Reshape", &["swapped", "merged_shape"], "y", vec![]),
    ]
}
