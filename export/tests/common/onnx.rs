//! Parts of ONNX graphs.

use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{TensorShapeProto, TypeProto, ValueInfoProto, type_proto};

/// A size of a declared shape.
#[derive(Clone, Copy)]
pub enum Size {
    Is(i64),
    Named(&'static str),
    Open,
}

/// An input, output or other value of a graph, with its ONNX type.
pub fn value(name: &str, data_type: i32, sizes: &[Size]) -> ValueInfoProto {
    let dim = sizes.iter().map(|size| Dimension {
        value: match size {
            Size::Is(v) => Some(Value::DimValue(*v)),
            Size::Named(name) => Some(Value::DimParam((*name).into())),
            Size::Open => None,
        },
        ..Default::default()
    });
    let shape = TensorShapeProto { dim: dim.collect() };
    let tensor = type_proto::Tensor {
        elem_type: data_type,
        shape: Some(shape),
    };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}
