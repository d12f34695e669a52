//! The adapter between our kernels and tract's plan.

use std::fmt;
use std::sync::Arc;

use pinhole_bundle::dialect;
use pinhole_kernels as kernels;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::output_pool::OutputPool;

/// The result of building an operator from an ONNX node.
pub(super) type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// What an operator computes; [`Operator`] adapts it to tract.
pub(in crate::network) trait Compute:
    fmt::Debug + Send + Sync + 'static
{
    /// The output shape; by default, the shape of the first input.
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        Ok(inputs[0].into())
    }
    /// Computes `output`, whose shape is [`Compute::shape`].
    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()>;
    /// As [`Compute::run`], of a function whose result is bytes.
    fn run_to_bytes(&self, _inputs: &[TValue], _output: &mut [u8]) -> TractResult<()> {
        bail!("expected a function with a result of bytes")
    }
    /// Data type and kernel variant, for example "int8 dotprod".
    fn kernel(&self) -> String {
        format!("f32 {}", kernels::chosen_f32())
    }
}

/// Data type and kernel variant of an operator of a plan, if it is one of ours.
pub(in crate::network) fn kernel(operator: &dyn TypedOp) -> Option<String> {
    let operator = operator.downcast_ref::<Operator>()?;
    Some(operator.compute.kernel())
}

/// Whether an operator of a plan is one of ours.
pub(in crate::network) fn is_ours(op: &dyn Op) -> bool {
    op.downcast_ref::<Operator>().is_some()
}

/// The function of the dialect that an operator of a plan computes.
pub(in crate::network) fn function(op: &dyn Op) -> Option<dialect::Op> {
    Some(op.downcast_ref::<Operator>()?.op)
}

/// The values of an f32 tensor.
pub(in crate::network) fn floats(value: &TValue) -> TractResult<&[f32]> {
    value.try_as_plain_ram()?.as_slice::<f32>()
}

/// The values of a u8 tensor.
pub(super) fn bytes(value: &TValue) -> TractResult<&[u8]> {
    value.try_as_plain_ram()?.as_slice::<u8>()
}

/// The type of the result of a function.
fn output_type(op: dialect::Op) -> DatumType {
    match op {
        dialect::Op::Convolution(convolution) => datum_type(convolution.y),
        _ => f32::datum_type(),
    }
}

fn datum_type(element: dialect::Element) -> DatumType {
    match element {
        dialect::Element::F32 => f32::datum_type(),
        dialect::Element::U8 => u8::datum_type(),
    }
}

/// Checks the types of the images that a convolution reads.
fn check_types(op: dialect::Op, inputs: &[&TypedFact]) -> TractResult<()> {
    let dialect::Op::Convolution(convolution) = op else {
        return Ok(());
    };
    let expected = [convolution.x, dialect::Element::F32].map(datum_type);
    for ((name, fact), expected) in op.inputs().iter().zip(inputs).zip(expected) {
        let found = fact.datum_type;
        ensure!(
            found == expected,
            "{name}: expected {expected:?}, found {found:?}"
        );
    }
    Ok(())
}

/// A tract operator with one output around a [`Compute`].
#[derive(Clone, Debug)]
struct Operator {
    /// For display.
    name: StaticName,
    /// The function of the dialect.
    op: dialect::Op,
    compute: Arc<dyn Compute>,
    outputs: Arc<OutputPool>,
}

/// Makes our operators in `model` share one pool of output tensors.
pub(in crate::network) fn share_outputs(model: &mut TypedModel) {
    let outputs = Arc::new(OutputPool::default());
    for node in model.nodes_mut() {
        if let Some(operator) = node.op_as_mut::<Operator>() {
            operator.outputs = Arc::clone(&outputs);
        }
    }
}

impl PartialEq for Operator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.compute, &other.compute)
    }
}

impl Eq for Operator {}

impl Op for Operator {
    fn name(&self) -> StaticName {
        self.name.clone()
    }

    op_as_typed_op!();
}

impl EvalOp for Operator {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shapes: TVec<&[usize]> = inputs.iter().map(|i| i.shape()).collect();
        let shape = self.compute.shape(&shapes)?;
        let output = if output_type(self.op) == u8::datum_type() {
            let run = |output: &mut [u8]| self.compute.run_to_bytes(&inputs, output);
            self.outputs.fill(&shape, run)?
        } else {
            let run = |output: &mut [f32]| self.compute.run(&inputs, output);
            self.outputs.fill(&shape, run)?
        };
        Ok(tvec![TValue::from_const(output)])
    }
}

impl TypedOp for Operator {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shapes = inputs
            .iter()
            .map(|f| {
                f.shape
                    .as_concrete()
                    .with_context(|| format!("{}: the shape {:?} is not fixed", self.name, f.shape))
            })
            .collect::<TractResult<TVec<&[usize]>>>()?;
        check_types(self.op, inputs)?;
        let shape = self.compute.shape(&shapes)?;
        Ok(tvec![output_type(self.op).fact(shape)])
    }

    as_op!();
}

/// The operator of a function of the dialect, for tract's inference graph, in which only the output type is known; shapes
/// follow from [`Operator::output_facts`] in the typed graph.
pub(super) fn build(op: dialect::Op, compute: impl Compute) -> Built {
    build_named(op, op.name(), compute)
}

/// As [`build`], displayed as `name`.
pub(super) fn build_named(op: dialect::Op, name: String, compute: impl Compute) -> Built {
    let operator = Operator {
        name: name.into(),
        op,
        compute: Arc::new(compute),
        outputs: Arc::default(),
    };
    Ok((inference(operator), vec![]))
}

fn inference(operator: Operator) -> Box<dyn InferenceOp> {
    let output = output_type(operator.op);
    let rules = move |_: &dyn Op,
                      solver: &mut Solver,
                      _: &[TensorProxy],
                      outputs: &[TensorProxy]|
          -> InferenceResult { solver.equals(&outputs[0].datum_type, output) };
    inference_wrap(operator, 1, rules)
}
