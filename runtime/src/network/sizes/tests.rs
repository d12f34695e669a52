//! Sizes that are computed, and those that are refused.

use std::time::{Duration, Instant};

use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType,
};

use super::values;
use crate::network::attributes;
use crate::network::budget::Budget;

/// Pixels of the images.
const SIDE: usize = 32;

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        ints: ints.to_vec(),
        ..Default::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    attributes::of_integer(name, i)
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("the {op}"),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

/// An initialiser of i64.
fn list(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: DataType::Int64 as i32,
        dims: dims.to_vec(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Default::default()
    }
}

/// An initialiser of f32, all 0.
fn weight(name: &str, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: DataType::Float as i32,
        dims: dims.to_vec(),
        raw_data: vec![0; 4 * dims.iter().product::<i64>() as usize],
        ..Default::default()
    }
}

fn budget(graph: &GraphProto) -> Budget {
    Budget::of(graph, &|_| None)
}

fn graph(initializer: Vec<TensorProto>, node: Vec<NodeProto>) -> GraphProto {
    let value = |name: &str| ValueInfoProto {
        name: name.into(),
        ..Default::default()
    };
    GraphProto {
        input: vec![value("pixels")],
        output: vec![value(&node.last().unwrap().output[0])],
        node,
        initializer,
        ..Default::default()
    }
}

#[test]
fn shapes_are_those_of_the_specification() {
    let lists = vec![
        list("to 4", &[4], &[1, 0, -1, 3]),
        list("flat", &[2], &[1, -1]),
        list("axes", &[1], &[-1]),
        list("zero", &[], &[0]),
        list("one", &[], &[1]),
        list("ones", &[1], &[1]),
        list("starts", &[2], &[-3, 30]),
        list("ends", &[2], &[i64::MAX, -100]),
        list("slice axes", &[2], &[1, 2]),
        list("steps", &[2], &[2, -7]),
        list("pads", &[8], &[0, 0, 1, 2, 0, 0, 3, 4]),
        list("repeats", &[4], &[1, 2, 1, 1]),
        list("sizes", &[4], &[1, 3, 7, 9]),
        list("indices", &[2, 1, 3], &[0, 1, 2, 0, 0, 0]),
        list("ends of pads", &[4], &[1, 2, 3, 4]),
        list("zeros", &[4], &[0; 4]),
        list("rows", &[2], &[-1, 2]),
        list("back", &[1], &[-1]),
        list("before", &[1], &[i64::MIN]),
        list("zero axis", &[1], &[0]),
        list("all", &[1], &[-1]),
        list("expanded", &[5], &[2, 1, 32, 1, 1]),
        weight("filter", &[8, 3, 3, 3]),
        weight("matrix", &[3, 5]),
        TensorProto {
            raw_data: 2f32.to_le_bytes().to_vec(),
            ..weight("two", &[1])
        },
    ];
    let channels_first = || ints("perm", &[0, 3, 1, 2]);
    for (nodes, expected) in [
        (
            vec![node("Cast", &["pixels"], "y", vec![int("to", 1)])],
            vec![1, 32, 32, 3],
        ),
        (
            vec![node("Transpose", &["pixels"], "y", vec![channels_first()])],
            vec![1, 3, 32, 32],
        ),
        (
            vec![node("Reshape", &["pixels", "to 4"], "y", vec![])],
            vec![1, 32, 32, 3],
        ),
        (
            vec![node("Reshape", &["pixels", "flat"], "y", vec![])],
            vec![1, 3072],
        ),
        (
            vec![node("Flatten", &["pixels"], "y", vec![int("axis", 3)])],
            vec![1024, 3],
        ),
        (
            vec![node(
                "ReduceSum",
                &["pixels", "axes"],
                "y",
                vec![int("keepdims", 0)],
            )],
            vec![1, 32, 32],
        ),
        (
            vec![node(
                "ReduceMean",
                &["pixels"],
                "y",
                vec![ints("axes", &[1, 2])],
            )],
            vec![1, 1, 1, 3],
        ),
        (
            vec![node(
                "ArgMax",
                &["pixels"],
                "y",
                vec![int("axis", 2), int("keepdims", 0)],
            )],
            vec![1, 32, 3],
        ),
        (
            vec![node(
                "Slice",
                &["pixels", "starts", "ends", "slice axes", "steps"],
                "y",
                vec![],
            )],
            vec![1, 2, 5, 3],
        ),
        (
            vec![node("Pad", &["pixels", "pads"], "y", vec![])],
            vec![1, 32, 36, 9],
        ),
        (
            vec![node("Tile", &["pixels", "repeats"], "y", vec![])],
            vec![1, 64, 32, 3],
        ),
        (
            vec![node("Resize", &["pixels", "", "", "sizes"], "y", vec![])],
            vec![1, 3, 7, 9],
        ),
        (
            vec![node(
                "Gather",
                &["pixels", "indices"],
                "y",
                vec![int("axis", 1)],
            )],
            vec![1, 2, 1, 3, 32, 3],
        ),
        (
            vec![node("GatherND", &["pixels", "indices"], "y", vec![])],
            vec![2, 1, 3],
        ),
        (
            vec![node("Expand", &["pixels", "expanded"], "y", vec![])],
            vec![2, 1, 32, 32, 3],
        ),
        (
            vec![node("MatMul", &["pixels", "matrix"], "y", vec![])],
            vec![1, 32, 32, 5],
        ),
        (
            vec![node("Unsqueeze", &["pixels", "axes"], "y", vec![])],
            vec![1, 32, 32, 3, 1],
        ),
        (
            vec![node(
                "Concat",
                &["pixels", "pixels"],
                "y",
                vec![int("axis", -1)],
            )],
            vec![1, 32, 32, 6],
        ),
        (
            vec![
                node("Transpose", &["pixels"], "x", vec![channels_first()]),
                node(
                    "Conv",
                    &["x", "filter"],
                    "y",
                    vec![ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])],
                ),
            ],
            vec![1, 8, 16, 16],
        ),
        (
            vec![
                node("Transpose", &["pixels"], "x", vec![channels_first()]),
                node(
                    "Conv",
                    &["x", "filter"],
                    "y",
                    vec![attributes::of_text("auto_pad", "SAME_UPPER")],
                ),
            ],
            vec![1, 8, 32, 32],
        ),
        (
            vec![
                node("Transpose", &["pixels"], "x", vec![channels_first()]),
                node(
                    "MaxPool",
                    &["x"],
                    "y",
                    vec![
                        ints("kernel_shape", &[3, 3]),
                        ints("strides", &[2, 2]),
                        int("ceil_mode", 1),
                    ],
                ),
            ],
            vec![1, 3, 16, 16],
        ),
        (
            vec![
                node(
                    "Transpose",
                    &["pixels"],
                    "x",
                    vec![ints("perm", &[0, 2, 3, 1])],
                ),
                node(
                    "Einsum",
                    &["x", "matrix"],
                    "y",
                    vec![attributes::of_text("equation", "bhcw, cd -> bdwh")],
                ),
            ],
            vec![1, 5, 32, 32],
        ),
        // Sizes that are computed from sizes, as PyTorch exports them.
        (
            vec![
                node("Shape", &["pixels"], "shape", vec![]),
                node("Gather", &["shape", "one"], "height", vec![]),
                node("Mul", &["height", "height"], "area", vec![]),
                node("Unsqueeze", &["area", "zero"], "areas", vec![]),
                node("Shape", &["pixels"], "channels", vec![int("start", -1)]),
                node(
                    "Concat",
                    &["ones", "areas", "channels"],
                    "tokens",
                    vec![int("axis", 0)],
                ),
                node("Reshape", &["pixels", "tokens"], "y", vec![]),
            ],
            vec![1, 1024, 3],
        ),
        // Pads in the order of PyTorch, last dimension first.
        (
            vec![
                node(
                    "Concat",
                    &["ends of pads", "zeros"],
                    "pairs",
                    vec![int("axis", 0)],
                ),
                node("Reshape", &["pairs", "rows"], "rows of pairs", vec![]),
                node(
                    "Slice",
                    &["rows of pairs", "back", "before", "zero axis", "back"],
                    "reversed",
                    vec![],
                ),
                node(
                    "Transpose",
                    &["reversed"],
                    "columns",
                    vec![ints("perm", &[1, 0])],
                ),
                node("Reshape", &["columns", "all"], "pads of 4", vec![]),
                node("Pad", &["pixels", "pads of 4"], "y", vec![]),
            ],
            vec![1, 32, 39, 6],
        ),
        // Scales as floats.
        (
            vec![
                node("Shape", &["pixels"], "shape", vec![]),
                node("Cast", &["shape"], "float", vec![int("to", 1)]),
                node("Div", &["float", "two"], "half", vec![]),
                node("Floor", &["half"], "floor", vec![]),
                node("Cast", &["floor"], "sizes", vec![int("to", 7)]),
                node("ConstantOfShape", &["sizes"], "y", vec![]),
            ],
            vec![0, 16, 16, 1],
        ),
    ] {
        let op = nodes.last().unwrap().op_type.clone();
        let graph = graph(lists.clone(), nodes);
        let values = values(&graph, &[1, SIDE, SIDE, 3], budget(&graph)).unwrap();
        assert_eq!(values["y"].shape, expected, "{op}");
    }
}

#[test]
fn attributes_that_tract_does_not_check_are_refused() {
    let lists = vec![
        list("scalar", &[], &[0]),
        list("deep", &[1, 5], &[0; 5]),
        list("pads", &[8], &[0, 1 << 40, 0, 0, 0, 1 << 40, 0, 0]),
        list("negative", &[8], &[0, -1, 0, 0, 0, 0, 0, 0]),
        list("huge", &[4], &[1, 1 << 20, 1 << 20, 1 << 20]),
        list("large", &[2], &[1 << 11, 1 << 11]),
        list("zero", &[1], &[0]),
        list("ten", &[1], &[10]),
        list("twice", &[2], &[1, 1]),
        list("start", &[], &[0]),
        list("limit", &[], &[1 << 40]),
        list("column", &[3], &[1, 10_000, 1]),
        list("row", &[3], &[1, 1, 10_000]),
        weight("filter", &[8, 3, 3, 3]),
        weight("matrix", &[3, 5]),
    ];
    let pool = |list: AttributeProto| vec![ints("kernel_shape", &[3, 3]), list];
    let one = |op: &str, inputs: &[&str], attribute| vec![node(op, inputs, "y", attribute)];
    let mut doubled = vec![node("Cast", &["pixels"], "x0", vec![int("to", 1)])];
    for i in 0..40 {
        let (from, to) = (format!("x{i}"), format!("x{}", i + 1));
        doubled.push(node("Concat", &[&from, &from], &to, vec![int("axis", 0)]));
    }
    let outer = vec![
        node("ReduceSum", &["pixels"], "sum", vec![int("keepdims", 0)]),
        node("Expand", &["sum", "column"], "a", vec![]),
        node("Expand", &["sum", "row"], "b", vec![]),
        node("Add", &["a", "b"], "y", vec![]),
    ];
    let products = vec![
        node("ConstantOfShape", &["large"], "a", vec![]),
        node("MatMul", &["a", "a"], "y", vec![]),
    ];
    let mut rank = vec![node("Identity", &["pixels"], "x0", vec![])];
    for i in 0..12 {
        let (from, to) = (format!("x{i}"), format!("x{}", i + 1));
        rank.push(node("Unsqueeze", &[&from, "zero"], &to, vec![]));
    }
    let many = (0..20_000).map(|i| node("Relu", &["pixels"], &format!("y{i}"), vec![]));
    let started = Instant::now();
    for (nodes, expected) in [
        (
            one("GatherND", &["pixels", "scalar"], vec![]),
            "indices of one dimension or more",
        ),
        (
            one("GatherND", &["pixels", "deep"], vec![]),
            "a last dimension of 1 to 4",
        ),
        (
            one("GatherND", &["pixels", "deep"], vec![int("batch_dims", 7)]),
            "batch_dims",
        ),
        (
            one("Transpose", &["pixels"], vec![ints("perm", &[2, 0, 3])]),
            "perm: expected 4 dimensions",
        ),
        (
            one("Transpose", &["pixels"], vec![ints("perm", &[0, 1, 1, 2])]),
            "perm: expected each of 0 to 3 once",
        ),
        (
            one("Transpose", &["pixels"], vec![ints("perm", &[0, 1, 2, 4])]),
            "perm: expected each of 0 to 3 once",
        ),
        (
            one("Pad", &["pixels", "pads"], vec![]),
            "pads: expected at most 65536 at dimension 1",
        ),
        (
            one("Pad", &["pixels", "negative"], vec![]),
            "pads: expected numbers from 0",
        ),
        (
            one("Pad", &["pixels", "ten"], vec![]),
            "pads: expected 8 numbers",
        ),
        (one("Expand", &["pixels", "huge"], vec![]), "broadcast"),
        (
            one("ConstantOfShape", &["huge"], vec![]),
            "values, found 1152921504606846976",
        ),
        (
            one("Tile", &["pixels", "huge"], vec![]),
            "its result would have the shape",
        ),
        (
            one("Range", &["start", "limit", "start"], vec![]),
            "in steps of 0",
        ),
        (
            one("Reshape", &["pixels", "huge"], vec![]),
            "shape: expected 3072 values",
        ),
        (
            one("Reshape", &["pixels", "pixels"], vec![]),
            "input 1: expected a constant",
        ),
        (
            one("Resize", &["pixels", "", "", "huge"], vec![]),
            "at most 67108864 values",
        ),
        (
            one("Slice", &["pixels", "zero", "ten", "zero", "zero"], vec![]),
            "steps: expected no 0",
        ),
        (
            one("Gather", &["pixels", "ten"], vec![int("axis", 9)]),
            "axis: expected one of 4 dimensions, found 9",
        ),
        (
            one("Gather", &["pixels", "ten"], vec![int("axis", 3)]),
            "indices: expected -3 to 2, found 10",
        ),
        (
            one("Softmax", &["pixels"], vec![int("axis", -5)]),
            "axis: expected one of 4 dimensions, found -5",
        ),
        (
            one("Concat", &["pixels", "matrix"], vec![int("axis", 0)]),
            "input 1: expected",
        ),
        (
            one("Squeeze", &["pixels", "twice"], vec![]),
            "axes: expected each once",
        ),
        (
            one("Split", &["pixels", "ten"], vec![int("axis", 1)]),
            "split: expected 1 lengths of 32",
        ),
        (
            one("MatMul", &["matrix", "matrix"], vec![]),
            "expected factors that fit",
        ),
        (
            one(
                "Einsum",
                &["matrix", "matrix"],
                vec![attributes::of_text("equation", "...i,ij->j")],
            ),
            "equation",
        ),
        (
            one("Conv", &["pixels", "filter"], vec![]),
            "group: expected one that divides",
        ),
        (
            one("MaxPool", &["pixels"], pool(ints("strides", &[0, 1]))),
            "strides: expected 2 numbers from 1",
        ),
        (
            one("MaxPool", &["pixels"], pool(ints("pads", &[3, 0, 0, 0]))),
            "pads: expected less than the kernel",
        ),
        (
            one("MaxPool", &["pixels"], vec![ints("kernel_shape", &[-1, 3])]),
            "kernel: expected sides of 1",
        ),
        (
            one("AveragePool", &["pixels"], pool(ints("dilations", &[9, 9]))),
            "kernel: expected one of at most",
        ),
        (
            one("DepthToSpace", &["pixels"], vec![int("blocksize", 0)]),
            "blocksize: expected one that divides",
        ),
        (
            one("LayerNormalization", &["pixels", "filter"], vec![]),
            "broadcast",
        ),
        (one("Add", &["pixels", "filter"], vec![]), "broadcast"),
        (one("Loop", &["pixels"], vec![]), "found Loop"),
        (one("NonZero", &["pixels"], vec![]), "found NonZero"),
        (doubled, "at most 67108864 values"),
        (outer, "at most 67108864 values, found 100000000"),
        (products, "multiplications of constants"),
        (rank, "expected at most 12 dimensions"),
        (
            many.collect(),
            "expected at most 2048 nodes that depend on the image in a file of this size",
        ),
        (
            (0..300)
                .map(|i| node("LayerNormalization", &["pixels"], &format!("y{i}"), vec![]))
                .collect(),
            "expected at most 2048 nodes that depend on the image",
        ),
        (
            (0..100)
                .map(|i| node("Max", &["pixels"; 100], &format!("y{i}"), vec![]))
                .collect(),
            "expected at most 65536 pairs of inputs",
        ),
        (
            (0..5000)
                .map(|i| node("Shape", &["pixels"], &format!("y{i}"), vec![]))
                .collect(),
            "expected at most 4096 constants",
        ),
        (
            one("Max", &["pixels"; 129], vec![]),
            "expected at most 128 inputs, found 129",
        ),
    ] {
        let op = nodes.last().unwrap().op_type.clone();
        let graph = graph(lists.clone(), nodes);
        let error = values(&graph, &[1, SIDE, SIDE, 3], budget(&graph)).expect_err(&op);
        assert!(error.contains(expected), "{op}: {error}");
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

/// If this fails, a file makes the operator read behind its input, or its output has another shape than was counted.
#[test]
fn constant_tokens_follow_those_that_are_kept() {
    let sizes = |kept: i64, width: i64| {
        let tokens = NodeProto {
            domain: pinhole_bundle::dialect::DOMAIN.into(),
            ..node(
                "ConstantTokens",
                &["x", "tokens"],
                "y",
                vec![ints("kept", &[kept])],
            )
        };
        let nodes = vec![
            node("Reshape", &["pixels", "as tokens"], "x", vec![]),
            tokens,
        ];
        let initializers = vec![
            list("as tokens", &[3], &[1, -1, 3]),
            weight("tokens", &[2, width]),
        ];
        let graph = graph(initializers, nodes);
        values(&graph, &[1, SIDE, SIDE, 3], budget(&graph)).map(|values| values["y"].shape.clone())
    };
    assert_eq!(sizes(1000, 3).unwrap(), [1, 1002, 3]);
    assert_eq!(sizes(1024, 3).unwrap(), [1, 1026, 3]);
    for (kept, width, part) in [
        (1025, 3, "kept: expected 1 to 1024, found 1025"),
        (0, 3, "found 0"),
        (-1, 3, "kept"),
        (1000, 4, "[n, 3]"),
    ] {
        let error = sizes(kept, width).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
