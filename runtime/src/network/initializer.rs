//! The values of an initialiser that [`check`](super::check) has accepted, in the ONNX file or in a separate file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use half::f16;
use tract_onnx::pb::{
    TensorProto,
    tensor_proto::{DataLocation, DataType},
};

/// Bytes per read: a multiple of every value size, and small enough for the cache.
const CHUNK: usize = 1 << 16;

/// f32 values, converted from f16 if necessary.
pub(super) fn floats(tensor: &TensorProto, folder: &Path) -> io::Result<Vec<f32>> {
    if tensor.data_type == DataType::Float16 as i32 {
        let half = |bytes| f16::from_le_bytes(bytes).to_f32();
        values(tensor, folder, Vec::new(), half)
    } else if tensor.data_type == DataType::Float as i32 {
        values(tensor, folder, Vec::new(), f32::from_le_bytes)
    } else {
        Err(unexpected(tensor, "float or float16"))
    }
}

/// s8 values, in the memory of `reuse`.
pub(super) fn int8(tensor: &TensorProto, folder: &Path, reuse: Vec<i8>) -> io::Result<Vec<i8>> {
    if tensor.data_type == DataType::Int8 as i32 {
        values(tensor, folder, reuse, i8::from_le_bytes)
    } else {
        Err(unexpected(tensor, "int8"))
    }
}

/// u8 values.
pub(super) fn uint8(tensor: &TensorProto, folder: &Path) -> io::Result<Vec<u8>> {
    if tensor.data_type == DataType::Uint8 as i32 {
        values(tensor, folder, Vec::new(), u8::from_le_bytes)
    } else {
        Err(unexpected(tensor, "uint8"))
    }
}

fn unexpected(tensor: &TensorProto, expected: &str) -> io::Error {
    let found = match DataType::try_from(tensor.data_type) {
        Ok(found) => format!("{found:?}"),
        Err(_) => tensor.data_type.to_string(),
    };
    io::Error::other(format!("data_type: expected {expected}, found {found}"))
}

/// Values of `N` bytes each, in the memory of `values`.
fn values<T, const N: usize>(
    tensor: &TensorProto,
    folder: &Path,
    mut values: Vec<T>,
    value: impl Fn([u8; N]) -> T,
) -> io::Result<Vec<T>> {
    let count = tensor.dims.iter().product::<i64>() as usize;
    values.clear();
    values.reserve_exact(count);
    let mut push = |bytes: &[u8]| values.extend(bytes.as_chunks().0.iter().map(|&b| value(b)));
    if !is_external(tensor) {
        push(&tensor.raw_data);
        return Ok(values);
    }
    let entry = |key: &str| {
        let mut entries = tensor.external_data.iter();
        entries.find(|e| e.key == key).map_or("", |e| &e.value)
    };
    let mut file = File::open(folder.join(entry("location")))?;
    file.seek(SeekFrom::Start(entry("offset").parse().unwrap_or(0)))?;
    let mut buffer = [0; CHUNK];
    let mut left = count * N;
    while left > 0 {
        let chunk = &mut buffer[..left.min(CHUNK)];
        file.read_exact(chunk)?;
        push(chunk);
        left -= chunk.len();
    }
    Ok(values)
}

/// Whether the values are in a separate file.
pub(super) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(DataLocation::External as i32)
}

/// The size of a value; `None` for types that a file may not contain.
pub(super) fn bytes_per_value(data_type: i32) -> Option<u64> {
    match DataType::try_from(data_type) {
        Ok(DataType::Float | DataType::Int32) => Some(4),
        Ok(DataType::Float16) => Some(2),
        Ok(DataType::Int64) => Some(8),
        Ok(DataType::Int8 | DataType::Uint8 | DataType::Bool) => Some(1),
        _ => None,
    }
}

/// `tensor`, with its values as raw bytes and without a name. `None` if the type is unusual, the number of values does
/// not match the dimensions, or the values are in another file.
pub fn raw(tensor: &TensorProto) -> Option<TensorProto> {
    if is_external(tensor) {
        return None;
    }
    let width = bytes_per_value(tensor.data_type)?;
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
