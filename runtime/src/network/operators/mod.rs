//! Our operators in tract's plan: one for each function of the dialect, and those that [`foreign`](super::foreign)
//! inserts.

mod affine;
mod attention;
mod elementwise;
mod linear;
mod norm;
pub(super) mod operator;
mod output_pool;
mod parameters;
mod patch_embedding;
mod quantized_linear;
mod token_embedding;
pub(super) mod weights;

use pinhole_bundle::dialect;
use tract_onnx::model::Onnx;

use super::inserted;

/// Registers our operators with tract. If `f16`, weights that are stored in f16 are multiplied in f16; otherwise
/// they are converted to f32.
pub(super) fn register(onnx: &mut Onnx, f16: bool) {
    let register = &mut onnx.op_register;
    // tract takes plain functions, not closures.
    if f16 {
        register.insert(
            dialect::PATCH_EMBEDDING.name,
            patch_embedding::patch_embedding::<true>,
        );
    } else {
        register.insert(
            dialect::PATCH_EMBEDDING.name,
            patch_embedding::patch_embedding::<false>,
        );
    }
    for entry in &linear::FUNCTIONS {
        if f16 {
            register.insert(entry.function.name, linear::linear::<true>);
        } else {
            register.insert(entry.function.name, linear::linear::<false>);
        }
    }
    register.insert(
        dialect::QUANTIZED_PATCH_EMBEDDING.name,
        patch_embedding::quantized_patch_embedding,
    );
    for entry in &quantized_linear::FUNCTIONS {
        register.insert(entry.function.name, quantized_linear::quantized_linear);
    }
    register.insert(
        dialect::TOKEN_EMBEDDING.name,
        token_embedding::token_embedding,
    );
    register.insert(dialect::LAYER_NORM.name, norm::layer_norm);
    register.insert(dialect::L2_NORMALIZE.name, norm::l2_normalize);
    register.insert(dialect::ATTENTION.name, attention::attention);
    register.insert(dialect::SELF_ATTENTION.name, attention::self_attention);

    register.insert(inserted::AFFINE_LINEAR, affine::linear);
    register.insert(inserted::AFFINE_PATCHES, affine::patches);
    register.insert(inserted::FAKE_QUANTIZE, elementwise::fake_quantize);
    register.insert(inserted::LOOKUP_TABLE, elementwise::lookup_table);
    register.insert(inserted::QUICK_GELU, elementwise::quick_gelu);
    register.insert(inserted::GELU, elementwise::gelu);
    register.insert(inserted::NORMALIZE_PIXELS, elementwise::normalize_pixels);
}
