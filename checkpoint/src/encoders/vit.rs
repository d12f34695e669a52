//! The vision transformer.

use std::path::Path;

use pinhole_model::ImageEncoderConfig;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::declared::{Quantity, Sizes};
use crate::json::Object;
use crate::shapes::Shapes;

pub(super) fn infer(
    shapes: &Shapes,
    heads: &mut dyn FnMut(usize) -> usize,
) -> Result<ImageEncoderConfig, Error> {
    shapes.check_mlp("visual.transformer")?;
    let [width, _, patch, _] = shapes.dimensions("visual.conv1.weight")?;
    let [rows, _] = shapes.matrix("visual.positional_embedding")?;
    let grid = shapes.grid(rows, "visual.positional_embedding")?;
    Ok(ImageEncoderConfig::VisionTransformer {
        // Dimensions are at most 2^20, so the grid is at most 2^10.
        image_size: (grid * patch) as u32,
        patch_size: patch as u32,
        width,
        layers: shapes.layers("visual.transformer.resblocks.", "ln_1.weight")?,
        heads: heads(width),
    })
}

pub(super) fn size(image: &ImageEncoderConfig, quantity: Quantity) -> Option<usize> {
    let ImageEncoderConfig::VisionTransformer {
        patch_size,
        width,
        layers,
        ..
    } = image
    else {
        return None;
    };
    match quantity {
        Quantity::PatchSize => Some(*patch_size as usize),
        Quantity::ImageWidth => Some(*width),
        Quantity::ImageLayers => Some(*layers),
        _ => None,
    }
}

pub(super) fn read_open_clip(vision: &Object, sizes: &mut Sizes) -> Result<Option<usize>, Error> {
    sizes.add(Quantity::ImageLayers, vision, "layers")?;
    sizes.add(Quantity::PatchSize, vision, "patch_size")?;
    vision.number("width")
}

pub(super) fn write_open_clip(
    path: &Path,
    image: &ImageEncoderConfig,
) -> Result<Map<String, Value>, Error> {
    let mut fields = Map::new();
    if let ImageEncoderConfig::VisionTransformer {
        image_size,
        patch_size,
        layers,
        width,
        ..
    } = image
    {
        if *patch_size == 0 || image_size % patch_size != 0 {
            return Err(Error::config(
                path,
                "patch_size",
                format!("a divisor of {image_size}"),
                patch_size.to_string(),
            ));
        }
        fields.insert("layers".into(), json!(layers));
        fields.insert("width".into(), json!(width));
        fields.insert("patch_size".into(), json!(patch_size));
    }
    Ok(fields)
}
