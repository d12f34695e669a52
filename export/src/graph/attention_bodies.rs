//! The bodies of the functions of attention.

use pinhole_bundle::dialect::AttentionScores;
use tract_onnx::pb::{NodeProto, attribute_proto::AttributeType, tensor_proto::DataType};

use super::body::{cast, constant, node, reference, to_float};
use super::proto::{float, int, ints};

/// Attention of `query` to `key` and `value`. The input `joint` is split into `parts`, which are some of these three.
pub(super) fn attention(joint: &str, parts: &[&str], version: i64) -> Vec<NodeProto> {
    let mut split = node("Split", &[joint], parts[0], vec![int("axis", -1)]);
    split.output.extend(parts[1..].iter().map(|&p| p.into()));
    if version >= 18 {
        split.attribute.push(int("num_outputs", parts.len() as i64));
    }
    let mut body = vec![split];
    let softmax = node("Softmax", &["scores"], "shares", vec![int("axis", -1)]);
    body.extend(mixed(["query", "key", "value"], vec![softmax]));
    body
}

/// Attention of columns of `query` to columns of `key` and `value`.
pub(super) fn column_attention(scores: AttentionScores) -> Vec<NodeProto> {
    let value_ints = |name: &str| reference("value_ints", name, AttributeType::Ints);
    let scale = reference("value_float", "scale", AttributeType::Float);
    let mut body = vec![
        constant("columns", value_ints("width")),
        constant("last", ints("value_ints", &[-1])),
        constant("factor", scale),
    ];
    let parts = ["query", "key", "value"].map(|input| {
        let [first, end, part] = ["first", "end", "part"].map(|name| format!("{input}_{name}"));
        let slice = [input, &first, &end, "last"];
        body.extend([
            constant(&first, value_ints(&format!("{input}_column"))),
            node("Add", &[&first, "columns"], &end, vec![]),
            node("Slice", &slice, &part, vec![]),
        ]);
        part
    });
    let softmax = |scores, shares| node("Softmax", &[scores], shares, vec![int("axis", -1)]);
    let mut shares = vec![node("Mul", &["scores", "factor"], "scaled", vec![])];
    match scores {
        AttentionScores::Exact => shares.push(softmax("scaled", "shares")),
        AttentionScores::Quantized => {
            body.extend([
                constant("least", float("value_float", -128.0)),
                constant("most", float("value_float", 127.0)),
                constant("half_range", float("value_float", 128.0)),
            ]);
            shares.extend(saturated("scaled", "scores"));
            shares.extend([
                node("Add", &["scores_limited", "half_range"], "position", vec![]),
                cast("position", "index", DataType::Int64),
                node("Gather", &["scores_values", "index"], "mapped", vec![]),
                softmax("mapped", "exact_shares"),
            ]);
            shares.extend(saturated("exact_shares", "shares"));
            shares.extend([
                node("Sub", &["shares_limited", "shares_zero"], "centred", vec![]),
                node("Mul", &["centred", "shares_scale"], "shares", vec![]),
            ]);
        }
    }
    body.extend(mixed(parts.each_ref().map(|part| &**part), shares));
    body
}

/// `x` in steps of the parameter `{of}_scale` from `{of}_zero_point`, saturated to s8: `{of}_limited`.
fn saturated(x: &str, of: &str) -> Vec<NodeProto> {
    let [scale, zero_point] = ["scale", "zero_point"].map(|name| format!("{of}_{name}"));
    let names = ["zero", "counted", "rounded", "moved", "limited"];
    let [zero, counted, rounded, moved, limited] = names.map(|name| format!("{of}_{name}"));
    vec![
        to_float(&zero_point, &zero),
        node("Div", &[x, &scale], &counted, vec![]),
        node("Round", &[&counted], &rounded, vec![]),
        node("Add", &[&rounded, &zero], &moved, vec![]),
        node("Clip", &[&moved, "least", "most"], &limited, vec![]),
    ]
}

/// The values mixed by `shares`, nodes from `scores` to `shares`. Queries, keys and values are `[N, T, W]`.
fn mixed([query, key, value]: [&str; 3], shares: Vec<NodeProto>) -> Vec<NodeProto> {
    let swap = || vec![ints("perm", &[0, 2, 1, 3])];
    let mut body = vec![
        constant("keep", ints("value_ints", &[0, 0])),
        constant("rest", ints("value_ints", &[-1])),
        constant(
            "head_count",
            reference("value_ints", "heads", AttributeType::Ints),
        ),
        node(
            "Concat",
            &["keep", "head_count", "rest"],
            "head_shape",
            vec![int("axis", 0)],
        ),
        node(
            "Concat",
            &["keep", "rest"],
            "merged_shape",
            vec![int("axis", 0)],
        ),
        node("Reshape", &[query, "head_shape"], "query_split", vec![]),
        node("Reshape", &[key, "head_shape"], "key_split", vec![]),
        node("Reshape", &[value, "head_shape"], "value_split", vec![]),
        node("Transpose", &["query_split"], "query_heads", swap()),
        node(
            "Transpose",
            &["key_split"],
            "key_heads",
            vec![ints("perm", &[0, 2, 3, 1])],
        ),
        node("Transpose", &["value_split"], "value_heads", swap()),
        node("MatMul", &["query_heads", "key_heads"], "scores", vec![]),
    ];
    body.extend(shares);
    body.extend([
        node("MatMul", &["shares", "value_heads"], "mixed", vec![]),
        node("Transpose", &["mixed"], "swapped", swap()),
        node("Reshape", &["swapped", "merged_shape"], "y", vec![]),
    ]);
    body
}
