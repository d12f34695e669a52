//! Tokens that are the same for every image.

use pinhole_bundle::dialect::Op;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Compute, build, floats};
use super::parameters::{positive_integer, weight};

#[derive(Debug)]
struct ConstantTokens {
    /// Tokens of x before them.
    kept: usize,
    /// n and W.
    shape: [usize; 2],
    /// [n, W].
    tokens: Vec<f32>,
}

pub(super) fn constant_tokens(context: &ParsingContext, node: &NodeProto) -> Built {
    let (tokens, shape) = weight(context, node, "tokens", 2)?;
    let operator = ConstantTokens {
        kept: positive_integer(node, "kept")?,
        shape: [shape[0], shape[1]],
        tokens,
    };
    build(Op::ConstantTokens, operator)
}

impl Compute for ConstantTokens {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [count, width] = self.shape;
        match *inputs[0] {
            [n, all, w] if all >= self.kept && w == width => Ok(tvec![n, self.kept + count, width]),
            _ => bail!(
                "x: expected [N, {} or more, {width}], found {:?}",
                self.kept,
                inputs[0]
            ),
        }
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let kept = self.kept * self.shape[1];
        let per_image = inputs[0].shape()[1] * self.shape[1];
        let images = floats(&inputs[0])?.chunks_exact(per_image);
        for (image, out) in images.zip(output.chunks_exact_mut(kept + self.tokens.len())) {
            let (before, constant) = out.split_at_mut(kept);
            before.copy_from_slice(&image[..kept]);
            constant.copy_from_slice(&self.tokens);
        }
        Ok(())
    }

    fn kernel(&self) -> String {
        "f32 scalar".into()
    }
}
