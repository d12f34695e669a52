//! Rewrites graphs of other programs before tract parses them: quantised products become operators on our integer
//! kernels, and common float blocks our own operators.
//!
//! A rewrite replaces the last node of a pattern by one node with the same output name. The other nodes stay, and are
//! removed at the end if nothing reads them, so no rewrite has to check who else reads intermediate values. Patterns
//! that are not recognised are left to tract; what tract is known to compute incorrectly is an error.

mod activation;
mod graph;
mod layer_norm;
mod linear;
mod node;
mod pixels;
mod products;
mod redundant;
mod tables;
#[cfg(test)]
mod tests;
mod values;

use std::path::Path;

use graph::Graph;
pub(super) use node::raw;
use tract_onnx::pb::ModelProto;

use super::inserted;

/// Rewrites `proto`, which has been checked. `folder` contains the external data.
pub(super) fn rewrite(proto: &mut ModelProto, folder: &Path) -> Result<(), String> {
    let Some(proto) = proto.graph.as_mut() else {
        return Ok(());
    };
    if let Some(node) = (proto.node.iter()).find(|n| inserted::ALL.contains(&&*n.op_type)) {
        return Err(format!(
            "node {}: expected a standard operator, found {}",
            node.name, node.op_type
        ));
    }
    let mut graph = Graph::take(proto, folder);
    graph.fold_constants();
    graph.index();
    for pass in [
        Graph::fuse_quantize_dequantize,
        Graph::replace_quantized_products,
        Graph::remove_redundant_quantization,
        Graph::tabulate,
        Graph::replace_linear,
        Graph::replace_layer_norms,
        Graph::replace_pixel_normalization,
        Graph::replace_activations,
        Graph::dequantize_constants,
    ] {
        pass(&mut graph)?;
        graph.index();
    }
    proto.node = graph.nodes;
    proto.initializer = graph.initializers.into_values().collect();
    proto.initializer.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}
