//! SigLIP models of open_clip and of transformers, from checkpoint, tokenizer file and image file to embeddings,
//! compared with those libraries' (tests/golden/siglip, made by tests/reference/make_siglip.py).

use std::fs;
use std::path::{Path, PathBuf};

use image::ImageEncoder;
use image::codecs::png::PngEncoder;
use pinhole::{Classifier, DecodeOptions, Resize, Score};
use pinhole_checkpoint::Checkpoint;
use pinhole_export::model_tokenizer;
use pinhole_model::{Activation, TextForm};
use pinhole_prompts::TextEncoder;
use serde_json::Value;

use crate::common::{self, Scene};

const MIN_COSINE: f64 = 0.999_99;
/// SigLIP's and SigLIP2's text encoder in open_clip, both activation functions by tanh in transformers, and So400m's sizes that
/// are no multiples of others.
const MODELS: [(&str, [Activation; 2]); 4] = [
    ("so400m", [Activation::GeluTanh, Activation::GeluTanh]),
    ("open-clip", [Activation::Gelu, Activation::Gelu]),
    ("open-clip-2", [Activation::Gelu, Activation::GeluTanh]),
    ("transformers", [Activation::GeluTanh, Activation::GeluTanh]),
];

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(path)
}

fn model(name: &str) -> PathBuf {
    golden("siglip").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn cosine(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let a: Vec<f64> = a.iter().map(|&v| f64::from(v)).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(&a, b) / (dot(&a, &a) * dot(b, b)).sqrt()
}

/// The two images of the golden embeddings, as files in `folder`.
fn images(folder: &Path) -> Vec<PathBuf> {
    let pixels = json(&golden("models/inputs-32.json"));
    let pixels = rows(&pixels["images"]);
    let files = pixels.iter().enumerate().map(|(i, pixels)| {
        let bytes: Vec<u8> = pixels.iter().map(|v| *v as u8).collect();
        let path = folder.join(format!("{i}.png"));
        PngEncoder::new(fs::File::create(&path).unwrap())
            .write_image(&bytes, 32, 32, image::ExtendedColorType::Rgb8)
            .unwrap();
        path
    });
    files.collect()
}

/// If this fails, the class embeddings of a SigLIP are wrong.
#[test]
fn texts_have_the_tokens_and_embeddings_of_the_reference() {
    for (name, activations) in MODELS {
        let checkpoint = Checkpoint::open(&model(name), &Default::default()).unwrap();
        let config = checkpoint.config();
        assert!(matches!(config.text.form, TextForm::SigLip { .. }));
        assert_eq!([config.activation, config.text_activation], activations);
        assert_eq!(config.preprocessing.resize, Resize::Squash, "{name}");
        assert_eq!(config.preprocessing.mean, [0.5; 3], "{name}");
        assert_eq!(checkpoint.logit_bias(), Some(-12.9375));
        let golden = json(&model(name).join("golden.json"));
        let tokenizer = model_tokenizer(&checkpoint, None).unwrap();
        let encoder = TextEncoder::load(&checkpoint).unwrap();
        let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
        let expected: Vec<Vec<u32>> = serde_json::from_value(golden["tokens"].clone()).unwrap();
        let tokens: Vec<Vec<u32>> = (texts.iter())
            .map(|text| tokenizer.tokens(text, config.text.context_length).unwrap())
            .collect();
        assert_eq!(tokens, expected, "{name}");
        let found = encoder.embed_batch(&tokens).unwrap();
        let found = found.chunks_exact(encoder.embedding());
        for (found, expected) in found.zip(rows(&golden["text_embeddings"])) {
            let cosine = cosine(found, &expected);
            assert!(cosine >= MIN_COSINE, "{name}: cosine {cosine}");
        }
        let long = "cat ".repeat(40);
        let error = tokenizer.tokens(&long, config.text.context_length);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("at most 24"), "{error}");
    }
}

/// If this fails, class embeddings are wrong of a model whose folder has no tokenizer.json.
#[test]
fn texts_have_the_tokens_of_sentencepiece() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["open_clip_config.json", "open_clip_model.safetensors"] {
        fs::copy(model("open-clip").join(file), folder.path().join(file)).unwrap();
    }
    let checkpoint = Checkpoint::open(folder.path(), &Default::default()).unwrap();
    let missing = model_tokenizer(&checkpoint, None).err().unwrap();
    let missing = format!("{missing:#}");
    assert!(
        missing.contains("tokenizer.json or spiece.model"),
        "{missing}"
    );
    let file = model("spiece").join("spiece.model");
    fs::copy(&file, folder.path().join("spiece.model")).unwrap();
    let golden = json(&model("spiece").join("golden.json"));
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    let expected: Vec<Vec<u32>> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let spiece = model("spiece");
    for asked in [None, Some(&*file), Some(&*spiece)] {
        let tokenizer = model_tokenizer(&checkpoint, asked).unwrap();
        for (text, expected) in texts.iter().zip(&expected) {
            let found = tokenizer.tokens(text, expected.len()).unwrap();
            assert_eq!(found, *expected, "{text:?}");
        }
    }
    // The settings of the folder come first.
    fs::write(
        folder.path().join("tokenizer_config.json"),
        r#"{"pad_token": "<pad>"}"#,
    )
    .unwrap();
    let tokenizer = model_tokenizer(&checkpoint, None).unwrap();
    assert_eq!(tokenizer.tokens("red", 24).unwrap().last(), Some(&0));
    fs::write(folder.path().join("spiece.model"), b"{}").unwrap();
    let damaged = model_tokenizer(&checkpoint, None).err().unwrap();
    let damaged = format!("{damaged:#}");
    assert!(
        damaged.contains("spiece.model: expected a file of SentencePiece"),
        "{damaged}"
    );
}

/// If this fails, the board sees other image embeddings than the model's.
#[test]
fn images_have_the_embeddings_of_the_reference_in_every_precision() {
    for (name, _) in MODELS {
        let expected = rows(&json(&model(name).join("golden.json"))["image_embeddings"]);
        for (options, least) in [
            (&["--precision", "f32"][..], MIN_COSINE),
            (&["--precision", "f32", "--flat"], MIN_COSINE),
            (&["--precision", "f16"], 0.9999),
            (&["--precision", "int8"], 0.98),
        ] {
            let scene = Scene::new("cat\nred circle\n");
            let photos = scene.photos();
            let mut flags = vec!["--calibration", &photos, "--min-agreement", "0"];
            flags.extend(options);
            let output = scene.export(&model(name), &flags);
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{name} {options:?}: {message}");
            let classifier = Classifier::open(scene.path("bundle")).unwrap();
            let score = Score::Sigmoid {
                logit_bias: -12.9375,
                calibrated_bias: None,
            };
            assert_eq!(classifier.manifest().score, score);
            for (file, expected) in images(scene.folder.path()).iter().zip(&expected) {
                let image = pinhole::open_image(file, &DecodeOptions::default()).unwrap();
                let found = cosine(&classifier.embed(&image).unwrap().values, expected);
                assert!(found >= least, "{name} {options:?}: cosine {found}");
            }
        }
    }
}

#[test]
fn softmax_is_written_if_it_is_asked_for() {
    let scene = Scene::new("cat\nred circle\n");
    let output = scene.export(&model("open-clip"), &["--score", "softmax"]);
    assert!(output.status.success());
    let bundle = Classifier::open(scene.path("bundle")).unwrap();
    assert_eq!(bundle.manifest().score, Score::Softmax);
    // A CLIP has no bias.
    let scene = Scene::new("cat\n");
    let output = scene.export(&common::checkpoint(), &["--score", "sigmoid"]);
    scene.assert_fails(&output, &["--score sigmoid", "a logit bias"]);
}

/// If this fails, prompts or a text encoder that belong to CLIP are combined with a SigLIP.
#[test]
fn what_needs_clips_text_encoder_is_refused() {
    let scene = Scene::new("cat\nred circle\n");
    let siglip = model("open-clip");
    let output = scene.export(&siglip, &["--with-text"]);
    scene.assert_fails(&output, &["--with-text", "found a SigLIP"]);
    for learner in ["coop.pth.tar", "cocoop.pth.tar"] {
        let learner = golden("prompt_learners").join(learner);
        let learner = learner.to_str().unwrap();
        let output = scene.export(&siglip, &["--prompt-learner", learner]);
        scene.assert_fails(&output, &["text encoder: found one without a causal mask"]);
    }
}

/// If this fails, a model without its tokenizer gets the tokens of another one.
#[test]
fn a_tokenizer_is_needed_and_checked() {
    let scene = Scene::new("cat\n");
    let folder = scene.path("model");
    fs::create_dir(&folder).unwrap();
    for file in ["open_clip_config.json", "open_clip_model.safetensors"] {
        fs::copy(model("open-clip").join(file), folder.join(file)).unwrap();
    }
    let output = scene.export(&folder, &[]);
    scene.assert_fails(&output, &["tokenizer.json: no such file", "--tokenizer"]);
    let tokenizer = folder.join("tokenizer.json");
    fs::copy(model("open-clip/tokenizer.json"), &tokenizer).unwrap();
    let output = scene.export(&folder, &[]);
    scene.assert_fails(&output, &["tokenizer.json", "pad_token", "found none"]);
    let settings = folder.join("tokenizer_config.json");
    fs::write(
        &settings,
        r#"{"pad_token": {"content": "</s>"}, "padding_side": "left"}"#,
    )
    .unwrap();
    let output = scene.export(&folder, &[]);
    scene.assert_fails(&output, &["padding_side: expected right", "found left"]);
    fs::write(&settings, r#"{"pad_token": {"content": "</s>"}}"#).unwrap();
    assert!(scene.export(&folder, &[]).status.success());
    fs::write(&tokenizer, "{}").unwrap();
    let scene = Scene::new("cat\n");
    let output = scene.export(&folder, &[]);
    scene.assert_fails(&output, &["tokenizer.json: expected a tokenizer"]);
    let asked = model("open-clip");
    let asked = asked.to_str().unwrap();
    assert!(
        scene
            .export(&folder, &["--tokenizer", asked])
            .status
            .success()
    );
    let scene = Scene::new("cat\n");
    let output = scene.export(&common::checkpoint(), &["--tokenizer", asked]);
    scene.assert_fails(&output, &["--tokenizer", "built in"]);
}
