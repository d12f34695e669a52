//! The one writer: a folder that open_clip (`local-dir:`) and [`crate::Checkpoint`] both read.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use pinhole_fs::AtomicFolder;
use pinhole_model::{
    Activation, ClipConfig, CropRounding, Filter, ImageEncoderConfig, Resize, Tensor,
};
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};

use crate::{Dtype, Error};

const WEIGHTS: &str = "open_clip_model.safetensors";
const CONFIG: &str = "open_clip_config.json";

/// What to do when the folder exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone; [`Error::Exists`].
    Keep,
    /// Replace it, if nothing but a checkpoint of this writer is in it.
    Replace,
}

/// Writes a model into `folder` as f32 `open_clip_model.safetensors` with `open_clip_config.json`.
///
/// `tensor` is asked for every name of [`ClipConfig::tensors`] once, in that order, so that one
/// tensor at a time is in memory. The folder is written beside its place, synced and then renamed:
/// whoever kills the process finds the whole folder or none.
///
/// # Errors
/// The folder exists; a tensor of another shape, or with NaN or infinity in it; a configuration
/// that open_clip's format cannot express; what `tensor` returns; the operating system's refusal.
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
    let description = describe(folder, config)?;
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
                    "not replaced: expected nothing but {WEIGHTS} and {CONFIG} in it, found {}",
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
    // transformers refuses files that do not say which framework's tensors they hold.
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

/// The contents of `open_clip_config.json`.
fn describe(folder: &Path, config: &ClipConfig) -> Result<Value, Error> {
    let wrong =
        |field: &str, expected: &str, found: String| Error::config(folder, field, expected, found);
    let head_width = |width: usize, heads: usize| {
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(wrong(
                "heads",
                &format!("a divisor of {width}"),
                heads.to_string(),
            ));
        }
        Ok(width / heads)
    };
    let vision = match &config.image {
        ImageEncoderConfig::VisionTransformer {
            image_size,
            patch_size,
            width,
            layers,
            heads,
        } => {
            if *patch_size == 0 || image_size % patch_size != 0 {
                let expected = format!("a divisor of {image_size}");
                return Err(wrong("patch_size", &expected, patch_size.to_string()));
            }
            json!({
                "image_size": image_size,
                "layers": layers,
                "width": width,
                "head_width": head_width(*width, *heads)?,
                "patch_size": patch_size,
            })
        }
        ImageEncoderConfig::ModifiedResNet {
            image_size,
            layers,
            width,
            heads,
        } => {
            if image_size % 32 != 0 {
                return Err(wrong(
                    "image_size",
                    "a multiple of 32",
                    image_size.to_string(),
                ));
            }
            json!({
                "image_size": image_size,
                "layers": layers,
                "width": width,
                "head_width": head_width(32 * width, *heads)?,
            })
        }
    };
    let text = &config.text;
    head_width(text.width, text.heads)?;
    let rule = &config.preprocessing;
    if rule.size != config.image.image_size() {
        let expected = format!("{} pixels", config.image.image_size());
        return Err(wrong(
            "preprocessing.size",
            &expected,
            rule.size.to_string(),
        ));
    }
    let interpolation = match rule.filter {
        Filter::Bicubic => "bicubic",
        Filter::Bilinear => "bilinear",
        other => {
            let expected = "bicubic or bilinear, which is all that open_clip knows";
            return Err(wrong(
                "preprocessing.filter",
                expected,
                format!("{other:?}"),
            ));
        }
    };
    let mut description = json!({
        "model_cfg": {
            "embed_dim": config.embedding,
            "quick_gelu": config.activation == Activation::QuickGelu,
            "vision_cfg": vision,
            "text_cfg": {
                "context_length": text.context_length,
                "vocab_size": text.vocabulary,
                "width": text.width,
                "heads": text.heads,
                "layers": text.layers,
            },
        },
        "preprocess_cfg": {
            "size": rule.size,
            "mode": "RGB",
            "mean": rule.mean,
            "std": rule.std,
            "interpolation": interpolation,
            "resize_mode": match rule.resize {
                Resize::Shortest => "shortest",
                Resize::Longest => "longest",
                Resize::Squash => "squash",
            },
            "fill_color": rule.fill,
        },
    });
    if let (CropRounding::Floor, Value::Object(root)) = (rule.crop, &mut description) {
        root.insert("pinhole".to_owned(), json!({ "crop": "floor" }));
    }
    if let (Some(name), Value::Object(root)) = (&config.name, &mut description) {
        root.insert("name".to_owned(), json!(name));
    }
    Ok(description)
}
