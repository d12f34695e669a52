//! Normalisations over the last axis.

use pinhole_bundle::dialect::Op;
use pinhole_kernels as kernels;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Compute, build, floats};
use super::parameters::{positive_float, weight};

#[derive(Debug)]
pub(super) struct LayerNorm {
    pub(super) gain: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) epsilon: f32,
}

pub(super) fn layer_norm(context: &ParsingContext, node: &NodeProto) -> Built {
    let norm = LayerNorm::read(context, node, "bias")?;
    build(Op::LayerNorm, norm)
}

impl LayerNorm {
    /// `bias_name` is the name of the bias in the node's function.
    pub(super) fn read(
        context: &ParsingContext,
        node: &NodeProto,
        bias_name: &str,
    ) -> TractResult<Self> {
        let (gain, shape) = weight(context, node, "gain", 1)?;
        let (bias, found) = weight(context, node, bias_name, 1)?;
        ensure!(
            shape == found,
            "{bias_name}: expected {shape:?}, found {found:?}"
        );
        Ok(LayerNorm {
            gain,
            bias,
            epsilon: positive_float(node, "epsilon")?,
        })
    }
}

impl Compute for LayerNorm {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        ensure!(
            inputs[0].last() == Some(&self.gain.len()),
            "x: expected width {}, found {:?}",
            self.gain.len(),
            inputs[0]
        );
        Ok(inputs[0].into())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        kernels::layer_norm(
            floats(&inputs[0])?,
            self.gain.len(),
            &self.gain,
            &self.bias,
            self.epsilon,
            output,
        );
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct L2Normalize;

impl Compute for L2Normalize {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        ensure!(
            inputs[0].last().is_some_and(|&w| w > 0),
            "x: expected a width, found {:?}",
            inputs[0]
        );
        Ok(inputs[0].into())
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        output.copy_from_slice(floats(&inputs[0])?);
        let width = inputs[0].shape().last().copied().unwrap_or(1);
        output
            .chunks_exact_mut(width)
            .for_each(kernels::l2_normalize);
        Ok(())
    }

    fn kernel(&self) -> String {
        "f32 scalar".into()
    }
}
