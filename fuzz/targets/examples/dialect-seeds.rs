//! Writes `fuzz/seeds/onnx_dialect`: the image encoders of small models in each precision.
//!
//!     cargo run -p pinhole-fuzz-targets --example dialect-seeds

use std::error::Error;
use std::fs;
use std::path::Path;

use pinhole_bundle::IMAGE_ENCODER;
use pinhole_checkpoint::{Checkpoint, OpenOptions};
use pinhole_export::graph::{GraphOptions, write};
use pinhole_model::{ImageEncoderConfig, Learned, LearnedClasses, Precision, Tensor};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let seeds = root.join("fuzz/seeds/onnx_dialect");
    fs::create_dir_all(&seeds)?;
    for (model, precision, flat, tokens) in [
        ("vit-quickgelu", Precision::F32, true, 0),
        ("vit-quickgelu", Precision::F16, false, 0),
        ("vit-quickgelu", Precision::Int8, false, 0),
        ("vit-quickgelu", Precision::Int8, false, 2),
        ("resnet", Precision::F16, false, 0),
    ] {
        let path = root
            .join("tests/golden/models")
            .join(model)
            .join("open-clip");
        let mut checkpoint = Checkpoint::open(&path, &OpenOptions::default())?;
        if tokens > 0 {
            checkpoint.adapt(&with_tokens(&checkpoint, tokens))?;
        }
        let folder = tempfile::tempdir()?;
        let options = GraphOptions { precision, flat };
        write(&checkpoint, folder.path(), options, &mut |_, _| {})?;
        let name = format!(
            "{model}-{precision}{}{}.onnx",
            if flat { "-flat" } else { "" },
            if tokens > 0 { "-tokens" } else { "" }
        );
        fs::copy(folder.path().join(IMAGE_ENCODER), seeds.join(name))?;
    }
    Ok(())
}

/// A learned method with this many tokens in the first two blocks.
fn with_tokens(checkpoint: &Checkpoint, count: usize) -> Learned {
    let width = match checkpoint.config().image {
        ImageEncoderConfig::VisionTransformer { width, .. } => width,
        _ => 0,
    };
    let tokens = Tensor {
        shape: vec![count, width],
        data: vec![0.5; count * width],
    };
    Learned {
        image_tokens: vec![tokens.clone(), tokens],
        ..Learned::new("tokens", LearnedClasses::Templates)
    }
}
