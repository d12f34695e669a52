//! The exact state of a training in one file, so that resuming gives the bits of an uninterrupted
//! run: weights, both moments, updates done, hyper-parameters (the seed decides the order of data),
//! tokens in use and the data's description.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Error, Result,
    data::Source,
    error::io,
    ops::read,
    train::{TrainOptions, Training},
};

const FORMAT: &str = "pinhole-training-state 1";

#[derive(Serialize, Deserialize)]
struct Header {
    options: TrainOptions,
    data: String,
    tokens: Vec<u32>,
    done: u64,
    seconds: f64,
    cpu_seconds: f64,
}

/// Writes the state: into a temporary file beside it, synced, then renamed, so that a killed
/// training leaves the state before.
///
/// # Errors
/// [`Error::Io`].
pub fn save(training: &Training, source: &Source, path: &Path) -> Result<()> {
    let header = Header {
        options: training.options.clone(),
        data: source.description(),
        tokens: training.vocabulary.ids().to_vec(),
        done: training.done,
        seconds: training.spent.0,
        cpu_seconds: training.spent.1,
    };
    let mut tensors = Vec::new();
    for parameter in &training.parameters {
        let shape = parameter.var.dims().to_vec();
        let values = read(parameter.var.as_tensor(), bytes)?;
        tensors.push((parameter.name.clone(), shape.clone(), values));
        let name = |kind: &str| format!("{kind}/{}", parameter.name);
        tensors.push((name("first"), shape.clone(), bytes(&parameter.first)));
        tensors.push((name("second"), shape, bytes(&parameter.second)));
    }
    write_file(path, FORMAT, &header, &tensors)
}

/// Reads a state into a training that was made anew with the same options.
///
/// # Errors
/// [`Error::State`] where the file is damaged, or was written with other options, data or tokens.
pub fn load(training: &mut Training, source: &Source, path: &Path) -> Result<()> {
    let (file, header) = StateFile::open::<Header>(path, FORMAT)?;
    if header.options != training.options {
        return Err(file.broken(format!(
            "written with other hyper-parameters; to resume, give the same: {:?}",
            header.options
        )));
    }
    if header.data != source.description() || header.tokens != training.vocabulary.ids() {
        return Err(file.broken(format!(
            "written for other data ({}) than {}",
            header.data,
            source.description()
        )));
    }
    for parameter in &mut training.parameters {
        let shape = parameter.var.dims().to_vec();
        let weights = file.values(&parameter.name, &shape)?;
        parameter.first = file.values(&format!("first/{}", parameter.name), &shape)?;
        parameter.second = file.values(&format!("second/{}", parameter.name), &shape)?;
        parameter
            .var
            .set(&Tensor::from_vec(weights, shape, &Device::Cpu)?)?;
    }
    training.done = header.done;
    training.spent = (header.seconds, header.cpu_seconds);
    Ok(())
}

/// Name, shape and little-endian values of a tensor in a state file.
pub(crate) type Stored = (String, Vec<usize>, Vec<u8>);

/// The outer layer of the header.
#[derive(Serialize, Deserialize)]
struct Versioned<H> {
    format: String,
    #[serde(flatten)]
    header: H,
}

/// Writes a state file, whole or not at all.
pub(crate) fn write_file(
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
        let broken = |problem: String| file.broken(problem);
        let (_, metadata) =
            SafeTensors::read_metadata(&file.bytes).map_err(|e| broken(e.to_string()))?;
        let text = metadata.metadata().as_ref().and_then(|m| m.get("training"));
        let text = text.ok_or_else(|| broken("not the state of a training".into()))?;
        let found: Versioned<serde_json::Value> =
            serde_json::from_str(text).map_err(|e| broken(e.to_string()))?;
        if found.format != format {
            let found = found.format;
            return Err(broken(format!("format {found:?}, expected {format:?}")));
        }
        let header = serde_json::from_value(found.header).map_err(|e| broken(e.to_string()))?;
        Ok((file, header))
    }

    /// The values of a tensor of this shape.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensors =
            SafeTensors::deserialize(&self.bytes).map_err(|e| self.broken(e.to_string()))?;
        let found = tensors
            .tensor(name)
            .map_err(|e| self.broken(e.to_string()))?;
        if found.dtype() != Dtype::F32 || found.shape() != shape {
            return Err(self.broken(format!(
                "{name} is {:?} {:?}, expected F32 {shape:?}",
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
    pub(crate) fn broken(&self, problem: String) -> Error {
        Error::State {
            path: self.path.into(),
            problem,
        }
    }
}

/// Values as they are stored.
pub(crate) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
