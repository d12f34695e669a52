//! Inlines the model-local functions, for runtimes that do not expand them.

use std::collections::HashMap;

use anyhow::{Context, Result};
use tract_onnx::pb::{FunctionProto, ModelProto, NodeProto};

/// Replaces every function node by the function's body and drops the functions.
///
/// # Errors
/// A node that calls a function without a body.
pub fn inline(model: &mut ModelProto) -> Result<()> {
    let functions: HashMap<String, FunctionProto> = model
        .functions
        .drain(..)
        .map(|f| (f.name().to_owned(), f))
        .collect();
    model.opset_import.retain(|o| o.domain.is_empty());
    let graph = model.graph.as_mut().context("a model without a graph")?;
    let mut flat = Vec::with_capacity(graph.node.len() * 8);
    for node in graph.node.drain(..) {
        if node.domain.is_empty() {
            flat.push(node);
            continue;
        }
        let function = functions
            .get(&node.op_type)
            .with_context(|| format!("no function {}", node.op_type))?;
        flat.extend(
            function
                .node
                .iter()
                .map(|inner| instance(function, &node, inner)),
        );
    }
    graph.node = flat;
    Ok(())
}

/// One node of `function`'s body as it stands in place of `call`.
fn instance(function: &FunctionProto, call: &NodeProto, inner: &NodeProto) -> NodeProto {
    let rename = |name: &String| {
        let inputs = function.input.iter().zip(&call.input);
        let outputs = function.output.iter().zip(&call.output);
        let outer = inputs
            .chain(outputs)
            .find(|(formal, _)| *formal == name)
            .map(|(_, actual)| actual.clone());
        outer.unwrap_or_else(|| format!("{}/{name}", call.name))
    };
    let mut node = inner.clone();
    node.name = format!("{}/{}", call.name, inner.name);
    node.input = inner.input.iter().map(rename).collect();
    node.output = inner.output.iter().map(rename).collect();
    for attribute in &mut node.attribute {
        if let Some(actual) = call
            .attribute
            .iter()
            .find(|a| a.name == attribute.ref_attr_name)
        {
            *attribute = tract_onnx::pb::AttributeProto {
                name: attribute.name.clone(),
                ..actual.clone()
            };
        }
    }
    node
}
