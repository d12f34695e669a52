//! The bodies of the dialect's functions in standard operators.

use pinhole_bundle::dialect::{self, AttentionInput, Linear, LinearInput, Op, Residual, Storage};
use pinhole_model::Activation;
use tract_onnx::pb::{
    FunctionProto, NodeProto, attribute_proto::AttributeType, tensor_proto::DataType,
};

use super::attention_bodies::{attention, column_attention};
use super::body::{
    cast, constant, gelu, gelu_tanh, node, quick_gelu, reduced, reference, to_float,
};
use super::proto::{float, int, ints, opset};
use super::{convolution_bodies, imported_bodies};

/// The functions that `nodes` call, with bodies in version `version` of the standard operators, from
/// [`dialect::OPSET`].
pub(crate) fn called(nodes: &[NodeProto], version: i64) -> Vec<FunctionProto> {
    let called: Vec<Op> = nodes.iter().filter_map(op_of).collect();
    let called = Op::all().filter(|op| called.contains(op));
    called.map(|op| function(op, version)).collect()
}

/// The oldest version of the dialect that has all functions that `nodes` call; `None` if they call none.
pub(crate) fn domain_version(nodes: &[NodeProto]) -> Option<i64> {
    nodes.iter().filter_map(op_of).map(Op::since).max()
}

/// The function that `node` calls.
pub(crate) fn op_of(node: &NodeProto) -> Option<Op> {
    Op::named(&node.op_type).filter(|_| node.domain == dialect::DOMAIN)
}

fn body(op: Op, version: i64) -> Vec<NodeProto> {
    match op {
        Op::PatchEmbedding(Storage::Float) => patch_embedding(),
        Op::PatchEmbedding(Storage::Int8) => quantized_patch_embedding(),
        Op::TokenEmbedding => token_embedding(),
        Op::ConstantTokens => constant_tokens(),
        Op::LayerNorm => vec![layer_norm("bias", "y")],
        Op::Linear(layer) => linear(layer, version),
        Op::Attention(AttentionInput::QueryKeyValue, scores) => {
            attention("key_value", &["key", "value"], scores, version)
        }
        Op::Attention(AttentionInput::Joint, scores) => {
            let parts = ["query", "key", "value"];
            attention("query_key_value", &parts, scores, version)
        }
        Op::Attention(AttentionInput::Columns, scores) => column_attention(scores, version),
        Op::L2Normalize => {
            let mut body = reduced("ReduceL2", "x", "norm", -1, version);
            body.push(node("Div", &["x", "norm"], "y", vec![]));
            body
        }
        Op::Activate(Activation::QuickGelu) => quick_gelu("x", "y"),
        Op::Activate(Activation::Gelu) => gelu("x", "y"),
        Op::Activate(Activation::GeluTanh) => gelu_tanh("x", "y"),
        Op::NormalizePixels(order) => imported_bodies::normalize_pixels(order),
        Op::Convolution(convolution) => convolution_bodies::convolution(convolution, version),
        Op::FakeQuantize(range) => imported_bodies::fake_quantize(range),
        Op::QuantizedTable => imported_bodies::quantized_table(),
        Op::AffineLinear(range, activation) => imported_bodies::affine_linear(range, activation),
        Op::AffineConvolution(range, order) => imported_bodies::affine_convolution(range, order),
    }
}

fn function(op: Op, version: i64) -> FunctionProto {
    let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
    FunctionProto {
        name: Some(op.name()),
        domain: Some(dialect::DOMAIN.into()),
        input: [names(op.inputs()), names(op.parameters())].concat(),
        output: vec!["y".into()],
        attribute: names(op.attributes()),
        node: body(op, version),
        opset_import: vec![opset("", version)],
        ..Default::default()
    }
}

/// A linear layer with what stands before and behind its product.
fn linear(layer: Linear, version: i64) -> Vec<NodeProto> {
    let (mut body, x) = match layer.input {
        LinearInput::Plain | LinearInput::Offset => (vec![], "x"),
        LinearInput::LayerNorm => (vec![layer_norm("shift", "normed")], "normed"),
    };
    // The last of the three stages writes y.
    let (product, activated) = match (layer.activation, layer.residual) {
        (None, Residual::None) => ("y", "y"),
        (None, Residual::Add) => ("linear", "linear"),
        (Some(_), Residual::None) => ("linear", "y"),
        (Some(_), Residual::Add) => ("linear", "activated"),
    };
    body.extend(match (layer.storage, layer.input) {
        (Storage::Float, _) => float_product(x, product),
        (Storage::Int8, LinearInput::Offset) => offset_product(x, product, version),
        (Storage::Int8, _) => quantized_product(x, product, version),
    });
    body.extend(match layer.activation {
        None => vec![],
        Some(Activation::QuickGelu) => quick_gelu("linear", activated),
        Some(Activation::Gelu) => gelu("linear", activated),
        Some(Activation::GeluTanh) => gelu_tanh("linear", activated),
    });
    if layer.residual == Residual::Add {
        body.push(node("Add", &[activated, "residual"], "y", vec![]));
    }
    body
}

/// `x @ weight + bias` into `output`.
fn float_product(x: &str, output: &str) -> Vec<NodeProto> {
    vec![
        to_float("weight", "weight_f32"),
        node("MatMul", &[x, "weight_f32"], "product", vec![]),
        node("Add", &["product", "bias"], output, vec![]),
    ]
}

fn layer_norm(bias: &str, output: &str) -> NodeProto {
    node(
        "LayerNormalization",
        &["x", "gain", bias],
        output,
        vec![
            int("axis", -1),
            reference("epsilon", "epsilon", AttributeType::Float),
        ],
    )
}

/// As [`float_product`], `x` quantised with one scale per row; a row of zeros gets the scale 1.
fn quantized_product(x: &str, output: &str, version: i64) -> Vec<NodeProto> {
    let mut body = largest_magnitude(x, version);
    body.extend([
        constant("most", float("value_float", 127.0)),
        constant("least", float("value_float", -127.0)),
        cast("largest", "any", DataType::Bool),
        node("Where", &["any", "largest", "most"], "range", vec![]),
    ]);
    let limit = node("Clip", &["rounded", "least", "most"], "limited", vec![]);
    body.extend(integer_product(x, limit, DataType::Int8, output));
    body
}

/// As [`quantized_product`], `x + offset` in unsigned bytes. No constant is 0: prost omits default values, and onnx's
/// checker then reports a missing one.
fn offset_product(x: &str, output: &str, version: i64) -> Vec<NodeProto> {
    let mut body = largest_magnitude(x, version);
    body.extend([
        constant("most", float("value_float", 255.0)),
        constant(
            "offset_value",
            reference("value_float", "offset", AttributeType::Float),
        ),
        node("Add", &["largest", "offset_value"], "range", vec![]),
        node("Add", &[x, "offset_value"], "shifted", vec![]),
        node("Relu", &["shifted"], "positive", vec![]),
    ]);
    let limit = node("Min", &["rounded", "most"], "limited", vec![]);
    let product = integer_product("positive", limit, DataType::Uint8, output);
    body.extend(product);
    body
}

/// Of each row of `x`, into `largest`.
fn largest_magnitude(x: &str, version: i64) -> Vec<NodeProto> {
    let mut body = vec![node("Abs", &[x], "magnitude", vec![])];
    body.extend(reduced("ReduceMax", "magnitude", "largest", -1, version));
    body
}

/// The integer product of `x` and `weight`, scaled back and with `bias` added. Each row of `x` is quantised to type
/// `kind` so that `range` becomes `most`; the node `limit` clips `rounded` to `limited`.
fn integer_product(x: &str, limit: NodeProto, kind: DataType, output: &str) -> Vec<NodeProto> {
    vec![
        node("Div", &["range", "most"], "row_scale", vec![]),
        node("Div", &["most", "range"], "factor", vec![]),
        node("Mul", &[x, "factor"], "counted", vec![]),
        node("Round", &["counted"], "rounded", vec![]),
        limit,
        cast("limited", "quantized", kind),
        node("MatMulInteger", &["quantized", "weight"], "sum", vec![]),
        to_float("sum", "sum_f32"),
        // Not by the product of the scales: ONNX Runtime would fuse that as one scale for the whole tensor.
        node("Mul", &["sum_f32", "row_scale"], "by_row", vec![]),
        node("Mul", &["by_row", "scale"], "product", vec![]),
        node("Add", &["product", "bias"], output, vec![]),
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
        node("MatMul", &["flat_f32", "weight_f32"], "product", vec![]),
        node("Mul", &["product", "factor"], "scaled", vec![]),
        node("Add", &["scaled", "bias"], "y", vec![]),
    ]);
    body
}

fn quantized_patch_embedding() -> Vec<NodeProto> {
    let mut body = patches();
    body.extend([
        node("MatMulInteger", &["flat", "weight"], "sum", vec![]),
        to_float("sum", "sum_f32"),
        node("Mul", &["sum_f32", "scale"], "scaled", vec![]),
        node("Add", &["scaled", "bias"], "y", vec![]),
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
        node(
            "Concat",
            &["zero", "grid_size", "patch_size", "grid_size", "rest"],
            "split_shape",
            vec![int("axis", 0)],
        ),
        node("Reshape", &["pixels", "split_shape"], "split", vec![]),
        node(
            "Transpose",
            &["split"],
            "patches_u8",
            vec![ints("perm", &[0, 1, 3, 2, 4])],
        ),
        node(
            "Shape",
            &["weight"],
            "inputs",
            vec![int("start", 0), int("end", 1)],
        ),
        node(
            "Concat",
            &["zero", "rest", "inputs"],
            "flat_shape",
            vec![int("axis", 0)],
        ),
        node("Reshape", &["patches_u8", "flat_shape"], "flat", vec![]),
    ]
}

fn token_embedding() -> Vec<NodeProto> {
    vec![
        node("Add", &["patches", "positions"], "placed", vec![]),
        constant("one", ints("value_ints", &[1])),
        node(
            "Shape",
            &["patches"],
            "batch",
            vec![int("start", 0), int("end", 1)],
        ),
        node(
            "Shape",
            &["class_embedding"],
            "width",
            vec![int("start", 1), int("end", 2)],
        ),
        node(
            "Concat",
            &["batch", "one", "width"],
            "class_shape",
            vec![int("axis", 0)],
        ),
        node(
            "Expand",
            &["class_embedding", "class_shape"],
            "class",
            vec![],
        ),
        node("Concat", &["class", "placed"], "y", vec![int("axis", 1)]),
    ]
}

fn constant_tokens() -> Vec<NodeProto> {
    vec![
        constant("first", ints("value_ints", &[0])),
        constant("axis", ints("value_ints", &[1])),
        constant("end", reference("value_ints", "kept", AttributeType::Ints)),
        node("Slice", &["x", "first", "end", "axis"], "before", vec![]),
        node(
            "Shape",
            &["x"],
            "batch",
            vec![int("start", 0), int("end", 1)],
        ),
        node("Shape", &["tokens"], "size", vec![]),
        node("Concat", &["batch", "size"], "shape", vec![int("axis", 0)]),
        node("Expand", &["tokens", "shape"], "repeated", vec![]),
        node("Concat", &["before", "repeated"], "y", vec![int("axis", 1)]),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prost::Message;
    use tract_onnx::pb::ModelProto;

    use super::*;

    /// The seeds were exported before: a changed body would change the answer of other runtimes.
    #[test]
    fn bodies_are_as_in_files_that_exist() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/onnx_dialect");
        let all: Vec<FunctionProto> = Op::all().map(|op| function(op, dialect::OPSET)).collect();
        let mut compared = 0;
        for file in std::fs::read_dir(seeds).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            for expected in ModelProto::decode(&*bytes).unwrap().functions {
                let found = all.iter().find(|f| f.name() == expected.name());
                assert_eq!(found, Some(&expected));
                compared += 1;
            }
        }
        assert!(compared >= 15, "{compared}");
    }
}
