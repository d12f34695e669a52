//! Image encoders that other programs exported and quantised, against ONNX Runtime's answers for the same files.
//! `tests/reference/make_foreign.py` made them.

use std::fs;
use std::path::{Path, PathBuf};

use image::ImageEncoder;
use image::codecs::png::PngEncoder;
use pinhole::{Classifier, DecodeOptions};
use pinhole_bundle::{
    BundleWriter, FORMAT, Golden, GoldenImage, Head, HeadKind, Manifest, ModelInfo, Precision,
    UnknownPolicy, VERSION,
};
use pinhole_export::graph::{self, Encoder};
use pinhole_preprocessing::Preprocessing;
use serde_json::Value;

const SIDE: u32 = 32;
const SIZE: usize = 16;

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/foreign")
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|v| v.as_f64().unwrap()).collect()
}

fn png(pixels: &Value) -> Vec<u8> {
    let pixels: Vec<u8> = numbers(pixels).into_iter().map(|v| v as u8).collect();
    let mut png = vec![];
    PngEncoder::new(&mut png)
        .write_image(&pixels, SIDE, SIDE, image::ExtendedColorType::Rgb8)
        .unwrap();
    png
}

/// A bundle around the encoder `file` with two classes that do not matter.
fn bundle(file: &Path, out: &Path) -> PathBuf {
    let rule = Preprocessing::openai(SIDE);
    let encoder = Encoder::open(file).unwrap();
    encoder.check(&rule, SIZE).unwrap();
    let writer = BundleWriter::create(out).unwrap();
    encoder
        .write(&rule, writer.folder(), &mut |_, _| {})
        .unwrap();
    let mut class_embeddings = vec![0.0; 2 * SIZE];
    (class_embeddings[0], class_embeddings[SIZE + 1]) = (1.0, 1.0);
    writer
        .add_head(&Head {
            classes: 2,
            embedding_size: SIZE,
            class_embeddings,
            negative_embeddings: vec![],
            learned: Default::default(),
        })
        .unwrap();
    let golden: Value =
        serde_json::from_slice(&fs::read(files().join("golden.json")).unwrap()).unwrap();
    writer
        .add("golden/a.png", &png(&golden["images"][0]))
        .unwrap();
    writer
        .add_golden(&Golden {
            min_cosine: 0.9,
            images: vec![GoldenImage {
                file: "golden/a.png".into(),
                embedding: vec![0.25; SIZE],
            }],
        })
        .unwrap();
    let mut manifest = Manifest {
        format: FORMAT.into(),
        version: VERSION,
        created_by: "test".into(),
        model: ModelInfo {
            name: encoder.name(),
            image_size: SIDE,
            embedding_size: SIZE,
        },
        preprocessing: rule,
        precision: Precision::F32,
        logit_scale: 100.0,
        temperature: 1.0,
        classes: vec!["a".into(), "b".into()],
        templates: vec!["{}".into()],
        prompt_learner: None,
        text_encoder: None,
        unknown: UnknownPolicy::default(),
        head: HeadKind::Static,
        conditional: None,
        fidelity: None,
        calibration: None,
        model_card: String::new(),
        files: vec![],
    };
    writer.write_manifest(&mut manifest).unwrap();
    writer.finish().unwrap();
    out.to_owned()
}

/// Worst cosine with ONNX Runtime's answers, and the names of the operators.
fn compare(name: &str) -> (f64, Vec<(String, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let file = files().join(format!("{name}.onnx"));
    let classifier = Classifier::open(&bundle(&file, &folder.path().join("bundle"))).unwrap();
    let golden: Value =
        serde_json::from_slice(&fs::read(files().join("golden.json")).unwrap()).unwrap();
    let mut worst = f64::INFINITY;
    for i in 0..3 {
        let path = folder.path().join(format!("{i}.png"));
        fs::write(&path, png(&golden["images"][i])).unwrap();
        let image = pinhole::open_image(&path, &DecodeOptions::default()).unwrap();
        let found = classifier.embed(&image).unwrap().values;
        let expected = numbers(&golden["embeddings"][name][i]);
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let found: Vec<f64> = found.into_iter().map(f64::from).collect();
        let norms = product(&found, &found) * product(&expected, &expected);
        worst = worst.min(product(&found, &expected) / norms.sqrt());
    }
    (worst, classifier.operators())
}

/// Each form in its own numbers. u8 weights that hold both ends of their range are multiplied in f32.
#[test]
fn answers_are_onnx_runtimes() {
    let mut failed = vec![];
    for (name, integers) in [
        ("f32", 0),
        ("dynamic", 10),
        ("dynamic-per-channel", 10),
        ("dynamic-u8", 5),
        ("dynamic-u8-per-channel", 1),
        ("qdq", 10),
        ("qdq-linear", 10),
        ("qdq-per-tensor", 10),
        ("qdq-s8", 10),
        ("qdq-s8-symmetric", 10),
        ("qdq-u8-weights", 5),
    ] {
        let (worst, operators) = compare(name);
        let found = operators.iter().filter(|(_, op)| op.starts_with("Affine"));
        let found = found.count();
        let precision = graph::precision(&operators);
        println!("{name}: worst cosine {worst:.6}, {found} products in integers, {precision}");
        // NaN fails.
        if !(worst >= 0.999_99) || found != integers {
            failed.push(format!(
                "{name}: {worst}, {found} of {integers}: {operators:?}"
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
