//! Reading and making single nodes.

use pinhole_bundle::dialect::{self, Linear, Op, Storage};
use pinhole_model::Activation;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto, tensor_proto::DataType};

use crate::network::{attributes, initializer};

/// A node of our domain with the output of `node`.
pub(super) fn replacement(
    node: &NodeProto,
    op: &str,
    input: Vec<String>,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        input,
        output: node.output.clone(),
        name: node.name.clone(),
        op_type: op.into(),
        domain: dialect::DOMAIN.into(),
        attribute,
        doc_string: String::new(),
    }
}

/// The op_type of a float linear layer with `activation`.
pub(super) fn linear(activation: Option<Activation>) -> String {
    let layer = Linear {
        activation,
        ..Linear::plain(Storage::Float)
    };
    Op::Linear(layer).name()
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

/// How a product's operand x is quantised.
pub(super) enum InputQuantization {
    Static(AffineParams),
    /// At run time, as by DynamicQuantizeLinear.
    Dynamic,
}

/// A scale and a zero point for s8; the zero point of u8 values is reduced by 128.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AffineParams {
    pub(super) scale: f32,
    pub(super) zero_point: i64,
}

/// How x of an inserted node is quantised.
pub(super) fn input_quantization(node: &NodeProto) -> InputQuantization {
    match attributes::find(node, "x_scale") {
        Some(scale) => InputQuantization::Static(AffineParams {
            scale: scale.f,
            zero_point: attributes::integer(node, "x_zero_point", 0),
        }),
        None => InputQuantization::Dynamic,
    }
}

pub(super) fn quantization_attributes(quantization: &InputQuantization) -> Vec<AttributeProto> {
    match quantization {
        InputQuantization::Static(AffineParams { scale, zero_point }) => vec![
            attributes::of_float("x_scale", *scale),
            attributes::of_integer("x_zero_point", *zero_point),
        ],
        InputQuantization::Dynamic => vec![],
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
    TensorProto {
        name: name.into(),
        data_type: DataType::Float as i32,
        dims: dims.to_vec(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Default::default()
    }
}

/// `tensor`, with its values as raw bytes and without a name. `None` if the type is unusual, the number of values does
/// not match the dimensions, or the values are in another file.
pub(in crate::network) fn raw(tensor: &TensorProto) -> Option<TensorProto> {
    if initializer::is_external(tensor) {
        return None;
    }
    let width = initializer::bytes_per_value(tensor.data_type)?;
    let bytes = (tensor.dims.iter()).try_fold(width, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
    let mut raw_data = tensor.raw_data.clone();
    if raw_data.is_empty() {
        raw_data = match DataType::try_from(tensor.data_type) {
            Ok(DataType::Float) => (tensor.float_data.iter())
                .flat_map(|v| v.to_le_bytes())
                .collect(),
            Ok(DataType::Int64) => (tensor.int64_data.iter())
                .flat_map(|v| v.to_le_bytes())
                .collect(),
            Ok(DataType::Int32) => (tensor.int32_data.iter())
                .flat_map(|v| v.to_le_bytes())
                .collect(),
            Ok(DataType::Int8 | DataType::Uint8 | DataType::Bool) => {
                tensor.int32_data.iter().map(|v| *v as u8).collect()
            }
            _ => return None,
        };
    }
    (!raw_data.is_empty() && bytes == Some(raw_data.len() as u64)).then(|| TensorProto {
        dims: tensor.dims.clone(),
        data_type: tensor.data_type,
        raw_data,
        ..Default::default()
    })
}
