//! Models whose image encoder is timm's: only the text side is read. `make_text_sides.py` made them.

use std::fs;
use std::path::{Path, PathBuf};

use pinhole_checkpoint::{Checkpoint, Error, OpenOptions};
use pinhole_model::{ImageEncoderConfig, TextForm};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/text_sides")
        .join(name)
}

#[test]
fn the_text_side_is_read_without_the_image_encoder() {
    for (name, form) in [
        ("convnext", TextForm::Clip),
        ("mobileclip", TextForm::ClipUnmasked),
        ("pe-core", TextForm::Clip),
    ] {
        let checkpoint = Checkpoint::open(&model(name), &OpenOptions::default()).unwrap();
        let config = checkpoint.config();
        assert_eq!(config.image, ImageEncoderConfig::Timm { image_size: 32 });
        assert_eq!((config.text.form, config.embedding), (form, 16), "{name}");
        assert_eq!(config.preprocessing.size, 32);
        let mut tensors = checkpoint.tensors().iter();
        assert!(!tensors.any(|(tensor, _)| tensor.starts_with("visual.")));
        assert_eq!(
            checkpoint.tensor("text_projection").unwrap().shape,
            [24, 16]
        );
    }
}

/// A tensor of neither the text encoder nor timm's image encoder, or a configuration of another model, is not ignored.
#[test]
fn what_does_not_belong_to_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let file = folder.path().join(name);
        fs::copy(model("mobileclip").join(name), &file).unwrap();
        file
    };
    let (config, weights) = (
        copy("open_clip_config.json"),
        copy("open_clip_model.safetensors"),
    );
    let open = || Checkpoint::open(folder.path(), &OpenOptions::default());
    let original: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    for (pointer, value, expected) in [
        (
            "/model_cfg/text_cfg/width",
            32,
            "text_cfg.width: expected 24",
        ),
        ("/model_cfg/vision_cfg/image_size", 48, "expected 48"),
        ("/model_cfg/vision_cfg/image_size", 1 << 20, "16384 pixels"),
    ] {
        let mut json = original.clone();
        *json.pointer_mut(pointer).unwrap() = value.into();
        fs::write(&config, json.to_string()).unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    fs::write(&config, original.to_string()).unwrap();
    open().unwrap();

    let bytes = fs::read(&weights).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let extra = tensors.tensor("logit_scale").unwrap();
    let all = tensors
        .tensors()
        .into_iter()
        .chain([("visual.other".to_owned(), extra)]);
    fs::write(&weights, safetensors::serialize(all, None).unwrap()).unwrap();
    match open().unwrap_err() {
        Error::SurplusTensor { name, .. } => assert_eq!(name, "visual.other"),
        other => panic!("{other}"),
    }
}

/// Neither the image size nor the mask of the text encoder shows in the tensors.
#[test]
fn the_configuration_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let name = "open_clip_model.safetensors";
    let weights = folder.path().join(name);
    fs::copy(model("convnext").join(name), &weights).unwrap();
    let options = OpenOptions {
        activation: Some(pinhole_model::Activation::Gelu),
        ..OpenOptions::default()
    };
    let error = Checkpoint::open(&weights, &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("expected open_clip_config.json"), "{error}");
}
