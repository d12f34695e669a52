//! Reading and making single nodes.

use pinhole_bundle::dialect;
use tract_onnx::pb::{
    AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType, tensor_proto::DataType,
};

use super::{By, Params};
use crate::network::{check, initializer};

/// A node of ours that makes what `node` made.
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

/// The axis attribute as an index below `rank`.
pub(super) fn axis(node: &NodeProto, default: i64, rank: usize) -> Option<usize> {
    let axis = integer(node, "axis", default);
    let axis = if axis < 0 {
        axis.checked_add(rank as i64)?
    } else {
        axis
    };
    usize::try_from(axis).ok().filter(|&a| a < rank)
}

/// The constants in a node of ours.
pub(super) fn static_params(node: &NodeProto) -> Option<By> {
    let scale = node.attribute.iter().find(|a| a.name == "x_scale");
    Some(match scale {
        Some(scale) => By::Static(Params {
            scale: scale.f,
            zero_point: integer(node, "x_zero_point", 0),
        }),
        None => By::Dynamic,
    })
}

pub(super) fn by_attributes(by: &By) -> Vec<AttributeProto> {
    match by {
        By::Static(Params { scale, zero_point }) => vec![
            float_attribute("x_scale", *scale),
            integer_attribute("x_zero_point", *zero_point),
        ],
        By::Dynamic => vec![],
    }
}

pub(super) fn integer(node: &NodeProto, name: &str, default: i64) -> i64 {
    let mut all = node.attribute.iter();
    all.find(|a| a.name == name).map_or(default, |a| a.i)
}

pub(super) fn integers_of<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    let mut all = node.attribute.iter();
    all.find(|a| a.name == name).map_or(&[], |a| &a.ints)
}

pub(super) fn number_of(node: &NodeProto, name: &str, default: f32) -> f32 {
    let mut all = node.attribute.iter();
    all.find(|a| a.name == name).map_or(default, |a| a.f)
}

pub(in crate::network) fn text(node: &NodeProto, name: &str) -> String {
    let mut all = node.attribute.iter();
    let found = all.find(|a| a.name == name);
    found.map_or(String::new(), |a| {
        String::from_utf8_lossy(&a.s).into_owned()
    })
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: kind as i32,
        ..Default::default()
    }
}

pub(super) fn integer_attribute(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        i,
        ..attribute(name, AttributeType::Int)
    }
}

pub(super) fn float_attribute(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        f,
        ..attribute(name, AttributeType::Float)
    }
}

pub(super) fn string_attribute(name: &str, s: &str) -> AttributeProto {
    AttributeProto {
        s: s.into(),
        ..attribute(name, AttributeType::String)
    }
}

pub(super) fn tensor_attribute(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto {
        t: Some(t),
        ..attribute(name, AttributeType::Tensor)
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

/// The tensor of a node with its values as bytes; None where they are of an unusual type, not as many as its
/// dimensions say, or in another file.
pub(super) fn raw(tensor: &TensorProto) -> Option<TensorProto> {
    if initializer::is_external(tensor) {
        return None;
    }
    let width = check::width(tensor.data_type)?;
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
