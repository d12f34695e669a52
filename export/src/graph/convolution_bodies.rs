//! The bodies of convolutions, channels last.

use pinhole_bundle::dialect::{Convolution, ConvolutionActivation, Element, Residual, Storage};
use pinhole_model::Activation;
use tract_onnx::pb::{NodeProto, tensor_proto::DataType};

use super::body::{
    cast, constant, gelu, gelu_tanh, node, quick_gelu, to_float, transposed, window,
};
use super::proto::{float, int, ints};

const TO_CHANNELS_FIRST: [i64; 4] = [0, 3, 1, 2];
const TO_CHANNELS_LAST: [i64; 4] = [0, 2, 3, 1];

pub(super) fn convolution(convolution: Convolution, version: i64) -> Vec<NodeProto> {
    let result = match convolution.y {
        Element::F32 => "y",
        Element::U8 => "result",
    };
    // The last of the three stages writes the result.
    let (sum, added) = match (convolution.residual, convolution.activation) {
        (Residual::None, None) => (result, result),
        (Residual::None, Some(_)) => ("sum", "sum"),
        (Residual::Add, None) => ("sum", result),
        (Residual::Add, Some(_)) => ("sum", "added"),
    };
    let mut body = vec![to_float("weight", "weight_f32")];
    match convolution.x {
        Element::F32 => body.push(transposed("x", "image", &TO_CHANNELS_FIRST)),
        Element::U8 => {
            // In floating point for the same reason as [`quantized`].
            body.extend([
                to_float("x", "x_bytes"),
                to_float("x_zero_point", "x_zero"),
                node("Sub", &["x_bytes", "x_zero"], "counts", vec![]),
            ]);
            body.push(transposed("counts", "centred", &TO_CHANNELS_FIRST));
        }
    }
    match convolution.storage {
        Storage::Float => {
            let inputs = ["image", "weight_f32", "bias"];
            body.push(node("Conv", &inputs, "output", window()));
            body.push(transposed("output", sum, &TO_CHANNELS_LAST));
        }
        Storage::Int8 => {
            if convolution.x == Element::F32 {
                body.extend(quantized(version));
            }
            body.extend([
                node("Conv", &["centred", "weight_f32"], "output", window()),
                transposed("output", "moved", &TO_CHANNELS_LAST),
                node("Mul", &["x_scale", "scale"], "scales", vec![]),
                node("Mul", &["moved", "scales"], "product", vec![]),
                node("Add", &["product", "bias"], sum, vec![]),
            ]);
        }
    }
    if convolution.residual == Residual::Add {
        body.push(node("Add", &["sum", "residual"], added, vec![]));
    }
    body.extend(match convolution.activation {
        None => vec![],
        Some(ConvolutionActivation::Mlp(Activation::QuickGelu)) => quick_gelu(added, result),
        Some(ConvolutionActivation::Mlp(Activation::Gelu)) => gelu(added, result),
        Some(ConvolutionActivation::Mlp(Activation::GeluTanh)) => gelu_tanh(added, result),
        Some(ConvolutionActivation::Relu) => vec![node("Relu", &[added], result, vec![])],
        Some(ConvolutionActivation::Silu) => vec![
            node("Sigmoid", &[added], "gate", vec![]),
            node("Mul", &[added, "gate"], result, vec![]),
        ],
        Some(ConvolutionActivation::HardSwish) => {
            vec![node("HardSwish", &[added], result, vec![])]
        }
    });
    if convolution.y == Element::U8 {
        body.extend([
            constant("y_most", float("value_float", 255.0)),
            to_float("y_zero_point", "y_zero"),
            node("Div", &["result", "y_scale"], "y_counted", vec![]),
            node("Add", &["y_counted", "y_zero"], "y_raised", vec![]),
            node("Round", &["y_raised"], "y_rounded", vec![]),
            node("Relu", &["y_rounded"], "y_positive", vec![]),
            node("Min", &["y_positive", "y_most"], "y_limited", vec![]),
            cast("y_limited", "y", DataType::Uint8),
        ]);
    }
    body
}

/// `image` in steps of `x_scale` [N, 1, 1, 1], less its zero point, as f32: `centred`. As DynamicQuantizeLinear, but with a
/// scale for each image; an image of zeros gets the scale 1. In floating point, because QuantizeLinear next to a product is
/// an invitation to fuse both in 16-bit sums, which saturate. No constant is 0: prost omits default values, and onnx's
/// checker then reports a missing one.
fn quantized(version: i64) -> Vec<NodeProto> {
    let mut body = vec![constant("steps", float("value_float", 255.0))];
    if version >= 18 {
        body.push(constant("sides", ints("value_ints", &[1, 2, 3])));
    }
    let reduced = |op: &str, output: &str| {
        let keep = int("keepdims", 1);
        if version < 18 {
            return node(op, &["image"], output, vec![ints("axes", &[1, 2, 3]), keep]);
        }
        node(op, &["image", "sides"], output, vec![keep])
    };
    body.extend([
        reduced("ReduceMax", "largest"),
        reduced("ReduceMin", "smallest"),
        node("Relu", &["largest"], "above", vec![]),
        node("Neg", &["smallest"], "negated", vec![]),
        node("Relu", &["negated"], "below", vec![]),
        node("Add", &["above", "below"], "range", vec![]),
        cast("range", "any", DataType::Bool),
        node("Where", &["any", "range", "steps"], "whole_range", vec![]),
        node("Div", &["whole_range", "steps"], "x_scale", vec![]),
        node("Div", &["below", "x_scale"], "zero", vec![]),
        node("Round", &["zero"], "x_zero", vec![]),
        node("Div", &["image", "x_scale"], "counted", vec![]),
        node("Round", &["counted"], "rounded", vec![]),
        node("Add", &["rounded", "x_zero"], "raised", vec![]),
        node("Relu", &["raised"], "positive", vec![]),
        node("Min", &["positive", "steps"], "limited", vec![]),
        node("Sub", &["limited", "x_zero"], "centred", vec![]),
    ]);
    body
}
