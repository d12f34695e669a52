//! The workstation's command line on a small random checkpoint: what it writes, and what bad input leads
//! to. Each bad input must give exit code 1, one `error:` line that names what is wrong, and no output
//! folder, not even a temporary one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use pinhole::Classifier;
use pinhole_checkpoint::{Activation, ClipConfig, Error, Existing, ImageTower, Tensor, TextTower};
use pinhole_preprocessing::Preprocessing;
use serde_json::Value;

/// A checkpoint of a small ViT with the true vocabulary, made once for all tests.
static CHECKPOINT: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(&folder.path().join("clip"), |_, tensor| tensor);
    folder
});

fn write_checkpoint(folder: &Path, change: impl Fn(&str, Tensor) -> Tensor) {
    let config = ClipConfig {
        name: None,
        embedding: 32,
        image: ImageTower::VisionTransformer {
            image_size: 32,
            patch_size: 8,
            width: 64,
            layers: 2,
            heads: 1,
        },
        text: TextTower {
            context_length: 16,
            vocabulary: 49_408,
            width: 64,
            layers: 1,
            heads: 1,
        },
        activation: Activation::QuickGelu,
        preprocessing: Preprocessing::openai(32),
    };
    let shapes = config.tensors();
    pinhole_checkpoint::write::<Error>(folder, &config, Existing::Keep, |name| {
        let shape = &shapes.iter().find(|(n, _)| n == name).unwrap().1;
        Ok(change(name, random(name, shape)))
    })
    .unwrap();
}

/// Numbers that depend on the tensor's name alone: gains near 1, matrices that keep the variance.
fn random(name: &str, shape: &[usize]) -> Tensor {
    let mut state = name.bytes().fold(1u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let count = shape.iter().product();
    let gain = name.contains("ln_") && name.ends_with("weight");
    let scale = if shape.len() > 1 {
        2.0 / (shape[shape.len() - 1] as f32).sqrt()
    } else {
        0.2
    };
    let data = (0..count)
        .map(|_| match name {
            "logit_scale" => 4.6,
            _ if gain => 1.0 + 0.2 * uniform(),
            _ => scale * uniform(),
        })
        .collect();
    Tensor {
        shape: shape.to_vec(),
        data,
    }
}

fn checkpoint() -> PathBuf {
    CHECKPOINT.path().join("clip")
}

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(classes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("classes.txt"), classes).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn export(&self, clip: &Path, extra: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-export"));
        command
            .arg("bundle")
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
    fn assert_fails(&self, output: &Output, parts: &[&str]) {
        let before = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>();
        let message = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        let errors: Vec<&str> = message
            .lines()
            .filter(|l| !l.starts_with("note: "))
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

#[test]
fn each_precision_and_the_flat_form_give_the_same_answer() {
    let scene = Scene::new("cat\ndog\n\nraspberry pi\n");
    let image = pinhole::RgbImage::new(
        50,
        40,
        (0..50 * 40 * 3).map(|i| (i * 7 % 251) as u8).collect(),
    )
    .unwrap();
    let mut embeddings = vec![];
    for (name, extra) in [
        ("a", vec![]),
        ("b", vec!["--precision", "f16"]),
        ("c", vec!["--flat"]),
    ] {
        let out = scene.path(name);
        let out = out.to_str().unwrap();
        let output = scene.export(&checkpoint(), &[&extra[..], &["--out", out]].concat());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let classifier = Classifier::open(out).unwrap();
        assert!(classifier.self_test().unwrap().passed());
        assert_eq!(
            classifier.manifest().classes,
            ["cat", "dog", "raspberry pi"]
        );
        let ours = classifier
            .operators()
            .iter()
            .filter(|(_, op)| op == "Attention")
            .count();
        assert_eq!(ours, if name == "c" { 0 } else { 2 });
        embeddings.push(classifier.embed(&image).unwrap().values);
    }
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    assert!(cosine(&embeddings[0], &embeddings[1]) > 0.999);
    assert!(cosine(&embeddings[0], &embeddings[2]) > 0.999_99);
    let manifest = Classifier::open(scene.path("b"))
        .unwrap()
        .manifest()
        .clone();
    assert!(manifest.fidelity.unwrap().mean_cosine > 0.999);
}

#[test]
fn text_prints_unit_vectors_as_json() {
    let output = Command::new(env!("CARGO_BIN_EXE_pinhole-export"))
        .args(["text", "--json", "--clip"])
        .arg(checkpoint())
        .args(["a photo of a cat", "ein Hund"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["text"], "ein Hund");
    let norm: f64 = lines[0]["embedding"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap().powi(2))
        .sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
}

#[test]
fn class_lists_are_checked() {
    for (classes, parts) in [
        ("", &["classes.txt", "class"][..]),
        ("cat\ndog\ncat\n", &["classes.txt", "cat"]),
        (
            "a name that is much too long for a context of sixteen tokens because it goes on and on and on\n",
            &["16"],
        ),
    ] {
        let scene = Scene::new(classes);
        scene.assert_fails(&scene.export(&checkpoint(), &[]), parts);
        assert!(!scene.path("bundle").exists());
    }
}

#[test]
fn output_folder_is_never_overwritten_and_must_be_writable() {
    let scene = Scene::new("cat\n");
    fs::create_dir(scene.path("bundle")).unwrap();
    fs::write(scene.path("bundle/precious"), "kept").unwrap();
    scene.assert_fails(&scene.export(&checkpoint(), &[]), &["bundle", "exists"]);
    assert_eq!(
        fs::read_to_string(scene.path("bundle/precious")).unwrap(),
        "kept"
    );

    let below_a_file = scene.path("classes.txt/bundle");
    let output = scene.export(&checkpoint(), &["--out", below_a_file.to_str().unwrap()]);
    scene.assert_fails(&output, &["classes.txt"]);
    let nowhere = scene.path("no/such/parent");
    scene.assert_fails(
        &scene.export(&checkpoint(), &["--out", nowhere.to_str().unwrap()]),
        &["no/such"],
    );
}

#[test]
fn bad_checkpoints_are_named() {
    let scene = Scene::new("cat\n");
    scene.assert_fails(
        &scene.export(&scene.path("missing.pt"), &[]),
        &["missing.pt"],
    );

    // A NaN in a weight is found when the weight is read, with the output folder already begun. Our own
    // writer refuses one, so a number that stands nowhere else is replaced in the file.
    let nan = scene.path("nan");
    write_checkpoint(&nan, |name, mut tensor| {
        if name == "visual.transformer.resblocks.1.mlp.c_fc.weight" {
            tensor.data[5] = 12_345.678;
        }
        tensor
    });
    let file = nan.join("open_clip_model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let marker = 12_345.678f32.to_le_bytes();
    let at = bytes.windows(4).position(|w| w == marker).unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    scene.assert_fails(
        &scene.export(&nan, &[]),
        &["visual.transformer.resblocks.1.mlp.c_fc.weight", "NaN"],
    );
    assert!(!scene.path("bundle").exists());

    let whole = fs::read(checkpoint().join("open_clip_model.safetensors")).unwrap();
    let cut = scene.path("cut.safetensors");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    scene.assert_fails(
        &scene.export(&cut, &["--activation", "gelu"]),
        &["cut.safetensors"],
    );
}

#[test]
fn a_weight_beyond_f16_is_named() {
    let scene = Scene::new("cat\n");
    let large = scene.path("large");
    write_checkpoint(&large, |name, mut tensor| {
        if name == "visual.transformer.resblocks.0.mlp.c_proj.weight" {
            tensor.data[0] = 1e6;
        }
        tensor
    });
    let output = scene.export(&large, &["--precision", "f16"]);
    scene.assert_fails(
        &output,
        &["block_0.c_proj.weight", "f16", "--precision f32"],
    );
}

/// Weights so small that f16 keeps a bit or two of them: the last layer's scale is lost in the
/// normalisation, its direction is not.
#[test]
fn a_precision_below_the_gate_is_refused_with_its_figures() {
    let scene = Scene::new("cat\ndog\n");
    let tiny = scene.path("tiny");
    write_checkpoint(&tiny, |name, mut tensor| {
        if name == "visual.proj" {
            tensor.data.iter_mut().for_each(|v| *v *= 1e-6);
        }
        tensor
    });
    let output = scene.export(&tiny, &["--precision", "f16"]);
    scene.assert_fails(&output, &["--min-cosine 0.98", "mean cosine"]);
    assert!(!scene.path("bundle").exists());
    let output = scene.export(
        &tiny,
        &[
            "--precision",
            "f16",
            "--min-cosine",
            "0",
            "--min-agreement",
            "0",
        ],
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        vec![],
        vec!["bundle"],
        vec!["bundle", "--precision", "int3"],
        vec!["text"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_pinhole-export"))
            .args(&arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
