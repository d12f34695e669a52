//! Merges reshapes into the preceding operator of ours.

use tract_onnx::tract_hir::internal::*;

use super::operators::operator;
use super::view::{View, contiguous_successor};

/// Makes our operators write their outputs in the shape after subsequent reshapes. tract would copy the values, because
/// the output tensor is kept for the next image.
pub(super) fn absorb(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes().len() {
        let node = model.node(id);
        let Some((output, shape)) = reshaped_output(model, node) else {
            continue;
        };
        let Some(reshaped) = operator::reshaped(node.op.as_ref(), &shape) else {
            continue;
        };
        let mut patch = TypedModelPatch::default();
        let inputs = patch.taps(model, &node.inputs)?;
        let outputs = patch.wire_node(&node.name, reshaped, &inputs)?;
        patch.shunt_outside(model, output, outputs[0])?;
        patch.apply(model)?;
    }
    Ok(())
}

/// The last value after `node` with the same values in the same order, and its shape, if there is one.
fn reshaped_output(model: &TypedModel, node: &TypedNode) -> Option<(OutletId, TVec<usize>)> {
    let shape = |outlet| model.outlet_fact(outlet).ok()?.shape.as_concrete();
    let outlet = OutletId::from(node.id);
    let (view, _) = View::of(shape(outlet)?)?;
    let (last, _) = contiguous_successor(model, outlet, view)?;
    (last != outlet).then_some((last, shape(last)?.into()))
}
