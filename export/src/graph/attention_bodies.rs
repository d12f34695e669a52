//! The bodies of the functions of attention.

use pinhole_bundle::dialect::AttentionScores;
use tract_onnx::pb::{NodeProto, attribute_proto::AttributeType, tensor_proto::DataType};

use super::body::{cast, constant, node, reduced, reference, to_float, transposed};
use super::proto::{float, int, ints};

/// Attention of `query` to `key` and `value`. The input `joint` is split into `parts`, which are some of these three.
pub(super) fn attention(
    joint: &str,
    parts: &[&str],
    scores: AttentionScores,
    version: i64,
) -> Vec<NodeProto> {
    let mut split = node("Split", &[joint], parts[0], vec![int("axis", -1)]);
    split.output.extend(parts[1..].iter().map(|&p| p.into()));
    if version >= 18 {
        split.attribute.push(int("num_outputs", parts.len() as i64));
    }
    let mut body = vec![split];
    let softmax = vec![softmax("scores", "shares")];
    body.extend(mixed(["query", "key", "value"], scores, softmax, version));
    body
}

/// Attention of columns of `query` to columns of `key` and `value`.
pub(super) fn column_attention(scores: AttentionScores, version: i64) -> Vec<NodeProto> {
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
    let mut shares = vec![node("Mul", &["scores", "factor"], "scaled", vec![])];
    match scores {
        AttentionScores::Exact | AttentionScores::Int8 => shares.push(softmax("scaled", "shares")),
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
    let parts = parts.each_ref().map(|part| &**part);
    body.extend(mixed(parts, scores, shares, version));
    body
}

fn softmax(scores: &str, shares: &str) -> NodeProto {
    node("Softmax", &[scores], shares, vec![int("axis", -1)])
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
fn mixed(
    [query, key, value]: [&str; 3],
    scores: AttentionScores,
    shares: Vec<NodeProto>,
    version: i64,
) -> Vec<NodeProto> {
    let swapped = |input, output| transposed(input, output, &[0, 2, 1, 3]);
    // In integers the means over the keys are subtracted first.
    let key_order: &[i64] = match scores {
        AttentionScores::Exact | AttentionScores::Quantized => &[0, 2, 3, 1],
        AttentionScores::Int8 => &[0, 2, 1, 3],
    };
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
        swapped("query_split", "query_heads"),
        transposed("key_split", "key_heads", key_order),
        swapped("value_split", "value_heads"),
    ];
    match scores {
        AttentionScores::Exact | AttentionScores::Quantized => {
            let heads = ["query_heads", "key_heads"];
            body.push(node("MatMul", &heads, "scores", vec![]));
            body.extend(shares);
            body.push(node("MatMul", &["shares", "value_heads"], "mixed", vec![]));
        }
        AttentionScores::Int8 => {
            body.extend(int8_scores(version));
            body.extend(shares);
            body.extend(int8_mixed(version));
        }
    }
    body.extend([
        swapped("mixed", "swapped"),
        node("Reshape", &["swapped", "merged_shape"], "y", vec![]),
    ]);
    body
}

/// `query_heads` and `key_heads` [N, H, T, D] to `scores`, in 8-bit integers.
fn int8_scores(version: i64) -> Vec<NodeProto> {
    let mut body = vec![constant("most_s8", float("value_float", 127.0))];
    body.extend(symmetric("query_heads", "query", -1, version));
    body.extend(reduced("ReduceMean", "key_heads", "key_mean", 2, version));
    body.push(node("Sub", &["key_heads", "key_mean"], "key_rest", vec![]));
    body.extend(symmetric("key_rest", "key", -1, version));
    body.extend([
        transposed("key_quantized", "keys", &[0, 1, 3, 2]),
        transposed("key_step", "key_row", &[0, 1, 3, 2]),
        node(
            "MatMulInteger",
            &["query_quantized", "keys"],
            "score_sum",
            vec![],
        ),
        to_float("score_sum", "score_sum_f32"),
        node(
            "Mul",
            &["score_sum_f32", "query_step"],
            "score_rows",
            vec![],
        ),
        node("Mul", &["score_rows", "key_row"], "scores", vec![]),
    ]);
    body
}

/// `shares` and `value_heads` [N, H, U, D] to `mixed`, in 8-bit integers.
fn int8_mixed(version: i64) -> Vec<NodeProto> {
    let mut body = reduced("ReduceMax", "shares", "share_most", -1, version);
    body.extend([
        constant("most_u8", float("value_float", 255.0)),
        node("Div", &["share_most", "most_u8"], "share_step", vec![]),
        node("Div", &["shares", "share_step"], "share_steps", vec![]),
        node("Round", &["share_steps"], "share_rounded", vec![]),
        cast("share_rounded", "share_quantized", DataType::Uint8),
    ]);
    body.extend(reduced(
        "ReduceMean",
        "value_heads",
        "value_mean",
        2,
        version,
    ));
    let rest = ["value_heads", "value_mean"];
    body.push(node("Sub", &rest, "value_rest", vec![]));
    body.extend(symmetric("value_rest", "value", 2, version));
    let products = ["share_quantized", "value_quantized"];
    body.extend([
        node("MatMulInteger", &products, "value_sum", vec![]),
        to_float("value_sum", "value_sum_f32"),
        node(
            "Mul",
            &["value_sum_f32", "share_step"],
            "value_rows",
            vec![],
        ),
        node("Mul", &["value_rows", "value_step"], "value_sums", vec![]),
        node("Add", &["value_sums", "value_mean"], "mixed", vec![]),
    ]);
    body
}

/// `x` quantised to s8 with one scale for all values along `axis`, so that the largest magnitude becomes `most_s8`:
/// `{of}_quantized` and `{of}_step`. Zeros have the scale 1.
fn symmetric(x: &str, of: &str, axis: i64, version: i64) -> Vec<NodeProto> {
    let names = [
        "magnitude",
        "largest",
        "any",
        "range",
        "step",
        "steps",
        "rounded",
        "quantized",
    ];
    let names = names.map(|name| format!("{of}_{name}"));
    let [
        magnitude,
        largest,
        any,
        range,
        step,
        steps,
        rounded,
        quantized,
    ] = names.each_ref().map(|name| &**name);
    let mut body = vec![node("Abs", &[x], magnitude, vec![])];
    body.extend(reduced("ReduceMax", magnitude, largest, axis, version));
    body.extend([
        cast(largest, any, DataType::Bool),
        node("Where", &[any, largest, "most_s8"], range, vec![]),
        node("Div", &[range, "most_s8"], step, vec![]),
        node("Div", &[x, step], steps, vec![]),
        node("Round", &[steps], rounded, vec![]),
        cast(rounded, quantized, DataType::Int8),
    ]);
    body
}

#[cfg(test)]
mod tests {
    use pinhole_bundle::dialect::{AttentionInput, AttentionScores, OPSET, Op};
    use pinhole_kernels::{StridedRows, int8_attention};
    use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, tensor_proto::DataType};
    use tract_onnx::prelude::*;

    use crate::graph::functions::called;
    use crate::graph::inline;
    use crate::graph::proto::{float, ints, node, opset, value};

    const TOKENS: usize = 70;
    const WIDTH: usize = 48;
    const HEADS: usize = 3;

    /// tract's answer for a body with one input x [1, TOKENS, 3 WIDTH].
    fn by_standard_operators(op: Op, attributes: Vec<AttributeProto>, x: &[f32]) -> Vec<f32> {
        let inputs = vec!["x"; op.inputs().len()];
        let call = node("pinhole", &op.name(), &inputs, "y", attributes);
        let functions = called(std::slice::from_ref(&call), OPSET);
        let dims = [TOKENS as i64, 3 * WIDTH as i64];
        let mut model = ModelProto {
            ir_version: 8,
            opset_import: vec![opset("", OPSET), opset("pinhole", op.since())],
            functions,
            graph: Some(GraphProto {
                node: vec![call],
                input: vec![value("x", DataType::Float, &dims)],
                output: vec![value("y", DataType::Float, &[TOKENS as i64, WIDTH as i64])],
                ..Default::default()
            }),
            ..Default::default()
        };
        inline(&mut model).unwrap();
        let model = tract_onnx::onnx().model_for_proto_model(&model).unwrap();
        let fact = f32::fact([1, TOKENS, 3 * WIDTH]).into();
        let model = model.with_input_fact(0, fact).unwrap();
        let model = model.into_optimized().unwrap().into_runnable().unwrap();
        let x = Tensor::from_shape(&[1, TOKENS, 3 * WIDTH], x).unwrap();
        let y = model.run(tvec!(x.into())).unwrap();
        y[0].try_as_plain_ram()
            .unwrap()
            .as_slice::<f32>()
            .unwrap()
            .to_vec()
    }

    /// Values of a step of 1/255 may differ, where two programs round otherwise.
    #[test]
    fn int8_bodies_compute_what_the_kernel_does() {
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let x: Vec<f32> = (0..TOKENS * 3 * WIDTH)
            .map(|i| 2.0 * random() + (i % 7) as f32)
            .collect();
        let heads = || ints("heads", &[HEADS as i64]);
        let columns = vec![
            heads(),
            ints("width", &[WIDTH as i64]),
            ints("query_column", &[WIDTH as i64]),
            ints("key_column", &[0]),
            ints("value_column", &[2 * WIDTH as i64]),
            float("scale", 0.3),
        ];
        for (input, attributes, first, scale) in [
            (AttentionInput::Joint, vec![heads()], [0, WIDTH], 1.0),
            (AttentionInput::Columns, columns, [WIDTH, 0], 0.3),
        ] {
            let op = Op::Attention(input, AttentionScores::Int8);
            let found = by_standard_operators(op, attributes, &x);
            let rows = |column: usize| StridedRows {
                data: &x[column..],
                stride: 3 * WIDTH,
            };
            let [q, k, v] = [rows(first[0]), rows(first[1]), rows(2 * WIDTH)];
            let mut expected = vec![0.0; TOKENS * WIDTH];
            let head = WIDTH / HEADS;
            int8_attention(q, TOKENS, k, v, TOKENS, HEADS, head, scale, &mut expected);
            let off = found.iter().zip(&expected).map(|(y, e)| (y - e).abs());
            let largest = off.clone().fold(0.0, f32::max);
            let mean = off.sum::<f32>() / found.len() as f32;
            assert!(largest < 0.05 && mean < 1e-3, "{op:?}: {largest}, {mean}");
        }
    }
}
