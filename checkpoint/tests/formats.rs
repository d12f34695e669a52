//! The same model in every format gives the same tensors and configuration.

mod common;

use std::fs;

use common::{FILES, copy, digests, golden, golden_digests, models, open};
use pinhole_checkpoint::{Checkpoint, Dtype, Error, OpenOptions, read_state_dict};
use pinhole_model::{
    Activation, ClipConfig, CropRounding, Filter, ImageEncoderConfig, PreprocessConfig, Resize,
    TextEncoderConfig,
};

#[test]
fn every_file_reads_to_the_golden_tensors() {
    let sharded = (
        "vit-gelu",
        "transformers-sharded/model.safetensors.index.json",
    );
    for (family, file) in FILES.into_iter().chain([sharded]) {
        let golden = golden(family);
        let checkpoint = open(&models().join(family).join(file)).unwrap();
        assert_eq!(
            digests(&checkpoint).unwrap(),
            golden_digests(&golden),
            "{family}/{file}"
        );
        let scale = golden["logit_scale"].as_f64().unwrap();
        assert!(
            (f64::from(checkpoint.logit_scale()) / scale - 1.0).abs() < 1e-6,
            "{file}"
        );
    }
}

#[test]
fn a_folder_is_read_as_the_file_in_it() {
    for (family, folder) in [
        ("vit-quickgelu", "open-clip"),
        ("vit-quickgelu", "open-clip-bin"),
        ("vit-quickgelu", "transformers"),
        ("vit-quickgelu", "transformers-bin"),
        ("vit-gelu", "transformers-sharded"),
        ("resnet", "open-clip-bin"),
    ] {
        let checkpoint = open(&models().join(family).join(folder)).unwrap();
        assert_eq!(
            digests(&checkpoint).unwrap(),
            golden_digests(&golden(family)),
            "{folder}"
        );
        assert_eq!(checkpoint.assumptions(), [""; 0], "{family}/{folder}");
    }
}

#[test]
fn configurations_are_inferred() {
    let text = TextEncoderConfig {
        context_length: 16,
        vocabulary: 64,
        width: 24,
        layers: 1,
        heads: 2,
    };
    let vit = |width, layers, heads| ImageEncoderConfig::VisionTransformer {
        image_size: 32,
        patch_size: 8,
        width,
        layers,
        heads,
    };
    let config = |image: ImageEncoderConfig, text: &TextEncoderConfig, activation| ClipConfig {
        name: None,
        embedding: 16,
        preprocessing: PreprocessConfig::openai(image.image_size()),
        image,
        text: text.clone(),
        activation,
    };
    let quick = config(vit(32, 2, 2), &text, Activation::QuickGelu);
    for folder in ["open-clip", "open-clip-bin"] {
        let found = open(&models().join("vit-quickgelu").join(folder)).unwrap();
        assert_eq!(*found.config(), quick, "{folder}");
    }
    let mut floored = quick;
    floored.preprocessing.crop = CropRounding::Floor;
    let found = open(&models().join("vit-quickgelu/transformers")).unwrap();
    assert_eq!(*found.config(), floored);
    floored.activation = Activation::Gelu;
    let found = open(&models().join("vit-gelu/transformers-sharded")).unwrap();
    assert_eq!(*found.config(), floored);

    let image = ImageEncoderConfig::ModifiedResNet {
        image_size: 64,
        layers: [2, 1, 1, 1],
        width: 4,
        heads: 2,
    };
    let found = open(&models().join("resnet/open-clip-bin")).unwrap();
    assert_eq!(*found.config(), config(image, &text, Activation::QuickGelu));

    let text = TextEncoderConfig {
        width: 64,
        heads: 1,
        ..text
    };
    let found = open(&models().join("vit-openai/openai.pt")).unwrap();
    assert_eq!(
        *found.config(),
        config(vit(64, 1, 1), &text, Activation::QuickGelu)
    );
    // OpenAI's archives state no preprocessing, which is noted; their number of heads follows from the width.
    assert_eq!(found.assumptions().len(), 1, "{:?}", found.assumptions());
    assert!(found.assumptions()[0].contains("preprocessing"));
}

#[test]
fn deflated_entries_read_as_stored_ones() {
    let path = models().join("vit-openai/openai.pt");
    let bytes = fs::read(&path).unwrap();
    let archive = rawzip::ZipArchive::from_slice(&bytes).unwrap();
    let mut forged = Vec::new();
    let mut entries = archive.entries();
    while let Some(entry) = entries.next_entry().unwrap() {
        let name = String::from_utf8(entry.file_path().as_bytes().to_vec()).unwrap();
        if name.contains("/code/") {
            continue;
        }
        let data = archive.get_entry(entry.wayfinder()).unwrap();
        forged.push(common::Forged::deflated(&name, data.data()));
    }
    let (_folder, path) = common::file(&common::zip(&forged));
    let checkpoint = open(&path).unwrap();
    assert_eq!(
        digests(&checkpoint).unwrap(),
        golden_digests(&golden("vit-openai"))
    );
}

#[test]
fn the_activation_option_overrides_a_file_and_is_noted() {
    let path = models().join("vit-quickgelu/open-clip");
    let options = OpenOptions {
        activation: Some(Activation::Gelu),
    };
    let checkpoint = Checkpoint::open(&path, &options).unwrap();
    assert_eq!(checkpoint.config().activation, Activation::Gelu);
    assert!(checkpoint.assumptions()[0].contains("has quickgelu"));

    let options = OpenOptions {
        activation: Some(Activation::QuickGelu),
    };
    assert!(
        Checkpoint::open(&path, &options)
            .unwrap()
            .assumptions()
            .is_empty()
    );
}

#[test]
fn weights_without_a_configuration_need_the_activation_option() {
    let (folder, path) = copy("vit-quickgelu", "open-clip/open_clip_model.safetensors");
    fs::remove_file(folder.path().join("open_clip_config.json")).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, Error::UnknownActivation { .. }));
    assert!(
        error.to_string().contains("--activation quickgelu"),
        "{error}"
    );
    // Width 32 is not a multiple of 64, so the number of heads is unknown too.
    let options = OpenOptions {
        activation: Some(Activation::Gelu),
    };
    let error = Checkpoint::open(&path, &options).unwrap_err().to_string();
    assert!(
        error.contains("attention heads of the image encoder"),
        "{error}"
    );
}

#[test]
fn weights_without_a_configuration_get_one_head_per_64_of_width() {
    let state = read_state_dict(&models().join("vit-openai/openai.pt")).unwrap();
    let tensors: Vec<_> = state
        .names()
        .filter(|name| *name != "attn_mask" && state.info(name).unwrap().dtype != Dtype::I64)
        .map(|name| {
            let tensor = state.tensor(name).unwrap();
            let data: Vec<u8> = tensor
                .data
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            (name.to_owned(), tensor.shape, data)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        (
            name,
            safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), data).unwrap(),
        )
    });
    let (_folder, path) = common::file(&safetensors::serialize(views, None).unwrap());
    let options = OpenOptions {
        activation: Some(Activation::QuickGelu),
    };
    let checkpoint = Checkpoint::open(&path, &options).unwrap();
    assert_eq!(
        digests(&checkpoint).unwrap(),
        golden_digests(&golden("vit-openai"))
    );
    let noted = checkpoint.assumptions();
    assert_eq!(noted.len(), 3, "{noted:?}");
    assert!(noted[0].contains("text encoder: 1 attention heads"));
    assert!(noted[1].contains("image encoder: 1 attention heads"));
}

#[test]
fn preprocessing_is_read_from_open_clip() {
    let (folder, _) = copy("vit-quickgelu", "open-clip/open_clip_model.safetensors");
    let file = folder.path().join("open_clip_config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    json["preprocess_cfg"] = serde_json::json!({
        "size": [32, 32], "mean": [0.5, 0.25, 0.125], "std": [1, 2, 3],
        "interpolation": "bilinear", "resize_mode": "longest", "fill_color": [1, 2, 255],
    });
    fs::write(&file, json.to_string()).unwrap();
    let expected = PreprocessConfig {
        size: 32,
        resize: Resize::Longest,
        filter: Filter::Bilinear,
        crop: CropRounding::HalfEven,
        fill: [1, 2, 255],
        mean: [0.5, 0.25, 0.125],
        std: [1.0, 2.0, 3.0],
    };
    assert_eq!(
        open(folder.path()).unwrap().config().preprocessing,
        expected
    );

    json["preprocess_cfg"]["size"] = 64.into();
    fs::write(&file, json.to_string()).unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("expected 32") && error.contains("found 64"),
        "{error}"
    );
}

#[test]
fn preprocessing_is_read_from_transformers() {
    let (folder, _) = copy("vit-quickgelu", "transformers/model.safetensors");
    let file = folder.path().join("preprocessor_config.json");
    let read = |json: serde_json::Value| {
        fs::write(&file, json.to_string()).unwrap();
        open(folder.path()).map(|checkpoint| checkpoint.config().preprocessing.clone())
    };
    let expected = PreprocessConfig {
        resize: Resize::Squash,
        filter: Filter::Bilinear,
        crop: CropRounding::Floor,
        mean: [0.0; 3],
        std: [1.0; 3],
        ..PreprocessConfig::openai(32)
    };
    let squash = serde_json::json!({
        "size": {"height": 32, "width": 32}, "do_center_crop": false, "resample": 2,
        "do_normalize": false,
    });
    assert_eq!(read(squash).unwrap(), expected);
    // As transformers before 4.22 wrote it.
    let old = serde_json::json!({"size": 32, "crop_size": 32, "resample": 3});
    let expected = PreprocessConfig {
        crop: CropRounding::Floor,
        ..PreprocessConfig::openai(32)
    };
    assert_eq!(read(old).unwrap(), expected);

    for (json, field) in [
        (
            serde_json::json!({"size": 40, "crop_size": 32}),
            "crop_size",
        ),
        (
            serde_json::json!({"size": 32, "do_center_crop": false}),
            "do_center_crop",
        ),
        (
            serde_json::json!({"size": 32, "do_resize": false}),
            "do_resize",
        ),
        (serde_json::json!({"size": 32, "resample": 9}), "resample"),
        (
            serde_json::json!({"size": 32, "rescale_factor": 1.0}),
            "rescale_factor",
        ),
        (
            serde_json::json!({"size": 32, "image_std": [0, 1, 1]}),
            "image_std",
        ),
        (serde_json::json!({"size": {"shortest_edge": "32"}}), "size"),
    ] {
        let error = read(json).unwrap_err().to_string();
        assert!(error.contains(&format!("{field}: expected")), "{error}");
    }
}

#[test]
fn a_training_checkpoint_with_unknown_objects_is_read() {
    // The file also has a scheduler and arguments, which are objects of unknown classes.
    let state = read_state_dict(&models().join("vit-quickgelu/training/epoch_1.pt")).unwrap();
    assert!(state.names().all(|name| !name.starts_with("module.")));
    assert_eq!(state.info("logit_scale").unwrap().dtype, Dtype::F16);
    assert_eq!(state.tensor("logit_scale").unwrap().data, [2.65625]);
}

#[test]
fn checkpoints_are_shared_between_threads() {
    let checkpoint = open(&models().join("vit-quickgelu/open-clip-bin")).unwrap();
    let expected = golden_digests(&golden("vit-quickgelu"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(digests(&checkpoint).unwrap(), expected));
        }
    });
}
