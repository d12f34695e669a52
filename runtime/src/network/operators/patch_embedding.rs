//! Patch embeddings.

use pinhole_bundle::dialect::{Op, Storage};
use pinhole_kernels::{self as kernels, PackedLinear, PackedLinearF16, PackedLinearInt8};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::operator::{Built, Compute, build_named};
use super::parameters::{positive_float, positive_integer};
use super::weights::{FloatWeights, Packed, pack_int8};

#[derive(Debug)]
struct PatchEmbedding {
    weights: PatchWeights,
    /// Side of a patch in pixels.
    patch: usize,
}

#[derive(Debug)]
enum PatchWeights {
    /// Include the scale of the pixels.
    F32(PackedLinear),
    /// With the scale of the pixels.
    F16(PackedLinearF16, f32),
    /// Include the scale of the pixels.
    Int8(PackedLinearInt8),
}

impl PatchWeights {
    fn packed(&self) -> &dyn Packed {
        match self {
            Self::F32(weights) => weights,
            Self::F16(weights, _) => weights,
            Self::Int8(weights) => weights,
        }
    }
}

pub(super) fn patch_embedding<const F16: bool>(
    context: &ParsingContext,
    node: &NodeProto,
    storage: Storage,
) -> Built {
    let op = Op::PatchEmbedding(storage);
    let mut name = op.name();
    let weights = match storage {
        Storage::Float => {
            let scale = positive_float(node, "scale")?;
            let weights = FloatWeights::pack::<F16>(context, node, scale)?;
            name = weights.operator_name(op);
            match weights {
                FloatWeights::F32(weights) => PatchWeights::F32(weights),
                FloatWeights::F16(weights) => PatchWeights::F16(weights, scale),
            }
        }
        Storage::Int8 => PatchWeights::Int8(pack_int8(context, node)?),
    };
    let patch = positive_integer(node, "patch")?;
    let (expected, inputs) = (patch * patch * 3, weights.packed().inputs());
    ensure!(
        inputs == expected,
        "weight: expected {expected} rows for patch {patch}, found {inputs}"
    );
    build_named(op, name, PatchEmbedding { weights, patch })
}

impl Compute for PatchEmbedding {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[n, height, width, 3] = inputs[0] else {
            bail!("pixels: expected [N, S, S, 3], found {:?}", inputs[0]);
        };
        let p = self.patch;
        ensure!(
            height % p == 0 && width % p == 0,
            "pixels: expected sides divisible by {p}, found {height} x {width}"
        );
        let outputs = self.weights.packed().outputs();
        Ok(tvec![n, (height / p) * (width / p), outputs])
    }

    fn run(&self, inputs: &[TValue], output: &mut [f32]) -> TractResult<()> {
        let &[_, height, width, _] = inputs[0].shape() else {
            bail!("pixels: expected 4 dimensions")
        };
        let (h, w, p) = (height, width, self.patch);
        let pixels = inputs[0].try_as_plain_ram()?.as_slice::<u8>()?;
        let images = pixels.chunks_exact(h * w * 3);
        let per_image = output.len() / images.len().max(1);
        for (image, out) in images.zip(output.chunks_exact_mut(per_image.max(1))) {
            match &self.weights {
                PatchWeights::F32(weights) => {
                    kernels::patch_embedding(image, h, w, p, weights, out)
                }
                PatchWeights::F16(weights, scale) => {
                    kernels::patch_embedding_f16(image, h, w, p, weights, *scale, out);
                }
                PatchWeights::Int8(weights) => {
                    kernels::patch_embedding_int8(image, h, w, p, weights, 1.0, out);
                }
            }
        }
        Ok(())
    }

    fn kernel(&self) -> String {
        self.weights.packed().kernel_name()
    }
}
