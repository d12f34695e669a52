//! Writes a checkpoint as a folder that open_clip (`local-dir:`) and [`crate::Checkpoint`] read.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use pinhole_fs::AtomicFolder;
use pinhole_model::{ClipConfig, Tensor};
use safetensors::tensor::{Metadata, TensorInfo};

use crate::{Dtype, Error, open_clip};

const WEIGHTS: &str = "open_clip_model.safetensors";
const CONFIG: &str = "open_clip_config.json";

/// What to do if the folder exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Fail with [`Error::Exists`].
    Keep,
    /// Replace it, if it holds nothing but a checkpoint of this writer.
    Replace,
}

/// Writes a model into `folder` as f32 `open_clip_model.safetensors` with `open_clip_config.json`.
///
/// `tensor` is called once for every name of [`ClipConfig::tensors`], in that order, so that one tensor at a
/// time is in memory. The folder appears whole or not at all.
///
/// # Errors
/// The folder exists; a tensor of another shape, or or with NaN or infinity in it; a configuration
/// that open_clip's format cannot express; the errors of `tensor` and of the file system.
pub fn write<E: From<Error>>(
    folder: &Path,
    config: &ClipConfig,
    existing: Existing,
    mut tensor: impl FnMut(&str) -> Result<Tensor, E>,
) -> Result<(), E> {
    if folder.file_name().is_none() {
        return Err(Error::malformed(folder, "expected the name of a new folder").into());
    }
    if folder.symlink_metadata().is_ok() {
        check_replaceable(folder, existing)?;
    }
    let description = open_clip::describe(folder, config)?;
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
    }
    let fresh = AtomicFolder::create(folder).map_err(Error::io(folder, "create"))?;

    let path = fresh.path().join(WEIGHTS);
    let file = File::create_new(&path).map_err(Error::io(&path, "create"))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let tensors = config.tensors();
    file.write_all(&header(folder, &tensors)?)
        .map_err(Error::io(&path, "write"))?;
    for (name, shape) in &tensors {
        let tensor = tensor(name)?;
        check(folder, name, shape, &tensor)?;
        for value in &tensor.data {
            file.write_all(&value.to_le_bytes())
                .map_err(Error::io(&path, "write"))?;
        }
    }
    file.flush().map_err(Error::io(&path, "write"))?;
    let path = fresh.path().join(CONFIG);
    fs::write(&path, format!("{description:#}\n")).map_err(Error::io(&path, "write"))?;

    if folder.symlink_metadata().is_ok() {
        check_replaceable(folder, existing)?;
        fresh.replace().map_err(Error::io(folder, "replace"))?;
    } else {
        fresh.create_new().map_err(Error::io(folder, "create"))?;
    }
    Ok(())
}

fn check_replaceable(folder: &Path, existing: Existing) -> Result<(), Error> {
    if existing == Existing::Keep {
        return Err(Error::Exists {
            path: folder.to_owned(),
        });
    }
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "replace"))? {
        let name = entry.map_err(Error::io(folder, "replace"))?.file_name();
        if name != WEIGHTS && name != CONFIG {
            return Err(Error::malformed(
                folder,
                format!(
                    "not replaced: expected a folder with only {WEIGHTS} and {CONFIG}, found {}",
                    name.to_string_lossy()
                ),
            ));
        }
    }
    Ok(())
}

fn check(folder: &Path, name: &str, shape: &[usize], tensor: &Tensor) -> Result<(), Error> {
    let (path, name) = (folder.to_owned(), name.to_owned());
    if tensor.shape != shape || tensor.data.len() != shape.iter().product::<usize>() {
        let mut found = tensor.shape.clone();
        if found == shape {
            found = vec![tensor.data.len()];
        }
        return Err(Error::Shape {
            path,
            name,
            expected: shape.to_vec(),
            found,
        });
    }
    match tensor
        .data
        .iter()
        .enumerate()
        .find(|(_, value)| !value.is_finite())
    {
        Some((index, value)) => Err(Error::NotFinite {
            path,
            name,
            index,
            value: *value,
        }),
        None => Ok(()),
    }
}

/// The length and the JSON that a safetensors file starts with.
fn header(folder: &Path, tensors: &[(String, Vec<usize>)]) -> Result<Vec<u8>, Error> {
    let mut end = 0;
    let infos = tensors
        .iter()
        .map(|(name, shape)| {
            let start = end;
            end += 4 * shape.iter().product::<usize>();
            let info = TensorInfo {
                dtype: Dtype::F32,
                shape: shape.clone(),
                data_offsets: (start, end),
            };
            (name.clone(), info)
        })
        .collect();
    // transformers refuses files without this.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let wrong = |error: String| Error::malformed(folder, format!("no valid header: {error}"));
    let metadata = Metadata::new(Some(format), infos).map_err(|error| wrong(error.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| wrong(error.to_string()))?;
    // The tensors start at a multiple of eight bytes.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
