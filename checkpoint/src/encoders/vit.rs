//! The vision transformer.

use std::path::Path;

use pinhole_model::{ImageEncoderConfig, VitPooling};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::declared::{MLP_RATIO, Quantity, Sizes, VitForm, hidden};
use crate::json::Object;
use crate::shapes::Shapes;

/// `form` is what a configuration file states. Without one, a norm before the blocks is assumed if its tensors are
/// there, and CLIP's pooling.
pub(super) fn infer(
    shapes: &Shapes,
    heads: &mut dyn FnMut(usize) -> usize,
    form: Option<VitForm>,
) -> Result<ImageEncoderConfig, Error> {
    let [width, _, patch, _] = shapes.dimensions("visual.conv1.weight")?;
    let [rows, _] = shapes.matrix("visual.positional_embedding")?;
    let grid = shapes.grid(rows, "visual.positional_embedding")?;
    let layers = shapes.layers("visual.transformer.resblocks.", "ln_1.weight")?;
    let [mlp, _] = shapes.matrix("visual.transformer.resblocks.0.mlp.c_fc.weight")?;
    let VitForm {
        input_norm,
        pooling,
    } = form.unwrap_or(VitForm {
        input_norm: ["visual.ln_pre.weight", "visual.ln_pre.bias"]
            .iter()
            .any(|name| shapes.has(name)),
        ..VitForm::CLIP
    });
    Ok(ImageEncoderConfig::VisionTransformer {
        // Dimensions are at most 2^20, so the grid is at most 2^10.
        image_size: (grid * patch) as u32,
        patch_size: patch as u32,
        width,
        layers,
        heads: heads(width),
        mlp,
        input_norm,
        pooling,
    })
}

pub(super) fn size(image: &ImageEncoderConfig, quantity: Quantity) -> Option<usize> {
    let ImageEncoderConfig::VisionTransformer {
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

pub(super) fn read_open_clip(vision: &Object, sizes: &mut Sizes) -> Result<Option<usize>, Error> {
    sizes.add(Quantity::ImageLayers, vision, "layers")?;
    sizes.add(Quantity::PatchSize, vision, "patch_size")?;
    let width = vision.number("width")?;
    if let Some(width) = width {
        sizes.add_mlp(Quantity::ImageMlp, vision, width)?;
    }
    Ok(width)
}

/// Norm and pooling in open_clip's `vision_cfg`.
pub(super) fn form(vision: &Object) -> Result<VitForm, Error> {
    let norm_last = vision.flag("final_ln_after_pool")?.unwrap_or(false);
    let pooling = match vision.text("pool_type")? {
        None | Some("tok") => VitPooling::ClassToken,
        Some("avg") if norm_last => VitPooling::AverageBeforeNorm,
        Some("avg") => VitPooling::Average,
        Some(_) => return Err(vision.wrong("pool_type", "tok or avg")),
    };
    Ok(VitForm {
        input_norm: !vision.flag("no_ln_pre")?.unwrap_or(false),
        pooling,
    })
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
        mlp,
        input_norm,
        pooling,
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
        if *mlp != hidden(*width, MLP_RATIO) {
            let ratio = *mlp as f64 / *width as f64;
            // Half a unit more where the quotient is rounded down.
            let ratio = match hidden(*width, ratio) == *mlp {
                true => ratio,
                false => (*mlp as f64 + 0.5) / *width as f64,
            };
            fields.insert("mlp_ratio".into(), json!(ratio));
        }
        if !input_norm {
            fields.insert("no_ln_pre".into(), json!(true));
        }
        if *pooling != VitPooling::ClassToken {
            fields.insert("pool_type".into(), json!("avg"));
        }
        if *pooling == VitPooling::AverageBeforeNorm {
            fields.insert("final_ln_after_pool".into(), json!(true));
        }
    }
    Ok(fields)
}
