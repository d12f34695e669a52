//! Encoders of timm in open_clip's models, beside SigLIP's: MobileCLIP, PE-Core, EVA02, ConvNeXt and others. Only the text
//! encoder of such a model is read; the image encoder comes from an ONNX file.

use pinhole_model::ImageEncoderConfig;

use crate::Error;
use crate::shapes::Shapes;

/// Beginnings of the names of its tensors: timm's model, and what open_clip adds to it (timm_model.py).
const TENSORS: [&str; 2] = ["visual.trunk.", "visual.head."];

pub(super) fn matches(shapes: &Shapes) -> bool {
    shapes.any(TENSORS[0])
}

/// Whether a tensor belongs to such an encoder.
pub(crate) fn is_own(name: &str) -> bool {
    TENSORS.iter().any(|start| name.starts_with(start))
}

/// `image_size` is what `open_clip_config.json` states, as no tensor does.
pub(super) fn infer(
    shapes: &Shapes,
    image_size: Option<usize>,
) -> Result<ImageEncoderConfig, Error> {
    let size = image_size.and_then(|size| u32::try_from(size).ok());
    match size {
        Some(image_size) => Ok(ImageEncoderConfig::Timm { image_size }),
        None => Err(Error::malformed(
            shapes.state.path(),
            "an image encoder of timm (visual.trunk.*): expected open_clip_config.json beside the weights, which states the \
             image size and the form of the text encoder, found none",
        )),
    }
}
