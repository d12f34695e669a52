//! Rewrites what other programs leave in a graph before tract parses it: quantised products become operators on
//! our integer kernels, and the usual float blocks our own ones.
//!
//! A rewrite puts one node in the place of the last node of a pattern, under the same output name; what nobody
//! reads any more goes at the end. So a rewrite never has to know who else reads the values in between. What is
//! not recognised stays tract's; what tract is known to compute wrongly is an error.

mod blocks;
mod node;
mod products;
mod tables;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{HashMap, HashSet};
use std::path::Path;

pub(super) use node::text;
use node::{float_tensor, raw};
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

/// `x @ weight + bias` on quantised operands; `PATCHES` is a convolution whose stride is its kernel's side, over
/// `[N, C, H, W]`. See `affine.rs` for their attributes.
pub(super) const LINEAR: &str = "AffineLinear";
pub(super) const PATCHES: &str = "AffinePatches";
/// QuantizeLinear and DequantizeLinear in one; without `x_scale`, with what DynamicQuantizeLinear finds.
pub(super) const FAKE_QUANTIZE: &str = "FakeQuantize";
/// A function of one value, tabulated over what a quantised value can be.
pub(super) const TABLE: &str = "QuantizedTable";
/// Activation functions; "Gelu" is a standard operator that can also approximate.
pub(super) const QUICK_GELU: &str = "ActivateQuickGelu";
pub(super) const GELU: &str = "ActivateGelu";
/// `[N, H, W, 3]` u8 to f32 `[N, 3, H, W]`, times `scale` plus `offset`, one a channel.
pub(super) const NORMALIZE_PIXELS: &str = "NormalizePixels";

/// Those that no file has.
const OURS: [&str; 7] = [
    LINEAR,
    PATCHES,
    FAKE_QUANTIZE,
    TABLE,
    QUICK_GELU,
    GELU,
    NORMALIZE_PIXELS,
];

/// Rewrites `proto`, which has been checked. `folder` holds the external data.
pub(super) fn rewrite(proto: &mut ModelProto, folder: &Path) -> Result<(), String> {
    let Some(graph) = proto.graph.as_mut() else {
        return Ok(());
    };
    if let Some(node) = graph.node.iter().find(|n| OURS.contains(&&*n.op_type)) {
        return Err(format!(
            "node {}: expected a standard operator, found {}",
            node.name, node.op_type
        ));
    }
    let named = |t: TensorProto| (t.name.clone(), t);
    let mut foreign = Foreign {
        nodes: std::mem::take(&mut graph.node),
        initializers: graph.initializer.drain(..).map(named).collect(),
        outputs: graph.output.iter().map(|o| o.name.clone()).collect(),
        folder,
        producers: HashMap::new(),
        uses: HashMap::new(),
    };
    foreign.constants();
    foreign.index();
    for pass in [
        Foreign::pairs,
        Foreign::products,
        Foreign::redundant,
        Foreign::tables,
        Foreign::biases,
        Foreign::blocks,
        Foreign::activations,
        Foreign::leftovers,
    ] {
        pass(&mut foreign)?;
        foreign.index();
    }
    graph.node = foreign.nodes;
    graph.initializer = foreign.initializers.into_values().collect();
    graph.initializer.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

struct Foreign<'a> {
    /// In topological order, which every rewrite keeps.
    nodes: Vec<NodeProto>,
    initializers: HashMap<String, TensorProto>,
    outputs: HashSet<String>,
    folder: &'a Path,
    /// The node that makes a value.
    producers: HashMap<String, usize>,
    /// How often a value is read.
    uses: HashMap<String, usize>,
}

/// One scale and zero point, the zero point as for s8: that of u8 numbers is 128 less.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Params {
    scale: f32,
    zero_point: i64,
}

/// What a product's operand x is quantised by.
enum By {
    Static(Params),
    Dynamic,
}

impl Foreign<'_> {
    /// Constants become initialisers, and what copies a value goes.
    fn constants(&mut self) {
        let mut copies: HashMap<String, String> = HashMap::new();
        for mut node in std::mem::take(&mut self.nodes) {
            for input in &mut node.input {
                if let Some(original) = copies.get(input) {
                    *input = original.clone();
                }
            }
            let inner = match &node.output[..] {
                [output] if standard(&node) && !self.outputs.contains(output) => output.clone(),
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
                    let name = inner.clone();
                    let tensor = TensorProto { name, ..tensor };
                    self.initializers.insert(inner, tensor);
                }
                (None, [input]) if node.op_type == "Identity" => {
                    copies.insert(inner, input.clone());
                }
                _ => self.nodes.push(node),
            }
        }
    }

    /// Drops what nobody reads, and finds producers and readers.
    fn index(&mut self) {
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

    /// The node of operator `op` that makes `name` as its first output.
    fn made_by(&self, name: &str, op: &str) -> Option<&NodeProto> {
        let node = &self.nodes[*self.producers.get(name)?];
        (node.op_type == op && node.output.first().is_some_and(|o| o == name)).then_some(node)
    }

    fn read_once(&self, name: &str) -> bool {
        self.uses.get(name) == Some(&1)
    }

    /// Constants in f32 where a quantised one is not part of a product, and errors for what tract gets wrong.
    fn leftovers(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if !standard(node) {
                continue;
            }
            match &*node.op_type {
                "DequantizeLinear" => {
                    if let Some((values, dims)) = self.dequantized(node)? {
                        let name = node.output[0].clone();
                        let tensor = float_tensor(&name, &dims, &values);
                        if self.outputs.contains(&name) {
                            return Err(format!(
                                "output {name}: expected a computed value, found a constant"
                            ));
                        }
                        self.nodes[i].output.clear();
                        self.initializers.insert(name, tensor);
                    } else {
                        self.params(node)?;
                    }
                }
                "QuantizeLinear" => {
                    self.params(node)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn standard(node: &NodeProto) -> bool {
    node.domain.is_empty() || node.domain == "ai.onnx"
}
