//! The values of tensors: from wherever the file holds them to raw bytes, floats of every width as f32.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use tract_onnx::pb::{
    GraphProto, NodeProto, TensorProto, tensor_proto::DataLocation, tensor_proto::DataType,
};

use super::elements::ElementType;
use super::formats;
use crate::graph::proto::tensor;

/// The longest tensor.
const MAX_BYTES: u64 = 1 << 34;

/// Moves the values of every initialiser and every constant of `graph` into `raw_data`, and makes f32 of all other
/// floats, in what nodes produce too. `folder` holds the external data.
///
/// # Errors
/// A type that is not supported; values that are missing or of another length than the dimensions say; a file outside of
/// `folder`.
pub(super) fn load(graph: &mut GraphProto, folder: &Path) -> Result<()> {
    for tensor in &mut graph.initializer {
        let name = tensor.name.clone();
        normalise(tensor, folder).with_context(|| format!("initializer {name}"))?;
    }
    for node in &mut graph.node {
        let at = format!("node {} ({})", node.name, node.op_type);
        widen_types(node).context(at.clone())?;
        for attribute in &mut node.attribute {
            if let Some(tensor) = &mut attribute.t {
                let at = || format!("{at}: attribute {}", attribute.name);
                normalise(tensor, folder).with_context(at)?;
            }
        }
    }
    remove_empty(graph);
    Ok(())
}

/// Attributes that name the element type of a result or of a computation.
const TYPES: [&str; 4] = ["to", "dtype", "stash_type", "output_dtype"];

/// Makes f32 of the narrower and wider floats that `node` converts to.
fn widen_types(node: &mut NodeProto) -> Result<()> {
    for attribute in &mut node.attribute {
        if !TYPES.contains(&&*attribute.name) {
            continue;
        }
        let element = ElementType::of(i32::try_from(attribute.i).unwrap_or(0));
        // QuantizeLinear without output_dtype has the zero point's type.
        if element == ElementType::Unknown && attribute.name == "output_dtype" {
            continue;
        }
        if element.is_float() {
            attribute.i = DataType::Float as i64;
        } else if let Some(refusal) = formats::refusal(element) {
            bail!("attribute {}: {refusal}", attribute.name);
        }
    }
    Ok(())
}

/// PyTorch gives Resize and others tensors without values where an input is left out.
fn remove_empty(graph: &mut GraphProto) {
    let is_empty = |t: &TensorProto| t.dims.contains(&0);
    let mut empty: Vec<String> = (graph.initializer.iter())
        .filter(|t| is_empty(t))
        .map(|t| t.name.clone())
        .collect();
    let constants = graph.node.iter().filter(|n| n.op_type == "Constant");
    let constants = constants.filter(|n| {
        n.attribute
            .iter()
            .any(|a| a.t.as_ref().is_some_and(is_empty))
    });
    empty.extend(constants.flat_map(|n| n.output.iter().cloned()));
    if empty.is_empty() {
        return;
    }
    for node in graph.node.iter_mut().filter(|n| n.op_type == "Resize") {
        for input in node.input.iter_mut().skip(1) {
            if empty.contains(input) {
                input.clear();
            }
        }
    }
    let read = |name: &String| graph.node.iter().any(|n| n.input.contains(name));
    let unread: Vec<String> = empty.into_iter().filter(|name| !read(name)).collect();
    graph.initializer.retain(|t| !unread.contains(&t.name));
}

/// Moves the values of `t` into its `raw_data`, from an external file in `folder` or from the typed fields.
fn normalise(t: &mut TensorProto, folder: &Path) -> Result<()> {
    let element = ElementType::of(t.data_type);
    if let Some(refusal) = formats::refusal(element) {
        bail!("{refusal}");
    }
    let width = match element {
        ElementType::Int64 | ElementType::Float64 => 8,
        ElementType::Float32 | ElementType::Int32 => 4,
        ElementType::Float16 | ElementType::BFloat16 => 2,
        _ => 1,
    };
    let count = (t.dims.iter()).try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
    let bytes = count
        .and_then(|n| n.checked_mul(width))
        .filter(|&b| b <= MAX_BYTES);
    let bytes = bytes.with_context(|| format!("dims: expected sizes, found {:?}", t.dims))?;
    if t.data_location == Some(DataLocation::External as i32) {
        t.raw_data = external(t, folder, bytes)?;
    } else if t.raw_data.is_empty() {
        let int32 = || t.int32_data.iter();
        t.raw_data = match element {
            ElementType::Float32 => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ElementType::Float64 => t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ElementType::Int64 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ElementType::Int32 => int32().flat_map(|v| v.to_le_bytes()).collect(),
            ElementType::Float16 | ElementType::BFloat16 => {
                int32().flat_map(|v| (*v as u16).to_le_bytes()).collect()
            }
            _ => int32().map(|v| *v as u8).collect(),
        };
    }
    ensure!(
        t.raw_data.len() as u64 == bytes,
        "expected {bytes} bytes of data for {:?}, found {}",
        t.dims,
        t.raw_data.len()
    );
    let data = std::mem::take(&mut t.raw_data);
    let (data_type, raw_data) = match element {
        ElementType::Float16 => (
            DataType::Float,
            widened(&data, |b| f16::from_le_bytes(b).to_f32()),
        ),
        ElementType::BFloat16 => (
            DataType::Float,
            widened(&data, |b| bf16::from_le_bytes(b).to_f32()),
        ),
        ElementType::Float64 => (
            DataType::Float,
            widened(&data, |b| f64::from_le_bytes(b) as f32),
        ),
        _ => (DataType::try_from(t.data_type)?, data),
    };
    let shape: Vec<usize> = t.dims.iter().map(|&d| d as usize).collect();
    *t = TensorProto {
        raw_data,
        ..tensor(&t.name, data_type, &shape)
    };
    Ok(())
}

fn widened<const N: usize>(bytes: &[u8], to_f32: impl Fn([u8; N]) -> f32) -> Vec<u8> {
    let values = bytes.as_chunks().0.iter();
    values.flat_map(|&b| to_f32(b).to_le_bytes()).collect()
}

/// `bytes` bytes of the file that `t` names.
fn external(t: &TensorProto, folder: &Path, bytes: u64) -> Result<Vec<u8>> {
    let entry = |key: &str| {
        let found = t.external_data.iter().find(|e| e.key == key);
        found.map(|e| e.value.as_str())
    };
    let location = entry("location").unwrap_or_default();
    let path = folder.join(inside(location).with_context(|| {
        format!("external_data.location: expected a file in the folder of the ONNX file, found {location:?}")
    })?);
    let offset = entry("offset").unwrap_or("0");
    let offset: u64 = (offset.parse()).with_context(|| {
        format!("external_data.offset: expected a number of bytes, found {offset:?}")
    })?;
    let open = || {
        format!(
            "{}: cannot open the external weights; keep them beside the ONNX file",
            path.display()
        )
    };
    let mut file = File::open(&path).with_context(open)?;
    let read = || format!("{}: cannot read", path.display());
    // Before anything is allocated: the dimensions are not to be trusted.
    let length = file.metadata().with_context(read)?.len();
    ensure!(
        offset.checked_add(bytes).is_some_and(|end| end <= length),
        "{}: expected {bytes} bytes from {offset} on, found a file of {length}; copy it again",
        path.display()
    );
    file.seek(SeekFrom::Start(offset)).with_context(read)?;
    let mut data = Vec::new();
    file.take(bytes).read_to_end(&mut data).with_context(read)?;
    Ok(data)
}

/// `location` as a path below a folder, without the `./` that some programs write. `None` if it may lead out of it.
fn inside(location: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(location).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            _ => return None,
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}
