//! The families of image encoders: how each is recognised, and how file formats describe it.
//!
//! A new family is a variant of [`ImageEncoderConfig`], a file here, and an arm in each function below.

mod resnet;
mod siglip;
pub(crate) mod timm;
mod vit;

use std::path::Path;

use pinhole_model::ImageEncoderConfig;
use serde_json::{Map, Value};

use crate::Error;
use crate::declared::{Quantity, Sizes, VitForm};
use crate::json::Object;
use crate::names::Naming;
use crate::shapes::Shapes;

/// The image encoder that the tensors of a file make up. `heads` gives the number of attention heads for a
/// width, `form` what a configuration file states about a vision transformer beside its sizes, `image_size` the size that
/// it states.
pub(crate) fn infer(
    shapes: &Shapes,
    naming: Naming,
    heads: &mut dyn FnMut(usize) -> usize,
    form: Option<VitForm>,
    image_size: Option<usize>,
) -> Result<ImageEncoderConfig, Error> {
    if naming.is_siglip() {
        siglip::infer(shapes, heads, image_size)
    } else if timm::matches(shapes) {
        timm::infer(shapes, image_size)
    } else if resnet::matches(shapes) {
        resnet::infer(shapes, heads)
    } else {
        vit::infer(shapes, heads, form)
    }
}

/// A size of the image encoder; `None` for one that its family does not have.
pub(crate) fn size(image: &ImageEncoderConfig, quantity: Quantity) -> Option<usize> {
    match (quantity, image) {
        (Quantity::ImageSize, _) => Some(image.image_size() as usize),
        (Quantity::ImageHeads, _) => image.attention().map(|(heads, _)| heads),
        (_, ImageEncoderConfig::VisionTransformer { .. }) => vit::size(image, quantity),
        (_, ImageEncoderConfig::SigLip { .. }) => siglip::size(image, quantity),
        (_, ImageEncoderConfig::ModifiedResNet { .. }) => resnet::size(image, quantity),
        (_, ImageEncoderConfig::Timm { .. }) => None,
    }
}

/// Adds the sizes in open_clip's `vision_cfg` that are particular to the family. Returns the width that the
/// attention heads divide, if it is there.
pub(crate) fn read_open_clip(vision: &Object, sizes: &mut Sizes) -> Result<Option<usize>, Error> {
    match vision.get("layers") {
        Some(Value::Array(stages)) => resnet::read_open_clip(vision, stages, sizes),
        _ => vit::read_open_clip(vision, sizes),
    }
}

/// Norm and pooling of a vision transformer in open_clip's `vision_cfg`.
pub(crate) fn open_clip_form(vision: &Object) -> Result<VitForm, Error> {
    match vision.get("layers") {
        Some(Value::Array(_)) => Ok(VitForm::CLIP),
        _ => vit::form(vision),
    }
}

/// The fields of open_clip's `vision_cfg` that are particular to the family. `path` is for errors.
pub(crate) fn write_open_clip(
    path: &Path,
    image: &ImageEncoderConfig,
) -> Result<Map<String, Value>, Error> {
    match image {
        ImageEncoderConfig::VisionTransformer { .. } => vit::write_open_clip(path, image),
        // Its file names an encoder of timm.
        ImageEncoderConfig::SigLip { .. } => Err(Error::unsupported(
            path,
            "a SigLIP model, whose configuration is not written",
        )),
        ImageEncoderConfig::ModifiedResNet { .. } => resnet::write_open_clip(path, image),
        ImageEncoderConfig::Timm { .. } => Err(Error::unsupported(
            path,
            "an image encoder of timm, whose tensors are not read",
        )),
    }
}
