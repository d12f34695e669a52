//! Small files that the configuration names.

use std::io::Read;
use std::path::Path;

use super::error::MqttError;
use crate::access::{self, Access};

/// The content of the file that `field` names. It is a regular file of at most `limit` bytes.
pub(super) fn read(field: &'static str, path: &Path, limit: usize) -> Result<Vec<u8>, MqttError> {
    let failed = |reason: String| MqttError::File {
        field,
        path: path.to_owned(),
        reason,
    };
    let cannot_read = |e| {
        failed(format!(
            "cannot read: {}",
            access::explain(path, Access::Read, &e)
        ))
    };
    // Opening a pipe would block.
    if !std::fs::metadata(path).map_err(cannot_read)?.is_file() {
        return Err(failed("expected a regular file".into()));
    }
    let mut bytes = vec![];
    std::fs::File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(cannot_read)?;
    match bytes.len() <= limit {
        true => Ok(bytes),
        false => Err(failed(format!(
            "expected at most {limit} bytes, found more"
        ))),
    }
}
