//! The graph that is being rewritten.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::node::raw;

/// A graph that is being rewritten. Its names are indexed by [`Graph::index`].
pub(super) struct Graph<'a> {
    /// In topological order, which every rewrite preserves.
    pub(super) nodes: Vec<NodeProto>,
    pub(super) initializers: HashMap<String, TensorProto>,
    pub(super) outputs: HashSet<String>,
    pub(super) folder: &'a Path,
    /// Index of the node that computes a value.
    pub(super) producers: HashMap<String, usize>,
    /// Number of readers of a value.
    pub(super) uses: HashMap<String, usize>,
}

impl<'a> Graph<'a> {
    /// Takes the nodes and initialisers out of `graph`. `folder` contains the external data.
    pub(super) fn take(graph: &mut GraphProto, folder: &'a Path) -> Self {
        let named = |t: TensorProto| (t.name.clone(), t);
        Self {
            nodes: std::mem::take(&mut graph.node),
            initializers: graph.initializer.drain(..).map(named).collect(),
            outputs: graph.output.iter().map(|o| o.name.clone()).collect(),
            folder,
            producers: HashMap::new(),
            uses: HashMap::new(),
        }
    }

    /// Turns Constant nodes into initialisers, and removes Identity nodes.
    pub(super) fn fold_constants(&mut self) {
        let mut copies: HashMap<String, String> = HashMap::new();
        for mut node in std::mem::take(&mut self.nodes) {
            for input in &mut node.input {
                if let Some(original) = copies.get(input) {
                    *input = original.clone();
                }
            }
            let name = match &node.output[..] {
                [output] if is_standard(&node) && !self.outputs.contains(output) => output.clone(),
                _ => {
                    self.nodes.push(node);
                    continue;
                }
            };
            let tensor = match &*node.op_type {
                "Constant" => node.attribute.iter().find_map(|a| raw(a.t.as_ref()?)),
                _ => None,
            };
            match (tensor, &node.input[..]) {
                (Some(tensor), _) => {
                    let tensor = TensorProto {
                        name: name.clone(),
                        ..tensor
                    };
                    self.initializers.insert(name, tensor);
                }
                (None, [input]) if node.op_type == "Identity" => {
                    copies.insert(name, input.clone());
                }
                _ => self.nodes.push(node),
            }
        }
    }

    /// Removes nodes and initialisers without a reader, and indexes producers and readers.
    pub(super) fn index(&mut self) {
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

    /// The node that computes `name` as its first output, if its operator is `op`.
    pub(super) fn producer(&self, name: &str, op: &str) -> Option<&NodeProto> {
        let node = &self.nodes[*self.producers.get(name)?];
        (node.op_type == op && node.output.first().is_some_and(|o| o == name)).then_some(node)
    }

    pub(super) fn is_read_once(&self, name: &str) -> bool {
        self.uses.get(name) == Some(&1)
    }
}

pub(super) fn is_standard(node: &NodeProto) -> bool {
    node.domain.is_empty() || node.domain == "ai.onnx"
}
