//! SigLIP's image encoder: a vision transformer without class token and projection, read by attention pooling ("map").

use pinhole_model::ImageEncoderConfig;

use crate::Error;
use crate::declared::Quantity;
use crate::shapes::Shapes;

/// `image_size` is what a configuration file states: patches may not cover the whole image.
pub(super) fn infer(
    shapes: &Shapes,
    heads: &mut dyn FnMut(usize) -> usize,
    image_size: Option<usize>,
) -> Result<ImageEncoderConfig, Error> {
    let [width, _, patch, _] = shapes.dimensions("visual.conv1.weight")?;
    let [rows, _] = shapes.matrix("visual.positional_embedding")?;
    let grid = shapes.square_grid(rows, "visual.positional_embedding")?;
    let [mlp, _] = shapes.matrix("visual.transformer.resblocks.0.mlp.c_fc.weight")?;
    // Dimensions are at most 2^20, so the grid is at most 2^10.
    let covered = grid * patch;
    let image_size = image_size.filter(|size| (covered..covered + patch).contains(size));
    Ok(ImageEncoderConfig::SigLip {
        image_size: image_size.unwrap_or(covered) as u32,
        patch_size: patch as u32,
        width,
        layers: shapes.layers("visual.transformer.resblocks.", "ln_1.weight")?,
        heads: heads(width),
        mlp,
    })
}

pub(super) fn size(image: &ImageEncoderConfig, quantity: Quantity) -> Option<usize> {
    let ImageEncoderConfig::SigLip {
        patch_size,
        width,
        layers,
        mlp,
        ..
    } = image
    else {
        return None;
    };
    match quantity {
        Quantity::PatchSize => Some(*patch_size as usize),
        Quantity::ImageWidth => Some(*width),
        Quantity::ImageLayers => Some(*layers),
        Quantity::ImageMlp => Some(*mlp),
        _ => None,
    }
}
