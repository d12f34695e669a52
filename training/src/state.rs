//! The exact state of a training in one file, so that resuming gives the bits of an uninterrupted
//! run: weights, both moments, updates done, hyper-parameters (the seed decides the order of data),
//! tokens in use and the data's description.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

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
    format: String,
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
        format: FORMAT.into(),
        options: training.options.clone(),
        data: source.description(),
        tokens: training.vocabulary.ids().to_vec(),
        done: training.done,
        seconds: training.spent.0,
        cpu_seconds: training.spent.1,
    };
    let broken = |problem: String| Error::State {
        path: path.into(),
        problem,
    };
    let header = serde_json::to_string(&header).map_err(|e| broken(e.to_string()))?;
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for parameter in &training.parameters {
        let shape = parameter.var.dims().to_vec();
        let values = read(parameter.var.as_tensor(), bytes)?;
        tensors.push((parameter.name.clone(), shape.clone(), values));
        let name = |kind: &str| format!("{kind}/{}", parameter.name);
        tensors.push((name("first"), shape.clone(), bytes(&parameter.first)));
        tensors.push((name("second"), shape, bytes(&parameter.second)));
    }
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data);
        Ok((name.clone(), view.map_err(|e| broken(e.to_string()))?))
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    let metadata = HashMap::from([("training".to_owned(), header)]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(|e| broken(e.to_string()))?;
    let temporary = path.with_extension("partial");
    fs::write(&temporary, file).map_err(io(&temporary))?;
    let synced = fs::File::open(&temporary).and_then(|f| f.sync_all());
    synced.map_err(io(&temporary))?;
    fs::rename(&temporary, path).map_err(io(path))
}

/// Reads a state into a training that was made anew with the same options.
///
/// # Errors
/// [`Error::State`] where the file is damaged, or was written with other options, data or tokens.
pub fn load(training: &mut Training, source: &Source, path: &Path) -> Result<()> {
    let broken = |problem: String| Error::State {
        path: path.into(),
        problem,
    };
    let file = fs::read(path).map_err(io(path))?;
    let (_, metadata) = SafeTensors::read_metadata(&file).map_err(|e| broken(e.to_string()))?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get("training"));
    let text = text.ok_or_else(|| broken("not the state of a training".into()))?;
    let header: Header = serde_json::from_str(text).map_err(|e| broken(e.to_string()))?;
    if header.format != FORMAT {
        return Err(broken(format!(
            "format {:?}, expected {FORMAT:?}",
            header.format
        )));
    }
    if header.options != training.options {
        return Err(broken(format!(
            "written with other hyper-parameters; to resume, give the same: {:?}",
            header.options
        )));
    }
    if header.data != source.description() || header.tokens != training.vocabulary.ids() {
        return Err(broken(format!(
            "written for other data ({}) than {}",
            header.data,
            source.description()
        )));
    }
    let tensors = SafeTensors::deserialize(&file).map_err(|e| broken(e.to_string()))?;
    let values = |name: &str, shape: &[usize]| {
        let found = tensors.tensor(name).map_err(|e| broken(e.to_string()))?;
        if found.dtype() != Dtype::F32 || found.shape() != shape {
            return Err(broken(format!(
                "{name} is {:?} {:?}, expected F32 {shape:?}",
                found.dtype(),
                found.shape()
            )));
        }
        let numbers = found.data().chunks_exact(4);
        Ok(numbers
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect::<Vec<_>>())
    };
    for parameter in &mut training.parameters {
        let shape = parameter.var.dims().to_vec();
        let weights = values(&parameter.name, &shape)?;
        parameter.first = values(&format!("first/{}", parameter.name), &shape)?;
        parameter.second = values(&format!("second/{}", parameter.name), &shape)?;
        parameter
            .var
            .set(&Tensor::from_vec(weights, shape, &Device::Cpu)?)?;
    }
    training.done = header.done;
    training.spent = (header.seconds, header.cpu_seconds);
    Ok(())
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
