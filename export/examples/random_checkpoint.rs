//! Writes a CLIP checkpoint with random weights, for measurements that do not depend on them.
//!
//!     cargo run -p pinhole-export --example random_checkpoint tiny|small|ViT-B-32 FOLDER
//!
//! `tiny` fits the encoders of tests/golden/foreign; `small` has an odd number of rows and two heads; `ViT-B-32` has that
//! model's image encoder. All have CLIP's vocabulary and a text encoder of one narrow layer.

#[allow(unreachable_pub, reason = "the tests use it too")]
#[path = "../tests/common/weights.rs"]
mod weights;

use std::path::Path;

use anyhow::{Result, bail};
use pinhole_checkpoint::{Error, Existing};
use pinhole_model::{
    Activation, ClipConfig, ImageEncoderConfig, PreprocessConfig, TextEncoderConfig,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [size, folder] = arguments.as_slice() else {
        bail!("expected the size, tiny, small or ViT-B-32, and the folder to write");
    };
    let (image_size, patch_size, width, layers, embedding) = match size.as_str() {
        "tiny" => (32, 8, 64, 2, 16),
        "small" => (48, 16, 128, 3, 64),
        "ViT-B-32" => (224, 32, 768, 12, 512),
        _ => bail!("expected the size tiny, small or ViT-B-32, found {size:?}"),
    };
    let config = ClipConfig {
        name: None,
        embedding,
        image: ImageEncoderConfig::VisionTransformer {
            image_size,
            patch_size,
            width,
            layers,
            heads: width / 64,
            mlp: 4 * width,
            input_norm: true,
            pooling: pinhole_model::VitPooling::ClassToken,
        },
        text: TextEncoderConfig {
            context_length: 77,
            vocabulary: 49_408,
            width: 64,
            layers: 1,
            heads: 1,
            form: Default::default(),
        },
        activation: Activation::QuickGelu,
        text_activation: Activation::QuickGelu,
        preprocessing: PreprocessConfig::openai(image_size),
    };
    let shapes = config.tensors();
    pinhole_checkpoint::write::<Error>(Path::new(folder), &config, Existing::Keep, |name| {
        let shape = shapes.iter().find(|(n, _)| n == name);
        Ok(weights::random(name, &shape.expect("a name of the list").1))
    })?;
    Ok(())
}
