//! Short constructors of ONNX's protobuf messages.

use tract_onnx::pb::{
    AttributeProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType, tensor_shape_proto,
    type_proto,
};

pub(crate) fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto {
        domain: domain.into(),
        version,
    }
}

/// A value with the symbolic batch before `dims`.
pub(crate) fn value(name: &str, data_type: DataType, dims: &[i64]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dimension = |value| Dimension {
        denotation: String::new(),
        value: Some(value),
    };
    let mut dim = vec![dimension(Value::DimParam("N".into()))];
    dim.extend(dims.iter().map(|&d| dimension(Value::DimValue(d))));
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            denotation: String::new(),
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: data_type as i32,
                shape: Some(TensorShapeProto { dim }),
            })),
        }),
        doc_string: String::new(),
    }
}

pub(crate) fn node(
    domain: &str,
    op: &str,
    inputs: &[&str],
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        name: output.into(),
        op_type: op.into(),
        domain: domain.into(),
        attribute,
        doc_string: String::new(),
    }
}

pub(crate) fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: kind as i32,
        ..Default::default()
    }
}

pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        i,
        ..attribute(name, AttributeType::Int)
    }
}

pub(crate) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: ints.to_vec(),
        ..attribute(name, AttributeType::Ints)
    }
}

pub(crate) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        f,
        ..attribute(name, AttributeType::Float)
    }
}

#[cfg(test)]
pub(crate) fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto {
        s: s.into(),
        ..attribute(name, AttributeType::String)
    }
}

/// A tensor without data.
pub(crate) fn tensor(name: &str, data_type: DataType, shape: &[usize]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: data_type as i32,
        dims: shape.iter().map(|&d| d as i64).collect(),
        ..Default::default()
    }
}
