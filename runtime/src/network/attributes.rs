//! Reading and making attributes of ONNX nodes.

use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType};

/// The attribute `name`.
pub fn find<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

/// An integer, or `default` if the attribute is missing.
pub fn integer(node: &NodeProto, name: &str, default: i64) -> i64 {
    find(node, name).map_or(default, |a| a.i)
}

/// A list of integers, empty if the attribute is missing.
pub fn integers<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    find(node, name).map_or(&[], |a| &a.ints)
}

/// A float, or `default` if the attribute is missing.
pub fn float(node: &NodeProto, name: &str, default: f32) -> f32 {
    find(node, name).map_or(default, |a| a.f)
}

/// A text, empty if the attribute is missing.
pub fn text(node: &NodeProto, name: &str) -> String {
    find(node, name).map_or(String::new(), |a| {
        String::from_utf8_lossy(&a.s).into_owned()
    })
}

/// A tensor as an attribute.
pub fn of_tensor(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto {
        t: Some(t),
        ..of_type(name, AttributeType::Tensor)
    }
}

#[cfg(test)]
pub(super) fn of_integer(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        i,
        ..of_type(name, AttributeType::Int)
    }
}

/// A list of integers as an attribute.
pub(super) fn of_integers(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: ints.to_vec(),
        ..of_type(name, AttributeType::Ints)
    }
}

#[cfg(test)]
pub(super) fn of_text(name: &str, s: &str) -> AttributeProto {
    AttributeProto {
        s: s.into(),
        ..of_type(name, AttributeType::String)
    }
}

fn of_type(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: kind as i32,
        ..Default::default()
    }
}
