//! The graph that is being rewritten.

use std::collections::{HashMap, HashSet};

use pinhole::internal::GraphValue;
use pinhole_bundle::dialect::Op;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use crate::graph::functions::op_of;

/// A graph that is being rewritten. Its names are indexed by [`EncoderGraph::index`].
pub(super) struct EncoderGraph {
    /// In topological order, which every pass preserves.
    pub(super) nodes: Vec<NodeProto>,
    /// By name.
    pub(super) initializers: HashMap<String, TensorProto>,
    pub(super) outputs: HashSet<String>,
    /// The version of the standard operators.
    pub(super) opset: i64,
    /// Index of the node that computes a value.
    pub(super) producers: HashMap<String, usize>,
    /// Number of readers of a value.
    pub(super) uses: HashMap<String, usize>,
    /// What is known of the file's values, and of those that passes add.
    values: HashMap<String, GraphValue>,
    /// New nodes, each with the index of the node that it precedes from the next [`EncoderGraph::index`] on.
    inserted: Vec<(usize, NodeProto)>,
}

impl EncoderGraph {
    /// Takes the nodes and initialisers out of `graph`, whose `values` are known.
    pub(super) fn take(
        graph: &mut GraphProto,
        opset: i64,
        values: HashMap<String, GraphValue>,
    ) -> Self {
        let named = |t: TensorProto| (t.name.clone(), t);
        let mut taken = Self {
            nodes: std::mem::take(&mut graph.node),
            initializers: graph.initializer.drain(..).map(named).collect(),
            outputs: graph.output.iter().map(|o| o.name.clone()).collect(),
            opset,
            producers: HashMap::new(),
            uses: HashMap::new(),
            values,
            inserted: vec![],
        };
        taken.index();
        taken
    }

    /// Puts the nodes and initialisers back, parameters of functions as initialisers.
    pub(super) fn put(mut self, graph: &mut GraphProto) {
        for node in &mut self.nodes {
            let Some(op) = op_of(node) else {
                continue;
            };
            for parameter in op.parameters() {
                let at = node.attribute.iter().position(|a| a.name == *parameter);
                let Some(tensor) = at.and_then(|at| node.attribute.remove(at).t) else {
                    continue;
                };
                let mut name = format!("{}.{parameter}", node.output[0]);
                while self.initializers.contains_key(&name) || self.producers.contains_key(&name) {
                    name.push('_');
                }
                node.input.push(name.clone());
                let tensor = TensorProto {
                    name: name.clone(),
                    ..tensor
                };
                self.initializers.insert(name, tensor);
            }
        }
        graph.node = self.nodes;
        graph.initializer = self.initializers.into_values().collect();
        // A HashMap's order differs from run to run.
        graph.initializer.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Adds `node` before the one at `at`, from the next [`EncoderGraph::index`] on.
    pub(super) fn insert(&mut self, at: usize, node: NodeProto) {
        self.inserted.push((at, node));
    }

    /// A name for a new value beside `name`.
    pub(super) fn fresh(&self, name: &str, part: &str) -> String {
        let mut fresh = format!("{name}/{part}");
        let taken = |name: &str| {
            let inserted = self.inserted.iter().flat_map(|(_, node)| &node.output);
            self.producers.contains_key(name)
                || self.initializers.contains_key(name)
                || inserted.into_iter().any(|output| output == name)
        };
        while taken(&fresh) {
            fresh.push('_');
        }
        fresh
    }

    /// Adds the inserted nodes, removes nodes and initialisers without a reader, and indexes producers and readers.
    pub(super) fn index(&mut self) {
        self.inserted.sort_by_key(|(at, _)| *at);
        for (at, node) in std::mem::take(&mut self.inserted).into_iter().rev() {
            self.nodes.insert(at, node);
        }
        let mut read: HashSet<&str> = self.outputs.iter().map(String::as_str).collect();
        let mut live = vec![false; self.nodes.len()];
        for (live, node) in live.iter_mut().zip(&self.nodes).rev() {
            *live = node.output.iter().any(|o| read.contains(o.as_str()));
            if *live {
                read.extend(node.input.iter().map(String::as_str));
            }
        }
        self.initializers = {
            let mut all = std::mem::take(&mut self.initializers);
            all.retain(|name, _| read.contains(name.as_str()));
            all
        };
        let mut live = live.into_iter();
        self.nodes.retain(|_| live.next().unwrap_or(true));
        (self.producers, self.uses) = Default::default();
        for (i, node) in self.nodes.iter().enumerate() {
            self.producers
                .extend(node.output.iter().map(|o| (o.clone(), i)));
            for input in &node.input {
                *self.uses.entry(input.clone()).or_default() += 1;
            }
        }
        for output in &self.outputs {
            *self.uses.entry(output.clone()).or_default() += 1;
        }
    }

    /// The node that computes `name` as its first output, if it is the standard operator `op`.
    pub(super) fn producer(&self, name: &str, op: &str) -> Option<&NodeProto> {
        let node = &self.nodes[*self.producers.get(name)?];
        let first = node.output.first().is_some_and(|o| o == name);
        (node.op_type == op && first).then_some(node)
    }

    /// The function that computes `name`, and its node.
    pub(super) fn function(&self, name: &str) -> Option<(Op, &NodeProto)> {
        let node = &self.nodes[*self.producers.get(name)?];
        Some((op_of(node)?, node))
    }

    /// The shape of a value for one image, if it is known.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.values.get(name).map(|value| &*value.shape)
    }

    /// The numbers of a small constant, computed or given.
    pub(super) fn numbers(&self, name: &str) -> Option<&[f64]> {
        self.values.get(name)?.numbers.as_deref()
    }

    /// States the shape of a value that a pass adds.
    pub(super) fn set_shape(&mut self, name: &str, shape: Vec<usize>) {
        let value = GraphValue {
            shape,
            numbers: None,
        };
        self.values.insert(name.to_owned(), value);
    }

    pub(super) fn is_read_once(&self, name: &str) -> bool {
        self.uses.get(name) == Some(&1)
    }
}

pub(super) fn is_standard(node: &NodeProto) -> bool {
    node.domain.is_empty() || node.domain == "ai.onnx"
}
