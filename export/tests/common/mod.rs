//! Shared by the tests: a small random checkpoint, and a folder to export into.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

pub mod onnx;
pub mod reference;
mod weights;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use pinhole_bundle::{
    BundleWriter, FORMAT, Golden, GoldenImage, Head, HeadKind, Manifest, ModelInfo, UnknownPolicy,
    VERSION,
};
use pinhole_checkpoint::{Error, Existing};
use pinhole_model::{
    Activation, ClipConfig, ImageEncoderConfig, Precision, PreprocessConfig, Tensor,
    TextEncoderConfig,
};
pub use weights::random;

/// A checkpoint of a small ViT with CLIP's vocabulary, written once for all tests.
static CHECKPOINT: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(&folder.path().join("clip"), |_, tensor| tensor);
    folder
});

pub fn write_checkpoint(folder: &Path, change: impl Fn(&str, Tensor) -> Tensor) {
    write_checkpoint_of(folder, 32, change);
}

/// As [`write_checkpoint`], with embeddings of this size.
pub fn write_checkpoint_of(
    folder: &Path,
    embedding: usize,
    change: impl Fn(&str, Tensor) -> Tensor,
) {
    write_clip(folder, &small_clip(embedding), change);
}

/// A small CLIP with embeddings of this size.
pub fn small_clip(embedding: usize) -> ClipConfig {
    ClipConfig {
        name: None,
        embedding,
        image: small_vit(64, 2),
        text: TextEncoderConfig {
            context_length: 16,
            vocabulary: 49_408,
            width: 64,
            layers: 1,
            heads: 1,
            form: Default::default(),
        },
        activation: Activation::QuickGelu,
        text_activation: Activation::QuickGelu,
        preprocessing: PreprocessConfig::openai(32),
    }
}

/// An image encoder for 16 patches of 8 pixels.
pub fn small_vit(width: usize, layers: usize) -> ImageEncoderConfig {
    ImageEncoderConfig::VisionTransformer {
        image_size: 32,
        patch_size: 8,
        width,
        layers,
        heads: width / 64,
        mlp: 4 * width,
        input_norm: true,
        pooling: pinhole_model::VitPooling::ClassToken,
    }
}

/// Writes a checkpoint of random weights.
pub fn write_clip(folder: &Path, config: &ClipConfig, change: impl Fn(&str, Tensor) -> Tensor) {
    let shapes = config.tensors();
    pinhole_checkpoint::write::<Error>(folder, config, Existing::Keep, |name| {
        let shape = &shapes.iter().find(|(n, _)| n == name).unwrap().1;
        Ok(change(name, random(name, shape)))
    })
    .unwrap();
}

/// Completes a bundle whose image encoder is written, with a head of one class and a golden image as placeholders.
pub fn finish_bundle(
    writer: BundleWriter,
    preprocessing: PreprocessConfig,
    precision: Precision,
    embedding_size: usize,
    logit_scale: f32,
) {
    let mut unit = vec![0.0; embedding_size];
    unit[0] = 1.0;
    writer
        .add_head(&Head {
            classes: 1,
            embedding_size,
            class_embeddings: unit.clone(),
            ..Head::default()
        })
        .unwrap();
    let image = GoldenImage {
        file: "image_encoder.onnx".into(),
        embedding: unit,
    };
    writer
        .add_golden(&Golden {
            min_cosine: 0.0,
            images: vec![image],
        })
        .unwrap();
    let mut manifest = Manifest {
        format: FORMAT.into(),
        version: VERSION,
        created_by: "test".into(),
        model: ModelInfo {
            name: "test".into(),
            image_size: preprocessing.size,
            embedding_size,
        },
        preprocessing,
        precision,
        logit_scale,
        temperature: 1.0,
        score: Default::default(),
        classes: vec!["class".into()],
        templates: vec![],
        method: None,
        prompt_learner: None,
        text_encoder: None,
        unknown: UnknownPolicy::default(),
        head: HeadKind::Static,
        cache: None,
        conditional: None,
        fidelity: None,
        f16_arithmetic: None,
        calibration: None,
        model_card: String::new(),
        files: vec![],
    };
    writer.finish(&mut manifest).unwrap();
}

/// int8 that is not judged, as it must not be without calibration images.
pub const INT8: [&str; 6] = [
    "--precision",
    "int8",
    "--min-cosine",
    "0",
    "--min-agreement",
    "0",
];

pub fn checkpoint() -> PathBuf {
    CHECKPOINT.path().join("clip")
}

pub struct Scene {
    pub folder: tempfile::TempDir,
}

impl Scene {
    pub fn new(classes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("classes.txt"), classes).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder of as many calibration images as int8 is judged by at least.
    pub fn photos(&self) -> String {
        let folder = self.path("photos");
        fs::create_dir_all(&folder).unwrap();
        for i in 0..pinhole_export::FidelityGate::MIN_IMAGES {
            let byte = |at: usize| (at * (i * 7 + 3) % 251 / (1 + i % 3)) as u8;
            let data = (0..40 * 36 * 3).map(byte).collect();
            let image = image::RgbImage::from_raw(40, 36, data).unwrap();
            image.save(folder.join(format!("{i}.png"))).unwrap();
        }
        folder.to_str().unwrap().to_owned()
    }

    pub fn export(&self, clip: &Path, extra: &[&str]) -> Output {
        self.run("bundle", clip, extra)
    }

    /// Runs a subcommand of `pinhole-export` that writes a bundle.
    pub fn run(&self, command_name: &str, clip: &Path, extra: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-export"));
        command
            .arg(command_name)
            .arg("--clip")
            .arg(clip)
            .arg("--classes")
            .arg(self.path("classes.txt"));
        if !extra.contains(&"--out") {
            command.arg("--out").arg(self.path("bundle"));
        }
        command.args(extra).output().unwrap()
    }

    #[track_caller]
    pub fn assert_fails(&self, output: &Output, parts: &[&str]) {
        let before = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>();
        let message = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        let errors: Vec<&str> = message
            .lines()
            .filter(|l| !l.starts_with("note: ") && !l.starts_with("warning: "))
            .collect();
        assert_eq!(errors.len(), 1, "{message}");
        assert!(errors[0].starts_with("error: "), "{message}");
        for part in parts {
            assert!(errors[0].contains(part), "expected {part:?} in: {message}");
        }
        let left: Vec<_> = before
            .iter()
            .filter(|n| n.to_string_lossy().contains("partial"))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}
