//! tract's optimiser, with a bound on its work.
//!
//! Each replacement in a graph compares all its nodes, and looks for free names among them. Graphs of a few thousand nodes with
//! operators that can be merged take minutes; image encoders, of some hundred nodes, less than a second on a desktop processor.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::optim::{Optimizer, OptimizerSession, TypedPass};

use super::budget::comparisons;

/// A pass that fails at the first replacement for which nothing is left.
#[derive(Clone)]
struct Bounded {
    pass: Box<dyn TypedPass>,
    /// Comparisons that all passes together may still make.
    left: Arc<AtomicU64>,
}

impl fmt::Debug for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.pass.fmt(f)
    }
}

impl TypedPass for Bounded {
    fn reset(&mut self) -> TractResult<()> {
        self.pass.reset()
    }

    fn next(
        &mut self,
        session: &mut OptimizerSession,
        model: &TypedModel,
    ) -> TractResult<Option<TypedModelPatch>> {
        let patch = self.pass.next(session, model)?;
        if let Some(patch) = &patch {
            let nodes = model.nodes();
            let edges = nodes.iter().map(|node| node.inputs.len()).sum();
            let found = comparisons(nodes.len(), edges, patch.model.nodes().len());
            let left = self.left.load(Ordering::Relaxed).checked_sub(found);
            let left = left.with_context(|| {
                format!(
                    "optimising the graph takes too long: expected fewer nodes or fewer operators that can be merged in a \
                     file of this size, found {} nodes",
                    nodes.len()
                )
            })?;
            self.left.store(left, Ordering::Relaxed);
        }
        Ok(patch)
    }

    fn run_direct(&mut self, model: &mut TypedModel) -> TractResult<bool> {
        self.pass.run_direct(model)
    }
}

/// Optimises `model` as tract's `into_optimized` does.
///
/// # Errors
/// Errors of tract; it takes more than `most` comparisons, as [`comparisons`] counts them.
pub(super) fn optimize(mut model: TypedModel, most: u64) -> TractResult<TypedModel> {
    let left = Arc::new(AtomicU64::new(most));
    for mut optimizer in [Optimizer::declutter(), Optimizer::codegen()] {
        let bounded = |pass| -> Box<dyn TypedPass> {
            let left = left.clone();
            Box::new(Bounded { pass, left })
        };
        optimizer.passes = optimizer.passes.into_iter().map(bounded).collect();
        optimizer.optimize(&mut model)?;
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Transpositions that cancel each other out.
    #[test]
    fn optimising_is_bounded() {
        let mut model = TypedModel::default();
        let mut value = model.add_source("x", f32::fact([2, 4])).unwrap();
        for i in 0..8 {
            let outputs = model.wire_node(format!("move{i}"), AxisOp::Move(0, 1), &[value]);
            value = outputs.unwrap()[0];
        }
        model.select_output_outlets(&[value]).unwrap();
        let optimized = optimize(model.clone(), 1000).unwrap();
        assert_eq!(optimized.nodes().len(), 1);
        let error = optimize(model, 10).unwrap_err();
        assert!(format!("{error:#}").contains("takes too long"), "{error:#}");
    }
}
