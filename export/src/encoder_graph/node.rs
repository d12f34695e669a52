//! Reading and making single nodes.

use pinhole::internal::{attributes, convolution_window};
use pinhole_bundle::dialect::{self, Op, Range};
use pinhole_kernels::Window;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto, tensor_proto::DataType};

use crate::graph::proto::{int, ints, node};

/// The function `op` with the output of `node`; its parameters are among `attribute`.
pub(super) fn replacement(
    node: &NodeProto,
    op: Op,
    input: Vec<String>,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        input,
        output: node.output.clone(),
        name: node.name.clone(),
        op_type: op.name(),
        domain: dialect::DOMAIN.into(),
        attribute,
        doc_string: String::new(),
    }
}

/// The function `op`, called after its output; its parameters are among `attribute`.
pub(super) fn new_node(
    op: Op,
    input: &[&str],
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    node(dialect::DOMAIN, &op.name(), input, output, attribute)
}

/// The attribute `axis` as an index below `rank`.
pub(super) fn axis(node: &NodeProto, default: i64, rank: usize) -> Option<usize> {
    let axis = attributes::integer(node, "axis", default);
    let axis = if axis < 0 {
        axis.checked_add(rank as i64)?
    } else {
        axis
    };
    usize::try_from(axis).ok().filter(|&a| a < rank)
}

/// The window and the groups of a convolution or a pool with this kernel; `None` for what the dialect's convolutions do not
/// have.
pub(super) fn window_of(node: &NodeProto, kernel: [i64; 2]) -> Option<(Window, i64)> {
    let kernel = kernel.map(|side| usize::try_from(side).unwrap_or(0));
    let window = convolution_window(node, kernel).ok()?;
    Some((window, attributes::integer(node, "group", 1)))
}

/// The attributes of a convolution of the dialect.
pub(super) fn window_attributes(window: &Window, group: i64) -> Vec<AttributeProto> {
    let list = |name: &str, values: &[usize]| {
        let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
        ints(name, &values)
    };
    vec![
        list("strides", &window.stride),
        list("pads", &window.padding),
        list("dilations", &window.dilation),
        int("group", group),
    ]
}

/// How a product's operand x is quantised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum InputQuantization {
    Static(AffineParams),
    /// At run time, as by DynamicQuantizeLinear.
    Dynamic,
}

/// A scale and a zero point for s8; the zero point of u8 values is reduced by 128.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AffineParams {
    pub(super) scale: f32,
    pub(super) zero_point: i8,
}

impl InputQuantization {
    pub(super) fn range(self) -> Range {
        match self {
            Self::Static(_) => Range::Static,
            Self::Dynamic => Range::Dynamic,
        }
    }

    /// As parameters of a function.
    pub(super) fn parameters(self) -> Vec<AttributeProto> {
        match self {
            Self::Static(AffineParams { scale, zero_point }) => vec![
                attributes::of_tensor("x_scale", float_tensor("", &[], &[scale])),
                attributes::of_tensor("x_zero_point", int8_tensor("", &[], &[zero_point])),
            ],
            Self::Dynamic => vec![],
        }
    }

    /// How x of a node with [`InputQuantization::parameters`] is quantised.
    pub(super) fn of(node: &NodeProto) -> Self {
        let bytes = |name: &str| {
            let tensor = attributes::find(node, name)?.t.as_ref()?;
            Some(&*tensor.raw_data)
        };
        match (bytes("x_scale"), bytes("x_zero_point")) {
            (Some(&[a, b, c, d]), Some(&[zero_point])) => Self::Static(AffineParams {
                scale: f32::from_le_bytes([a, b, c, d]),
                zero_point: zero_point.cast_signed(),
            }),
            _ => Self::Dynamic,
        }
    }
}

/// The inputs of a node with two inputs, in both orders.
pub(super) fn both_orders(node: &NodeProto) -> Vec<(&str, &str)> {
    match &node.input[..] {
        [a, b] => vec![(a, b), (b, a)],
        _ => vec![],
    }
}

pub(super) fn float_tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor(name, DataType::Float, dims, bytes)
}

pub(super) fn int64_tensor(name: &str, values: &[i64]) -> TensorProto {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor(name, DataType::Int64, &[values.len() as i64], bytes)
}

pub(super) fn int8_tensor(name: &str, dims: &[i64], values: &[i8]) -> TensorProto {
    let bytes = values.iter().map(|v| v.cast_unsigned()).collect();
    tensor(name, DataType::Int8, dims, bytes)
}

pub(super) fn uint8_tensor(name: &str, dims: &[i64], values: &[u8]) -> TensorProto {
    tensor(name, DataType::Uint8, dims, values.to_vec())
}

fn tensor(name: &str, data_type: DataType, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: data_type as i32,
        dims: dims.to_vec(),
        raw_data,
        ..Default::default()
    }
}
