//! Rewrites the protobuf so that weights reach our operators without passing through tract's graph.
//!
//! tract turns each initialiser into a constant before it builds any node, and packs the constants
//! later, so that every weight exists twice for a while. As an attribute of the one node that uses it,
//! a weight is read when that node is built, packed, and dropped before the next one is read.

use std::collections::HashMap;
use std::path::Path;

use pinhole_bundle::dialect;
use tract_onnx::pb::{
    AttributeProto, ModelProto, TensorProto, attribute_proto::AttributeType, tensor_proto::DataType,
};

use super::initializer;

/// Moves the parameters of our functions from the initialisers to attributes of their nodes, and widens
/// the f16 initialisers of what stays tract's. `folder` holds the external data.
pub(super) fn parameters(proto: &mut ModelProto, folder: &Path) -> Result<(), String> {
    let Some(graph) = proto.graph.as_mut() else {
        return Err("graph: expected one, found none".into());
    };
    let mut initializers: HashMap<String, TensorProto> = graph
        .initializer
        .drain(..)
        .map(|t| (t.name.clone(), t))
        .collect();
    for node in &mut graph.node {
        let Some(function) = dialect::FUNCTIONS
            .iter()
            .find(|f| f.name == node.op_type && node.domain == dialect::DOMAIN)
        else {
            continue;
        };
        let names = node.input.split_off(function.inputs.len());
        for (parameter, name) in function.parameters.iter().zip(names) {
            let tensor = initializers.remove(&name).ok_or_else(|| {
                format!(
                    "node {} ({}): {parameter}: expected an initializer of this node alone, found {name:?}",
                    node.name, function.name
                )
            })?;
            node.attribute.push(AttributeProto {
                name: (*parameter).into(),
                r#type: AttributeType::Tensor as i32,
                t: Some(tensor),
                ..Default::default()
            });
        }
    }
    // tract folds a conversion only up to 4 MiB and would repeat a larger one for every image.
    for node in &graph.node {
        let to_float = node
            .attribute
            .iter()
            .any(|a| a.name == "to" && a.i == DataType::Float as i64);
        if node.op_type == "Cast"
            && to_float
            && let Some(tensor) = node
                .input
                .first()
                .and_then(|name| initializers.get_mut(name))
        {
            widen(tensor, folder).map_err(|e| format!("initializer {}: {e}", tensor.name))?;
        }
    }
    graph.initializer.extend(initializers.into_values());
    // HashMap order differs from run to run; tract's node order should not.
    graph.initializer.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

fn widen(tensor: &mut TensorProto, folder: &Path) -> std::io::Result<()> {
    if tensor.data_type != DataType::Float16 as i32 {
        return Ok(());
    }
    let values = initializer::floats(tensor, folder)?;
    tensor.raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor.external_data.clear();
    tensor.data_location = None;
    tensor.data_type = DataType::Float as i32;
    Ok(())
}
