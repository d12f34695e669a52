//! How much time a graph may take, by its size.
//!
//! tract compares all nodes of a graph with each other, and again at each replacement, so that a few thousand nodes in a file
//! of 1 MiB can take minutes. What is counted here is work, not time: a graph is accepted on every board or on none, however
//! busy it is. `export/tests/all/hostile_graphs.rs` measures the time of hostile graphs.

use pinhole_bundle::IMAGE_ENCODER_WEIGHTS;
use prost::Message;
use tract_onnx::pb::{GraphProto, NodeProto};

/// The length in bytes of a file that may hold external data, by its name; `None` for any other name.
pub(crate) type FileLength<'a> = &'a dyn Fn(&str) -> Option<u64>;

/// Nodes that depend on the image for each MiB. ViT-L as PyTorch exports it has 2,000, and weights of 1 GiB.
const NODES_PER_MIB: u64 = 1 << 11;
/// Nodes that depend on the image in all.
const MAX_NODES: u64 = 1 << 12;
/// Initialisers that are used and nodes that are computed from them alone, for each MiB and in all: twice what PyTorch
/// writes for ViT-L.
const CONSTANTS_PER_MIB: u64 = 1 << 12;
const MAX_CONSTANTS: u64 = 1 << 14;
/// Pairs of inputs, and of outputs, of one node, in the mean of nodes that depend on the image. tract compares the operands of
/// a node with each other.
const MEAN_PAIRS: u64 = 32;
/// Inputs of one node, and outputs of one node.
const MAX_OPERANDS: usize = 128;
/// What tract may compare to replace nodes, for each MiB: nodes and edges at each replacement. A desktop processor needs half
/// a second; an image encoder with 500 nodes of standard operators needs a sixteenth of it.
const COMPARISONS_PER_MIB: u64 = 8 << 20;
/// Nodes of a replacement that cost as much as one node of the graph.
const PART_OF_REPLACEMENT: u64 = 64;
/// MiB that count: a quarter of a minute.
const MAX_MIB: u64 = 32;

/// What a graph may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Started MiB of the graph and its weights, 1 to 32.
    mib: u64,
}

impl Default for Budget {
    /// Of the smallest file.
    fn default() -> Budget {
        Budget { mib: 1 }
    }
}

impl Budget {
    /// Of `graph` and the weights beside it.
    pub(super) fn of(graph: &GraphProto, external: FileLength) -> Budget {
        let weights = external(IMAGE_ENCODER_WEIGHTS).unwrap_or(0);
        let bytes = weights.saturating_add(graph.encoded_len() as u64);
        Budget {
            mib: bytes.div_ceil(1 << 20).clamp(1, MAX_MIB),
        }
    }

    /// Checks that `nodes` depend on the image and have `pairs` of operands, and that there are `constants`.
    pub(super) fn check(self, nodes: u64, pairs: u64, constants: u64) -> Result<(), String> {
        let most_nodes = (NODES_PER_MIB * self.mib).min(MAX_NODES);
        let most_constants = (CONSTANTS_PER_MIB * self.mib).min(MAX_CONSTANTS);
        for (what, found, most) in [
            ("nodes that depend on the image", nodes, most_nodes),
            (
                "pairs of inputs and of outputs of the same node",
                pairs,
                MEAN_PAIRS * most_nodes,
            ),
            ("constants", constants, most_constants),
        ] {
            if found > most {
                return Err(format!(
                    "expected at most {most} {what} in a file of this size, found {found}"
                ));
            }
        }
        Ok(())
    }

    /// What may be compared to replace nodes.
    pub(super) fn comparisons(self) -> u64 {
        COMPARISONS_PER_MIB * self.mib
    }
}

/// Checks how many inputs and outputs a node has.
pub(super) fn check_operands(node: &NodeProto) -> Result<(), String> {
    for (what, names) in [("inputs", &node.input), ("outputs", &node.output)] {
        if names.len() > MAX_OPERANDS {
            let found = names.len();
            return Err(format!(
                "expected at most {MAX_OPERANDS} {what}, found {found}"
            ));
        }
    }
    Ok(())
}

/// Pairs of inputs, and of outputs, of a node.
pub(super) fn pairs(node: &NodeProto) -> u64 {
    let of = |names: &[String]| (names.len() * names.len()) as u64;
    of(&node.input) + of(&node.output)
}

/// What is compared for a replacement by `part` nodes in a graph with these nodes and edges.
pub(super) fn comparisons(nodes: usize, edges: usize, part: usize) -> u64 {
    let whole = (nodes + edges) as u64;
    whole + whole * part as u64 / PART_OF_REPLACEMENT
}

/// As how many nodes a node counts: those that tract makes of it when it reads the graph.
pub(super) fn weight(node: &NodeProto) -> u64 {
    match &*node.op_type {
        "LayerNormalization"
        | "GroupNormalization"
        | "InstanceNormalization"
        | "RMSNormalization"
        | "MeanVarianceNormalization"
        | "LpNormalization"
        | "SimplifiedLayerNormalization"
        | "Gelu"
        | "Mish"
        | "BatchNormalization" => 8,
        _ => 1,
    }
}
