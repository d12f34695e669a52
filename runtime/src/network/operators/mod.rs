//! Our operators in tract's plan: one for each function of the dialect.

mod affine;
mod attention;
mod constant_tokens;
mod convolution;
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

use std::sync::LazyLock;

pub use convolution::nonlinearity;
use operator::{Built, build};
use pinhole_bundle::dialect::{AttentionInput, Op, Storage};
use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

/// The functions of the dialect; tract keeps references.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| Op::all().map(Op::name).collect());

/// Registers our operators with tract. If `f16`, weights that are stored in f16 are multiplied in f16; otherwise
/// they are converted to f32.
pub(super) fn register(onnx: &mut Onnx, f16: bool) {
    let register = &mut onnx.op_register;
    // tract takes plain functions, not closures.
    let build = if f16 {
        function::<true>
    } else {
        function::<false>
    };
    for name in NAMES.iter() {
        register.insert(name, build);
    }
}

/// The operator of a function of the dialect.
fn function<const F16: bool>(context: &ParsingContext, node: &NodeProto) -> Built {
    let op = Op::named(&node.op_type)
        .with_context(|| format!("expected a function of the dialect, found {}", node.op_type))?;
    match op {
        Op::PatchEmbedding(storage) => {
            patch_embedding::patch_embedding::<F16>(context, node, storage)
        }
        Op::TokenEmbedding => token_embedding::token_embedding(context, node),
        Op::ConstantTokens => constant_tokens::constant_tokens(context, node),
        Op::LayerNorm => norm::layer_norm(context, node),
        Op::Linear(layer) => match layer.storage {
            Storage::Float => linear::linear::<F16>(context, node, layer),
            Storage::Int8 => quantized_linear::quantized_linear(context, node, layer),
        },
        Op::Attention(AttentionInput::Columns, scores) => {
            attention::column_attention(context, node, scores)
        }
        Op::Attention(input, scores) => attention::attention(node, input, scores),
        Op::L2Normalize => build(op, norm::L2Normalize),
        Op::Activate(activation) => build(op, elementwise::Activate(activation)),
        Op::NormalizePixels(order) => elementwise::normalize_pixels(context, node, order),
        Op::Convolution(layer) => convolution::convolution(context, node, layer),
        Op::FakeQuantize(range) => elementwise::fake_quantize(context, node, range),
        Op::QuantizedTable => elementwise::lookup_table(context, node),
        Op::AffineLinear(range, activation) => affine::linear(context, node, range, activation),
        Op::AffineConvolution(range, order) => affine::convolution(context, node, range, order),
    }
}
