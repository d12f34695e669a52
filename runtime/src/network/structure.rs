//! Bounds the memory of a decoded ONNX file before it is decoded.
//!
//! A repeated message of two bytes decodes to a struct of hundreds, so that a file of a few megabytes can ask for
//! gigabytes. This walks the file without decoding it, and adds up the structs.

use tract_onnx::pb;

/// Bytes that the structs may take, beside the weights. An encoder with 5,000 nodes takes a third.
const LIMIT: usize = 64 << 20;
/// Messages inside messages; a graph without control flow has seven.
const MAX_DEPTH: usize = 16;

/// The messages that contain others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Function,
    /// A text, bytes, packed numbers, or a message of those.
    Leaf,
}

impl Message {
    /// The message in `field`, and the size of its struct.
    fn field(self, field: u64) -> (Message, usize) {
        use Message::*;
        // A text, with its allocation.
        let text = (Leaf, 2 * size_of::<String>());
        match (self, field) {
            (Model, 7) | (Attribute, 6 | 11) => (Graph, size_of::<pb::GraphProto>()),
            (Model, 25) => (Function, size_of::<pb::FunctionProto>()),
            (Graph, 1) | (Function, 7) => (Node, size_of::<pb::NodeProto>()),
            (Node, 5) | (Function, 11) => (Attribute, size_of::<pb::AttributeProto>()),
            (Graph, 5) | (Attribute, 5 | 10) => (Tensor, size_of::<pb::TensorProto>()),
            (Graph, 11..=13) => (ValueInfo, size_of::<pb::ValueInfoProto>()),
            (ValueInfo, 2) | (Attribute, 14 | 15) => (Type, size_of::<pb::TypeProto>()),
            (Type, 1) => (TensorType, size_of::<pb::type_proto::Tensor>()),
            (TensorType, 2) => (Shape, size_of::<pb::TensorShapeProto>()),
            // The largest of the others: a sparse tensor, metadata, an operator set.
            (Graph, 14 | 15) | (Attribute, 22 | 23) => (Leaf, 2 * size_of::<pb::TensorProto>()),
            (Model, 8 | 14 | 20) | (Tensor, 13) | (Shape, 1) | (Function, 9) => {
                (Leaf, size_of::<pb::ValueInfoProto>())
            }
            _ => text,
        }
    }
}

/// Checks that the structs of `bytes`, an ONNX file, take at most 64 MiB.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut left = LIMIT;
    // Messages that are still to be walked.
    let mut todo = vec![(Message::Model, bytes, 0)];
    while let Some((message, mut bytes, depth)) = todo.pop() {
        if depth > MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH} messages"));
        }
        while !bytes.is_empty() {
            let Some((field, content)) = next(&mut bytes) else {
                return Err("expected an ONNX file, found a damaged protobuf field".into());
            };
            let Some(content) = content else {
                continue;
            };
            let (inner, size) = message.field(field);
            // A list that grows holds up to twice as many.
            let Some(rest) = left.checked_sub(2 * size) else {
                return Err(format!(
                    "its nodes, attributes and names take more than {} MiB; expected the graph of an image encoder",
                    LIMIT >> 20
                ));
            };
            left = rest;
            if inner != Message::Leaf {
                todo.push((inner, content, depth + 1));
            }
        }
    }
    Ok(())
}

/// Takes a field off `bytes`: its number, and its content if that is length-delimited. `None` if it is damaged.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let key = varint(bytes)?;
    let length = match key & 7 {
        0 => {
            varint(bytes)?;
            return Some((key >> 3, None));
        }
        1 => 8,
        2 => varint(bytes)?,
        5 => 4,
        _ => return None,
    };
    let (content, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some((key >> 3, (key & 7 == 2).then_some(content)))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn a_file_of_empty_messages_is_refused_before_it_is_decoded() {
        // 700,000 nodes of two bytes each would take 200 MB.
        let nodes = [0x0a, 0].repeat(700_000);
        let mut file = vec![0x3a];
        prost::encoding::encode_varint(nodes.len() as u64, &mut file);
        file.extend(nodes);
        let error = check(&file).unwrap_err();
        assert!(error.contains("more than 64 MiB"), "{error}");
        // Names of no bytes.
        let node = pb::NodeProto {
            input: vec![String::new(); 900_000],
            ..Default::default()
        };
        let graph = pb::GraphProto {
            node: vec![node],
            ..Default::default()
        };
        let mut model = pb::ModelProto {
            graph: Some(graph),
            ..Default::default()
        };
        assert!(check(&model.encode_to_vec()).is_err());
        model.graph.as_mut().unwrap().node[0].input.truncate(1000);
        assert_eq!(check(&model.encode_to_vec()), Ok(()));
        // A weight is no structure, whatever its bytes are.
        let tensor = pb::TensorProto {
            raw_data: [0x0a, 0].repeat(700_000),
            ..Default::default()
        };
        model.graph.as_mut().unwrap().initializer = vec![tensor];
        assert_eq!(check(&model.encode_to_vec()), Ok(()));
        assert!(check(&[0x3a, 200]).is_err());
    }
}
