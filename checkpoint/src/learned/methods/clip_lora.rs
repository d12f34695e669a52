//! CLIP-LoRA: low-rank changes of the attention's projections, in one encoder or both.

use pinhole_model::{ClipConfig, Learned, LearnedClasses, LearnedForm, WeightUpdate};

use super::super::method::{
    Files, LearnedTensors, Metadata, Method, MethodOption, NamedTensors, Recognition, TensorSpec,
};
use crate::Error;

/// Blocks of the image encoder that the method changes at most: "all" of the reference is 21 of ViT-L/14's 24.
pub const LAYERS: usize = 21;

const DOWN: &[&[&str]] = &[&["rank", "_"]];
const UP: &[&[&str]] = &[&["_", "rank"]];
const FIRST: &str = "weights.layer_*.q_proj.w_lora_A";
/// (in the file, the matrix of the block, its block of rows)
const PROJECTIONS: [(&str, &str, usize); 4] = [
    ("q_proj", "attn.in_proj_weight", 0),
    ("k_proj", "attn.in_proj_weight", 1),
    ("v_proj", "attn.in_proj_weight", 2),
    ("proj", "attn.out_proj.weight", 0),
];

pub(crate) static CLIP_LORA: Method = Method {
    key: "clip-lora",
    name: "CLIP-LoRA",
    source: "Zanella and Ben Ayed, CVPRW 2024; MaxZanella/CLIP-LoRA",
    forms: &[LearnedForm::ChangedWeights],
    options: &[MethodOption {
        name: "alpha",
        help: "factor of the change, --alpha of the training; from the file's metadata without it",
        default: None,
        range: [0.0, 10_000.0],
    }],
    files: Files::One,
    recognition: Recognition::Tensors,
    tensors: &[
        TensorSpec::optional(FIRST, DOWN),
        TensorSpec::optional("weights.layer_*.q_proj.w_lora_B", UP),
        TensorSpec::optional("weights.layer_*.k_proj.w_lora_A", DOWN),
        TensorSpec::optional("weights.layer_*.k_proj.w_lora_B", UP),
        TensorSpec::optional("weights.layer_*.v_proj.w_lora_A", DOWN),
        TensorSpec::optional("weights.layer_*.v_proj.w_lora_B", UP),
        TensorSpec::optional("weights.layer_*.proj.w_lora_A", DOWN),
        TensorSpec::optional("weights.layer_*.proj.w_lora_B", UP),
    ],
    aliases: &[],
    read,
};

/// W + alpha / sqrt(r) B A. The layers of the text encoder are numbered first, then those of the image encoder.
fn read(tensors: &LearnedTensors) -> Result<Learned, Error> {
    let clip = tensors.clip()?;
    let blocks = blocks(tensors, clip)?;
    let alpha = match tensors.option("alpha") {
        Some(alpha) => alpha,
        None => {
            let found = tensors.number("metadata.alpha");
            let missing = || {
                let expected = "a number, or --method-option alpha=VALUE";
                tensors.wrong("metadata.alpha", expected, "none".into())
            };
            found.ok_or_else(missing)? as f32
        }
    };
    let mut weights = vec![];
    for (layer, block) in blocks.iter().enumerate() {
        for (projection, matrix, part) in PROJECTIONS {
            let name = |half: &str| format!("weights.layer_{layer}.{projection}.w_lora_{half}");
            let (down, up) = match (tensors.optional(&name("A"))?, tensors.optional(&name("B"))?) {
                (None, None) => continue,
                (Some(down), Some(up)) => (down, up),
                (found, _) => {
                    let missing = name(if found.is_some() { "B" } else { "A" });
                    let expected = "a matrix, as its other half is in the file";
                    return Err(tensors.wrong(&missing, expected, "none".into()));
                }
            };
            weights.push(WeightUpdate {
                name: format!("{block}.{matrix}"),
                first_row: part * up.shape[0],
                scale: alpha / (down.shape[0] as f32).sqrt(),
                down,
                up,
            });
        }
    }
    if weights.is_empty() {
        return Err(tensors.wrong(FIRST, "the matrices of a layer", "none".into()));
    }
    Ok(Learned {
        weights,
        ..tensors.learned(LearnedClasses::Templates)
    })
}

/// The tensors and the metadata that [`CLIP_LORA`] reads as these updates of the image encoder's attention.
///
/// # Errors
/// An update of another matrix, or updates of different ranks or scales.
pub(in crate::learned) fn tensors(
    updates: &[WeightUpdate],
) -> Result<(NamedTensors, Metadata), String> {
    let mut tensors = vec![];
    let factor = |update: &WeightUpdate| {
        let rank = update.down.shape[0];
        (rank, update.scale * (rank as f32).sqrt())
    };
    let first = updates.first().map(factor);
    for update in updates {
        let place = update.name.strip_prefix("visual.transformer.resblocks.");
        let place = place.and_then(|place| place.split_once('.'));
        let part = update.first_row / update.up.shape[0].max(1);
        let projection = place.and_then(|(layer, matrix)| {
            let same = |known: &&(&str, &str, usize)| (known.1, known.2) == (matrix, part);
            PROJECTIONS.iter().find(same).map(|known| (layer, known.0))
        });
        let (Some((layer, projection)), true) = (projection, Some(factor(update)) == first) else {
            return Err(format!(
                "{}: expected matrices of the image encoder's attention, of one rank and scale",
                update.name
            ));
        };
        for (half, tensor) in [("A", &update.down), ("B", &update.up)] {
            let name = format!("weights.layer_{layer}.{projection}.w_lora_{half}");
            tensors.push((name, tensor.clone()));
        }
    }
    let (rank, alpha) = first.unwrap_or((0, 1.0));
    let metadata = [
        ("metadata.alpha", alpha.to_string()),
        ("metadata.r", rank.to_string()),
        ("metadata.encoder", "vision".into()),
        ("metadata.position", "all".into()),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    Ok((tensors, metadata.into()))
}

/// The blocks that the layers of the file are, by the names of their tensors.
fn blocks(tensors: &LearnedTensors, clip: &ClipConfig) -> Result<Vec<String>, Error> {
    // A file without metadata has the training's defaults.
    let encoder = tensors.text("metadata.encoder").unwrap_or("both");
    let position = tensors.text("metadata.position").unwrap_or("all");
    let range = match position {
        "all" => 0..usize::MAX,
        "top" | "top1" => 11..12,
        "top2" => 10..12,
        "top3" => 9..12,
        "bottom" => 0..4,
        "mid" => 4..8,
        "up" => 8..12,
        "half-up" => 6..12,
        "half-bottom" => 0..6,
        other => {
            let expected = "all, top1 to top3, bottom, mid, up, half-up or half-bottom";
            return Err(tensors.wrong("metadata.position", expected, other.to_owned()));
        }
    };
    let (with_text, with_image) = match encoder {
        "both" => (true, true),
        "text" => (true, false),
        "vision" => (false, true),
        other => {
            let expected = "text, vision or both";
            return Err(tensors.wrong("metadata.encoder", expected, other.to_owned()));
        }
    };
    let chosen = |prefix: &'static str, layers: usize| {
        (0..layers)
            .filter(|layer| range.contains(layer))
            .map(move |layer| format!("{prefix}transformer.resblocks.{layer}"))
            .collect::<Vec<_>>()
    };
    let mut blocks = vec![];
    if with_text {
        blocks.extend(chosen("", clip.text.layers));
    }
    if with_image {
        let mut image = chosen("visual.", clip.image.layers());
        if position == "all" {
            image.truncate(LAYERS);
        }
        blocks.extend(image);
    }
    let layers = tensors.places("weights.layer_*");
    let found = layers
        .filter_map(|place| place.split('.').next()?.parse::<usize>().ok())
        .max()
        .map_or(0, |last| last + 1);
    if found != blocks.len() {
        let expected = format!(
            "{} layers, those of encoder {encoder}, position {position} in this CLIP",
            blocks.len()
        );
        return Err(tensors.wrong("weights.layer_*", expected, format!("{found}")));
    }
    Ok(blocks)
}
