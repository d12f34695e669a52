//! The text tower as a file of the bundle.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use half::f16;
use pinhole_bundle::{BundleWriter, Head, Manifest, TEXT_ENCODER, TextEncoderInfo, TextFidelity};
use pinhole_checkpoint::{Checkpoint, Dtype};
use pinhole_model::{Precision, PromptLearner};
use pinhole_prompts::{
    ClassEmbeddings, Classes, TextEncoder, Tokenizer, Weight, class_embeddings, learned_embeddings,
};
use safetensors::tensor::TensorView;

use crate::bundle::{Prompts, Request, Step};

/// Adds the checkpoint's text tower to a bundle, with the rows of `tokens` alone (ascending ids), or of
/// the whole vocabulary where the list is empty, and says in the manifest how far the class embeddings are
/// from those of `exact`, which are the f32 tower's. Gives it back as the board will run it.
///
/// # Errors
/// A weight that is not finite, also after rounding to f16; an id outside the vocabulary; class embeddings
/// below the gate; the disk.
pub(crate) fn add(
    request: &Request,
    writer: &BundleWriter,
    exact: &Head,
    manifest: &mut Manifest,
    tokens: Vec<u32>,
    progress: &mut dyn FnMut(Step, u64, u64),
) -> Result<TextEncoder> {
    let (folder, precision) = (writer.folder(), request.precision);
    manifest.text_encoder = Some(write(request.checkpoint, folder, precision, tokens)?);
    writer.write_manifest(manifest)?;
    let info = manifest.text_encoder.as_ref();
    let info = info.context("no text encoder in the manifest")?;
    let tower = pinhole::text_encoder_in(folder, info, exact.embedding_size)?;
    if precision != Precision::F32 {
        let found = embed_classes(request, &tower, progress)?;
        let fidelity = compare(
            request.classes,
            &exact.class_embeddings,
            &found.data,
            precision,
            request.gate.min_cosine,
        )?;
        if let Some(info) = &mut manifest.text_encoder {
            info.fidelity = Some(fidelity);
        }
        writer.write_manifest(manifest)?;
    }
    Ok(tower)
}

/// The class embeddings; of prompts that depend on the image those without one.
pub(crate) fn embed_classes(
    request: &Request,
    tower: &TextEncoder,
    progress: &mut dyn FnMut(Step, u64, u64),
) -> Result<ClassEmbeddings> {
    let (tokenizer, classes) = (Tokenizer::new(), request.classes);
    let mut text = |done: usize, total: usize| progress(Step::Text, done as u64, total as u64);
    Ok(match request.prompts {
        Prompts::Templates(templates) => {
            class_embeddings(tower, &tokenizer, classes, templates, &mut text)?
        }
        Prompts::Learned(learner, position) => {
            let learner = PromptLearner {
                meta_net: None,
                ..learner.clone()
            };
            learned_embeddings(tower, &tokenizer, classes, &learner, position, &mut text)?
        }
    })
}

/// The cosines between the unit vectors `exact` and `found` [C, D], if their mean is at least `min_cosine`;
/// 0 turns that off.
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
    let cosines: Vec<f32> = pairs.map(|(a, b)| pinhole::cosine(a, b)).collect();
    let worst = (0..cosines.len()).min_by(|&a, &b| cosines[a].total_cmp(&cosines[b]));
    let worst = worst.context("no classes to compare the text encoder on")?;
    let sum: f64 = cosines.iter().map(|&cosine| f64::from(cosine)).sum();
    let fidelity = TextFidelity {
        classes: names.len(),
        mean_cosine: (sum / names.len() as f64) as f32,
        worst_cosine: cosines[worst],
    };
    // Written so that NaN fails.
    let passes = min_cosine == 0.0 || fidelity.mean_cosine >= min_cosine;
    if !passes {
        let next = match precision {
            Precision::Int8 => "f16",
            _ => "f32",
        };
        bail!(
            "{TEXT_ENCODER}: text tower in {precision}: expected class embeddings with a mean cosine of at least \
             {min_cosine} to those in f32 (--min-cosine), found {:.4} on {} classes, the worst {:.4} for {:?}; \
             export with --precision {next}",
            fidelity.mean_cosine,
            fidelity.classes,
            fidelity.worst_cosine,
            names[worst],
        );
    }
    ensure!(
        fidelity.mean_cosine.is_finite(),
        "{TEXT_ENCODER}: the fidelity is not a number"
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
                    "token {token}: the text tower's vocabulary has {vocabulary}"
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
            // Beside integers, norms and biases in f32 take next to nothing.
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
                    "tensor {name}: a value is too large for f16; use --precision f32"
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
        activation: config.activation,
        precision,
        tokens,
        fidelity: None,
    })
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
