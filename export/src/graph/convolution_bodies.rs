//! The bodies of convolutions, channels last.

use pinhole_bundle::dialect::{Convolution, ConvolutionActivation, Residual};
use pinhole_model::Activation;
use tract_onnx::pb::NodeProto;

use super::body::{gelu, gelu_tanh, node, quick_gelu, to_float, transposed, window};

const TO_CHANNELS_FIRST: [i64; 4] = [0, 3, 1, 2];
const TO_CHANNELS_LAST: [i64; 4] = [0, 2, 3, 1];

pub(super) fn convolution(convolution: Convolution) -> Vec<NodeProto> {
    // The last of the three stages writes y.
    let (sum, added) = match (convolution.residual, convolution.activation) {
        (Residual::None, None) => ("y", "y"),
        (Residual::None, Some(_)) => ("sum", "sum"),
        (Residual::Add, None) => ("sum", "y"),
        (Residual::Add, Some(_)) => ("sum", "added"),
    };
    let mut body = vec![
        to_float("weight", "weight_f32"),
        transposed("x", "image", &TO_CHANNELS_FIRST),
        node("Conv", &["image", "weight_f32", "bias"], "output", window()),
        transposed("output", sum, &TO_CHANNELS_LAST),
    ];
    if convolution.residual == Residual::Add {
        body.push(node("Add", &["sum", "residual"], added, vec![]));
    }
    body.extend(match convolution.activation {
        None => vec![],
        Some(ConvolutionActivation::Mlp(Activation::QuickGelu)) => quick_gelu(added, "y"),
        Some(ConvolutionActivation::Mlp(Activation::Gelu)) => gelu(added, "y"),
        Some(ConvolutionActivation::Mlp(Activation::GeluTanh)) => gelu_tanh(added, "y"),
        Some(ConvolutionActivation::Relu) => vec![node("Relu", &[added], "y", vec![])],
        Some(ConvolutionActivation::Silu) => vec![
            node("Sigmoid", &[added], "gate", vec![]),
            node("Mul", &[added, "gate"], "y", vec![]),
        ],
        Some(ConvolutionActivation::HardSwish) => vec![node("HardSwish", &[added], "y", vec![])],
    });
    body
}
