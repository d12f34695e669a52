//! Linear layers in floating point.

use pinhole_bundle::dialect::{self, Function};
use pinhole_model::Activation;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Compute, build, floats};
use super::weights::FloatWeights;

/// A linear function of the dialect.
pub(super) struct LinearFunction {
    pub(super) function: Function,
    /// Its name if it multiplies in f16.
    f16_name: &'static str,
    activation: Option<Activation>,
}

/// The linear functions of the dialect.
pub(super) const FUNCTIONS: [LinearFunction; 4] = [
    LinearFunction {
        function: dialect::LINEAR,
        f16_name: "LinearF16",
        activation: None,
    },
    LinearFunction {
        function: dialect::LINEAR_QUICK_GELU,
        f16_name: "LinearQuickGeluF16",
        activation: Some(Activation::QuickGelu),
    },
    LinearFunction {
        function: dialect::LINEAR_GELU,
        f16_name: "LinearGeluF16",
        activation: Some(Activation::Gelu),
    },
    LinearFunction {
        function: dialect::LINEAR_ADD,
        f16_name: "LinearAddF16",
        activation: None,
    },
];

#[derive(Debug)]
struct Linear {
    weights: FloatWeights,
    activation: Option<Activation>,
}

pub(super) fn linear<const F16: bool>(context: &ParsingContext, node: &NodeProto) -> Built {
    let function = FUNCTIONS
        .iter()
        .find(|f| f.function.name == node.op_type)
        .with_context(|| format!("expected a linear function, found {}", node.op_type))?;
    let weights = FloatWeights::pack::<F16>(context, node, 1.0)?;
    let name = match weights {
        FloatWeights::F32(_) => function.function.name,
        FloatWeights::F16(_) => function.f16_name,
    };
    let activation = function.activation;
    build(
        name,
        Linear {
            weights,
            activation,
        },
    )
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
