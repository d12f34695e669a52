//! The graph of an image encoder that another program exported, and the passes that turn it into the dialect.
//!
//! An [`EncoderGraph`] has nodes of two kinds: standard operators, and functions of the dialect. While the passes run, a
//! function's parameters are tensor attributes of its node, so that a pass replaces a pattern by one node; at the end they
//! become initialisers. A pass replaces the last node of a pattern by one node with the same output name. The other nodes
//! stay until nothing reads them, so no pass has to check who else reads intermediate values. What no pass recognises
//! stays a standard operator; what tract is known to compute incorrectly is an error.

#[cfg(test)]
mod convolution_tests;
mod graph;
mod node;
mod passes;
mod quantization;
#[cfg(test)]
mod tests;
mod values;

use std::collections::HashMap;

use graph::EncoderGraph;
use pinhole::internal::GraphValue;
use pinhole_bundle::dialect;
use tract_onnx::pb::ModelProto;

use crate::graph::functions;
use crate::graph::proto::opset;
use crate::quantization::QuantizationPlan;

/// Rewrites `model`, which has been checked and holds all its weights, as raw bytes; `values` are known of it: what the passes recognise becomes
/// functions of the dialect, with their bodies. With a `plan`, float linear layers and
/// convolutions become those of int8 that it chooses.
///
/// # Errors
/// A node that is quantised in a way that would be computed incorrectly: its name, what was expected and found.
pub(crate) fn compile(
    model: &mut ModelProto,
    values: HashMap<String, GraphValue>,
    plan: Option<&mut QuantizationPlan>,
) -> Result<(), String> {
    let standard = model.opset_import.iter().find(|o| o.domain.is_empty());
    let version = standard.map_or(dialect::OPSET, |o| o.version);
    let Some(proto) = model.graph.as_mut() else {
        return Ok(());
    };
    let mut graph = EncoderGraph::take(proto, version, values);
    for pass in passes::ALL {
        pass(&mut graph)?;
        graph.index();
    }
    if let Some(plan) = plan {
        graph.quantize(plan)?;
        graph.index();
    }
    graph.put(proto);
    let version = functions::domain_version(&proto.node);
    if let Some(standard) = model.opset_import.iter_mut().find(|o| o.domain.is_empty())
        && let Some(version) = version
    {
        // Nothing that an inference runs changed its meaning from the oldest supported version to this one.
        standard.version = standard.version.max(dialect::OPSET);
        model.functions = functions::called(&proto.node, standard.version);
        model.opset_import.push(opset(dialect::DOMAIN, version));
    }
    Ok(())
}
