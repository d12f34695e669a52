//! Convolutions with their neighbours, and the order of the axes. What they compute is compared with ONNX Runtime in
//! `export/tests/all/foreign.rs`.

use pinhole::internal::{attributes, graph_values};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_proto::DataType, tensor_shape_proto, type_proto,
};

use super::compile;
use super::node::{float_tensor, int64_tensor};
use crate::graph::functions::op_of;
use crate::graph::proto::{ints, node};
use crate::quantization::QuantizationPlan;

/// Nodes that compute y from x [1, 4, 6, 6].
#[derive(Clone)]
struct Network {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

/// Constants: w [4, 4, 3, 3], p [8, 4, 1, 1], g and b [4, 1, 1], and last [1, 1, 1, 4], with the values
/// 1, 2, 3, ...; v as w; shapes of tokens and of an image.
fn network() -> Network {
    let floats = |name: &str, dims: &[i64]| {
        let count = dims.iter().product::<i64>();
        let values: Vec<f32> = (0..count).map(|i| 1.0 + i as f32).collect();
        float_tensor(name, dims, &values)
    };
    Network {
        nodes: vec![],
        constants: vec![
            floats("w", &[4, 4, 3, 3]),
            floats("v", &[4, 4, 3, 3]),
            floats("p", &[8, 4, 1, 1]),
            floats("g", &[4, 1, 1]),
            floats("b", &[1, 4, 1, 1]),
            floats("last", &[1, 1, 1, 4]),
            int64_tensor("tokens", &[0, 4, 36]),
            int64_tensor("image", &[0, 4, 6, 6]),
        ],
    }
}

impl Network {
    fn node(
        mut self,
        op: &str,
        inputs: &str,
        output: &str,
        attributes: Vec<AttributeProto>,
    ) -> Self {
        let inputs: Vec<&str> = inputs.split(' ').collect();
        self.nodes.push(node("", op, &inputs, output, attributes));
        self
    }

    /// A 3x3 convolution that keeps the size.
    fn convolution(self, inputs: &str, output: &str) -> Self {
        self.node("Conv", inputs, output, vec![ints("pads", &[1; 4])])
    }

    #[track_caller]
    fn becomes(self, operators: &str) -> GraphProto {
        let graph = self.compiled(None);
        assert_eq!(operators_of(&graph), operators);
        graph
    }

    /// Compares the operators in int8, where layers with these results stay in floating point, and those with these results
    /// have no samples.
    #[track_caller]
    fn becomes_in_int8(self, float: &[&str], unknown: &[&str], operators: &str) {
        let named = |names: &[&str], node: &NodeProto| {
            let of = |name: &&str| node.name.starts_with(&format!("{name}/"));
            names.iter().any(of)
        };
        let mut plan = QuantizationPlan::default();
        for node in &self.clone().compiled(None).node {
            if named(float, node) {
                plan.keep_float([node.name.clone()]);
            }
            if !named(unknown, node) {
                plan.record_output(&node.name, &[0.0, 1.0, 2.0]);
            }
        }
        let graph = self.compiled(Some(&mut plan));
        assert_eq!(operators_of(&graph), operators);
    }

    fn compiled(self, plan: Option<&mut QuantizationPlan>) -> GraphProto {
        let dim = |size| tensor_shape_proto::Dimension {
            value: Some(tensor_shape_proto::dimension::Value::DimValue(size)),
            ..Default::default()
        };
        let tensor = type_proto::Tensor {
            elem_type: DataType::Float as i32,
            shape: Some(TensorShapeProto {
                dim: [1, 4, 6, 6].map(dim).to_vec(),
            }),
        };
        let value = |name: &str| ValueInfoProto {
            name: name.into(),
            r#type: Some(TypeProto {
                denotation: String::new(),
                value: Some(type_proto::Value::TensorType(tensor.clone())),
            }),
            doc_string: String::new(),
        };
        let mut read: Vec<&String> = self.nodes.iter().flat_map(|n| &n.input).collect();
        read.sort();
        let used = |t: &TensorProto| read.binary_search(&&t.name).is_ok();
        let mut model = ModelProto {
            graph: Some(GraphProto {
                input: vec![value("x")],
                output: vec![value("y")],
                initializer: self.constants.into_iter().filter(used).collect(),
                node: self.nodes,
                ..Default::default()
            }),
            ..Default::default()
        };
        let graph = model.graph.as_ref().unwrap();
        let values = graph_values(graph, &[1, 4, 6, 6]).unwrap();
        compile(&mut model, values, plan).unwrap();
        model.graph.unwrap()
    }
}

fn operators_of(graph: &GraphProto) -> String {
    let found: Vec<&str> = graph.node.iter().map(|n| &*n.op_type).collect();
    found.join(" ")
}

/// The values of a parameter of the first function of the dialect.
fn parameter(graph: &GraphProto, name: &str) -> Vec<f32> {
    let node = graph.node.iter().find(|n| op_of(n).is_some()).unwrap();
    let op = op_of(node).unwrap();
    let position = op.parameters().iter().position(|p| *p == name).unwrap();
    let input = &node.input[op.inputs().len() + position];
    let tensor = graph.initializer.iter().find(|t| t.name == *input).unwrap();
    let values = tensor.raw_data.as_chunks().0.iter();
    values.map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn factors_biases_residuals_and_activations_are_merged() {
    let graph = network()
        .convolution("x w", "a")
        .node("Mul", "a g", "scaled", vec![])
        .node("Add", "b scaled", "c", vec![])
        .node("Add", "x c", "sum", vec![])
        .node("Relu", "sum", "y", vec![])
        .becomes("Transpose ConvolutionAddRelu Transpose");
    assert_eq!(parameter(&graph, "bias"), [1.0, 2.0, 3.0, 4.0]);
    // The first weight of each output, times 1, 2, 3 and 4.
    let weight = parameter(&graph, "weight");
    let first: Vec<f32> = weight.iter().step_by(36).copied().collect();
    assert_eq!(first, [1.0, 2.0 * 37.0, 3.0 * 73.0, 4.0 * 109.0]);
    let node = &graph.node[1];
    assert_eq!(attributes::integers(node, "pads"), [1; 4]);
    assert_eq!(attributes::integers(node, "strides"), [1; 2]);

    let silu = || {
        network()
            .convolution("x w", "a")
            .node("Sigmoid", "a", "gate", vec![])
    };
    silu()
        .node("Mul", "gate a", "y", vec![])
        .becomes("Transpose ConvolutionSilu Transpose");
    // Another reader of the gate, or of the argument, needs its value.
    silu()
        .node("Mul", "gate a", "product", vec![])
        .node("Add", "product gate", "y", vec![])
        .becomes("Transpose Convolution Sigmoid Mul Add Transpose");
    network()
        .convolution("x w", "a")
        .node("Relu", "a", "b1", vec![])
        .node("Add", "a b1", "y", vec![])
        .becomes("Transpose Convolution Relu Add Transpose");
    // The factor comes after the activation function.
    network()
        .convolution("x w", "a")
        .node("Relu", "a", "b1", vec![])
        .node("Mul", "b1 g", "y", vec![])
        .becomes("Transpose ConvolutionRelu Mul Transpose");
}

/// As converters write networks that have the channels last.
#[test]
fn convolutions_between_transpositions_are_merged_with_their_neighbours() {
    let first = || vec![ints("perm", &[0, 3, 1, 2])];
    let last = || vec![ints("perm", &[0, 2, 3, 1])];
    let graph = network()
        .convolution("x w", "a")
        .node("Transpose", "a", "c", last())
        .node("Add", "c last", "d", vec![])
        .node("Sub", "d last", "e", vec![])
        .node("Mul", "last e", "f", vec![])
        .node("Sub", "f last", "h", vec![])
        .node("Relu", "h", "i", vec![])
        .node("Transpose", "i", "j", first())
        .convolution("j v", "y")
        .becomes("Transpose ConvolutionRelu Convolution Transpose");
    assert_eq!(parameter(&graph, "bias"), [-1.0, -2.0, -3.0, -4.0]);
    assert_eq!(parameter(&graph, "weight")[36], 2.0 * 37.0);
    // A bias less the result is no bias.
    network()
        .convolution("x w", "a")
        .node("Sub", "g a", "y", vec![])
        .becomes("Transpose Convolution Sub Transpose");
}

#[test]
fn convolutions_of_one_pixel_are_linear_layers() {
    let graph = network()
        .node("Conv", "x p", "y", vec![])
        .becomes("Transpose Linear Transpose");
    // [8, 4] as [4, 8].
    let expected: Vec<f32> = (0..32).map(|i| 1.0 + (i % 8 * 4 + i / 8) as f32).collect();
    assert_eq!(parameter(&graph, "weight"), expected);
    let strided = vec![ints("strides", &[2, 2])];
    network()
        .node("Conv", "x p", "y", strided)
        .becomes("Transpose Convolution Transpose");
    network()
        .node("Conv", "x p", "a", vec![])
        .node("Relu", "a", "y", vec![])
        .becomes("Transpose ConvolutionRelu Transpose");
}

/// One transposition before and one behind, however long the convolutional part.
#[test]
fn channels_stay_last() {
    network()
        .convolution("x w", "a")
        .node("Tanh", "a", "t", vec![])
        .node("GlobalAveragePool", "t", "mean", vec![])
        .node("Sigmoid", "mean", "gate", vec![])
        .node("Mul", "t gate", "excited", vec![])
        .node(
            "AveragePool",
            "excited",
            "pooled",
            vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])],
        )
        .convolution("pooled v", "y")
        .becomes(
            "Transpose Convolution Tanh ReduceMean Sigmoid Mul Convolution Convolution Transpose",
        );
    // The mean over the pixels needs no order.
    network()
        .convolution("x w", "a")
        .node("ReduceMean", "a", "mean", vec![ints("axes", &[2, 3])])
        .node("Flatten", "mean", "y", vec![])
        .becomes("Transpose Convolution ReduceMean Reshape");
}

/// Pixels in a row after each other are tokens.
#[test]
fn tokens_need_no_transposition() {
    network()
        .convolution("x w", "a")
        .node("Reshape", "a tokens", "flat", vec![])
        .node("Transpose", "flat", "rows", vec![ints("perm", &[0, 2, 1])])
        .node("Softmax", "rows", "mixed", vec![])
        .node("Transpose", "mixed", "back", vec![ints("perm", &[0, 2, 1])])
        .node("Reshape", "back image", "again", vec![])
        .convolution("again v", "y")
        .becomes("Transpose Convolution Reshape Softmax Reshape Convolution Transpose");
}

/// What the function does not have stays with tract.
#[test]
fn other_convolutions_stay() {
    let mut same = attributes::of_tensor("auto_pad", TensorProto::default());
    (same.t, same.s) = (None, "SAME_UPPER".into());
    network()
        .node("Conv", "x w", "y", vec![same])
        .becomes("Conv");
    // A weight that two nodes read would be stored twice.
    network()
        .convolution("x w", "a")
        .convolution("a w", "y")
        .becomes("Conv Conv");
}

/// What convolutions alone write and read is bytes, unless one adds it. If something else read bytes, it would compute nonsense.
#[test]
fn values_between_integer_convolutions_are_bytes() {
    let block = || {
        network()
            .convolution("x w", "a")
            .node("Relu", "a", "b1", vec![])
            .convolution("b1 v", "c")
            .node("Add", "c b1", "d", vec![])
            .node("Relu", "d", "e", vec![])
            .node("Conv", "e p", "f", vec![])
    };
    let whole = || block().node("Tanh", "f", "y", vec![]);
    whole().becomes_in_int8(
        &[],
        &[],
        "Transpose QuantizedConvolutionRelu QuantizedConvolutionAddReluToU8 U8QuantizedConvolution Tanh Transpose",
    );
    // Without bytes, one pixel is a linear layer.
    whole().becomes_in_int8(
        &[],
        &["e"],
        "Transpose QuantizedConvolutionRelu QuantizedConvolutionAddRelu QuantizedLinear Tanh Transpose",
    );
    whole().becomes_in_int8(
        &["e"],
        &[],
        "Transpose QuantizedConvolutionRelu ConvolutionAddRelu QuantizedLinear Tanh Transpose",
    );
    network()
        .convolution("x w", "a")
        .node("Relu", "a", "b1", vec![])
        .convolution("b1 v", "c")
        .node("Tanh", "b1", "d", vec![])
        .node("Add", "c d", "y", vec![])
        .becomes_in_int8(
            &[],
            &[],
            "Transpose QuantizedConvolutionRelu Tanh QuantizedConvolutionAdd Transpose",
        );
}
