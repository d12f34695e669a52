//! A CLIP whose image encoder is timm's supplies the text side of an ONNX file. `make_text_sides.py` made the models.

use std::fs;
use std::path::{Path, PathBuf};

use pinhole::Classifier;
use pinhole_bundle::Bundle;
use pinhole_checkpoint::{Checkpoint, OpenOptions};
use pinhole_prompts::TextEncoder;
use serde_json::{Value, json};

use crate::common::{Scene, write_checkpoint_of};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

/// Without a mask the padding counts, and the causal texts do not depend on it.
#[test]
fn texts_are_embedded_as_by_open_clip() {
    for name in ["convnext", "mobileclip", "pe-core"] {
        let folder = golden("text_sides").join(name);
        let checkpoint = Checkpoint::open(&folder, &OpenOptions::default()).unwrap();
        let encoder = TextEncoder::load(&checkpoint).unwrap();
        let golden = fs::read(folder.join("golden.json")).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let texts: Vec<Vec<u32>> = serde_json::from_value(golden["texts"].clone()).unwrap();
        let expected: Vec<Vec<f32>> =
            serde_json::from_value(golden["text_embeddings"].clone()).unwrap();
        let together = encoder.embed_batch(&texts).unwrap();
        let rows = together.chunks_exact(encoder.embedding());
        for ((text, expected), row) in texts.iter().zip(&expected).zip(rows) {
            let alone = encoder.embed_tokens(text).unwrap();
            for found in [&alone[..], row] {
                let cosine: f32 = found.iter().zip(expected).map(|(a, b)| a * b).sum();
                assert!(cosine > 0.999_99, "{name}: {cosine}");
            }
        }
    }
}

/// A checkpoint with CLIP's vocabulary, whose image encoder is replaced by tensors of timm.
fn timm_checkpoint(folder: &Path, unmasked: bool) {
    write_checkpoint_of(folder, 16, |_, tensor| tensor);
    let weights = folder.join("open_clip_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let text = (tensors.tensors().into_iter()).filter(|(name, _)| !name.starts_with("visual."));
    let trunk = tensors.tensor("visual.conv1.weight").unwrap();
    let all = text.chain([("visual.trunk.stem.0.weight".to_owned(), trunk)]);
    fs::write(&weights, safetensors::serialize(all, None).unwrap()).unwrap();
    let file = folder.join("open_clip_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["model_cfg"]["vision_cfg"] = json!({ "image_size": 32, "timm_model_name": "convnext_base", "timm_pool": "", "timm_proj": "linear" });
    if unmasked {
        config["model_cfg"]["text_cfg"]["no_causal_mask"] = true.into();
    }
    fs::write(&file, config.to_string()).unwrap();
}

#[test]
fn the_image_side_comes_from_an_onnx_file() {
    for unmasked in [false, true] {
        let scene = Scene::new("cat\ndog\n");
        let clip = scene.path("clip");
        timm_checkpoint(&clip, unmasked);
        let file = golden("foreign/f32.onnx");
        let encoder = ["--encoder", file.to_str().unwrap()];
        let output = scene.run("onnx", &clip, &encoder);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{message}");
        let bundle = Bundle::open(&scene.path("bundle")).unwrap();
        assert_eq!(bundle.manifest().classes, ["cat", "dog"]);
        let classifier = Classifier::open(scene.path("bundle")).unwrap();
        assert!(classifier.self_test().unwrap().passed());
        fs::remove_dir_all(scene.path("bundle")).unwrap();

        let with_text = scene.run("onnx", &clip, &[&encoder[..], &["--with-text"]].concat());
        if unmasked {
            scene.assert_fails(&with_text, &["--with-text", "without (MobileCLIP's)"]);
        } else {
            assert!(with_text.status.success(), "{with_text:?}");
            fs::remove_dir_all(scene.path("bundle")).unwrap();
        }
        // The checkpoint has no image encoder that could be exported.
        let output = scene.export(&clip, &[]);
        scene.assert_fails(
            &output,
            &["found one of timm", "pinhole-export onnx --encoder"],
        );
    }
}
