//! Writes what is missing of `fuzz/seeds/onnx_dialect`: the image encoders of small models in each precision. Those that are there
//! stay: boards have such files of earlier exports.
//!
//!     cargo run -p pinhole-fuzz-targets --example dialect-seeds

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use pinhole_bundle::IMAGE_ENCODER;
use pinhole_checkpoint::{Checkpoint, Existing, OpenOptions};
use pinhole_export::graph::{GraphOptions, write};
use pinhole_export::{
    CalibrationImages, CalibrationOptions, ClassPrompts, EncoderOptions, EncoderSource,
    ExportOptions, FidelityGate, GivenEmbeddings, TextOptions, export,
};
use pinhole_model::{ImageEncoderConfig, Learned, LearnedClasses, Precision, Score, Tensor};
use pinhole_prompts::{Classes, Tokenizer};

/// What a seed has besides its model.
enum Change {
    None,
    /// So many constant tokens.
    Tokens(usize),
    /// Images of this side.
    Side(u32),
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let seeds = root.join("fuzz/seeds/onnx_dialect");
    fs::create_dir_all(&seeds)?;
    for (model, precision, flat, change) in [
        ("vit-quickgelu", Precision::F32, true, Change::None),
        ("vit-quickgelu", Precision::F16, false, Change::None),
        ("vit-quickgelu", Precision::Int8, false, Change::None),
        ("vit-quickgelu", Precision::Int8, false, Change::Tokens(2)),
        // Enough patches for attention in integers.
        ("vit-quickgelu", Precision::Int8, false, Change::Side(64)),
        ("resnet", Precision::F16, false, Change::None),
    ] {
        let form = if flat { "-flat" } else { "" };
        let changed = match change {
            Change::None => String::new(),
            Change::Tokens(_) => "-tokens".into(),
            Change::Side(side) => format!("-{side}"),
        };
        let seed = seeds.join(format!("{model}-{precision}{form}{changed}.onnx"));
        if seed.exists() {
            continue;
        }
        let folder = tempfile::tempdir()?;
        let mut checkpoint = open(&root, model)?;
        match change {
            Change::None => {}
            Change::Tokens(count) => checkpoint.adapt(&with_tokens(&checkpoint, count))?,
            Change::Side(side) => {
                let path = folder.path().join("checkpoint");
                write_for_side(&checkpoint, side, &path)?;
                checkpoint = Checkpoint::open(&path, &OpenOptions::default())?;
            }
        }
        let options = GraphOptions { precision, flat };
        write(&checkpoint, folder.path(), options, &mut |_, _| {})?;
        fs::copy(folder.path().join(IMAGE_ENCODER), seed)?;
    }
    let seed = seeds.join("resnet-int8.onnx");
    if !seed.exists() {
        let folder = tempfile::tempdir()?;
        let bundle = folder.path().join("bundle");
        export_int8(&open(&root, "resnet")?, &bundle)?;
        fs::copy(bundle.join(IMAGE_ENCODER), seed)?;
    }
    Ok(())
}

fn open(root: &Path, model: &str) -> Result<Checkpoint, Box<dyn Error>> {
    let models = root.join("tests/golden/models");
    let path = models.join(model).join("open-clip");
    Ok(Checkpoint::open(&path, &OpenOptions::default())?)
}

/// `checkpoint` for images of another side, with its positions repeated.
fn write_for_side(checkpoint: &Checkpoint, side: u32, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut config = checkpoint.config().clone();
    config.preprocessing.size = side;
    if let ImageEncoderConfig::VisionTransformer { image_size, .. } = &mut config.image {
        *image_size = side;
    }
    let shapes: HashMap<String, Vec<usize>> = config.tensors().into_iter().collect();
    pinhole_checkpoint::write(folder, &config, Existing::Keep, |name| {
        let tensor = checkpoint.tensor(name)?;
        let shape = shapes[name].clone();
        let count = shape.iter().product();
        let data = tensor.data.iter().copied().cycle().take(count).collect();
        Ok::<Tensor, Box<dyn Error>>(Tensor { shape, data })
    })
}

/// A bundle in int8, fitted to the golden images: only then do convolutions exchange bytes.
fn export_int8(checkpoint: &Checkpoint, out: &Path) -> Result<(), Box<dyn Error>> {
    let config = checkpoint.config();
    let embedding = Tensor {
        shape: vec![1, config.embedding],
        data: vec![1.0; config.embedding],
    };
    let options = ExportOptions {
        checkpoint: None,
        preprocessing: config.preprocessing.clone(),
        logit_scale: 100.0,
        text: TextOptions {
            tokenizer: &Tokenizer::new(),
            classes: &Classes::new(["class"])?,
            prompts: ClassPrompts::Given(&GivenEmbeddings::learned(&embedding)?),
            negatives: &[],
            include_text_encoder: false,
        },
        encoder: EncoderOptions {
            source: EncoderSource::Checkpoint(checkpoint),
            graph: GraphOptions {
                precision: Precision::Int8,
                flat: false,
            },
            gate: FidelityGate::OFF,
            report: false,
        },
        method: None,
        score: Score::Softmax,
        calibration: CalibrationOptions {
            images: &CalibrationImages::default(),
            keep: 0.95,
        },
        model_card: String::new(),
        out,
    };
    export(&options, &mut |_, _, _| ())?;
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
