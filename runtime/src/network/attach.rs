//! Moves weights into attributes of the nodes that use them, so that they bypass tract's constants.
//!
//! tract turns all initialisers into constants before it builds a node, and packs them later, so that every weight
//! exists twice for a while. An attribute is read and packed when its node is built, and dropped before the next one
//! is read.
//!
//! Convolutions also learn the size of their images, which decides how their weights are packed.

use std::collections::HashMap;
use std::path::Path;

use pinhole_bundle::dialect::{self, Op};
use tract_onnx::pb::{ModelProto, TensorProto, tensor_proto::DataType};

use super::sizes::GraphValue;
use super::{attributes, initializer};

/// The attribute with the height and width of a convolution's images.
pub(super) const IMAGE: &str = "pinhole_image";

/// Moves the parameters of the dialect's functions from initialisers to attributes, and converts f16 initialisers of
/// tract's operators to f32. `folder` contains the external data, `values` what is known of the graph's values.
pub(super) fn parameters(
    proto: &mut ModelProto,
    folder: &Path,
    values: &HashMap<String, GraphValue>,
) -> Result<(), String> {
    let Some(graph) = proto.graph.as_mut() else {
        return Err("graph: expected one, found none".into());
    };
    let mut initializers: HashMap<String, TensorProto> = graph
        .initializer
        .drain(..)
        .map(|t| (t.name.clone(), t))
        .collect();
    for node in &mut graph.node {
        let Some(op) = Op::named(&node.op_type).filter(|_| node.domain == dialect::DOMAIN) else {
            continue;
        };
        if let Op::Convolution(_) = op
            && let Some(x) = node.input.first().and_then(|name| values.get(name))
            && let &[_, height, width, _] = &x.shape[..]
        {
            let image = attributes::of_integers(IMAGE, &[height as i64, width as i64]);
            node.attribute.push(image);
        }
        let names = node.input.split_off(op.inputs().len());
        for (parameter, name) in op.parameters().iter().zip(names) {
            let tensor = initializers.remove(&name).ok_or_else(|| {
                format!(
                    "node {} ({}): {parameter}: expected an initializer that only this node reads, found {name:?}",
                    node.name, node.op_type
                )
            })?;
            node.attribute
                .push(attributes::of_tensor(parameter, tensor));
        }
    }
    // tract folds conversions only up to 4 MiB and would repeat larger ones for every image.
    for node in &graph.node {
        let to_float = attributes::integer(node, "to", 0) == DataType::Float as i64;
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
    // For a deterministic node order: HashMap's differs from run to run.
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
