//! The same model in every format gives the same tensors and configuration.

use std::fs;

use pinhole_checkpoint::{Checkpoint, Dtype, Error, Heads, OpenOptions, read_state_dict};
use pinhole_model::{
    Activation, ClipConfig, CropRounding, Filter, ImageEncoderConfig, PreprocessConfig, Resize,
    TextEncoderConfig, TextForm, VitPooling,
};

use crate::common::{self, FILES, copy, digests, golden, golden_digests, models, open};

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
        form: TextForm::Clip,
    };
    let vit = |width, layers, heads| ImageEncoderConfig::VisionTransformer {
        image_size: 32,
        patch_size: 8,
        width,
        layers,
        heads,
        mlp: 4 * width,
        input_norm: true,
        pooling: pinhole_model::VitPooling::ClassToken,
    };
    let config = |image: ImageEncoderConfig, text: &TextEncoderConfig, activation| ClipConfig {
        name: None,
        embedding: 16,
        preprocessing: PreprocessConfig::openai(image.image_size()),
        image,
        text: text.clone(),
        activation,
        text_activation: activation,
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
    (floored.activation, floored.text_activation) = (Activation::Gelu, Activation::Gelu);
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

/// As open_clip describes them; what is written is what was read.
#[test]
fn forms_of_vision_transformers_are_read_and_written() {
    let form = |family: &str| {
        let found = open(&models().join(family).join("open-clip")).unwrap();
        assert_eq!(found.assumptions(), [""; 0], "{family}");
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy");
        pinhole_checkpoint::write(
            &copy,
            found.config(),
            pinhole_checkpoint::Existing::Keep,
            |name| found.tensor(name),
        )
        .unwrap();
        assert_eq!(open(&copy).unwrap().config(), found.config(), "{family}");
        match found.config().image {
            ImageEncoderConfig::VisionTransformer {
                mlp,
                input_norm,
                pooling,
                heads,
                ..
            } => (mlp, input_norm, pooling, heads),
            ref other => panic!("{other}"),
        }
    };
    assert_eq!(form("vit-average"), (80, true, VitPooling::Average, 2));
    assert_eq!(
        form("vit-average-first"),
        (157, false, VitPooling::AverageBeforeNorm, 2)
    );
    assert_eq!(
        form("vit-no-pre-norm"),
        (128, false, VitPooling::ClassToken, 4)
    );
}

/// A file that lost a norm is not a model without one: the configuration says which.
#[test]
fn the_form_in_a_configuration_must_be_that_of_the_weights() {
    for (family, field, value, expected) in [
        (
            "vit-no-pre-norm",
            "no_ln_pre",
            false.into(),
            "visual.ln_pre.weight is missing",
        ),
        (
            "vit-average",
            "no_ln_pre",
            true.into(),
            "visual.ln_pre.bias with shape [32] is not part",
        ),
        (
            "vit-average",
            "mlp_ratio",
            4.into(),
            "vision_cfg.mlp_ratio: expected 80, as in the weights, found 128",
        ),
        (
            "vit-average",
            "pool_type",
            "last".into(),
            "pool_type: expected tok or avg",
        ),
        (
            "vit-average",
            "mlp_ratio",
            (-1).into(),
            "mlp_ratio: expected a number above zero",
        ),
    ] {
        let (folder, _) = copy(family, "open-clip/open_clip_model.safetensors");
        let error = changed_in(&folder, "open_clip_config.json", |json| {
            json["model_cfg"]["vision_cfg"][field] = value;
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // Bare weights, where it is a note.
    let (folder, path) = copy("vit-no-pre-norm", "open-clip/open_clip_model.safetensors");
    fs::remove_file(folder.path().join("open_clip_config.json")).unwrap();
    let options = OpenOptions {
        activation: Some(Activation::Gelu),
        heads: "4,2".parse().unwrap(),
    };
    let found = Checkpoint::open(&path, &options).unwrap();
    let notes = found.assumptions();
    assert!(
        notes
            .iter()
            .any(|note| note.contains("no layer norm before the blocks")),
        "{notes:?}"
    );
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
        ..OpenOptions::default()
    };
    let checkpoint = Checkpoint::open(&path, &options).unwrap();
    assert_eq!(checkpoint.config().activation, Activation::Gelu);
    assert!(checkpoint.assumptions()[0].contains("has quickgelu"));

    let options = OpenOptions {
        activation: Some(Activation::QuickGelu),
        ..OpenOptions::default()
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
    let mut options = OpenOptions {
        activation: Some(Activation::Gelu),
        ..OpenOptions::default()
    };
    let error = Checkpoint::open(&path, &options).unwrap_err().to_string();
    assert!(
        error.contains("attention heads of the image encoder") && error.contains("--heads"),
        "{error}"
    );
    options.heads = Heads {
        image: Some(2),
        text: Some(2),
    };
    let found = Checkpoint::open(&path, &options).unwrap();
    assert_eq!(found.config().image.attention(), Some((2, 32)));
    assert_eq!(found.config().text.heads, 2);
    options.heads.text = Some(5);
    let error = Checkpoint::open(&path, &options).unwrap_err().to_string();
    assert!(
        error.contains("expected a divisor of its width, 24, found 5 (as asked for)"),
        "{error}"
    );
}

#[test]
fn heads_that_are_asked_for_override_a_file_and_are_noted() {
    let path = models().join("vit-quickgelu/open-clip");
    let heads = |image| OpenOptions {
        heads: Heads { image, text: None },
        ..OpenOptions::default()
    };
    let found = Checkpoint::open(&path, &heads(Some(4))).unwrap();
    assert_eq!(found.config().image.attention(), Some((4, 32)));
    assert_eq!(found.config().text.heads, 2);
    let [note] = found.assumptions() else {
        panic!("{:?}", found.assumptions())
    };
    assert!(
        note.contains("4 attention heads, as asked for") && note.ends_with("has 2"),
        "{note}"
    );
    let found = Checkpoint::open(&path, &heads(Some(2))).unwrap();
    assert_eq!(found.assumptions(), [""; 0]);
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
        ..OpenOptions::default()
    };
    let checkpoint = Checkpoint::open(&path, &options).unwrap();
    assert_eq!(
        digests(&checkpoint).unwrap(),
        golden_digests(&golden("vit-openai"))
    );
    let noted = checkpoint.assumptions();
    let expected = [
        "text encoder: 1 attention heads",
        "image encoder: 1 attention heads",
        "image encoder: read at the class token",
        "text encoder: causal, read at the end of the text",
        "tokenizer: OpenAI's",
        "preprocessing: OpenAI's",
    ];
    assert_eq!(noted.len(), expected.len(), "{noted:?}");
    for (note, expected) in noted.iter().zip(expected) {
        assert!(note.starts_with(expected), "{note}");
    }
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
        resize_to: None,
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

    // A crop of what was resized to more pixels.
    let crop = serde_json::json!({"size": {"shortest_edge": 40}, "crop_size": 32});
    assert_eq!(read(crop).unwrap().resize_to, Some(40));
    let squash = serde_json::json!({
        "size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": true,
    });
    let found = read(squash).unwrap();
    assert_eq!(
        (found.size, found.resize, found.resize_to),
        (32, Resize::Squash, Some(36))
    );

    for (json, field) in [
        (
            serde_json::json!({"size": 32, "crop_size": 40}),
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

/// A copy of transformers' model, whose `file` is replaced by what `change` makes of it.
fn changed(
    file: &str,
    change: impl FnOnce(&mut serde_json::Value),
) -> Result<(ClipConfig, Vec<String>), Error> {
    let (folder, _) = copy("vit-quickgelu", "transformers/model.safetensors");
    changed_in(&folder, file, change)
}

fn changed_in(
    folder: &tempfile::TempDir,
    file: &str,
    change: impl FnOnce(&mut serde_json::Value),
) -> Result<(ClipConfig, Vec<String>), Error> {
    let path = folder.path().join(file);
    let mut json = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Err(_) => serde_json::json!({}),
    };
    change(&mut json);
    fs::write(&path, json.to_string()).unwrap();
    open(folder.path()).map(|found| (found.config().clone(), found.assumptions().to_vec()))
}

/// As `CLIPConfig.__post_init__` of transformers: what such an object lacks has its default.
#[test]
fn the_second_objects_of_old_configurations_take_precedence_with_their_defaults() {
    let objects = ["vision_config", "text_config"];
    let (config, _) = changed("config.json", |json| {
        for name in objects {
            let mut whole = json[name].take();
            whole.as_object_mut().unwrap().remove("hidden_act");
            json[format!("{name}_dict")] = whole;
            json[name] = serde_json::json!({"hidden_act": "gelu", "hidden_size": 7});
        }
    })
    .unwrap();
    assert_eq!(config.activation, Activation::QuickGelu);
    let error = changed("config.json", |json| {
        json["vision_config_dict"] = json["vision_config"].clone();
        let object = json["vision_config_dict"].as_object_mut().unwrap();
        object.remove("num_hidden_layers");
    });
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("vision_config.num_hidden_layers: expected 2")
            && error.ends_with("found 12"),
        "{error}"
    );
}

#[test]
fn another_tokenizer_is_refused() {
    for (file, field, value) in [
        ("config.json", "tokenizer_class", "BertTokenizer".into()),
        (
            "tokenizer_config.json",
            "tokenizer_class",
            "XLMRobertaTokenizer".into(),
        ),
        ("config.json", "text_config.eos_token_id", 5.into()),
    ] {
        let change = |json: &mut serde_json::Value| {
            json[field.trim_start_matches("text_config.")] = serde_json::Value::clone(&value);
            if let Some(field) = field.strip_prefix("text_config.") {
                json["text_config"][field] = value.clone();
            }
        };
        let error = changed(file, change).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{file}: {field}: expected")),
            "{error}"
        );
    }
    changed("tokenizer_config.json", |json| {
        json["tokenizer_class"] = "CLIPTokenizerFast".into()
    })
    .unwrap();

    let open_clip = |fields: serde_json::Value| {
        let (folder, _) = copy("vit-quickgelu", "open-clip/open_clip_model.safetensors");
        changed_in(&folder, "open_clip_config.json", |json| {
            let text = json["model_cfg"]["text_cfg"].as_object_mut().unwrap();
            text.extend(fields.as_object().unwrap().clone());
        })
    };
    for (fields, found) in [
        (
            serde_json::json!({"hf_tokenizer_name": "xlm-roberta-base"}),
            "hf_tokenizer_name = \"xlm",
        ),
        (
            serde_json::json!({"tokenizer_kwargs": {"clean": "canonicalize"}}),
            "tokenizer_kwargs.clean = \"can",
        ),
        (
            serde_json::json!({"tokenizer_kwargs": {"reduction_mask": "random"}}),
            "reduction_mask",
        ),
        (
            serde_json::json!({"tokenizer_mode": "clips"}),
            "tokenizer_mode",
        ),
    ] {
        let error = open_clip(fields).unwrap_err().to_string();
        assert!(
            error.contains(&format!("model_cfg.text_cfg.{found}")) || error.contains(found),
            "{error}"
        );
    }
    open_clip(
        serde_json::json!({"tokenizer_kwargs": {"clean": "lower"}, "hf_tokenizer_name": null}),
    )
    .unwrap();
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
