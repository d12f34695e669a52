//! SigLIP's image encoder: a vision transformer without class token and projection, read by attention pooling ("map").

use pinhole_model::ImageEncoderConfig;

use crate::Error;
use crate::declared::Quantity;
use crate::shapes::Shapes;

pub(super) fn infer(
    shapes: &Shapes,
    heads: &mut dyn FnMut(usize) -> usize,
) -> Result<ImageEncoderConfig, Error> {
    shapes.check_mlp("visual.transformer")?;
    let [width, _, patch, _] = shapes.dimensions("visual.conv1.weight")?;
    let [rows, _] = shapes.matrix("visual.positional_embedding")?;
    let grid = shapes.square_grid(rows, "visual.positional_embedding")?;
    Ok(ImageEncoderConfig::SigLip {
        // Dimensions are at most 2^20, so the grid is at most 2^10.
        image_size: (grid * patch) as u32,
        patch_size: patch as u32,
        width,
        layers: shapes.layers("visual.transformer.resblocks.", "ln_1.weight")?,
        heads: heads(width),
    })
}

pub(super) fn size(image: &ImageEncoderConfig, quantity: Quantity) -> Option<usize> {
    let ImageEncoderConfig::SigLip {
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
