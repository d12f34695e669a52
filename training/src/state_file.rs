//! A file with the exact state of a training: a header and named f32 tensors, as safetensors.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use pinhole_fs::{FolderLock, LockError};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, Result, error::io};

/// Name, shape and little-endian values of a tensor in a state file.
pub(crate) type Stored = (String, Vec<usize>, Vec<u8>);

/// The header with its format's name and version.
#[derive(Serialize, Deserialize)]
struct Versioned<H> {
    format: String,
    #[serde(flatten)]
    header: H,
}

/// Writes a state file and replaces the previous one atomically: a killed training leaves one of the two.
pub(crate) fn write_state(
    path: &Path,
    format: &str,
    header: &impl Serialize,
    tensors: &[Stored],
) -> Result<()> {
    let broken = |problem: String| Error::State {
        path: path.into(),
        problem,
    };
    let format = format.to_owned();
    let header = serde_json::to_string(&Versioned { format, header });
    let header = header.map_err(|e| broken(e.to_string()))?;
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data);
        Ok((name.clone(), view.map_err(|e| broken(e.to_string()))?))
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    let metadata = HashMap::from([("training".to_owned(), header)]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(|e| broken(e.to_string()))?;
    pinhole_fs::write(path, &file).map_err(io(path))
}

/// Reserves the output folder for this training: two in one folder would mix their logs and states.
pub(crate) fn lock_output(folder: &Path) -> Result<FolderLock> {
    let lock = FolderLock::acquire(folder, Duration::ZERO, &mut |_| {});
    lock.map_err(|error| match error {
        LockError::Io(error) => io(folder)(error),
        LockError::Held(holder) => Error::State {
            path: folder.into(),
            problem: format!(
                "{holder} is training in this folder; wait for it or choose another --out"
            ),
        },
    })
}

/// A state file in memory.
pub(crate) struct StateFile<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
}

impl<'a> StateFile<'a> {
    /// Reads a file of the given format, and its header.
    pub(crate) fn open<H: DeserializeOwned>(path: &'a Path, format: &str) -> Result<(Self, H)> {
        let bytes = fs::read(path).map_err(io(path))?;
        let file = Self { path, bytes };
        let broken = |problem: String| file.error(problem);
        let (_, metadata) =
            SafeTensors::read_metadata(&file.bytes).map_err(|e| broken(e.to_string()))?;
        let text = metadata.metadata().as_ref().and_then(|m| m.get("training"));
        let text = text.ok_or_else(|| broken("not a training state".into()))?;
        let found: Versioned<serde_json::Value> =
            pinhole_fs::from_json(text.as_bytes()).map_err(|e| broken(e.to_string()))?;
        if found.format != format {
            let found = found.format;
            return Err(broken(format!(
                "format: expected {format:?}, found {found:?}"
            )));
        }
        let header = pinhole_fs::deserialize(found.header).map_err(|e| broken(e.to_string()))?;
        Ok((file, header))
    }

    /// The values of a tensor of this shape.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensors =
            SafeTensors::deserialize(&self.bytes).map_err(|e| self.error(e.to_string()))?;
        let found = tensors
            .tensor(name)
            .map_err(|e| self.error(e.to_string()))?;
        if found.dtype() != Dtype::F32 || found.shape() != shape {
            return Err(self.error(format!(
                "{name}: expected F32 {shape:?}, found {:?} {:?}",
                found.dtype(),
                found.shape()
            )));
        }
        let numbers = found.data().chunks_exact(4);
        Ok(numbers
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    }

    /// An error about this file.
    pub(crate) fn error(&self, problem: String) -> Error {
        Error::State {
            path: self.path.into(),
            problem,
        }
    }
}

/// Values in the encoding of [`Stored`].
pub(crate) fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
