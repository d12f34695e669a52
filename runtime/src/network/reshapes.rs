//! Reshapes behind our operators become part of them.

use tract_onnx::tract_hir::internal::*;

use super::operators;
use super::view::{View, in_order};

/// Has our operators write their outputs in the shape that reshapes behind them give them, which tract does by a
/// copy: the memory is kept for the next image.
pub(super) fn absorb(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes().len() {
        let node = model.node(id);
        let Some((output, shape)) = reshaped(model, node) else {
            continue;
        };
        let Some(operator) = operators::reshaped(node.op.as_ref(), &shape) else {
            continue;
        };
        let mut patch = TypedModelPatch::default();
        let inputs = patch.taps(model, &node.inputs)?;
        let outputs = patch.wire_node(&node.name, operator, &inputs)?;
        patch.shunt_outside(model, output, outputs[0])?;
        patch.apply(model)?;
    }
    Ok(())
}

/// The last value behind `node` that holds the same numbers in the same order, and its shape, if there is any.
fn reshaped(model: &TypedModel, node: &TypedNode) -> Option<(OutletId, TVec<usize>)> {
    let shape = |outlet| model.outlet_fact(outlet).ok()?.shape.as_concrete();
    let outlet = OutletId::from(node.id);
    let (view, _) = View::of(shape(outlet)?)?;
    let (last, _) = in_order(model, outlet, view)?;
    (last != outlet).then_some((last, shape(last)?.into()))
}
