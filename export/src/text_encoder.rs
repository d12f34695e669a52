//! Stage 3, for bundles with a text encoder: the text encoder as a file of the bundle.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use half::f16;
use pinhole_bundle::{Head, TEXT_ENCODER, TextEncoderInfo, TextFidelity};
use pinhole_checkpoint::{Checkpoint, Dtype};
use pinhole_model::Precision;
use pinhole_prompts::{Classes, TextEncoder, Weight};
use safetensors::tensor::TensorView;

use crate::class_embeddings::{TextOptions, embed_classes};
use crate::progress::ExportProgress;

/// The written text encoder, loaded as the runtime loads it.
pub(crate) struct TextEncoderStage {
    pub encoder: TextEncoder,
    pub info: TextEncoderInfo,
}

impl TextEncoderStage {
    /// Writes the checkpoint's text encoder to `folder` with the embedding rows of `tokens` (ascending ids), or of the
    /// whole vocabulary if the list is empty. The class embeddings of a reduced precision are compared with those of
    /// `exact`, the f32 encoder's.
    ///
    /// # Errors
    /// A weight that is not finite, also after rounding to f16; an id outside the vocabulary; class embeddings
    /// with a mean cosine below `min_cosine`; a file that cannot be written.
    pub(crate) fn run(
        checkpoint: &Checkpoint,
        options: &TextOptions,
        (precision, min_cosine): (Precision, f32),
        exact: &Head,
        tokens: Vec<u32>,
        folder: &Path,
        progress: &mut ExportProgress,
    ) -> Result<Self> {
        let mut info = write(checkpoint, folder, precision, tokens)?;
        let encoder = pinhole::internal::text_encoder_in(folder, &info, exact.embedding_size)?;
        if precision != Precision::F32 {
            let found = embed_classes(options, &encoder, progress)?;
            let exact = &exact.class_embeddings;
            let fidelity = compare(options.classes, exact, &found.data, precision, min_cosine)?;
            info.fidelity = Some(fidelity);
        }
        Ok(Self { encoder, info })
    }
}

/// The cosines between the unit vectors `exact` and `found` `[C, D]`, if their mean is at least `min_cosine`; 0 turns
/// the bound off.
fn compare(
    classes: &Classes,
    exact: &[f32],
    found: &[f32],
    precision: Precision,
    min_cosine: f32,
) -> Result<TextFidelity> {
    let names = classes.names();
    let dim = exact.len() / names.len();
    let pairs = exact.chunks_exact(dim).zip(found.chunks_exact(dim));
    let cosines: Vec<f32> = pairs
        .map(|(a, b)| pinhole::internal::cosine(a, b))
        .collect();
    let worst = (0..cosines.len()).min_by(|&a, &b| cosines[a].total_cmp(&cosines[b]));
    let worst = worst.context("no classes to compare the text encoder on")?;
    let sum: f64 = cosines.iter().map(|&cosine| f64::from(cosine)).sum();
    let fidelity = TextFidelity {
        classes: names.len(),
        mean_cosine: (sum / names.len() as f64) as f32,
        worst_cosine: cosines[worst],
    };
    // NaN fails unless the bound is off.
    let passes = min_cosine == 0.0 || fidelity.mean_cosine >= min_cosine;
    if !passes {
        let next = match precision {
            Precision::Int8 => "f16",
            _ => "f32",
        };
        bail!(
            "{TEXT_ENCODER}: text encoder in {precision}: expected class embeddings with a mean cosine of at least \
             {min_cosine} to those in f32 (--min-cosine), found {:.4} on {} classes, the worst {:.4} for {:?}; \
             use --precision {next}",
            fidelity.mean_cosine,
            fidelity.classes,
            fidelity.worst_cosine,
            names[worst],
        );
    }
    ensure!(
        fidelity.mean_cosine.is_finite(),
        "{TEXT_ENCODER}: text encoder in {precision}: expected finite class embeddings, found NaN or infinity"
    );
    Ok(fidelity)
}

fn write(
    checkpoint: &Checkpoint,
    folder: &Path,
    precision: Precision,
    tokens: Vec<u32>,
) -> Result<TextEncoderInfo> {
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
                    "token {token}: expected an id below the vocabulary's size {vocabulary}"
                );
                rows.extend_from_slice(&tensor.data[token as usize * width..][..width]);
            }
            tensor.shape[0] = tokens.len();
            tensor.data = rows;
        }
        let weight = match precision == Precision::Int8 && TextEncoder::takes_int8(&name) {
            true => Weight::int8(&name, &tensor)?,
            false => Weight::F32(tensor),
        };
        match weight {
            Weight::Int8 { weight, scales } => {
                let bytes = weight.data.iter().map(|v| v.cast_unsigned()).collect();
                let scales_name = TextEncoder::scales_name(&name);
                tensors.push((name, Dtype::I8, weight.shape, bytes));
                let bytes = f32_bytes(&scales.data);
                tensors.push((scales_name, Dtype::F32, scales.shape, bytes));
            }
            // Norms and biases are small: in int8 they stay f32.
            Weight::F32(tensor)
                if precision == Precision::F32
                    || precision == Precision::Int8 && tensor.shape.len() == 1 =>
            {
                let bytes = f32_bytes(&tensor.data);
                tensors.push((name, Dtype::F32, tensor.shape, bytes));
            }
            Weight::F32(tensor) => {
                let halves: Vec<f16> = tensor.data.iter().map(|v| f16::from_f32(*v)).collect();
                ensure!(
                    halves.iter().all(|v| v.is_finite()),
                    "tensor {name}: expected values that fit f16, found a larger one; use --precision f32"
                );
                let bytes = halves.iter().flat_map(|v| v.to_le_bytes()).collect();
                tensors.push((name, Dtype::F16, tensor.shape, bytes));
            }
        }
    }
    let mut views = Vec::with_capacity(tensors.len());
    for (name, dtype, shape, bytes) in &tensors {
        views.push((name.clone(), TensorView::new(*dtype, shape.clone(), bytes)?));
    }
    let path = folder.join(TEXT_ENCODER);
    safetensors::serialize_to_file(views, None, &path)
        .with_context(|| format!("{}: cannot write", path.display()))?;
    Ok(TextEncoderInfo {
        config: config.text.clone(),
        activation: config.text_activation,
        precision,
        tokens,
        fidelity: None,
    })
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
