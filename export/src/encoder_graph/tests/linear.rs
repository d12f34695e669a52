//! Linear layers and biases, and operators that only move or convert values.

use pinhole::internal::attributes::{self, of_tensor};
use tract_onnx::pb::{
    GraphProto, TensorProto,
    tensor_proto::{DataLocation, DataType},
};

use super::{bytes, floats, graph, values_of};
use crate::graph::proto::{float as of_float, int as of_integer, ints as integers};

#[test]
fn biases() {
    let linear = graph(
        &[["MatMul", "x w", "product"], ["Add", "product bias", "y"]],
        &[floats("w", &[2, 3]), floats("bias", &[3])],
    );
    for inputs in ["product bias", "bias product"] {
        let found = linear.reading("y", inputs).becomes("Linear");
        assert_eq!(values_of(&found, "bias"), [1.0, 2.0, 3.0]);
        assert_eq!(values_of(&found, "weight").len(), 6);
    }
    for bias in [floats("bias", &[1, 3]), floats("bias", &[2])] {
        linear.constant(bias).becomes("Linear Add");
    }
    linear
        .reading("y", "product computed")
        .becomes("Linear Add");
    // Only the first of two biases.
    let two = graph(
        &[
            ["MatMul", "x w", "product"],
            ["Add", "product bias", "sum"],
            ["Add", "sum bias", "y"],
        ],
        &linear.constants,
    );
    two.becomes("Linear Add");
    // A product with another reader.
    let read = two.with(|g| g.node("y").op_type = "Mul".into());
    read.reading("y", "sum product").becomes("Linear Add Mul");

    let product = graph(&[["MatMul", "x w", "y"]], &[floats("w", &[2, 3])]);
    product.becomes("Linear");
    product.reading("y", "w x").stays();
    product
        .with(|g| g.node("y").domain = "other".into())
        .stays();
    for dims in [&[1, 2, 3][..], &[2, 0], &[6]] {
        product.constant(floats("w", dims)).stays();
    }
    let half = bytes("w", DataType::Float16, &[2, 3], &[0; 12]);
    product.constant(half).stays();
    // A weight with two readers would be packed twice.
    graph(
        &[
            ["MatMul", "x w", "a"],
            ["MatMul", "z w", "b"],
            ["Add", "a b", "y"],
        ],
        &[floats("w", &[2, 3])],
    )
    .stays();
}

/// In y = alpha x w + beta b, the factors are in the layer.
#[test]
fn gemm_is_a_linear_layer() {
    let gemm = graph(
        &[["Gemm", "input w b", "y"]],
        &[floats("w", &[2, 3]), floats("b", &[3])],
    );
    let found = gemm.becomes("Linear");
    assert_eq!(values_of(&found, "weight"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(values_of(&found, "bias"), [1.0, 2.0, 3.0]);
    let turned = gemm
        .constant(floats("w", &[3, 2]))
        .attribute("y", of_integer("transB", 1))
        .attribute("y", of_float("alpha", 0.5))
        .attribute("y", of_float("beta", 2.0));
    let found = turned.becomes("Linear");
    assert_eq!(values_of(&found, "weight"), [0.5, 1.5, 2.5, 1.0, 2.0, 3.0]);
    assert_eq!(values_of(&found, "bias"), [2.0, 4.0, 6.0]);
    let found = gemm.reading("y", "input w").becomes("Linear");
    assert_eq!(values_of(&found, "bias"), [0.0; 3]);
    for dims in [&[][..], &[1], &[1, 1]] {
        let found = gemm.constant(floats("b", dims)).becomes("Linear");
        assert_eq!(values_of(&found, "bias"), [1.0; 3]);
    }
    let row = gemm.constant(floats("b", &[1, 3])).becomes("Linear");
    assert_eq!(values_of(&row, "bias"), [1.0, 2.0, 3.0]);
    // One value per row of the input, or computed.
    gemm.constant(floats("b", &[3, 1])).stays();
    gemm.reading("y", "input w other").stays();
    gemm.reading("y", "input other b").stays();
    gemm.attribute("y", of_integer("transA", 1)).stays();
    gemm.then(&[["Add", "end w", "y"]]).stays();
}

#[test]
fn biases_behind_convolutions_are_merged() {
    let sum = graph(
        &[["Conv", "x w own", "conv"], ["Add", "conv b", "y"]],
        &[
            floats("w", &[3, 2, 1, 1]),
            floats("own", &[3]),
            floats("b", &[3, 1, 1]),
        ],
    );
    let bias = |graph: &GraphProto| {
        let name = &graph.node[0].input[2];
        let mut all = graph.initializer.iter();
        let tensor = all.find(|t| t.name == *name).unwrap();
        assert_eq!(tensor.dims, [3]);
        let values = tensor.raw_data.as_chunks().0.iter();
        values.map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>()
    };
    assert_eq!(bias(&sum.becomes("Conv")), [2.0, 4.0, 6.0]);
    let without = sum.reading("conv", "x w");
    for dims in [&[3, 1, 1][..], &[1, 3, 1, 1]] {
        let found = without.constant(floats("b", dims)).becomes("Conv");
        assert_eq!(bias(&found), [1.0, 2.0, 3.0]);
    }
    let swapped = without.reading("y", "b conv").becomes("Conv");
    assert_eq!(bias(&swapped), [1.0, 2.0, 3.0]);
    // Behind a transposition, the channels are last.
    let last = without
        .with(|g| {
            let transpose = graph(&[["Transpose", "conv", "moved"]], &[]).nodes;
            g.nodes.splice(1..1, transpose);
            g.node("y").input[0] = "moved".into();
        })
        .attribute("moved", integers("perm", &[0, 2, 3, 1]));
    for dims in [&[3][..], &[1, 1, 3], &[1, 1, 1, 3]] {
        let found = last.constant(floats("b", dims)).becomes("Conv Transpose");
        assert_eq!(bias(&found), [1.0, 2.0, 3.0]);
    }
    // One value per row or column, per position, or for all.
    for dims in [&[3][..], &[3, 1], &[3, 3, 3], &[1, 1, 1], &[3, 1, 1, 1]] {
        without.constant(floats("b", dims)).stays();
    }
    last.stays();
    sum.reading("conv", "x w computed").stays();
    sum.reading("y", "conv computed").stays();
    // The convolution's result has another reader.
    sum.then(&[["Mul", "end conv", "y"]]).stays();
}

#[test]
fn conversions_of_floats_to_floats_are_removed() {
    let cast = graph(
        &[
            ["Sigmoid", "x", "float"],
            ["Cast", "float", "same"],
            ["MatMul", "same w", "y"],
        ],
        &[floats("w", &[2, 3])],
    );
    let cast = cast.attribute("same", of_integer("to", DataType::Float as i64));
    let found = cast.becomes("Sigmoid Linear");
    assert_eq!(found.node[1].input[0], "float");
    // Through operators that keep the type.
    let between = cast.with(|g| {
        let transpose = graph(&[["Transpose", "float", "moved"]], &[]).nodes;
        g.nodes.splice(1..1, transpose);
        g.node("same").input[0] = "moved".into();
    });
    between.becomes("Sigmoid Transpose Linear");
    // From or to integers, or of an unknown type.
    cast.attribute("same", of_integer("to", DataType::Int64 as i64))
        .becomes("Sigmoid Cast Linear");
    cast.with(|g| g.node("float").op_type = "Shape".into())
        .becomes("Shape Cast Linear");
    cast.reading("same", "x").becomes("Cast Linear");
    // The output keeps its name.
    cast.with(|g| {
        g.nodes.truncate(2);
        g.node("same").output[0] = "y".into();
    })
    .stays();
}

#[test]
fn transpositions_are_joined_and_removed() {
    let pair = graph(
        &[
            ["Transpose", "x", "a"],
            ["Transpose", "a", "b"],
            ["Relu", "b", "y"],
        ],
        &[],
    );
    let perms = |first: &[i64], second: &[i64]| {
        pair.attribute("a", integers("perm", first))
            .attribute("b", integers("perm", second))
    };
    let found = perms(&[0, 2, 3, 1], &[0, 3, 1, 2]).becomes("Relu");
    assert_eq!(found.node[0].input[0], "x");
    let found = perms(&[0, 2, 3, 1], &[0, 2, 1, 3]).becomes("Transpose Relu");
    assert_eq!(attributes::integers(&found.node[0], "perm"), [0, 3, 2, 1]);
    // The value between has another reader.
    perms(&[0, 2, 3, 1], &[0, 3, 1, 2])
        .then(&[["Add", "end a", "y"]])
        .becomes("Transpose Relu Add");
    // Without a permutation, all axes are reversed, of a number that is not known here.
    pair.attribute("b", integers("perm", &[1, 0])).stays();
}

/// Constant and Identity nodes are folded; an invalid tensor is left to the parser.
#[test]
fn constants_and_copies() {
    let linear = graph(
        &[
            ["Constant", "", "w"],
            ["Identity", "x", "copy"],
            ["MatMul", "copy w", "y"],
        ],
        &[],
    );
    let constant = |tensor: TensorProto| linear.attribute("w", of_tensor("value", tensor));
    let found = constant(floats("", &[2, 3])).becomes("Linear");
    assert_eq!(found.node[0].input[0], "x");
    let mut listed = floats("", &[2, 3]);
    listed.raw_data.clear();
    listed.float_data = vec![1.0; 6];
    let found = constant(listed.clone()).becomes("Linear");
    assert_eq!(values_of(&found, "weight"), [1.0; 6]);
    listed.float_data.pop();
    constant(listed).becomes("Constant MatMul");
    let mut external = floats("", &[2, 3]);
    external.data_location = Some(DataLocation::External as i32);
    constant(external).becomes("Constant MatMul");
    // The graph's own output keeps its node.
    let copy = graph(&[["Identity", "x", "y"]], &[]);
    copy.stays();
    let unknown = linear.with(|g| g.node("copy").domain = "other".into());
    unknown.becomes("Constant Identity MatMul");
}
