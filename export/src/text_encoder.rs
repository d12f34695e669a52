//! The text tower as a file of the bundle.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use half::f16;
use pinhole_bundle::{Precision, TEXT_ENCODER, TextEncoderInfo};
use pinhole_checkpoint::{Checkpoint, Dtype};
use safetensors::tensor::TensorView;

/// Writes the checkpoint's text tower into the bundle's `folder`: with the rows of `tokens` alone
/// (ascending ids), or of the whole vocabulary where the list is empty.
///
/// # Errors
/// A weight that is not finite, also after rounding to f16; an id outside the vocabulary; the disk.
pub(crate) fn write(
    checkpoint: &Checkpoint,
    folder: &Path,
    precision: Precision,
    tokens: Vec<u32>,
) -> Result<TextEncoderInfo> {
    // The text tower has no integer form yet.
    let precision = match precision {
        Precision::F32 => Precision::F32,
        Precision::F16 | Precision::Int8 => Precision::F16,
    };
    let config = checkpoint.config();
    let names = config.tensors().into_iter().map(|(name, _)| name);
    let names = names.filter(|name| !name.starts_with("visual.") && name != "logit_scale");
    let mut tensors = vec![];
    for name in names {
        let mut tensor = checkpoint.tensor(&name)?;
        if name == "token_embedding.weight" && !tokens.is_empty() {
            let (vocabulary, width) = (config.text.vocabulary, config.text.width);
            let mut rows = Vec::with_capacity(tokens.len() * width);
            for &token in &tokens {
                ensure!(
                    (token as usize) < vocabulary,
                    "token {token}: the text tower's vocabulary has {vocabulary}"
                );
                rows.extend_from_slice(&tensor.data[token as usize * width..][..width]);
            }
            tensor.shape[0] = tokens.len();
            tensor.data = rows;
        }
        let bytes: Vec<u8> = match precision {
            Precision::F32 => tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Precision::F16 | Precision::Int8 => {
                let halves: Vec<f16> = tensor.data.iter().map(|v| f16::from_f32(*v)).collect();
                ensure!(
                    halves.iter().all(|v| v.is_finite()),
                    "tensor {name}: a value is too large for f16; use --precision f32"
                );
                halves.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
        };
        tensors.push((name, tensor.shape, bytes));
    }
    let dtype = match precision {
        Precision::F32 => Dtype::F32,
        Precision::F16 | Precision::Int8 => Dtype::F16,
    };
    let mut views = Vec::with_capacity(tensors.len());
    for (name, shape, bytes) in &tensors {
        views.push((name.clone(), TensorView::new(dtype, shape.clone(), bytes)?));
    }
    let path = folder.join(TEXT_ENCODER);
    safetensors::serialize_to_file(views, None, &path)
        .with_context(|| format!("{}: cannot write", path.display()))?;
    Ok(TextEncoderInfo {
        tower: config.text.clone(),
        activation: config.activation,
        precision,
        tokens,
    })
}
