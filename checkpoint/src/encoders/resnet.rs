//! OpenAI's ModifiedResNet.

use std::path::Path;

use pinhole_model::ImageEncoderConfig;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::declared::{Quantity, Sizes};
use crate::json::{Object, whole};
use crate::shapes::Shapes;

/// Pixels for one position of the attention pool, and widths of the stem for one of its widths.
const REDUCTION: usize = 32;

pub(super) fn matches(shapes: &Shapes) -> bool {
    let any = |prefix| shapes.any(prefix);
    !any("visual.transformer.") && (any("visual.layer1.") || any("visual.attnpool."))
}

pub(super) fn infer(
    shapes: &Shapes,
    heads: &mut dyn FnMut(usize) -> usize,
) -> Result<ImageEncoderConfig, Error> {
    let [width, _, _, _] = shapes.dimensions("visual.conv3.weight")?;
    let [rows, pooled] = shapes.matrix("visual.attnpool.positional_embedding")?;
    let grid = shapes.grid(rows, "visual.attnpool.positional_embedding")?;
    let mut layers = [0; 4];
    for (stage, layers) in layers.iter_mut().enumerate() {
        *layers = shapes.layers(&format!("visual.layer{}.", stage + 1), "conv1.weight")?;
    }
    Ok(ImageEncoderConfig::ModifiedResNet {
        image_size: (grid * REDUCTION) as u32,
        layers,
        width,
        heads: heads(pooled),
    })
}

pub(super) fn size(image: &ImageEncoderConfig, quantity: Quantity) -> Option<usize> {
    let ImageEncoderConfig::ModifiedResNet { layers, width, .. } = image else {
        return None;
    };
    match quantity {
        Quantity::ImageWidth => Some(*width),
        Quantity::Stage(stage) => layers.get(stage).copied(),
        _ => None,
    }
}

pub(super) fn read_open_clip(
    vision: &Object,
    stages: &[Value],
    sizes: &mut Sizes,
) -> Result<Option<usize>, Error> {
    for (stage, blocks) in stages.iter().enumerate() {
        let field = vision.dotted(&format!("layers[{stage}]"));
        let blocks = whole(blocks).ok_or_else(|| vision.wrong("layers", "whole numbers"))?;
        sizes.push(Quantity::Stage(stage), field, blocks);
    }
    let width = vision.number("width")?;
    Ok(width.and_then(|width| width.checked_mul(REDUCTION)))
}

pub(super) fn write_open_clip(
    path: &Path,
    image: &ImageEncoderConfig,
) -> Result<Map<String, Value>, Error> {
    let mut fields = Map::new();
    if let ImageEncoderConfig::ModifiedResNet {
        image_size,
        layers,
        width,
        ..
    } = image
    {
        if !(*image_size as usize).is_multiple_of(REDUCTION) {
            return Err(Error::config(
                path,
                "image_size",
                "a multiple of 32",
                image_size.to_string(),
            ));
        }
        fields.insert("layers".into(), json!(layers));
        fields.insert("width".into(), json!(width));
    }
    Ok(fields)
}
