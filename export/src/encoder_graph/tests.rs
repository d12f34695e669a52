//! Patterns: each is recognised in every order of its operands, and not if one detail differs.

use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    tensor_proto::{DataLocation, DataType},
};

use std::collections::HashMap;

use pinhole::internal::attributes::{self, float as float_of, of_tensor};
use pinhole::internal::{GraphValue, graph_values};

use super::compile;
use super::node::{float_tensor, int64_tensor};
use crate::graph::functions::op_of;
use crate::graph::proto::{
    float as of_float, int as of_integer, ints as integers, text as of_text,
};

/// A graph whose output is y.
#[derive(Clone)]
struct TestGraph {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    /// Of the input x.
    shape: Option<Vec<usize>>,
}

/// Nodes as [operator, inputs, outputs], names separated by spaces.
fn graph(nodes: &[[&str; 3]], constants: &[TensorProto]) -> TestGraph {
    let words = |text: &str| text.split_whitespace().map(Into::into).collect();
    let node = |&[op, inputs, outputs]: &[&str; 3]| NodeProto {
        name: format!("node of {outputs}"),
        op_type: op.into(),
        input: words(inputs),
        output: words(outputs),
        ..Default::default()
    };
    TestGraph {
        nodes: nodes.iter().map(node).collect(),
        constants: constants.to_vec(),
        shape: None,
    }
}

impl TestGraph {
    /// This graph after `change`.
    fn with(&self, change: impl FnOnce(&mut TestGraph)) -> TestGraph {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    /// Renames y to `end` and appends `nodes`.
    fn then(&self, nodes: &[[&str; 3]]) -> TestGraph {
        self.with(|g| {
            g.node("y").output[0] = "end".into();
            g.nodes.extend(graph(nodes, &[]).nodes);
        })
    }

    /// The node that computes `output`.
    fn node(&mut self, output: &str) -> &mut NodeProto {
        let mut nodes = self.nodes.iter_mut();
        nodes.find(|n| n.output[0] == output).unwrap()
    }

    /// Replaces the inputs of the node that computes `output`.
    fn reading(&self, output: &str, inputs: &str) -> TestGraph {
        let inputs = inputs.split_whitespace().map(Into::into).collect();
        self.with(|g| g.node(output).input = inputs)
    }

    /// Adds or replaces an attribute of the node that computes `output`.
    fn attribute(&self, output: &str, attribute: AttributeProto) -> TestGraph {
        self.with(|g| {
            let all = &mut g.node(output).attribute;
            all.retain(|a| a.name != attribute.name);
            all.push(attribute);
        })
    }

    /// Adds or replaces a constant.
    fn constant(&self, constant: TensorProto) -> TestGraph {
        self.with(|g| {
            g.constants.retain(|c| c.name != constant.name);
            g.constants.push(constant);
        })
    }

    /// What is known of the values, if x has a shape.
    fn values(&self) -> HashMap<String, GraphValue> {
        let Some(shape) = &self.shape else {
            return HashMap::new();
        };
        let input = ValueInfoProto {
            name: "x".into(),
            ..Default::default()
        };
        let output = ValueInfoProto {
            name: "y".into(),
            ..Default::default()
        };
        let graph = GraphProto {
            node: self.nodes.clone(),
            initializer: self.constants.clone(),
            input: vec![input],
            output: vec![output],
            ..Default::default()
        };
        graph_values(&graph, shape).unwrap()
    }

    /// Gives the input x a shape.
    fn of_shape(&self, shape: &[usize]) -> TestGraph {
        self.with(|g| g.shape = Some(shape.to_vec()))
    }

    fn rewritten(&self) -> Result<GraphProto, String> {
        let output = ValueInfoProto {
            name: "y".into(),
            ..Default::default()
        };
        let graph = GraphProto {
            node: self.nodes.clone(),
            initializer: self.constants.clone(),
            output: vec![output],
            ..Default::default()
        };
        let mut model = ModelProto {
            graph: Some(graph),
            ..Default::default()
        };
        compile(&mut model, self.values(), None)?;
        Ok(model.graph.unwrap())
    }

    /// Asserts the operators after the rewrite.
    #[track_caller]
    fn becomes(&self, operators: &str) -> GraphProto {
        let graph = self.rewritten().unwrap();
        let found: Vec<&str> = graph.node.iter().map(|n| &*n.op_type).collect();
        assert_eq!(found.join(" "), operators);
        graph
    }

    /// Asserts that the rewrite changes no operator.
    #[track_caller]
    fn stays(&self) {
        let operators: Vec<&str> = self.nodes.iter().map(|n| &*n.op_type).collect();
        self.becomes(&operators.join(" "));
    }

    /// Asserts that the error contains `parts`.
    #[track_caller]
    fn fails(&self, parts: &[&str]) {
        let error = self.rewritten().unwrap_err();
        for part in parts {
            assert!(error.contains(part), "expected {part:?} in: {error}");
        }
    }
}

/// The values 1, 2, 3, ...
fn floats(name: &str, dims: &[i64]) -> TensorProto {
    let count = dims.iter().product::<i64>();
    let values: Vec<f32> = (0..count).map(|i| 1.0 + i as f32).collect();
    float_tensor(name, dims, &values)
}

fn float(name: &str, value: f32) -> TensorProto {
    float_tensor(name, &[], &[value])
}

fn bytes(name: &str, kind: DataType, dims: &[i64], values: &[u8]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: kind as i32,
        dims: dims.to_vec(),
        raw_data: values.to_vec(),
        ..Default::default()
    }
}

/// s8: the values 1, 2, 3, ...
fn int8(name: &str, dims: &[i64]) -> TensorProto {
    let count = dims.iter().product::<i64>();
    let values: Vec<u8> = (1..=count).map(|i| i as u8).collect();
    bytes(name, DataType::Int8, dims, &values)
}

/// The parameter `name` of the first node, a function of the dialect.
fn parameter<'a>(graph: &'a GraphProto, name: &str) -> &'a TensorProto {
    let node = &graph.node[0];
    let op = op_of(node).unwrap();
    let position = op.parameters().iter().position(|p| *p == name).unwrap();
    let input = &node.input[op.inputs().len() + position];
    let mut initializers = graph.initializer.iter();
    initializers.find(|t| t.name == *input).unwrap()
}

fn values_of(graph: &GraphProto, name: &str) -> Vec<f32> {
    let values = parameter(graph, name).raw_data.as_chunks().0.iter();
    values.map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn layer_norm_operator() {
    let norm = graph(
        &[["LayerNormalization", "x gain bias", "y"]],
        &[floats("gain", &[2]), floats("bias", &[2])],
    );
    norm.becomes("LayerNorm");
    norm.attribute("y", of_integer("axis", -1))
        .becomes("LayerNorm");
    norm.attribute("y", of_integer("axis", 1)).stays();
    for epsilon in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        norm.attribute("y", of_float("epsilon", epsilon)).stays();
    }
    norm.constant(floats("bias", &[1])).stays();
    norm.of_shape(&[3, 2]).becomes("LayerNorm");
    let one = norm.constant(floats("gain", &[1]));
    let one = one.constant(floats("bias", &[1]));
    one.of_shape(&[3, 2]).stays();
    let two = norm.constant(floats("gain", &[1, 2]));
    two.stays();
    two.constant(floats("bias", &[1, 2])).stays();
    norm.reading("y", "x gain computed").stays();
    norm.reading("y", "x gain").stays();
    norm.with(|g| g.node("y").output.push("mean".into()))
        .stays();
    norm.with(|g| g.node("y").domain = "other".into()).stays();
}

#[test]
fn decomposed_layer_norm() {
    let norm = graph(
        &[
            ["ReduceMean", "x", "mean"],
            ["Sub", "x mean", "centred"],
            ["Pow", "centred two", "squares"],
            ["ReduceMean", "squares", "variance"],
            ["Add", "variance epsilon", "sum"],
            ["Sqrt", "sum", "root"],
            ["Div", "centred root", "normed"],
            ["Mul", "normed gain", "scaled"],
            ["Add", "scaled bias", "y"],
        ],
        &[
            float("two", 2.0),
            float("epsilon", 1e-5),
            floats("gain", &[2]),
            floats("bias", &[2]),
        ],
    );
    let norm = norm
        .attribute("mean", integers("axes", &[-1]))
        .attribute("variance", integers("axes", &[-1]));
    let found = norm.becomes("LayerNorm");
    assert_eq!(found.node[0].input[0], "x");
    assert_eq!(float_of(&found.node[0], "epsilon", 0.0), 1e-5);
    assert_eq!(values_of(&found, "gain"), [1.0, 2.0]);
    for (output, inputs) in [
        ("y", "bias scaled"),
        ("scaled", "gain normed"),
        ("sum", "epsilon variance"),
    ] {
        norm.reading(output, inputs).becomes("LayerNorm");
    }
    let squared = norm.with(|g| g.node("squares").op_type = "Mul".into());
    squared
        .reading("squares", "centred centred")
        .becomes("LayerNorm");
    squared.reading("squares", "centred x").stays();
    norm.reading("squares", "x two").stays();
    norm.constant(float("two", 3.0)).stays();
    norm.reading("centred", "z mean").stays();
    norm.reading("centred", "mean x").stays();
    norm.reading("normed", "root centred").stays();
    norm.reading("normed", "x root").stays();
    norm.constant(float("epsilon", 0.0)).stays();
    norm.constant(floats("epsilon", &[2])).stays();
    for output in ["mean", "variance"] {
        norm.attribute(output, integers("axes", &[1])).stays();
        norm.attribute(output, integers("axes", &[1, -1])).stays();
        norm.attribute(output, of_integer("keepdims", 0)).stays();
    }
}

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

/// y = x * sigmoid(1.702 x).
fn quick_gelu() -> Vec<[&'static str; 3]> {
    vec![
        ["Mul", "x factor", "inner"],
        ["Sigmoid", "inner", "gate"],
        ["Mul", "x gate", "y"],
    ]
}

#[test]
fn decomposed_quick_gelu() {
    let factor = [float("factor", 1.702)];
    let gelu = graph(&quick_gelu(), &factor);
    for inputs in ["x factor", "factor x"] {
        let gelu = gelu.reading("inner", inputs);
        gelu.becomes("ActivateQuickGelu");
        gelu.reading("y", "gate x").becomes("ActivateQuickGelu");
        gelu.reading("y", "z gate").stays();
    }
    gelu.constant(float("factor", 1.7)).stays();
    gelu.with(|g| g.node("gate").op_type = "Tanh".into())
        .stays();
    gelu.with(|g| g.node("y").op_type = "Div".into()).stays();
    gelu.with(|g| g.node("y").domain = "other".into()).stays();
}

/// x / 2 * (1 + erf(x / sqrt 2)) in every order.
#[test]
fn decomposed_gelu() {
    let constants = [
        float("half", 0.5),
        float("one", 1.0),
        float("root", std::f32::consts::SQRT_2),
        float("inverse", std::f32::consts::FRAC_1_SQRT_2),
    ];
    let mut orders = 0;
    for (inner, outer) in [
        ("x half", "erf"),
        ("x erf", "half"),
        ("half erf", "x"),
        ("half x", "erf"),
        ("erf x", "half"),
        ("erf half", "x"),
    ] {
        for last in [format!("inner {outer}"), format!("{outer} inner")] {
            for (scaling, scaled) in [
                ("Div", "x root"),
                ("Mul", "x inverse"),
                ("Mul", "inverse x"),
            ] {
                for sum in ["e one", "one e"] {
                    let gelu = graph(
                        &[
                            [scaling, scaled, "scaled"],
                            ["Erf", "scaled", "e"],
                            ["Add", sum, "erf"],
                            ["Mul", inner, "inner"],
                            ["Mul", &last, "y"],
                        ],
                        &constants,
                    );
                    gelu.becomes("ActivateGelu");
                    orders += 1;
                    gelu.constant(float("half", 0.4)).stays();
                    gelu.constant(float("one", 2.0)).stays();
                    let other = scaled.replace('x', "z");
                    gelu.reading("scaled", &other).stays();
                    let other = ["root", "inverse"].map(|name| float(name, 1.2));
                    let [root, inverse] = other;
                    gelu.constant(root).constant(inverse).stays();
                }
            }
        }
    }
    assert_eq!(orders, 72);
    let swapped = graph(
        &[
            ["Div", "root x", "scaled"],
            ["Erf", "scaled", "e"],
            ["Add", "e one", "erf"],
            ["Mul", "x half", "inner"],
            ["Mul", "inner erf", "y"],
        ],
        &constants,
    );
    swapped.stays();
}

#[test]
fn activations_are_merged_into_the_preceding_product() {
    let mut nodes = vec![["MatMul", "input w", "x"]];
    nodes.extend(quick_gelu());
    let constants = [float("factor", 1.702), floats("w", &[2, 3])];
    graph(&nodes, &constants).becomes("LinearQuickGelu");
    let gelu = graph(
        &[
            ["MatMul", "input w", "x"],
            ["Div", "x root", "scaled"],
            ["Erf", "scaled", "e"],
            ["Add", "e one", "erf"],
            ["Mul", "x half", "inner"],
            ["Mul", "inner erf", "y"],
        ],
        &[
            floats("w", &[2, 3]),
            float("half", 0.5),
            float("one", 1.0),
            float("root", std::f32::consts::SQRT_2),
        ],
    );
    gelu.becomes("LinearGelu");
    // After a Reshape, which then follows.
    let mut reshaped = vec![
        ["MatMul", "input w", "product"],
        ["Reshape", "product shape", "x"],
    ];
    reshaped.extend(quick_gelu());
    let reshaped = graph(&reshaped, &constants);
    let found = reshaped.becomes("LinearQuickGelu Reshape");
    assert_eq!(found.node[1].input[0], found.node[0].output[0]);
    // The product or the reshaped value has another reader.
    for read in ["product", "x"] {
        reshaped
            .then(&[["Add", &format!("end {read}"), "y"]])
            .becomes("Linear Reshape ActivateQuickGelu Add");
    }
    // So has a value between, which is not that of the product.
    graph(&nodes, &constants)
        .then(&[["Add", "end gate", "y"]])
        .becomes("Linear Mul Sigmoid ActivateQuickGelu Add");
    // A product takes only one activation function.
    let second = [
        ["Mul", "end factor", "inner2"],
        ["Sigmoid", "inner2", "gate2"],
        ["Mul", "end gate2", "y"],
    ];
    graph(&nodes, &constants)
        .then(&second)
        .becomes("LinearQuickGelu ActivateQuickGelu");
    let activated = static_product().constant(float("factor", 1.702)).then(&[
        ["Mul", "end factor", "inner"],
        ["Sigmoid", "inner", "gate"],
        ["Mul", "end gate", "y"],
    ]);
    activated.becomes("AffineLinearQuickGelu");
    activated
        .with(|g| g.node("end").output[0] = "x1".into())
        .reading("inner", "x1 factor")
        .reading("y", "x1 gate")
        .then(&second)
        .becomes("AffineLinearQuickGelu ActivateQuickGelu");
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
fn pixel_normalization() {
    let pixels = graph(
        &[
            ["Cast", "pixels", "float"],
            ["Mul", "float scale", "scaled"],
            ["Add", "scaled offset", "moved"],
            ["Transpose", "moved", "y"],
        ],
        &[floats("scale", &[3]), floats("offset", &[3])],
    );
    let float = DataType::Float as i64;
    let pixels = pixels
        .attribute("float", of_integer("to", float))
        .attribute("y", integers("perm", &[0, 3, 1, 2]));
    let found = pixels.becomes("NormalizePixels");
    assert_eq!(values_of(&found, "scale"), [1.0, 2.0, 3.0]);
    pixels
        .attribute("y", integers("perm", &[0, 2, 3, 1]))
        .stays();
    let half = DataType::Float16 as i64;
    pixels.attribute("float", of_integer("to", half)).stays();
    pixels.reading("float", "other").stays();
    pixels.reading("scaled", "scale float").stays();
    for name in ["scale", "offset"] {
        pixels.constant(floats(name, &[1])).stays();
        pixels.constant(floats(name, &[1, 3])).stays();
    }
    pixels.reading("moved", "scaled computed").stays();
}

/// d = x quantised to u8 and dequantised, with scale 0.5 and zero point 130.
fn pair() -> Vec<[&'static str; 3]> {
    vec![
        ["QuantizeLinear", "x s z", "q"],
        ["DequantizeLinear", "q s z", "d"],
    ]
}

fn scale_and_zero_point() -> Vec<TensorProto> {
    vec![float("s", 0.5), bytes("z", DataType::Uint8, &[], &[130])]
}

#[test]
fn quantize_dequantize_pairs() {
    let pair = graph(&pair(), &scale_and_zero_point()).with(|g| g.node("d").output[0] = "y".into());
    let params = |graph: &TestGraph| {
        let found = graph.becomes("FakeQuantize");
        assert_eq!(found.node[0].input[0], "x");
        let zero_point = parameter(&found, "x_zero_point").raw_data[0];
        (values_of(&found, "x_scale")[0], zero_point.cast_signed())
    };
    assert_eq!(params(&pair), (0.5, 2));
    let signed = bytes("z", DataType::Int8, &[1], &[3]);
    assert_eq!(params(&pair.constant(signed)), (0.5, 3));
    let none = pair.reading("q", "x s").reading("y", "q s");
    assert_eq!(params(&none), (0.5, -128));
    let type_of = |kind: DataType| none.attribute("q", of_integer("output_dtype", kind as i64));
    assert_eq!(params(&type_of(DataType::Uint8)), (0.5, -128));
    assert_eq!(params(&type_of(DataType::Int8)), (0.5, 0));
    type_of(DataType::Int16).fails(&["zero point", "8-bit"]);

    none.reading("y", "q s z")
        .fails(&["node of d", "of node of q", "found others"]);
    for scale in [0.0, -0.5, f32::NAN, f32::INFINITY] {
        let bad = pair.constant(float("s", scale));
        bad.fails(&["scale: expected a number above 0", &scale.to_string()]);
    }
    pair.constant(floats("s", &[2]))
        .fails(&["one constant value"]);
    pair.constant(floats("s", &[1, 2]))
        .fails(&["one constant value"]);
    let wide = bytes("z", DataType::Int32, &[], &[0; 4]);
    pair.constant(wide).fails(&["zero point", "8-bit"]);
    let two = bytes("z", DataType::Uint8, &[2], &[1, 1]);
    pair.constant(two).fails(&["zero point", "found several"]);
    // Each operator alone has the same limits.
    let alone = graph(&[["QuantizeLinear", "x s z", "y"]], &scale_and_zero_point());
    alone.stays();
    alone.constant(float("s", 0.0)).fails(&["above 0"]);
    let alone = graph(
        &[["DequantizeLinear", "x s z", "y"]],
        &scale_and_zero_point(),
    );
    alone.stays();
    alone.constant(float("s", 0.0)).fails(&["above 0"]);
}

/// Quantised constants that are not weights of products.
#[test]
fn constants_are_dequantised() {
    let plain = graph(
        &[["DequantizeLinear", "w s", "d"], ["Add", "x d", "y"]],
        &[int8("w", &[2, 3]), float("s", 0.5)],
    );
    let values = |graph: &TestGraph| {
        let found = graph.becomes("Add");
        let [d] = &found.initializer[..] else {
            panic!("{:?}", found.initializer)
        };
        let values = d.raw_data.as_chunks().0.iter();
        let values: Vec<f32> = values.map(|b| f32::from_le_bytes(*b)).collect();
        values
    };
    assert_eq!(values(&plain), [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
    let zero = plain
        .reading("d", "w s z")
        .constant(bytes("z", DataType::Int8, &[], &[1]));
    assert_eq!(values(&zero), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]);
    for (axis, scales, expected) in [
        (0, 2, [1.0, 2.0, 3.0, 8.0, 10.0, 12.0]),
        (1, 3, [1.0, 4.0, 9.0, 4.0, 10.0, 18.0]),
        (-1, 3, [1.0, 4.0, 9.0, 4.0, 10.0, 18.0]),
    ] {
        let channels = plain
            .constant(floats("s", &[scales]))
            .attribute("d", of_integer("axis", axis));
        assert_eq!(values(&channels), expected, "{axis}");
    }

    for axis in [0, 2, -3] {
        let channels = plain.constant(floats("s", &[3]));
        channels
            .attribute("d", of_integer("axis", axis))
            .fails(&["node of d", "x_scale"]);
    }
    plain.constant(floats("s", &[0])).fails(&["node of d"]);
    // Empty tensors.
    for (dims, scales) in [(&[2, 0][..], 1), (&[2, 0], 0), (&[0, 2], 2)] {
        let empty = plain
            .constant(int8("w", dims))
            .constant(floats("s", &[scales]));
        assert_eq!(values(&empty), [0.0; 0]);
    }
    let huge = bytes("w", DataType::Int8, &[0, 1 << 62, 4], &[]);
    let huge = plain.constant(huge).constant(floats("s", &[0]));
    let huge = huge.attribute("d", of_integer("axis", 0));
    assert_eq!(values(&huge), [0.0; 0]);
    let two = bytes("z", DataType::Int8, &[2], &[1, 1]);
    zero.constant(two).fails(&["x_zero_point"]);
    plain.reading("d", "w s computed").fails(&["x_zero_point"]);
    plain.reading("d", "w computed").fails(&["x_scale"]);
    plain.constant(floats("w", &[2])).fails(&["8 or 32 bits"]);
    plain
        .with(|g| g.node("d").domain = "other".into())
        .reading("d", "w computed")
        .stays();
    graph(&[["DequantizeLinear", "w s", "y"]], &plain.constants)
        .fails(&["output y", "found a constant"]);
}

/// A product of a fake-quantised x and an s8 weight [2, 3] with per-channel scales.
fn static_product() -> TestGraph {
    let mut nodes = pair();
    nodes.extend([["DequantizeLinear", "w ws", "wd"], ["MatMul", "d wd", "y"]]);
    let mut constants = scale_and_zero_point();
    constants.extend([int8("w", &[2, 3]), floats("ws", &[3])]);
    graph(&nodes, &constants)
}

#[test]
fn products_of_fake_quantized_values() {
    let product = static_product();
    // The weight, [inputs, outputs].
    let weight = |graph: &TestGraph| {
        let found = graph.becomes("AffineLinear");
        assert_eq!(found.node[0].input[0], "x");
        assert_eq!(values_of(&found, "x_scale"), [0.5]);
        assert_eq!(values_of(&found, "scale").len(), 3);
        assert_eq!(values_of(&found, "bias").len(), 3);
        parameter(&found, "weight").raw_data.clone()
    };
    assert_eq!(weight(&product), [1, 2, 3, 4, 5, 6]);
    assert_eq!(weight(&product.constant(float("ws", 0.1))).len(), 6);
    let one = product.constant(floats("ws", &[1]));
    let one = one.attribute("wd", of_integer("axis", 0));
    assert_eq!(weight(&one).len(), 6);
    product
        .constant(bytes("w", DataType::Int32, &[2, 3], &[0; 24]))
        .becomes("FakeQuantize Linear");
    // Unsigned weights, whose zero point is 128 less.
    let unsigned = product.constant(bytes("w", DataType::Uint8, &[2, 3], &[128; 6]));
    assert_eq!(weight(&unsigned), [0; 6]);
    let found = unsigned.becomes("AffineLinear");
    assert_eq!(parameter(&found, "zero_point").raw_data, [0x80; 3]);
    // Scales along the input axis, or along a third axis.
    let square = product.constant(int8("w", &[3, 3]));
    assert_eq!(weight(&square), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let transposed = [1, 4, 7, 2, 5, 8, 3, 6, 9];
    let inputs = square.attribute("wd", of_integer("axis", 0));
    inputs.becomes("FakeQuantize Linear");
    product
        .constant(int8("w", &[1, 2, 3]))
        .attribute("wd", of_integer("axis", 2))
        .becomes("FakeQuantize MatMul");
    // A transposed weight.
    let behind = inputs.with(|g| {
        let at = g.nodes.len() - 1;
        let transpose = graph(&[["Transpose", "wd", "wt"]], &[]);
        g.nodes.splice(at..at, transpose.nodes);
        g.node("y").input[1] = "wt".into();
    });
    let right = behind.attribute("wt", integers("perm", &[1, 0]));
    assert_eq!(weight(&right), transposed);
    behind
        .attribute("wt", integers("perm", &[0, 1]))
        .becomes("FakeQuantize Linear");
    // Two readers, of the dequantised or of the quantised weight.
    product
        .then(&[["Add", "end wd", "y"]])
        .becomes("FakeQuantize MatMul Add");
    product
        .then(&[
            ["DequantizeLinear", "w ws", "other"],
            ["Add", "end other", "y"],
        ])
        .becomes("FakeQuantize Linear Add");

    let gemm = product
        .with(|g| g.node("y").op_type = "Gemm".into())
        .reading("y", "d wd bias")
        .constant(floats("bias", &[3]));
    assert_eq!(weight(&gemm).len(), 6);
    let found = gemm.becomes("AffineLinear");
    assert_eq!(values_of(&found, "bias"), [1.0, 2.0, 3.0]);
    for number in [1.0, 0.5] {
        for name in ["alpha", "beta"] {
            let gemm = gemm.attribute("y", of_float(name, number));
            match number {
                1.0 => gemm.becomes("AffineLinear"),
                _ => gemm.becomes("FakeQuantize Linear"),
            };
        }
    }
    gemm.attribute("y", of_integer("transA", 1))
        .becomes("FakeQuantize Gemm");
    let turned = gemm
        .constant(int8("w", &[3, 3]))
        .attribute("y", of_integer("transB", 1));
    turned.becomes("FakeQuantize Linear");
    let turned = turned.attribute("wd", of_integer("axis", 0));
    assert_eq!(weight(&turned), transposed);
    gemm.constant(floats("bias", &[3, 1]))
        .becomes("FakeQuantize Gemm");
    gemm.reading("y", "d wd computed")
        .becomes("FakeQuantize Gemm");
}

/// Convolutions after a fake quantisation and after DynamicQuantizeLinear.
#[test]
fn convolutions() {
    let mut nodes = pair();
    nodes.extend([["DequantizeLinear", "w ws", "wd"], ["Conv", "d wd", "y"]]);
    let mut constants = scale_and_zero_point();
    constants.extend([int8("w", &[2, 1, 3, 3]), floats("ws", &[2])]);
    let paired = graph(&nodes, &constants).attribute("wd", of_integer("axis", 0));
    let dynamic = graph(
        &[
            ["DynamicQuantizeLinear", "x", "q qs qz"],
            ["ConvInteger", "q w qz", "sums"],
            ["Cast", "sums", "cast"],
            ["Mul", "qs ws", "scales"],
            ["Mul", "cast scales", "y"],
        ],
        &constants,
    );
    for (graph, output, taken, left) in [
        (paired, "y", "AffineConvolution", "FakeQuantize Conv"),
        (
            dynamic,
            "sums",
            "DynamicAffineConvolution",
            "DynamicFakeQuantize Conv",
        ),
    ] {
        let found = graph.becomes(taken);
        assert_eq!(parameter(&found, "weight").dims, [2, 1, 3, 3]);
        let node = |found: &GraphProto| {
            let node = found.node.iter().find(|n| n.op_type == taken);
            node.unwrap().clone()
        };
        assert_eq!(attributes::integer(&node(&found), "group", 9), 1);
        for (name, default, values) in [
            ("strides", &[1, 1][..], &[3, 1][..]),
            ("dilations", &[1, 1], &[2, 5]),
            ("pads", &[0; 4], &[0, 1, 2, 128]),
        ] {
            assert_eq!(attributes::integers(&node(&found), name), default);
            let changed = graph
                .attribute(output, integers(name, values))
                .becomes(taken);
            assert_eq!(attributes::integers(&node(&changed), name), values);
        }
        let padded = graph.attribute(output, integers("pads", &[1, 1, 1, 1]));
        let valid = padded.attribute(output, of_text("auto_pad", "VALID"));
        let valid = valid.becomes(taken);
        assert_eq!(attributes::integers(&node(&valid), "pads"), [0; 4]);
        for (attribute, expected) in [
            (of_text("auto_pad", "NOTSET"), taken),
            (of_text("auto_pad", "SAME_UPPER"), left),
            (of_integer("group", 2), taken),
            (of_integer("group", 3), left),
            (of_integer("group", 0), left),
            (integers("pads", &[0, 0, 1, 129]), left),
            (integers("pads", &[0, 0, 1]), left),
            (integers("strides", &[1, 65]), left),
            (integers("dilations", &[1, 65]), left),
        ] {
            graph.attribute(output, attribute).becomes(expected);
        }
        for (dims, expected) in [
            ([2, 1, 3, 2], taken),
            ([2, 1, 1, 1], taken),
            ([2, 1, 64, 1], taken),
            ([2, 1, 65, 1], left),
        ] {
            graph.constant(int8("w", &dims)).becomes(expected);
        }
    }
}

#[test]
fn dynamic_products() {
    let product = graph(
        &[
            ["DynamicQuantizeLinear", "x", "q qs qz"],
            ["MatMulInteger", "q w qz wz", "sums"],
            ["Cast", "sums", "cast"],
            ["Mul", "qs ws", "scales"],
            ["Mul", "cast scales", "y"],
        ],
        &[
            int8("w", &[2, 3]),
            floats("ws", &[3]),
            bytes("wz", DataType::Int8, &[3], &[0, 1, 2]),
        ],
    );
    for (output, inputs) in [
        ("y", "cast scales"),
        ("y", "scales cast"),
        ("scales", "ws qs"),
    ] {
        let found = product
            .reading(output, inputs)
            .becomes("DynamicAffineLinear");
        assert_eq!(found.node[0].input[0], "x");
        assert_eq!(values_of(&found, "scale"), [1.0, 2.0, 3.0]);
        assert_eq!(parameter(&found, "zero_point").raw_data, [0, 1, 2]);
    }
    product.reading("sums", "q w other wz").stays();
    product.reading("sums", "q w").stays();
    product.reading("sums", "other w qz wz").stays();
    product.reading("scales", "other ws").stays();
    product.reading("scales", "qs computed").stays();
    product.constant(int8("w", &[1, 2, 3])).stays();
    product
        .reading("sums", "q w qz computed")
        .fails(&["node of sums", "zero point \"computed\""]);
    product.then(&[["Gather", "w end", "y"]]).stays();
}

/// The fused products of ONNX Runtime's domain com.microsoft.
#[test]
fn com_microsoft_products() {
    let mut constants = scale_and_zero_point();
    constants.extend([
        int8("w", &[2, 3]),
        floats("ws", &[3]),
        bytes("wz", DataType::Int8, &[3], &[0, 1, 2]),
        floats("bias", &[3]),
    ]);
    let own = |g: &mut TestGraph| g.node("y").domain = "com.microsoft".into();
    let one = graph(
        &[["DynamicQuantizeMatMul", "x w ws wz bias", "y"]],
        &constants,
    )
    .with(own);
    let two = graph(
        &[
            ["DynamicQuantizeLinear", "x", "q qs qz"],
            ["MatMulIntegerToFloat", "q w qs ws qz wz bias", "y"],
        ],
        &constants,
    )
    .with(own);
    for product in [&one, &two] {
        let found = product.becomes("DynamicAffineLinear");
        assert_eq!(found.node[0].input[0], "x");
        assert_eq!(values_of(&found, "bias"), [1.0, 2.0, 3.0]);
    }
    one.reading("y", "x w ws").becomes("DynamicAffineLinear");
    one.reading("y", "x w computed")
        .fails(&["node of y", "b_scale"]);
    one.reading("y", "x computed ws").fails(&["B: expected"]);
    one.reading("y", "x w ws wz computed").fails(&["bias"]);
    two.reading("y", "q w other ws qz").fails(&["a_scale"]);
    two.reading("y", "q w qs ws other").fails(&["a_scale"]);
    two.reading("y", "x w qs ws qz").fails(&["A: expected"]);
}

/// The integer kernels cannot represent 256 different weights of one output.
#[test]
fn weights_that_use_their_whole_range_are_multiplied_in_floating_point() {
    let wide = bytes("w", DataType::Int8, &[2, 3], &[0x80, 2, 3, 0x7f, 5, 6]);
    let found = static_product()
        .constant(wide.clone())
        .becomes("FakeQuantize Linear");
    assert_eq!(found.node[1].input[0], found.node[0].output[0]);
    let dynamic = graph(
        &[
            ["DynamicQuantizeLinear", "x", "q qs qz"],
            ["MatMulInteger", "q w qz", "sums"],
            ["Cast", "sums", "cast"],
            ["Mul", "qs ws", "scales"],
            ["Mul", "cast scales", "y"],
        ],
        &[wide, floats("ws", &[3])],
    );
    let found = dynamic.becomes("DynamicFakeQuantize Linear");
    assert_eq!(found.node[1].input[0], found.node[0].output[0]);
    let weight = &found.node[1].input[1];
    let weight = found.initializer.iter().find(|t| t.name == *weight);
    let values = weight.unwrap().raw_data.as_chunks().0.iter();
    let values: Vec<f32> = values.map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(values, [-128.0, 4.0, 9.0, 127.0, 10.0, 18.0]);
}

#[test]
fn functions_of_a_quantised_value_are_tables() {
    let mut nodes = pair();
    nodes.extend([["Sigmoid", "d", "gate"], ["Mul", "d gate", "y"]]);
    let gated = graph(&nodes, &scale_and_zero_point());
    let found = gated.becomes("QuantizedTable");
    assert_eq!(found.node[0].input[0], "x");
    let x = |i: usize| (i as f32 - 128.0 - 2.0) * 0.5;
    let values = values_of(&found, "values");
    for (i, &value) in values.iter().enumerate() {
        let expected = x(i) / (1.0 + (-x(i)).exp());
        assert!((value - expected).abs() < 1e-6, "{i}: {value}, {expected}");
    }
    assert_eq!(values.len(), 256);

    for (op, inputs, f) in [
        ("Tanh", "d", (|v| v.tanh()) as fn(f32) -> f32),
        ("Exp", "d", |v| v.exp()),
        ("Neg", "d", |v| -v),
        ("Relu", "d", |v| v.max(0.0)),
        ("Add", "d four", |v| v + 4.0),
        ("Add", "four d", |v| v + 4.0),
        ("Sub", "d four", |v| v - 4.0),
        ("Sub", "four d", |v| 4.0 - v),
        ("Mul", "four d", |v| v * 4.0),
        ("Div", "d four", |v| v / 4.0),
    ] {
        let mut nodes = pair();
        nodes.push([op, inputs, "y"]);
        let one = graph(&nodes, &scale_and_zero_point()).constant(float("four", 4.0));
        let found = one.becomes("QuantizedTable");
        for (i, &value) in values_of(&found, "values").iter().enumerate() {
            let expected = f(x(i));
            let near = (value - expected).abs() <= 1e-6 * expected.abs().max(1.0);
            assert!(near, "{op}: {value}, {expected}");
        }
    }
    // Not if a result is NaN: 0 / 0 at the zero point, roots of negative values.
    for (op, inputs) in [("Div", "d d"), ("Sqrt", "d")] {
        let mut nodes = pair();
        nodes.push([op, inputs, "y"]);
        graph(&nodes, &scale_and_zero_point()).becomes(&format!("FakeQuantize {op}"));
    }
    // Quantisations in between equal the kernels': half to even, clamped to 8 bits.
    let mut nodes = pair();
    nodes.extend([
        ["Mul", "d four", "m"],
        ["QuantizeLinear", "m t", "q2"],
        ["DequantizeLinear", "q2 t", "y"],
    ]);
    let between = graph(&nodes, &scale_and_zero_point())
        .constant(float("four", 4.0))
        .constant(float("t", 4.0));
    let found = between.becomes("QuantizedTable");
    for (i, &value) in values_of(&found, "values").iter().enumerate() {
        let expected = (x(i) * 4.0 / 4.0).round_ties_even().clamp(0.0, 255.0) * 4.0;
        assert_eq!(value, expected, "{i}");
    }

    // A single operator stays.
    graph(&pair(), &scale_and_zero_point())
        .with(|g| g.node("d").output[0] = "y".into())
        .becomes("FakeQuantize");
    // An intermediate value with other readers becomes a table of its own, if it replaces more than one operator.
    gated
        .then(&[["MatMul", "end d", "y"]])
        .becomes("FakeQuantize QuantizedTable MatMul");
    gated
        .then(&[["MatMul", "end gate", "y"]])
        .becomes("QuantizedTable QuantizedTable MatMul");
    // No table for a function of two values.
    let mut nodes = pair();
    nodes.extend([
        ["QuantizeLinear", "x2 s z", "q2"],
        ["DequantizeLinear", "q2 s z", "d2"],
        ["Mul", "d d2", "y"],
    ]);
    graph(&nodes, &scale_and_zero_point()).becomes("FakeQuantize FakeQuantize Mul");
    gated
        .reading("y", "other gate")
        .becomes("QuantizedTable Mul");
    gated
        .reading("y", "d some")
        .constant(floats("some", &[2]))
        .becomes("FakeQuantize Mul");
    gated
        .with(|g| g.node("gate").domain = "other".into())
        .becomes("FakeQuantize Sigmoid Mul");
}

/// A quantisation followed by an equal one.
#[test]
fn a_repeated_quantisation_is_removed() {
    let mut nodes = pair();
    nodes.extend([
        ["Reshape", "d shape", "r"],
        ["QuantizeLinear", "r s2 z", "q2"],
        ["DequantizeLinear", "q2 s2 z", "y"],
    ]);
    let shape = TensorProto {
        name: "shape".into(),
        data_type: DataType::Int64 as i32,
        dims: vec![1],
        raw_data: 6i64.to_le_bytes().to_vec(),
        ..Default::default()
    };
    let moved = graph(&nodes, &scale_and_zero_point()).constant(shape);
    let same = moved.constant(float("s2", 0.5));
    let found = same.becomes("Reshape FakeQuantize");
    assert_eq!(found.node[0].input[0], "x");
    moved
        .constant(float("s2", 0.25))
        .becomes("FakeQuantize Reshape FakeQuantize");
    // Another reader needs the first one.
    same.then(&[["MatMul", "end d", "y"]])
        .becomes("FakeQuantize Reshape FakeQuantize MatMul");
    // Two readers with equal quantisations.
    let mut nodes = pair();
    nodes.extend([
        ["QuantizeLinear", "d s z", "q2"],
        ["DequantizeLinear", "q2 s z", "a"],
        ["QuantizeLinear", "d s z", "q3"],
        ["DequantizeLinear", "q3 s z", "b"],
        ["MatMul", "a b", "y"],
    ]);
    graph(&nodes, &scale_and_zero_point()).becomes("FakeQuantize FakeQuantize MatMul");
    // A reader that computes.
    same.with(|g| g.node("r").op_type = "Softmax".into())
        .becomes("FakeQuantize Softmax FakeQuantize");
    same.with(|g| g.node("r").domain = "other".into())
        .becomes("FakeQuantize Reshape FakeQuantize");
    // Gather moves only its first input; Concat moves all.
    same.with(|g| g.node("r").op_type = "Gather".into())
        .reading("r", "shape d")
        .becomes("FakeQuantize Gather FakeQuantize");
    same.with(|g| g.node("r").op_type = "Concat".into())
        .reading("r", "other d")
        .becomes("Concat FakeQuantize");
    // All outputs must be quantised equally.
    let split = same.with(|g| {
        g.node("r").op_type = "Split".into();
        g.node("r").output.push("r2".into());
    });
    split
        .then(&[["MatMul", "end r2", "y"]])
        .becomes("FakeQuantize Split FakeQuantize MatMul");
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
