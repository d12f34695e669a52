//! `.safetensors` files: the length of the header (u64), the header (JSON), the tensors.

use std::collections::BTreeMap;
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo as HeaderEntry};

use crate::state_dict::{Entry, StateDict, View};
use crate::storage::{Source, Storage};
use crate::{Error, TensorInfo};

/// Largest header in bytes; that of a CLIP model has 0.1 MB.
const MAX_HEADER: u64 = 4 << 20;

pub(crate) fn read(source: &Arc<Source>) -> Result<StateDict, Error> {
    let path = source.path();
    let start = source.bytes(0, 8)?;
    let length = u64::from_le_bytes(start.try_into().unwrap_or([0xff; 8]));
    if length > MAX_HEADER || length + 8 > source.length() {
        return Err(Error::malformed(
            path,
            format!(
                "safetensors header: expected at most {} bytes, found a length of {length}",
                MAX_HEADER.min(source.length().saturating_sub(8))
            ),
        ));
    }
    let data = 8 + length;
    // Offsets, shapes and types are checked against each other while this is parsed.
    let bytes = source.bytes(8, length)?;
    let header = pinhole_fs::from_json_entries::<Metadata, HeaderEntry>(&bytes, "__metadata__")
        .map_err(|error| {
            Error::malformed(path, format!("the safetensors header is damaged: {error}"))
        })?;
    let end = data.checked_add(header.data_len() as u64);
    if end != Some(source.length()) {
        return Err(Error::malformed(
            path,
            format!(
                "expected {} bytes of tensors after the safetensors header, found {}",
                header.data_len(),
                source.length() - data
            ),
        ));
    }
    let mut entries = BTreeMap::new();
    for (name, tensor) in header.tensors() {
        let (from, to) = tensor.data_offsets;
        let storage = Storage {
            source: Arc::clone(source),
            offset: data + from as u64,
            length: (to - from) as u64,
            deflated: None,
            crc: None,
        };
        let info = TensorInfo {
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        };
        let view = View::whole(Arc::new(storage), info.shape.iter().product());
        entries.insert(name, Entry::Tensor { info, view });
    }
    let remarks = header.metadata().iter().flatten();
    let remarks = remarks.map(|(key, text)| (key.clone(), text.clone()));
    Ok(StateDict::new(path, entries).with_metadata(remarks.collect()))
}
