//! Times updates of CoOp and CoCoOp on random weights with the text encoder of ViT-B/32:
//!
//!     prompt_step coop|cocoop NAMES UPDATES [THREADS]
//!
//! NAMES is a file with one class name per line. Prints the seconds of each update, one per line: for CoOp
//! with 16 context vectors and a batch of 32, for CoCoOp with 4 and one image. For comparable times use the
//! environment that `pinhole-train` sets for itself (see main.rs): RAYON_NUM_THREADS=1 and the settings of
//! malloc, as benches/time_prompt_learning.py does.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use pinhole_checkpoint::{Checkpoint, Existing, OpenOptions};
use pinhole_model::{
    Activation, ClipConfig, ImageEncoderConfig, PreprocessConfig, Tensor, TextEncoderConfig,
};
use pinhole_training::{
    prompt_learning::{ImageFeatures, Method, PromptOptions, PromptTraining},
    random::SeededRng,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [method, names, updates, rest @ ..] = &arguments[..] else {
        bail!("usage: prompt_step coop|cocoop NAMES UPDATES [THREADS]");
    };
    let threads = rest.first().map_or(Ok(2), |t| t.parse::<usize>())?;
    gemm::set_threading_threshold(usize::MAX);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()?;
    let text = std::fs::read_to_string(names).with_context(|| names.clone())?;
    let classes: Vec<String> = text.lines().map(str::to_owned).collect();
    let Some(method) = Method::by_key(method) else {
        bail!("method {method:?}: expected coop or cocoop");
    };
    let options = PromptOptions::new(method, 16, 1);

    let folder = std::env::temp_dir().join(format!("prompt-step-{}", std::process::id()));
    let clip = random_clip(&folder)?;
    let images = options.batch_size;
    let mut rng = SeededRng::new(1, 0);
    let mut data: Vec<f32> = (0..images * 512).map(|_| rng.normal()).collect();
    for row in data.chunks_exact_mut(512) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    let features = ImageFeatures {
        views: 1,
        embedding: 512,
        data,
    };
    let labels: Vec<usize> = (0..images).map(|i| i % classes.len()).collect();
    let training = PromptTraining::new(&clip, &classes, features, labels, &options);
    std::fs::remove_dir_all(&folder)?;
    let mut training = training?;
    let batch = training.batch(0);
    for _ in 0..updates.parse::<usize>()? {
        let start = Instant::now();
        training.update(&batch)?;
        println!("{}", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// A model with ViT-B/32's text encoder and a small image encoder.
fn random_clip(folder: &std::path::Path) -> Result<Checkpoint> {
    let config = ClipConfig {
        name: None,
        embedding: 512,
        image: ImageEncoderConfig::VisionTransformer {
            image_size: 32,
            patch_size: 16,
            width: 64,
            layers: 1,
            heads: 1,
            mlp: 4 * 64,
            input_norm: true,
            pooling: pinhole_model::VitPooling::ClassToken,
        },
        text: TextEncoderConfig {
            context_length: 77,
            vocabulary: 49_408,
            width: 512,
            layers: 12,
            heads: 8,
            form: Default::default(),
        },
        activation: Activation::QuickGelu,
        text_activation: Activation::QuickGelu,
        preprocessing: PreprocessConfig::openai(32),
    };
    let shapes = config.tensors();
    pinhole_checkpoint::write(folder, &config, Existing::Replace, |name| {
        let shape = shapes.iter().find(|(known, _)| known == name);
        let shape = shape.map_or(vec![], |(_, shape)| shape.clone());
        let (mut rng, count) = (
            SeededRng::new(7, shapes.len() as u64),
            shape.iter().product(),
        );
        let value = |_| match name {
            "logit_scale" => 4.6,
            _ if name.contains("ln_") => f32::from(name.ends_with("weight")),
            _ => 0.04 * rng.range(-1.0, 1.0),
        };
        let data = (0..count).map(value).collect();
        Ok::<_, pinhole_checkpoint::Error>(Tensor { shape, data })
    })?;
    Ok(Checkpoint::open(folder, &OpenOptions::default())?)
}
