//! Linear layers in 8-bit integers.

use std::fmt;

use pinhole_bundle::dialect::{self, Function};
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

/// A quantised linear function of the dialect.
pub(super) struct QuantizedFunction {
    pub(super) function: Function,
    rows: RowInputKind,
    activation: Option<Activation>,
}

/// What happens to the rows of x before quantisation.
#[derive(Clone, Copy)]
enum RowInputKind {
    Plain,
    LayerNorm,
    Offset,
}

/// The quantised linear functions of the dialect.
pub(super) const FUNCTIONS: [QuantizedFunction; 8] = {
    const fn entry(
        function: Function,
        rows: RowInputKind,
        activation: Option<Activation>,
    ) -> QuantizedFunction {
        QuantizedFunction {
            function,
            rows,
            activation,
        }
    }
    const PLAIN: RowInputKind = RowInputKind::Plain;
    const NORM: RowInputKind = RowInputKind::LayerNorm;
    const OFFSET: RowInputKind = RowInputKind::Offset;
    const QUICK_GELU: Option<Activation> = Some(Activation::QuickGelu);
    const GELU: Option<Activation> = Some(Activation::Gelu);
    [
        entry(dialect::QUANTIZED_LINEAR, PLAIN, None),
        entry(dialect::QUANTIZED_LINEAR_QUICK_GELU, PLAIN, QUICK_GELU),
        entry(dialect::QUANTIZED_LINEAR_GELU, PLAIN, GELU),
        entry(dialect::QUANTIZED_LINEAR_ADD, PLAIN, None),
        entry(dialect::OFFSET_QUANTIZED_LINEAR_ADD, OFFSET, None),
        entry(dialect::LAYER_NORM_QUANTIZED_LINEAR, NORM, None),
        entry(
            dialect::LAYER_NORM_QUANTIZED_LINEAR_QUICK_GELU,
            NORM,
            QUICK_GELU,
        ),
        entry(dialect::LAYER_NORM_QUANTIZED_LINEAR_GELU, NORM, GELU),
    ]
};

struct QuantizedLinear {
    weights: PackedLinearInt8,
    rows: RowInput,
    activation: Option<Activation>,
}

/// [`RowInputKind`] with its parameters.
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

pub(super) fn quantized_linear(context: &ParsingContext, node: &NodeProto) -> Built {
    let function = FUNCTIONS
        .iter()
        .find(|f| f.function.name == node.op_type)
        .with_context(|| {
            let found = &node.op_type;
            format!("expected a quantised linear function, found {found}")
        })?;
    let weights = pack_int8(context, node)?;
    let rows = match function.rows {
        RowInputKind::Plain => RowInput::Plain,
        RowInputKind::LayerNorm => {
            let norm = LayerNorm::read(context, node, "shift")?;
            ensure!(
                norm.gain.len() == weights.inputs(),
                "gain: expected [{}], found [{}]",
                weights.inputs(),
                norm.gain.len()
            );
            RowInput::LayerNorm(norm)
        }
        RowInputKind::Offset => RowInput::Offset(positive_float(node, "offset")?),
    };
    build(
        function.function.name,
        QuantizedLinear {
            weights,
            rows,
            activation: function.activation,
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
