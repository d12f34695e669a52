//! Patterns: each is recognised in every order of its operands, and not if one detail differs. Here is what the tests share.

mod attention;
mod linear;
mod norms_and_activations;
mod quantized;

use std::collections::HashMap;

use pinhole::internal::{GraphValue, graph_values};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    tensor_proto::DataType,
};

use super::compile;
use super::node::float_tensor;
use crate::graph::functions::op_of;

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
