//! Linear layers in floating point.

use pinhole_bundle::dialect::{self, LinearInput, Op};
use pinhole_model::Activation;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Compute, build_named, floats};
use super::weights::FloatWeights;

#[derive(Debug)]
struct Linear {
    weights: FloatWeights,
    activation: Option<Activation>,
}

pub(super) fn linear<const F16: bool>(
    context: &ParsingContext,
    node: &NodeProto,
    layer: dialect::Linear,
) -> Built {
    ensure!(
        layer.input == LinearInput::Plain,
        "expected a layer in integers, found {}",
        node.op_type
    );
    let weights = FloatWeights::pack::<F16>(context, node, 1.0)?;
    let (op, activation) = (Op::Linear(layer), layer.activation);
    let name = weights.operator_name(op);
    let linear = Linear {
        weights,
        activation,
    };
    build_named(op, name, linear)
}

impl Compute for Linear {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let weights = self.weights.packed();
        linear_shape(inputs, weights.inputs(), weights.outputs())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let x = floats(&inputs[0])?;
        let residual = inputs.get(1).map(floats).transpose()?;
        let rows = x.len() / self.weights.packed().inputs();
        let activation = self.activation;
        match &self.weights {
            FloatWeights::F32(weights) => weights.apply(x, rows, activation, residual, output),
            FloatWeights::F16(weights) => weights.apply(x, rows, activation, residual, output),
        }
        Ok(())
    }

    fn kernel(&self) -> String {
        self.weights.packed().kernel_name()
    }
}

/// The output shape of a linear layer: x [.., `width`] and optionally residual [.., `outputs`].
pub(super) fn linear_shape(
    inputs: &[&[usize]],
    width: usize,
    outputs: usize,
) -> TractResult<TVec<usize>> {
    let mut shape: TVec<usize> = inputs[0].into();
    let last = shape
        .last_mut()
        .context("x: expected at least one dimension, found a scalar")?;
    ensure!(*last == width, "x: expected width {width}, found {last}");
    *last = outputs;
    if let Some(residual) = inputs.get(1) {
        ensure!(
            **residual == *shape,
            "residual: expected {shape:?}, found {residual:?}"
        );
    }
    Ok(shape)
}
