//! Parameters of a node: attributes, and weights that were moved into attributes before parsing.

use std::path::Path;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};
use tract_onnx::tract_hir::internal::*;

use crate::network::{attributes, initializer};

pub(super) fn tensor<'a>(node: &'a NodeProto, name: &str) -> TractResult<&'a TensorProto> {
    attributes::find(node, name)
        .and_then(|a| a.t.as_ref())
        .with_context(|| format!("{name}: expected an initializer, found none"))
}

/// The folder of external data.
pub(super) fn folder<'a>(context: &ParsingContext<'a>) -> &'a Path {
    Path::new(context.model_dir.unwrap_or("."))
}

/// The shape of `tensor`, whose dimensions have been checked. `name` is its role, for errors.
pub(super) fn shape(tensor: &TensorProto, name: &str, rank: usize) -> TractResult<Vec<usize>> {
    ensure!(
        tensor.dims.len() == rank,
        "{name}: expected {rank} dimensions, found {:?}",
        tensor.dims
    );
    Ok(tensor.dims.iter().map(|&d| d as usize).collect())
}

/// A weight of `node` as f32, and its shape.
pub(super) fn weight(
    context: &ParsingContext,
    node: &NodeProto,
    name: &str,
    rank: usize,
) -> TractResult<(Vec<f32>, Vec<usize>)> {
    let proto = tensor(node, name)?;
    let shape = shape(proto, name, rank)?;
    let data = initializer::floats(proto, folder(context))
        .with_context(|| format!("{name}: {}", proto.name))?;
    // In chunks without an early exit, so that the check is vectorised.
    let finite = |values: &[f32]| values.iter().fold(true, |all, v| all & v.is_finite());
    ensure!(
        data.chunks(1024).all(finite),
        "{}: {name}: expected finite weights, found NaN or infinity",
        proto.name
    );
    Ok((data, shape))
}

/// An integer attribute of 1 to 65536, given as an int or a list of one int.
pub(super) fn positive_integer(node: &NodeProto, name: &str) -> TractResult<usize> {
    let attribute = required(node, name)?;
    let value = attribute.ints.first().copied().unwrap_or(attribute.i);
    ensure!(
        (1..=1 << 16).contains(&value),
        "{name}: expected 1 to 65536, found {value}"
    );
    Ok(value as usize)
}

/// An integer attribute of 0 to 1048576, given as an int or a list of one int.
pub(super) fn integer(node: &NodeProto, name: &str) -> TractResult<usize> {
    let attribute = required(node, name)?;
    let value = attribute.ints.first().copied().unwrap_or(attribute.i);
    ensure!(
        (0..=1 << 20).contains(&value),
        "{name}: expected 0 to 1048576, found {value}"
    );
    Ok(value as usize)
}

/// A finite float attribute.
pub(super) fn number(node: &NodeProto, name: &str) -> TractResult<f32> {
    let value = required(node, name)?.f;
    ensure!(
        value.is_finite(),
        "{name}: expected a finite number, found {value}"
    );
    Ok(value)
}

/// A float attribute above 0.
pub(super) fn positive_float(node: &NodeProto, name: &str) -> TractResult<f32> {
    let value = required(node, name)?.f;
    ensure!(
        value.is_finite() && value > 0.0,
        "{name}: expected a number above 0, found {value}"
    );
    Ok(value)
}

fn required<'a>(node: &'a NodeProto, name: &str) -> TractResult<&'a AttributeProto> {
    attributes::find(node, name).with_context(|| format!("{name}: missing"))
}
/// All input channels, and the groups, of a convolution with these inputs per group and these outputs.
pub(super) fn channels(
    node: &NodeProto,
    group_inputs: usize,
    outputs: usize,
) -> TractResult<(usize, usize)> {
    let groups = attributes::integer(node, "group", 0);
    let groups = usize::try_from(groups).unwrap_or(0);
    let inputs = group_inputs.checked_mul(groups).filter(|&i| i > 0);
    let inputs = inputs.filter(|_| outputs.is_multiple_of(groups));
    let inputs = inputs.with_context(|| {
        format!("group: expected a divisor of {outputs} outputs, found {groups}")
    })?;
    Ok((inputs, groups))
}
