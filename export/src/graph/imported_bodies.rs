//! The bodies of the functions that imported encoders need besides those of checkpoints.

use pinhole_bundle::dialect::{ChannelOrder, Range};
use pinhole_model::Activation;
use tract_onnx::pb::{NodeProto, tensor_proto::DataType};

use super::body::{
    cast, constant, gelu, gelu_tanh, node, quick_gelu, to_float, transposed, window,
};
use super::proto::{float, ints};

/// QuantizeLinear followed by DequantizeLinear.
pub(super) fn fake_quantize(range: Range) -> Vec<NodeProto> {
    let mut body = quantized(range);
    body.push(node("Mul", &["centred", scale_of(range)], "y", vec![]));
    body
}

pub(super) fn normalize_pixels(order: ChannelOrder) -> Vec<NodeProto> {
    let last = match order {
        ChannelOrder::First => "moved",
        ChannelOrder::Last => "y",
    };
    let mut body = vec![
        to_float("pixels", "float"),
        node("Mul", &["float", "scale"], "scaled", vec![]),
        node("Add", &["scaled", "offset"], last, vec![]),
    ];
    if order == ChannelOrder::First {
        body.push(transposed("moved", "y", &[0, 3, 1, 2]));
    }
    body
}

/// The value that holds the scale of x.
fn scale_of(range: Range) -> &'static str {
    match range {
        Range::Static => "x_scale",
        Range::Dynamic => "dynamic_scale",
    }
}

/// `x` quantised, less its zero point, as f32: `centred`. In floating point, because QuantizeLinear next to a product is
/// an invitation to fuse both in 16-bit sums, which saturate.
fn quantized(range: Range) -> Vec<NodeProto> {
    match range {
        Range::Static => {
            let mut body = saturated();
            body.push(node("Sub", &["limited", "x_zero"], "centred", vec![]));
            body
        }
        Range::Dynamic => {
            let mut quantize = node("DynamicQuantizeLinear", &["x"], "integers", vec![]);
            let more = ["dynamic_scale", "dynamic_zero_point"];
            quantize.output.extend(more.map(String::from));
            vec![
                quantize,
                to_float("integers", "counted"),
                to_float("dynamic_zero_point", "x_zero"),
                node("Sub", &["counted", "x_zero"], "centred", vec![]),
            ]
        }
    }
}

/// `x` in steps of `x_scale` from `x_zero_point`, saturated to s8: `limited`.
fn saturated() -> Vec<NodeProto> {
    vec![
        constant("least", float("value_float", -128.0)),
        constant("most", float("value_float", 127.0)),
        to_float("x_zero_point", "x_zero"),
        node("Div", &["x", "x_scale"], "counted", vec![]),
        node("Round", &["counted"], "rounded", vec![]),
        node("Add", &["rounded", "x_zero"], "moved", vec![]),
        node("Clip", &["moved", "least", "most"], "limited", vec![]),
    ]
}

pub(super) fn quantized_table() -> Vec<NodeProto> {
    let mut body = saturated();
    body.extend([
        constant("first", float("value_float", 128.0)),
        node("Add", &["limited", "first"], "position", vec![]),
        cast("position", "index", DataType::Int64),
        node("Gather", &["values", "index"], "y", vec![]),
    ]);
    body
}

pub(super) fn affine_linear(range: Range, activation: Option<Activation>) -> Vec<NodeProto> {
    let mut body = quantized(range);
    let output = activation.map_or("y", |_| "linear");
    body.extend([
        to_float("weight", "counted_weight"),
        to_float("zero_point", "weight_zero"),
        node(
            "Sub",
            &["counted_weight", "weight_zero"],
            "centred_weight",
            vec![],
        ),
        node("MatMul", &["centred", "centred_weight"], "sum", vec![]),
        node("Mul", &["sum", scale_of(range)], "by_x", vec![]),
        node("Mul", &["by_x", "scale"], "product", vec![]),
        node("Add", &["product", "bias"], output, vec![]),
    ]);
    body.extend(match activation {
        None => vec![],
        Some(Activation::QuickGelu) => quick_gelu("linear", "y"),
        Some(Activation::Gelu) => gelu("linear", "y"),
        Some(Activation::GeluTanh) => gelu_tanh("linear", "y"),
    });
    body
}

pub(super) fn affine_convolution(range: Range, order: ChannelOrder) -> Vec<NodeProto> {
    let mut body = quantized(range);
    body.extend([
        constant("per_filter", ints("value_ints", &[-1, 1, 1, 1])),
        to_float("weight", "counted_weight"),
        to_float("zero_point", "weight_zero"),
        node(
            "Reshape",
            &["weight_zero", "per_filter"],
            "filter_zero",
            vec![],
        ),
        node(
            "Sub",
            &["counted_weight", "filter_zero"],
            "centred_weight",
            vec![],
        ),
    ]);
    if order == ChannelOrder::Last {
        let inputs = ["image", "centred_weight"];
        body.extend([
            transposed("centred", "image", &[0, 3, 1, 2]),
            node("Conv", &inputs, "sum_first", window()),
            transposed("sum_first", "sum", &[0, 2, 3, 1]),
            node("Mul", &["sum", scale_of(range)], "by_x", vec![]),
            node("Mul", &["by_x", "scale"], "product", vec![]),
            node("Add", &["product", "bias"], "y", vec![]),
        ]);
        return body;
    }
    body.extend([
        constant("per_channel", ints("value_ints", &[-1, 1, 1])),
        node("Conv", &["centred", "centred_weight"], "sum", window()),
        node("Mul", &["sum", scale_of(range)], "by_x", vec![]),
        node(
            "Reshape",
            &["scale", "per_channel"],
            "channel_scale",
            vec![],
        ),
        node("Mul", &["by_x", "channel_scale"], "product", vec![]),
        node("Reshape", &["bias", "per_channel"], "channel_bias", vec![]),
        node("Add", &["product", "channel_bias"], "y", vec![]),
    ]);
    body
}
