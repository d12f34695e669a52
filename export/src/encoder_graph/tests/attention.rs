//! Attention, and layers of one token.

use pinhole::internal::attributes;
use tract_onnx::pb::TensorProto;

use super::{TestGraph, float, floats, graph, values_of};
use crate::encoder_graph::node::{float_tensor, int64_tensor};
use crate::graph::proto::{int as of_integer, ints as integers};

/// 5 tokens of 8 values to 2 heads of 4: a joint projection, split, with the scale 1/2 of the scores.
fn joint_attention() -> TestGraph {
    let constants = [
        floats("w", &[8, 24]),
        floats("b", &[24]),
        int64_tensor("split", &[1, 5, 3, 2, 4]),
        int64_tensor("joined", &[1, 5, 8]),
        TensorProto {
            dims: vec![],
            ..int64_tensor("0", &[0])
        },
        TensorProto {
            dims: vec![],
            ..int64_tensor("1", &[1])
        },
        TensorProto {
            dims: vec![],
            ..int64_tensor("2", &[2])
        },
        float("half", 0.5),
    ];
    let nodes = [
        ["MatMul", "x w", "product"],
        ["Add", "product b", "all"],
        ["Reshape", "all split", "parts"],
        ["Transpose", "parts", "heads"],
        ["Gather", "heads 0", "q"],
        ["Gather", "heads 1", "k"],
        ["Gather", "heads 2", "v"],
        ["Transpose", "k", "kt"],
        ["MatMul", "q kt", "products"],
        ["Mul", "products half", "scores"],
        ["Softmax", "scores", "shares"],
        ["MatMul", "shares v", "mixed"],
        ["Transpose", "mixed", "swapped"],
        ["Reshape", "swapped joined", "y"],
    ];
    graph(&nodes, &constants)
        .of_shape(&[1, 5, 8])
        .attribute("heads", integers("perm", &[2, 0, 3, 1, 4]))
        .attribute("kt", integers("perm", &[0, 1, 3, 2]))
        .attribute("swapped", integers("perm", &[0, 2, 1, 3]))
}

#[test]
fn attention_of_a_joint_projection() {
    let joint = joint_attention();
    let found = joint.becomes("Linear SelfAttention");
    assert_eq!(attributes::integers(&found.node[1], "heads"), [2]);
    // The scale is in the weights and biases of the queries, the first 8 of 24 columns.
    let scaled = |at: usize, value: f32| if at % 24 < 8 { value / 2.0 } else { value };
    let weights = (0..192).map(|i| scaled(i, 1.0 + i as f32));
    assert_eq!(values_of(&found, "weight"), weights.collect::<Vec<_>>());
    let biases = (0..24).map(|i| scaled(i, 1.0 + i as f32));
    assert_eq!(values_of(&found, "bias"), biases.collect::<Vec<_>>());
    // Another order of the three, or another reader: the columns are read where they are.
    let columns = |graph: &TestGraph, operators: &str| {
        let found = graph.becomes(operators);
        let mut nodes = found.node.iter();
        let node = nodes.find(|n| n.op_type == "ColumnAttention").unwrap();
        assert_eq!(attributes::float(node, "scale", 0.0), 0.5);
        assert_eq!(attributes::integers(node, "width"), [8]);
        ["query_column", "key_column", "value_column"].map(|n| attributes::integers(node, n)[0])
    };
    let swapped = joint.reading("q", "heads 2").reading("v", "heads 0");
    assert_eq!(columns(&swapped, "Linear ColumnAttention"), [16, 8, 0]);
    let read = joint
        .then(&[["ReduceSum", "all", "sum"], ["Add", "end sum", "y"]])
        .attribute("sum", of_integer("keepdims", 0));
    let operators = "Linear ColumnAttention ReduceSum Add";
    assert_eq!(columns(&read, operators), [0, 8, 16]);
    // Scaled queries and keys.
    let both = joint
        .reading("kt", "kk")
        .reading("products", "qq kt")
        .reading("shares", "products")
        .with(|g| {
            let at = g.nodes.iter().position(|n| n.output[0] == "kt").unwrap();
            let scaled = graph(&[["Mul", "root q", "qq"], ["Mul", "k root", "kk"]], &[]);
            g.nodes.splice(at..at, scaled.nodes);
            g.nodes.retain(|n| n.output[0] != "scores");
        })
        .constant(float("root", 0.5f32.sqrt()));
    let found = both.becomes("Linear SelfAttention");
    assert!((values_of(&found, "bias")[3] - 2.0).abs() < 1e-6);
}

#[test]
fn similar_graphs_are_no_attention() {
    let joint = joint_attention();
    let operators = |graph: &TestGraph| {
        let found = graph.rewritten().unwrap();
        let names = found.node.iter().map(|n| n.op_type.clone());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(operators(&joint), "Linear SelfAttention");
    let different = [
        joint.attribute("shares", of_integer("axis", 2)),
        joint.reading("shares", "masked").with(|g| {
            let at = g
                .nodes
                .iter()
                .position(|n| n.output[0] == "shares")
                .unwrap();
            let mask = graph(&[["Add", "scores mask", "masked"]], &[]);
            g.nodes.splice(at..at, mask.nodes);
        }),
        joint.with(|g| g.node("shares").op_type = "LogSoftmax".into()),
    ];
    for (i, graph) in different.iter().enumerate() {
        let graph = graph.constant(floats("mask", &[5, 5]));
        let found = operators(&graph);
        assert!(
            found.contains("MatMul") && !found.contains("Attention"),
            "{i}: {found}"
        );
    }
    // A factor below 0, whose quantisation would be turned.
    assert!(!operators(&joint.constant(float("half", -0.5))).contains("Attention"));
}

/// Three layers, as transformers writes them, become one; heads that are no columns are moved.
#[test]
fn attention_of_three_projections() {
    let mut nodes = vec![];
    let layers = ["q", "k", "v"]
        .map(|part| ["w", "product", "b", "all", "heads"].map(|name| format!("{name}{part}")));
    for [w, product, b, all, heads] in &layers {
        let parts = [w, product, b, all, heads].map(|name| &**name);
        let [w, product, b, all, heads] = parts;
        nodes.push(["MatMul".into(), format!("x {w}"), product.to_owned()]);
        nodes.push(["Add".into(), format!("{product} {b}"), all.to_owned()]);
        nodes.push([
            "Reshape".into(),
            format!("{all} split"),
            format!("s{heads}"),
        ]);
        nodes.push(["Transpose".into(), format!("s{heads}"), heads.to_owned()]);
    }
    let rest = [
        ["MatMul", "headsq headsk", "scores"],
        ["Softmax", "scores", "shares"],
        ["MatMul", "shares headsv", "mixed"],
        ["Transpose", "mixed", "swapped"],
        ["Reshape", "swapped joined", "y"],
    ];
    let mut all: Vec<[&str; 3]> = vec![];
    all.extend(nodes.iter().map(|node| node.each_ref().map(|part| &**part)));
    all.extend(rest);
    let mut constants = vec![
        int64_tensor("split", &[1, 5, 2, 4]),
        int64_tensor("joined", &[1, 5, 8]),
    ];
    for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
        let numbers = |count: usize| (0..count).map(|j| (100 * i + j) as f32).collect::<Vec<_>>();
        constants.push(float_tensor(&format!("w{part}"), &[8, 8], &numbers(64)));
        constants.push(float_tensor(&format!("b{part}"), &[8], &numbers(8)));
    }
    let apart = graph(&all, &constants)
        .of_shape(&[1, 5, 8])
        .attribute("headsq", integers("perm", &[0, 2, 1, 3]))
        .attribute("headsk", integers("perm", &[0, 2, 3, 1]))
        .attribute("headsv", integers("perm", &[0, 2, 1, 3]))
        .attribute("swapped", integers("perm", &[0, 2, 1, 3]));
    let found = apart.becomes("Linear SelfAttention");
    assert_eq!(attributes::integers(&found.node[1], "heads"), [2]);
    let rows = (0..8).flat_map(|row| {
        (0..3).flat_map(move |part| (0..8).map(move |j| (100 * part + 8 * row + j) as f32))
    });
    assert_eq!(values_of(&found, "weight"), rows.collect::<Vec<_>>());
    let biases = (0..3).flat_map(|part| (0..8).map(move |j| (100 * part + j) as f32));
    assert_eq!(values_of(&found, "bias"), biases.collect::<Vec<_>>());
    // Another reader of the keys, or values of something else.
    apart
        .then(&[["ReduceSum", "allk", "sum"], ["Add", "end sum", "y"]])
        .attribute("sum", of_integer("keepdims", 0))
        .becomes("Linear Linear Linear ColumnAttention ReduceSum Add");
    // Heads that were changed one by one.
    let turned = apart.reading("scores", "turned headsk").with(|g| {
        let at = g
            .nodes
            .iter()
            .position(|n| n.output[0] == "scores")
            .unwrap();
        let turn = graph(&[["Mul", "headsq cosines", "turned"]], &[]);
        g.nodes.splice(at..at, turn.nodes);
    });
    turned
        .constant(floats("cosines", &[5, 4]))
        .becomes("Linear Reshape Transpose Linear Linear Mul Transpose Reshape ColumnAttention");
}

/// Rows are moved back behind the layers, where nothing is left of it.
#[test]
fn moves_of_rows_meet_behind_layers() {
    let moved = graph(
        &[
            ["Transpose", "x", "a"],
            ["Reshape", "a rows", "b"],
            ["MatMul", "b w", "c"],
            ["Reshape", "c tokens", "d"],
            ["Transpose", "d", "y"],
        ],
        &[
            floats("w", &[8, 6]),
            int64_tensor("rows", &[5, 8]),
            int64_tensor("tokens", &[5, -1, 6]),
        ],
    );
    let moved = moved
        .of_shape(&[1, 5, 8])
        .attribute("a", integers("perm", &[1, 0, 2]))
        .attribute("y", integers("perm", &[1, 0, 2]));
    let kept = moved.then(&[["Relu", "end", "y"]]).becomes("Linear Relu");
    assert_eq!(kept.node[0].input[0], "x");
    // Another reader, or rows that are cut.
    moved
        .then(&[["ReduceSum", "b", "sum"], ["Add", "end sum", "y"]])
        .attribute("sum", of_integer("keepdims", 0))
        .becomes("Transpose Reshape Linear Reshape Transpose ReduceSum Add");
    moved
        .constant(int64_tensor("rows", &[10, 4]))
        .constant(floats("w", &[4, 3]))
        .becomes("Transpose Reshape Linear Reshape Transpose");
}

/// A block behind attention, whose result is read at the token `class` alone.
fn pooled_block() -> TestGraph {
    let block = graph(
        &[
            ["Relu", "x", "all"],
            ["LayerNormalization", "all gain bias", "normed"],
            ["MatMul", "normed w", "product"],
            ["Add", "product b", "hidden"],
            ["Sigmoid", "hidden", "gate"],
            ["Mul", "gate scale", "scaled"],
            ["Add", "all scaled", "end"],
            ["Gather", "end class", "y"],
        ],
        &[
            floats("gain", &[2]),
            floats("bias", &[2]),
            floats("w", &[2, 2]),
            floats("b", &[2]),
            floats("scale", &[1, 1, 2]),
            scalar_index("class", 0),
        ],
    );
    // Softmax over the tokens mixes them.
    block
        .with(|g| g.node("all").op_type = "Softmax".into())
        .attribute("all", of_integer("axis", 1))
        .attribute("y", of_integer("axis", 1))
        .of_shape(&[1, 5, 2])
}

fn scalar_index(name: &str, index: i64) -> TensorProto {
    TensorProto {
        dims: vec![],
        ..int64_tensor(name, &[index])
    }
}

#[test]
fn a_token_that_is_read_alone_is_computed_alone() {
    let narrow = "Softmax Gather LayerNorm Linear Sigmoid Mul Add Gather";
    for (class, token) in [(0, 0), (3, 3), (-1, 4)] {
        let rewritten = pooled_block()
            .constant(scalar_index("class", class))
            .becomes(narrow);
        let indices: Vec<(i64, usize)> = (rewritten.node.iter())
            .filter(|n| n.op_type == "Gather")
            .map(|gather| {
                let index = &gather.input[1];
                let tensor = rewritten.initializer.iter().find(|t| t.name == *index);
                let tensor = tensor.unwrap();
                let value = tensor.raw_data[..].try_into().unwrap();
                (i64::from_le_bytes(value), tensor.dims.len())
            })
            .collect();
        // The last one keeps the number of its axes.
        assert_eq!(indices, [(token, 1), (0, 0)]);
        let add = rewritten.node.iter().find(|n| n.output[0] == "end");
        let norm = rewritten.node.iter().find(|n| n.op_type == "LayerNorm");
        assert_eq!(add.unwrap().input[0], norm.unwrap().input[0]);
    }
    pooled_block()
        .constant(int64_tensor("class", &[2]))
        .becomes(narrow);
}

#[test]
fn tokens_that_are_read_together_stay_together() {
    let all = "Softmax LayerNorm Linear Sigmoid Mul Add Gather";
    let block = pooled_block();
    // Two tokens; another axis; one token in all.
    block.constant(int64_tensor("class", &[0, 1])).becomes(all);
    block.attribute("y", of_integer("axis", 2)).becomes(all);
    block.of_shape(&[1, 1, 2]).becomes(all);
    // The mean of all tokens is read too.
    let mean = block.with(|g| {
        g.node("y").output[0] = "first".into();
        let last = graph(
            &[["ReduceMean", "end", "mean"], ["Add", "first mean", "y"]],
            &[],
        );
        g.nodes.extend(last.nodes);
    });
    mean.attribute("mean", integers("axes", &[1]))
        .becomes("Softmax LayerNorm Linear Sigmoid Mul Add Gather ReduceMean Add");
    // Two readers need different tokens.
    let two = block.with(|g| {
        g.node("y").output[0] = "first".into();
        g.constants.push(scalar_index("other", 1));
        let last = graph(
            &[
                ["Gather", "end other", "second"],
                ["Add", "first second", "y"],
            ],
            &[],
        );
        g.nodes.extend(last.nodes);
    });
    two.attribute("second", of_integer("axis", 1))
        .becomes("Softmax LayerNorm Linear Sigmoid Mul Add Gather Gather Add");
    // Two branches of one value each read a token of their own.
    let branches = block.with(|g| {
        g.node("y").output[0] = "first".into();
        g.constants.push(scalar_index("other", 1));
        let last = graph(
            &[
                ["Tanh", "all", "branch"],
                ["Gather", "branch other", "second"],
                ["Add", "first second", "y"],
            ],
            &[],
        );
        g.nodes.extend(last.nodes);
    });
    let rewritten = branches
        .attribute("second", of_integer("axis", 1))
        .rewritten()
        .unwrap();
    let mut taken: Vec<i64> = (rewritten.node.iter())
        .filter(|n| n.op_type == "Gather" && n.input[0] == "all")
        .map(|n| {
            let index = rewritten.initializer.iter().find(|t| t.name == n.input[1]);
            i64::from_le_bytes(index.unwrap().raw_data[..].try_into().unwrap())
        })
        .collect();
    taken.sort_unstable();
    assert_eq!(taken, [0, 1]);
    // What differs from token to token.
    block
        .constant(floats("scale", &[5, 2]))
        .becomes("Softmax LayerNorm Linear Sigmoid Mul Gather Gather Add Gather");
}
