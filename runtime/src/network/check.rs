//! Checks of an ONNX file before tract reads it.

use std::collections::{HashMap, HashSet};

use pinhole_bundle::{IMAGE_ENCODER, dialect};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    tensor_proto::DataType, tensor_shape_proto, type_proto,
};

use super::budget::{Budget, FileLength};
use super::initializer::{bytes_per_value, is_external};
use super::sizes::{self, GraphValue};

/// Where a graph comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GraphKind {
    /// From another program, to be rewritten by the exporter.
    Imported,
    /// From the exporter.
    Deployed,
}

/// Checks version, input, output, every operator and every initialiser, and returns what is known of every value.
pub(crate) fn model(
    proto: &ModelProto,
    kind: GraphKind,
    external: FileLength,
    image_size: usize,
    embedding_size: usize,
) -> Result<HashMap<String, GraphValue>, String> {
    let graph = proto
        .graph
        .as_ref()
        .ok_or("graph: expected one, found none")?;
    let has_functions = graph.node.iter().any(|n| n.domain == dialect::DOMAIN);
    // The bodies of the functions require a version; a file of standard operators may have an older one.
    let versions = if has_functions {
        dialect::OPSET..=*dialect::FOREIGN_OPSETS.end()
    } else {
        dialect::FOREIGN_OPSETS
    };
    for (domain, expected) in [
        ("", versions),
        (dialect::DOMAIN, 1..=dialect::DOMAIN_VERSION),
    ] {
        let found = proto
            .opset_import
            .iter()
            .find(|o| o.domain == domain || (domain.is_empty() && o.domain == "ai.onnx"));
        // A flat file imports only the standard domain.
        let optional = domain == dialect::DOMAIN && !has_functions;
        match found {
            Some(o) if expected.contains(&o.version) => {}
            None if optional => {}
            other => {
                let found = other.map_or("none".into(), |o| o.version.to_string());
                let expected = if expected.start() == expected.end() {
                    expected.start().to_string()
                } else {
                    format!("{} to {}", expected.start(), expected.end())
                };
                return Err(format!(
                    "opset_import {domain:?}: expected version {expected}, found {found}"
                ));
            }
        }
    }
    let side = image_size as i64;
    value(
        &graph.input,
        "input",
        "pixels",
        DataType::Uint8,
        &[side, side, 3],
    )?;
    value(
        &graph.output,
        "output",
        "embedding",
        DataType::Float,
        &[embedding_size as i64],
    )?;
    let version = (proto.opset_import.iter()).find(|o| o.domain == dialect::DOMAIN);
    tensors_and_order(graph, version.map_or(0, |o| o.version), kind, external)?;
    let pixels = [1, image_size, image_size, 3];
    sizes::graph_values(graph, &pixels, Budget::of(graph, external))
}

/// Shape and, of small constants, numbers of every value of `graph`, of another program, for an input of the shape `input`; there are no external
/// weights.
///
/// # Errors
/// The node or tensor, what was expected and found.
pub fn graph_values(
    graph: &GraphProto,
    input: &[usize],
) -> Result<HashMap<String, GraphValue>, String> {
    tensors_and_order(graph, 0, GraphKind::Imported, &|_| None)?;
    sizes::graph_values(graph, input, Budget::of(graph, &|_| None))
}

/// Checks every operator and every tensor, and that values are computed before they are used. `version` is that of the
/// dialect.
fn tensors_and_order(
    graph: &GraphProto,
    version: i64,
    kind: GraphKind,
    external: FileLength,
) -> Result<(), String> {
    for tensor in &graph.initializer {
        initializer(tensor, external)?;
    }
    let single = |t: &&TensorProto| t.dims.iter().product::<i64>() == 1;
    let scalars = graph.initializer.iter().filter(single);
    let scalars: HashSet<&str> = scalars.map(|t| &*t.name).collect();
    for node in &graph.node {
        let function = dialect::Op::named(&node.op_type).filter(|_| node.domain == dialect::DOMAIN);
        if let Some(op) = function.filter(|op| op.since() > version) {
            return Err(format!(
                "node {} ({}): expected a function of version {version} of the domain {}, found one of version {}",
                node.name,
                node.op_type,
                dialect::DOMAIN,
                op.since()
            ));
        }
        if kind == GraphKind::Deployed && quantized_per_channel(node, &scalars) {
            return Err(format!(
                "node {} ({}): expected one constant scale, found others; export the encoder again with this version \
                 of pinhole-export",
                node.name, node.op_type
            ));
        }
        operator(node, kind)?;
        attributes(node)?;
    }
    if let Some(sparse) = graph.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or("", |values| &values.name);
        return Err(format!(
            "sparse_initializer {name}: expected dense initializers"
        ));
    }
    defined_before_use(graph)
}

/// Checks that attributes hold no graphs, and tensors of the size that shape and type require.
fn attributes(node: &NodeProto) -> Result<(), String> {
    for attribute in &node.attribute {
        let fail = |expected: &str, found: String| {
            Err(format!(
                "node {} ({}): attribute {}: expected {expected}, found {found}",
                node.name, node.op_type, attribute.name
            ))
        };
        if attribute.g.is_some() || !attribute.graphs.is_empty() {
            return fail("no control flow", "a graph".into());
        }
        if attribute.sparse_tensor.is_some()
            || !attribute.sparse_tensors.is_empty()
            || !attribute.tensors.is_empty()
        {
            return fail("one dense tensor", "others".into());
        }
        let Some(tensor) = &attribute.t else {
            continue;
        };
        let int32 = tensor.int32_data.len();
        let (bytes, typed) = match DataType::try_from(tensor.data_type) {
            Ok(DataType::Float) => (4, tensor.float_data.len()),
            Ok(DataType::Int32) => (4, int32),
            Ok(DataType::Int64) => (8, tensor.int64_data.len()),
            Ok(DataType::Double) => (8, tensor.double_data.len()),
            Ok(DataType::Float16) => (2, int32),
            Ok(DataType::Int8 | DataType::Uint8 | DataType::Bool) => (1, int32),
            _ => {
                return fail(
                    "a tensor of numbers",
                    format!("data_type {}", tensor.data_type),
                );
            }
        };
        let values = (tensor.dims.iter())
            .try_fold(1, |n: usize, &d| n.checked_mul(usize::try_from(d).ok()?));
        let found = if tensor.raw_data.is_empty() {
            Some(typed)
        } else {
            (tensor.raw_data.len().is_multiple_of(bytes)).then_some(tensor.raw_data.len() / bytes)
        };
        if values.is_none() || values != found || is_external(tensor) {
            return fail(
                &format!("values for the dimensions {:?}", tensor.dims),
                found.map_or("other bytes".into(), |found| format!("{found} values")),
            );
        }
    }
    Ok(())
}

/// Checks that there is one input or output, with this name, type and dimensions after the symbolic batch.
fn value(
    values: &[ValueInfoProto],
    what: &str,
    name: &str,
    data_type: DataType,
    dims: &[i64],
) -> Result<(), String> {
    let expected = format!("{what}: expected one, {name} {data_type:?} [N, {dims:?}]");
    let [value] = values else {
        return Err(format!("{expected}, found {}", values.len()));
    };
    let Some(type_proto::Value::TensorType(tensor)) =
        value.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Err(format!("{expected}, found {} without a type", value.name));
    };
    let found: Vec<i64> = tensor
        .shape
        .iter()
        .flat_map(|s| &s.dim)
        .map(|d| match d.value {
            Some(tensor_shape_proto::dimension::Value::DimValue(v)) => v,
            _ => -1,
        })
        .collect();
    let matches = value.name == name
        && tensor.elem_type == data_type as i32
        && found.len() == dims.len() + 1
        && found[1..] == *dims;
    if matches {
        Ok(())
    } else {
        Err(format!(
            "{expected}, found {} of type {} {found:?}",
            value.name, tensor.elem_type
        ))
    }
}

/// Checks that the data has the size that shape and type require, in the file or in one of `external`.
fn initializer(tensor: &TensorProto, external: FileLength) -> Result<(), String> {
    let fail = |what: &str, expected: String, found: String| {
        Err(format!(
            "initializer {}: {what}: expected {expected}, found {found}",
            tensor.name
        ))
    };
    let Some(value_bytes) = bytes_per_value(tensor.data_type) else {
        return fail(
            "data_type",
            "float, float16, int8, uint8, int32, int64 or bool".into(),
            tensor.data_type.to_string(),
        );
    };
    let bytes = tensor
        .dims
        .iter()
        .try_fold(value_bytes, |n, &d| {
            u64::try_from(d).ok().and_then(|d| n.checked_mul(d))
        })
        .filter(|&n| n > 0);
    let Some(bytes) = bytes else {
        return fail(
            "dims",
            "positive numbers".into(),
            format!("{:?}", tensor.dims),
        );
    };
    if !is_external(tensor) {
        // The exporter writes only raw data; typed fields are rejected.
        return if tensor.raw_data.len() as u64 == bytes {
            Ok(())
        } else {
            fail(
                "raw_data",
                format!("{bytes} bytes"),
                tensor.raw_data.len().to_string(),
            )
        };
    }
    let entry = |key: &str| {
        tensor
            .external_data
            .iter()
            .find(|e| e.key == key)
            .map(|e| e.value.as_str())
    };
    let location = entry("location").unwrap_or("");
    if !tensor.raw_data.is_empty() || location == IMAGE_ENCODER {
        return fail(
            "external_data",
            "weights in a separate file".into(),
            location.into(),
        );
    }
    let Some(file_bytes) = external(location) else {
        return fail(
            "external_data.location",
            "a file of the bundle".into(),
            format!("{location:?}"),
        );
    };
    let offset = entry("offset").map_or(Ok(0), str::parse::<u64>);
    let length = entry("length").map_or(Ok(bytes), str::parse::<u64>);
    let (Ok(offset), Ok(length)) = (offset, length) else {
        return fail(
            "external_data",
            "integers".into(),
            format!("{:?}", tensor.external_data),
        );
    };
    if length != bytes {
        return fail(
            "external_data.length",
            bytes.to_string(),
            length.to_string(),
        );
    }
    match offset.checked_add(length) {
        Some(end) if end <= file_bytes => Ok(()),
        _ => fail(
            "external_data",
            format!("a range inside the {file_bytes} bytes of {location}"),
            format!("{length} bytes from {offset}"),
        ),
    }
}

/// The operators of ONNX Runtime's domain com.microsoft that the exporter rewrites.
const MICROSOFT: [&str; 2] = ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"];

/// Whether a standard operator quantises by several scales: tract uses the first for all. Bundles of earlier versions
/// have such nodes.
fn quantized_per_channel(node: &NodeProto, scalars: &HashSet<&str>) -> bool {
    let quantizes = ["QuantizeLinear", "DequantizeLinear"].contains(&&*node.op_type);
    let scale = node.input.get(1).filter(|_| quantizes);
    scale.is_some_and(|name| !scalars.contains(&**name))
}

fn operator(node: &NodeProto, kind: GraphKind) -> Result<(), String> {
    let Some(op) = dialect::Op::named(&node.op_type) else {
        // tract looks operators up by name and reports unknown ones.
        let known = node.domain == "com.microsoft" && MICROSOFT.contains(&&*node.op_type);
        if known && kind == GraphKind::Deployed {
            return Err(format!(
                "node {} (com.microsoft.{}): expected what pinhole-export makes of it; export again with this version",
                node.name, node.op_type
            ));
        }
        return if node.domain.is_empty() || node.domain == "ai.onnx" || known {
            Ok(())
        } else if node.domain == "com.microsoft" {
            Err(format!(
                "node {}: expected a standard operator, found com.microsoft.{}; quantise a graph that ONNX Runtime \
                 optimised at level basic only, as quant_pre_process does",
                node.name, node.op_type
            ))
        } else {
            Err(format!(
                "node {}: expected a known function, found {}.{}",
                node.name, node.domain, node.op_type
            ))
        };
    };
    if node.domain != dialect::DOMAIN || kind == GraphKind::Imported {
        return Err(format!(
            "node {}: expected a standard operator, or in a bundle's graph a function of the domain {}, found {} of the \
             domain {:?}",
            node.name,
            dialect::DOMAIN,
            node.op_type,
            node.domain
        ));
    }
    let inputs = op.inputs().len() + op.parameters().len();
    if node.input.len() != inputs || node.output.len() != 1 {
        return Err(format!(
            "node {} ({}): expected {inputs} inputs and 1 output, found {} and {}",
            node.name,
            node.op_type,
            node.input.len(),
            node.output.len()
        ));
    }
    let parameter = |a: &&AttributeProto| op.parameters().iter().any(|name| *name == a.name);
    if let Some(attribute) = node.attribute.iter().find(parameter) {
        return Err(format!(
            "node {} ({}): {}: expected an initializer, found an attribute",
            node.name, node.op_type, attribute.name
        ));
    }
    for name in op.attributes() {
        if !node.attribute.iter().any(|a| a.name == *name) {
            return Err(format!(
                "node {} ({}): attribute {name}: expected one, found none",
                node.name, node.op_type
            ));
        }
    }
    Ok(())
}

/// Checks that nodes are in topological order, as ONNX requires. tract would panic on an undefined name.
fn defined_before_use(graph: &GraphProto) -> Result<(), String> {
    let mut defined: HashSet<&str> = graph.initializer.iter().map(|t| &*t.name).collect();
    defined.extend(graph.input.iter().map(|v| &*v.name));
    for node in &graph.node {
        if let Some(input) = node
            .input
            .iter()
            .find(|i| !i.is_empty() && !defined.contains(i.as_str()))
        {
            return Err(format!(
                "node {}: input {input:?}: expected an earlier output, found none",
                node.name
            ));
        }
        // An omitted output has no name.
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            if !defined.insert(output) {
                return Err(format!(
                    "node {}: output {output:?}: expected a unique name, found a second definition",
                    node.name
                ));
            }
        }
    }
    match graph.output.iter().find(|o| !defined.contains(&*o.name)) {
        Some(o) => Err(format!(
            "output {}: expected the output of a node, found none",
            o.name
        )),
        None => Ok(()),
    }
}
