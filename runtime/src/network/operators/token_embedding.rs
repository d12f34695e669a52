//! The class token and the position embeddings.

use pinhole_bundle::dialect::Op;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Compute, build, floats};
use super::parameters::weight;

#[derive(Debug)]
struct TokenEmbedding {
    /// `[W]`.
    class_embedding: Vec<f32>,
    /// `[P, W]`.
    positions: Vec<f32>,
}

pub(super) fn token_embedding(context: &ParsingContext, node: &NodeProto) -> Built {
    let (class_embedding, class_shape) = weight(context, node, "class_embedding", 2)?;
    let (positions, shape) = weight(context, node, "positions", 2)?;
    ensure!(
        class_shape == [1, shape[1]],
        "class_embedding: expected [1, {}], found {class_shape:?}",
        shape[1]
    );
    build(
        Op::TokenEmbedding,
        TokenEmbedding {
            class_embedding,
            positions,
        },
    )
}

impl Compute for TokenEmbedding {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let width = self.class_embedding.len();
        let patches = self.positions.len() / width;
        let &[n, p, w] = inputs[0] else {
            bail!("patches: expected [N, P, W], found {:?}", inputs[0])
        };
        ensure!(
            p == patches && w == width,
            "patches: expected [N, {patches}, {width}], found {:?}",
            inputs[0]
        );
        Ok(tvec![n, patches + 1, width])
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let per_image = self.positions.len();
        let images = floats(&inputs[0])?.chunks_exact(per_image);
        for (image, out) in
            images.zip(output.chunks_exact_mut(per_image + self.class_embedding.len()))
        {
            let (class, rest) = out.split_at_mut(self.class_embedding.len());
            class.copy_from_slice(&self.class_embedding);
            for ((out, patch), position) in rest.iter_mut().zip(image).zip(&self.positions) {
                *out = patch + position;
            }
        }
        Ok(())
    }

    fn kernel(&self) -> String {
        "f32 scalar".into()
    }
}
