//! Files of learned methods: which method they are of, and what is wrong with those that are of none.

use std::fs;
use std::path::{Path, PathBuf};

use pinhole_checkpoint::{
    LearnedOptions, Method, read_learned, read_prompt_learner, read_state_dict, write_learned,
};
use pinhole_model::{
    Activation, ClipConfig, ExampleCache, ImageEncoderConfig, Learned, LearnedClasses,
    LinearClassifier, PreprocessConfig, Tensor, TextEncoderConfig, TextForm, VitPooling,
    WeightUpdate,
};

use crate::common::write_tensors;

fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/learned");
    folder.join(name)
}

fn tensor(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor {
        shape: shape.to_vec(),
        data: (0..count).map(|i| i as f32 / 8.0 - 1.0).collect(),
    }
}

/// The error for a file of these tensors, as a method's if one is named.
fn refused(tensors: &[(&str, Tensor)], method: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.safetensors");
    write_tensors(&path, tensors, &[]);
    let options = LearnedOptions {
        method: method.map(|name| Method::find(name).unwrap()),
        ..LearnedOptions::default()
    };
    let error = read_learned(&path, &options).unwrap_err().to_string();
    assert!(error.contains("file.safetensors"), "{error}");
    error
}

#[test]
fn every_file_is_taken_for_its_method() {
    for (file, method) in [
        ("kgcoop.pth.tar", "KgCoOp"),
        // ProGrad's tensors are CoOp's.
        ("prograd.pth.tar", "CoOp"),
        ("coop-specific.pth.tar", "CoOp"),
        ("taskres.pth.tar", "TaskRes"),
        ("linear.npz", "linear head"),
        ("linear.pt", "linear head"),
        ("keys_2shots.pt", "Tip-Adapter"),
        ("best_F_2shots.pt", "Tip-Adapter-F"),
        ("clip_adapter.pth.tar", "CLIP-Adapter"),
    ] {
        let learned = read_learned(&golden(file), &LearnedOptions::default()).unwrap();
        assert_eq!(learned.method, method, "{file}");
    }
    // CLIP-LoRA numbers the layers of a CLIP.
    let error = read_learned(&golden("clip_lora.pt"), &LearnedOptions::default()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("CLIP-LoRA") && error.contains("expected its CLIP"),
        "{error}"
    );
}

#[test]
fn a_cache_is_read_from_its_files() {
    let read = |path: &Path, method: Option<&str>| {
        let options = LearnedOptions {
            method: method.map(|name| Method::find(name).unwrap()),
            values: vec![("beta".into(), 2.0)],
            clip: None,
        };
        read_learned(path, &options)
    };
    let LearnedClasses::Cache(cache) = read(&golden("keys_2shots.pt"), None).unwrap().classes
    else {
        panic!("expected a cache");
    };
    let columns = read_state_dict(&golden("keys_2shots.pt")).unwrap();
    let columns = columns.tensor("keys_2shots").unwrap();
    assert_eq!(
        (&columns.shape[..], &cache.keys.shape[..]),
        (&[32, 6][..], &[6, 32][..])
    );
    assert_eq!(cache.keys.data[32 + 5], columns.data[5 * 6 + 1]);
    assert_eq!((cache.labels, cache.classes), (vec![0, 1, 2, 0, 1, 2], 3));
    assert_eq!((cache.alpha, cache.beta), (None, Some(2.0)));
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str, to: &str| {
        fs::copy(golden(name), folder.path().join(to)).unwrap();
    };
    copy("keys_2shots.pt", "keys_2shots.pt");
    let error = read(folder.path(), None).err().unwrap().to_string();
    assert!(error.contains("values_2shots.pt: no such file"), "{error}");
    copy("values_2shots.pt", "values_2shots.pt");
    assert_eq!(read(folder.path(), None).unwrap().method, "Tip-Adapter");
    copy("best_F_2shots.pt", "best_F_2shots.pt");
    let error = read(folder.path(), None).err().unwrap().to_string();
    assert!(error.contains("pass --method"), "{error}");
    let named = read(folder.path(), Some("tip-adapter-f")).unwrap();
    assert_eq!(named.method, "Tip-Adapter-F");
    copy("keys_2shots.pt", "keys_4shots.pt");
    let error = read(folder.path(), Some("tip-adapter"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("keys_4shots.pt; pass one of these files"),
        "{error}"
    );
}

/// A CLIP of two blocks of width 64 in each encoder.
fn clip() -> ClipConfig {
    ClipConfig {
        name: None,
        embedding: 8,
        image: ImageEncoderConfig::VisionTransformer {
            image_size: 16,
            patch_size: 8,
            width: 64,
            layers: 2,
            heads: 1,
            mlp: 256,
            input_norm: true,
            pooling: VitPooling::ClassToken,
        },
        text: TextEncoderConfig {
            context_length: 16,
            vocabulary: 49_408,
            width: 64,
            layers: 2,
            heads: 1,
            form: Default::default(),
        },
        activation: Activation::QuickGelu,
        text_activation: Activation::QuickGelu,
        preprocessing: PreprocessConfig::openai(16),
    }
}

/// If this fails, an export classifies otherwise than the training that wrote the file.
#[test]
fn what_is_written_is_read_again() {
    let cache = |numbers: Option<f32>| {
        LearnedClasses::Cache(ExampleCache {
            keys: tensor(&[3, 8]),
            labels: vec![0, 1, 1],
            classes: 2,
            alpha: numbers,
            beta: numbers.map(|number| number + 1.0),
        })
    };
    let linear = |bias: Option<Tensor>| {
        let weight = tensor(&[3, 8]);
        LearnedClasses::Linear(LinearClassifier { weight, bias })
    };
    let update = |layer: usize, part: usize, matrix: &str| WeightUpdate {
        name: format!("visual.transformer.resblocks.{layer}.attn.{matrix}"),
        first_row: 64 * part,
        down: tensor(&[4, 64]),
        up: tensor(&[64, 4]),
        scale: 0.75,
    };
    let lora = Learned {
        weights: vec![
            update(0, 0, "in_proj_weight"),
            update(0, 2, "in_proj_weight"),
            update(1, 1, "in_proj_weight"),
            update(1, 0, "out_proj.weight"),
        ],
        ..Learned::new("CLIP-LoRA", LearnedClasses::Templates)
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("learned.safetensors");
    let options = LearnedOptions {
        clip: Some(clip()),
        ..LearnedOptions::default()
    };
    for expected in [
        Learned::new("Tip-Adapter", cache(Some(0.5))),
        Learned::new("Tip-Adapter", cache(None)),
        Learned::new("Tip-Adapter-F", cache(Some(0.5))),
        Learned::new("linear head", linear(Some(tensor(&[3])))),
        Learned::new("linear head", linear(None)),
        Learned {
            trained_classes: ["a \"b\"", "größer", "c"].map(String::from).to_vec(),
            ..Learned::new("linear head", linear(None))
        },
        lora.clone(),
    ] {
        write_learned(&path, &expected).unwrap();
        assert_eq!(read_learned(&path, &options).unwrap(), expected);
        // The output folder of a training.
        assert_eq!(read_learned(folder.path(), &options).unwrap(), expected);
    }
    // An option takes the place of the file's number.
    write_learned(&path, &Learned::new("Tip-Adapter", cache(Some(0.5)))).unwrap();
    let given = LearnedOptions {
        values: vec![("beta".into(), 7.0)],
        ..LearnedOptions::default()
    };
    let LearnedClasses::Cache(found) = read_learned(&path, &given).unwrap().classes else {
        panic!("expected a cache");
    };
    assert_eq!((found.alpha, found.beta), (Some(0.5), Some(7.0)));
    write_learned(&path, &Learned::new("Tip-Adapter", cache(Some(2000.0)))).unwrap();
    let error = read_learned(&path, &options).unwrap_err().to_string();
    assert!(error.contains("alpha") && error.contains("2000"), "{error}");

    let mut other = lora;
    other.weights[0].name = "transformer.resblocks.0.attn.in_proj_weight".into();
    let error = write_learned(&path, &other).unwrap_err().to_string();
    assert!(error.contains("image encoder's attention"), "{error}");
    let embeddings = LearnedClasses::Embeddings(tensor(&[2, 8]));
    let error = write_learned(&path, &Learned::new("TaskRes", embeddings)).unwrap_err();
    assert!(error.to_string().contains("TaskRes: expected"), "{error}");
    // Otherwise half of the method would be lost.
    let tokens = Learned {
        image_tokens: vec![tensor(&[2, 8])],
        ..Learned::new("MaPLe", linear(None))
    };
    let error = write_learned(&path, &tokens).unwrap_err().to_string();
    assert!(error.contains("MaPLe: expected"), "{error}");
}

/// If this fails, files that trainers saved with both encoders are not read.
#[test]
fn files_with_encoders_are_read_for_their_clip() {
    let clip = |width| ClipConfig {
        name: None,
        embedding: 4,
        image: ImageEncoderConfig::VisionTransformer {
            image_size: 4,
            patch_size: 2,
            width,
            layers: 2,
            heads: 1,
            mlp: 4 * width,
            input_norm: true,
            pooling: VitPooling::ClassToken,
        },
        text: TextEncoderConfig {
            context_length: 8,
            vocabulary: 10,
            width: 4,
            layers: 2,
            heads: 1,
            form: TextForm::Clip,
        },
        activation: Activation::QuickGelu,
        text_activation: Activation::QuickGelu,
        preprocessing: PreprocessConfig::openai(4),
    };
    for (file, method, tokens) in [
        ("maple.pth.tar", "MaPLe", 2),
        ("promptsrc.pth.tar", "PromptSRC", 3),
    ] {
        let read = |width| {
            let options = LearnedOptions {
                clip: Some(clip(width)),
                ..LearnedOptions::default()
            };
            read_learned(&golden(file), &options)
        };
        let learned = read(8).unwrap();
        assert_eq!(learned.method, method);
        let shapes: Vec<&[usize]> = (learned.image_tokens.iter())
            .map(|tokens| &tokens.shape[..])
            .collect();
        assert_eq!(shapes, [[tokens, 8], [tokens, 8]]);
        assert_eq!(learned.deep_prompts.unwrap().tokens.len(), 1);
        // All but the token embedding, and what is learned is not among them.
        assert_eq!(learned.encoders.len(), clip(8).tensors().len() - 1);
        let error = read(16).unwrap_err().to_string();
        for part in [
            "image_encoder.class_embedding",
            "[16]",
            "[8]",
            "pass the CLIP",
        ] {
            assert!(error.contains(part), "expected {part:?} in: {error}");
        }
        let error = read_learned(&golden(file), &LearnedOptions::default()).unwrap_err();
        assert!(error.to_string().contains("expected its CLIP"), "{error}");
        // They are not context vectors alone.
        let error = read_prompt_learner(&golden(file)).unwrap_err().to_string();
        assert!(error.contains(method), "{error}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let row = |name, shape: &[usize]| (name, tensor(shape));
    let mut nan = tensor(&[3, 4]);
    nan.data[5] = f32::NAN;
    for (tensors, method, parts) in [
        (
            vec![row("other", &[2])],
            None,
            &["tensor other", "none of them"][..],
        ),
        (
            vec![row("base_text_features", &[3, 4])],
            None,
            &["text_feature_residuals: expected [classes, embedding], a tensor of TaskRes"],
        ),
        (
            vec![
                row("base_text_features", &[3, 4]),
                row("text_feature_residuals", &[3, 5]),
            ],
            None,
            &[
                "text_feature_residuals",
                "expected shape [3, 4], found [3, 5]",
            ],
        ),
        (
            vec![row("weight", &[3, 4]), row("bias", &[2])],
            None,
            &["bias", "expected shape [3], found [2]"],
        ),
        (
            vec![row("weight", &[3, 4]), row("coef_", &[3, 4])],
            None,
            &["tensor weight", "linear head"],
        ),
        (vec![("weight", nan)], None, &["weight", "NaN at element 5"]),
        (
            vec![row("keys", &[4, 2]), row("values", &[2, 3])],
            Some("tip-adapter"),
            &["values: expected rows with one 1", "row 0"],
        ),
        // A CoCoOp file without its second layer is not KgCoOp's.
        (
            vec![
                row("ctx", &[4, 8]),
                row("meta_net.linear1.weight", &[2, 6]),
                row("meta_net.linear1.bias", &[2]),
            ],
            None,
            &["meta_net.linear2.weight", "CoCoOp"],
        ),
        // Without the encoders that MaPLe's trainer saves.
        (
            vec![row("ctx", &[2, 8]), row("compound_prompts_text.0", &[2, 8])],
            None,
            &["proj.weight", "a tensor of MaPLe"],
        ),
        // Names of other methods.
        (
            vec![row("ctx", &[4, 8]), row("film_lp_img.scale", &[8])],
            None,
            &["DePT", "not supported"],
        ),
        (
            vec![row("text_adapter.5.down.0.weight", &[4, 8])],
            None,
            &["MMA", "not supported"],
        ),
    ] {
        let error = refused(&tensors, method);
        for part in parts {
            assert!(error.contains(part), "expected {part:?} in: {error}");
        }
    }
    for (name, part) in [
        ("PLOT", "PLOT is not supported: it compares"),
        ("ProDA", "ProDA is not supported"),
        ("lora", "expected one of coop, cocoop"),
    ] {
        let error = Method::find(name).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

/// If this fails, a damaged array of a head is read.
#[test]
fn a_damaged_npz_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("head.npz");
    let whole = fs::read(golden("linear.npz")).unwrap();
    let mut changed = whole.clone();
    changed[300] ^= 1;
    for bytes in [&changed[..], &whole[..whole.len() / 2]] {
        fs::write(&path, bytes).unwrap();
        let error = read_learned(&path, &LearnedOptions::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("damaged"), "{error}");
    }
}
