//! Reading and making attributes of ONNX nodes.

use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType};

pub(super) fn find<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

pub(super) fn integer(node: &NodeProto, name: &str, default: i64) -> i64 {
    find(node, name).map_or(default, |a| a.i)
}

pub(super) fn integers<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    find(node, name).map_or(&[], |a| &a.ints)
}

pub(super) fn float(node: &NodeProto, name: &str, default: f32) -> f32 {
    find(node, name).map_or(default, |a| a.f)
}

/// Empty if the attribute is missing.
pub(super) fn text(node: &NodeProto, name: &str) -> String {
    find(node, name).map_or(String::new(), |a| {
        String::from_utf8_lossy(&a.s).into_owned()
    })
}

pub(super) fn of_integer(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        i,
        ..of_type(name, AttributeType::Int)
    }
}

pub(super) fn of_float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        f,
        ..of_type(name, AttributeType::Float)
    }
}

pub(super) fn of_text(name: &str, s: &str) -> AttributeProto {
    AttributeProto {
        s: s.into(),
        ..of_type(name, AttributeType::String)
    }
}

pub(super) fn of_tensor(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto {
        t: Some(t),
        ..of_type(name, AttributeType::Tensor)
    }
}

fn of_type(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: kind as i32,
        ..Default::default()
    }
}
