//! Writes `fuzz/seeds/onnx_dialect`: the image encoders of small models in each precision.
//!
//!     cargo run -p pinhole-fuzz-targets --example dialect-seeds

use std::error::Error;
use std::fs;
use std::path::Path;

use pinhole_bundle::IMAGE_ENCODER;
use pinhole_checkpoint::{Checkpoint, OpenOptions};
use pinhole_export::graph::{GraphOptions, write};
use pinhole_model::Precision;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let seeds = root.join("fuzz/seeds/onnx_dialect");
    fs::create_dir_all(&seeds)?;
    for (model, precision, flat) in [
        ("vit-quickgelu", Precision::F32, true),
        ("vit-quickgelu", Precision::F16, false),
        ("vit-quickgelu", Precision::Int8, false),
        ("resnet", Precision::F16, false),
    ] {
        let path = root
            .join("tests/golden/models")
            .join(model)
            .join("open-clip");
        let checkpoint = Checkpoint::open(&path, &OpenOptions::default())?;
        let folder = tempfile::tempdir()?;
        let options = GraphOptions { precision, flat };
        write(&checkpoint, folder.path(), options, &mut |_, _| {})?;
        let name = format!(
            "{model}-{precision}{}.onnx",
            if flat { "-flat" } else { "" }
        );
        fs::copy(folder.path().join(IMAGE_ENCODER), seeds.join(name))?;
    }
    Ok(())
}
