//! tract's optimiser, with a bound on its time.
//!
//! Each replacement in a graph compares all its nodes, and looks for free names among them. Graphs of a few thousand nodes with
//! operators that can be merged take minutes; image encoders, of some hundred nodes, less than a second on a desktop processor.

use std::fmt;
use std::time::{Duration, Instant};

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::optim::{Optimizer, OptimizerSession, TypedPass};

/// The longest that a graph is optimised.
pub(super) const MAX_TIME: Duration = Duration::from_secs(60);

/// A pass that fails at its first replacement after `end`.
#[derive(Clone)]
struct Bounded {
    pass: Box<dyn TypedPass>,
    end: Instant,
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
        ensure!(
            patch.is_none() || Instant::now() < self.end,
            "optimising the graph takes too long: expected fewer nodes or fewer operators that can be merged, found {} nodes",
            model.nodes().len()
        );
        Ok(patch)
    }

    fn run_direct(&mut self, model: &mut TypedModel) -> TractResult<bool> {
        self.pass.run_direct(model)
    }
}

/// Optimises `model` as tract's `into_optimized` does.
///
/// # Errors
/// Errors of tract; `max_time` is over and there is more to replace.
pub(super) fn optimize(mut model: TypedModel, max_time: Duration) -> TractResult<TypedModel> {
    let end = Instant::now() + max_time;
    for mut optimizer in [Optimizer::declutter(), Optimizer::codegen()] {
        let bounded = |pass| -> Box<dyn TypedPass> { Box::new(Bounded { pass, end }) };
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
    fn optimising_ends_in_time() {
        let mut model = TypedModel::default();
        let mut value = model.add_source("x", f32::fact([2, 4])).unwrap();
        for i in 0..8 {
            let outputs = model.wire_node(format!("move{i}"), AxisOp::Move(0, 1), &[value]);
            value = outputs.unwrap()[0];
        }
        model.select_output_outlets(&[value]).unwrap();
        let optimized = optimize(model.clone(), MAX_TIME).unwrap();
        assert_eq!(optimized.nodes().len(), 1);
        let error = optimize(model, Duration::ZERO).unwrap_err();
        assert!(format!("{error:#}").contains("takes too long"), "{error:#}");
    }
}
