//! A small model, its images, and calls of the command.

pub(crate) mod numbers;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use pinhole_training::{
    pairs::PairSource,
    pretraining::{ModelSizes, Pretraining, PretrainingOptions},
    random::SeededRng,
    shapes,
    vocabulary::Vocabulary,
};

/// Writes a small untrained CLIP model: its class embeddings are far apart.
pub(crate) fn checkpoint(folder: &Path) -> PathBuf {
    let options = PretrainingOptions {
        model: ModelSizes {
            image_size: 16,
            patch_size: 8,
            width: 64,
            layers: 1,
            text_width: 64,
            text_layers: 2,
            context_length: 24,
            embedding: 32,
        },
        steps: 1,
        batch_size: 8,
        learning_rate: 1e-3,
        warm_up: 0,
        beta1: 0.9,
        beta2: 0.98,
        epsilon: 1e-6,
        weight_decay: 0.1,
        clip_gradient: 1.0,
        seed: 5,
    };
    let texts = PairSource::Shapes.texts();
    let vocabulary = Vocabulary::of(texts.iter().map(String::as_str));
    let path = folder.join("clip");
    Pretraining::new(options, vocabulary)
        .unwrap()
        .write_checkpoint(&path)
        .unwrap();
    path
}

/// Five classes with eight images each.
pub(crate) fn images(folder: &Path) -> PathBuf {
    let path = folder.join("pictures");
    for index in 0..40u64 {
        let (class, colour) = (index as usize % 5, index as usize % 5);
        let scene = shapes::Scene::random(&mut SeededRng::new(7, index), Some(colour), class);
        let image = shapes::render(&scene, 40, 30);
        let class = path.join(shapes::class_name(class * 9).replace(' ', "_"));
        fs::create_dir_all(&class).unwrap();
        let kind = image::ExtendedColorType::Rgb8;
        let file = class.join(format!("{index:02}.png"));
        image::save_buffer(file, &image.data, image.width, image.height, kind).unwrap();
    }
    path
}

pub(crate) fn call(arguments: &str, folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-train"));
    command
        .args(arguments.split_whitespace())
        .current_dir(folder);
    command.output().unwrap()
}

/// Standard output and error.
pub(crate) fn succeed(arguments: &str, folder: &Path) -> (String, String) {
    let output = call(arguments, folder);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments}: {errors}");
    (String::from_utf8(output.stdout).unwrap(), errors)
}

/// The standard error of a failure.
pub(crate) fn fail(arguments: &str, folder: &Path) -> String {
    end_with(1, arguments, folder)
}

/// The standard error of wrong usage.
pub(crate) fn refuse(arguments: &str, folder: &Path) -> String {
    end_with(2, arguments, folder)
}

fn end_with(code: i32, arguments: &str, folder: &Path) -> String {
    let output = call(arguments, folder);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments}: {errors}");
    errors
}
