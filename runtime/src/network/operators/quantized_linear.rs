//! Linear layers in 8-bit integers.

use std::fmt;

use pinhole_bundle::dialect::{self, LinearInput, Op};
use pinhole_kernels::{Int8Input, PackedLinearInt8, Prologue};
use pinhole_model::Activation;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::linear::linear_shape;
use super::norm::LayerNorm;
use super::operator::{Built, Compute, build, floats};
use super::parameters::positive_float;
use super::weights::{Packed, pack_int8};

struct QuantizedLinear {
    weights: PackedLinearInt8,
    rows: RowInput,
    activation: Option<Activation>,
}

/// [`LinearInput`] with its parameters.
enum RowInput {
    Plain,
    LayerNorm(LayerNorm),
    /// Added to each value.
    Offset(f32),
}

impl fmt::Debug for QuantizedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuantizedLinear").finish_non_exhaustive()
    }
}

pub(super) fn quantized_linear(
    context: &ParsingContext,
    node: &NodeProto,
    layer: dialect::Linear,
) -> Built {
    let weights = pack_int8(context, node)?;
    let rows = match layer.input {
        LinearInput::Plain => RowInput::Plain,
        LinearInput::LayerNorm => {
            let norm = LayerNorm::read(context, node, "shift")?;
            ensure!(
                norm.gain.len() == weights.inputs(),
                "gain: expected [{}], found [{}]",
                weights.inputs(),
                norm.gain.len()
            );
            RowInput::LayerNorm(norm)
        }
        LinearInput::Offset => RowInput::Offset(positive_float(node, "offset")?),
    };
    let activation = layer.activation;
    build(
        Op::Linear(layer),
        QuantizedLinear {
            weights,
            rows,
            activation,
        },
    )
}

impl Compute for QuantizedLinear {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        linear_shape(inputs, self.weights.inputs(), self.weights.outputs())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let x = floats(&inputs[0])?;
        let residual = inputs.get(1).map(floats).transpose()?;
        let count = x.len() / self.weights.inputs();
        let x = match &self.rows {
            RowInput::Plain => Int8Input::F32 {
                x,
                prologue: Prologue::None,
            },
            RowInput::LayerNorm(norm) => Int8Input::F32 {
                x,
                prologue: Prologue::LayerNorm {
                    gain: &norm.gain,
                    bias: &norm.bias,
                    epsilon: norm.epsilon,
                },
            },
            RowInput::Offset(offset) => Int8Input::Offset { x, offset: *offset },
        };
        (self.weights).apply(x, count, self.activation, residual, output);
        Ok(())
    }

    fn kernel(&self) -> String {
        self.weights.kernel_name()
    }
}
