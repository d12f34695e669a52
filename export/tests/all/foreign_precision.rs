//! Float encoders of other programs in f16 and int8.

use std::path::{Path, PathBuf};

use pinhole::Classifier;
use pinhole_bundle::dialect::{Convolution, Element, Linear, LinearInput, Op, Storage};
use pinhole_export::FidelityGate;
use pinhole_model::Precision;
use prost::Message;
use tract_onnx::pb::{ModelProto, NodeProto};

use crate::common::{INT8, Scene, write_checkpoint_of};

const SIZE: usize = 16;
const LAYERS: usize = 2;

struct Exported {
    classifier: Classifier,
    /// Of one of the demo's photos.
    embedding: Vec<f32>,
    /// Linear layers of the dialect.
    layers: Vec<Linear>,
    /// Convolutions of the dialect.
    convolutions: Vec<Convolution>,
}

fn golden(name: &str) -> PathBuf {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    files.join(name)
}

fn export(scene: &Scene, clip: &Path, file: &str, name: &str, flags: &[&str]) -> Exported {
    let file = golden(file);
    let out = scene.path(name);
    let arguments = [
        "--encoder",
        file.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let output = scene.run("onnx", clip, &[&arguments, flags].concat());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {message}");
    let classifier = Classifier::open(&out).unwrap();
    assert!(classifier.self_test().unwrap().passed(), "{name}");
    let photo = "../assets/samples/red-heart.png";
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join(photo);
    let image = pinhole::open_image(photo, &Default::default()).unwrap();
    let embedding = classifier.embed(&image).unwrap().values;
    let operators = pinhole::internal::operators(&classifier);
    let layers = operators.iter().filter_map(|o| match o.function {
        Some(Op::Linear(layer)) => Some(layer),
        _ => None,
    });
    let convolutions = operators.iter().filter_map(|o| match o.function {
        Some(Op::Convolution(layer)) => Some(layer),
        _ => None,
    });
    Exported {
        embedding,
        layers: layers.collect(),
        convolutions: convolutions.collect(),
        classifier,
    }
}

fn cosine(a: &Exported, b: &Exported) -> f32 {
    let products = a.embedding.iter().zip(&b.embedding);
    products.map(|(a, b)| a * b).sum()
}

#[test]
fn float_layers_are_written_in_the_precision_asked_for() {
    let scene = Scene::new("cat\ndog\n");
    let clip = scene.path("clip");
    write_checkpoint_of(&clip, SIZE, |_, tensor| tensor);
    let photos = scene.photos();
    let export = |name: &str, flags: &[&str]| {
        // Two classes of a random model are decided by noise.
        let flags = [flags, &["--min-agreement", "0", "--calibration", &photos]].concat();
        export(&scene, &clip, "foreign/f32.onnx", name, &flags)
    };
    let count = |exported: &Exported, wanted: fn(&Linear) -> bool| {
        exported.layers.iter().filter(|l| wanted(l)).count()
    };
    let f32 = export("f32", &[]);
    let all = f32.layers.len();
    // Two of attention and two behind it in each block, and the last projection.
    assert_eq!(all, 4 * LAYERS + 1);

    let f16 = export("f16", &["--precision", "f16"]);
    assert_eq!(f16.classifier.manifest().precision, Precision::F16);
    assert!(f16.classifier.manifest().fidelity.unwrap().mean_cosine > 0.9999);
    assert_eq!(f16.layers.len(), all);
    assert!(cosine(&f32, &f16) > 0.9999, "{}", cosine(&f32, &f16));
    let bytes = |name: &str| {
        let file = scene.path(name).join("image_encoder.onnx");
        std::fs::metadata(file).unwrap().len()
    };
    assert!(bytes("f16") < bytes("f32"));

    let int8 = export("int8", &["--precision", "int8"]);
    let manifest = int8.classifier.manifest();
    assert_eq!(manifest.precision, Precision::Int8);
    let fidelity = manifest.fidelity.unwrap();
    println!("{fidelity:?}, {}", cosine(&f32, &int8));
    assert!(fidelity.mean_cosine > 0.99, "{fidelity:?}");
    // The three layers of the class token alone may stay in floating point, as they cost no time.
    let float = count(&int8, |l| l.storage == Storage::Float);
    assert!(float <= 3, "{:?}", int8.layers);
    assert_eq!(count(&int8, |l| l.storage == Storage::Int8) + float, all);
    // The two layers behind a norm in each block, one of them of the class token.
    let behind_norms = count(&int8, |l| l.input == LinearInput::LayerNorm);
    assert!(
        (2 * LAYERS - 1..=2 * LAYERS).contains(&behind_norms),
        "{:?}",
        int8.layers
    );
    assert!(cosine(&f32, &int8) > 0.99, "{}", cosine(&f32, &int8));
    // What other programs compute.
    let flat = export("flat", &["--precision", "int8", "--flat"]);
    assert_eq!(flat.layers.len(), 0);
    assert!(cosine(&flat, &int8) > 0.9999, "{}", cosine(&flat, &int8));
    let again = export("again", &["--precision", "int8"]);
    assert_eq!(again.embedding, int8.embedding);
}

/// Ten convolutions with strides, padding, dilation, groups, residuals and activation functions.
#[test]
fn convolutions_are_written_in_the_precision_asked_for() {
    let scene = Scene::new("cat\ndog\n");
    let clip = scene.path("clip");
    write_checkpoint_of(&clip, SIZE, |_, tensor| tensor);
    let photos = scene.photos();
    let export = |name: &str, flags: &[&str]| {
        let flags = [flags, &["--min-agreement", "0", "--calibration", &photos]].concat();
        export(&scene, &clip, "foreign_convolutions/f32.onnx", name, &flags)
    };
    let integers = |exported: &Exported| {
        let storage = exported.convolutions.iter().map(|c| c.storage);
        storage.filter(|s| *s == Storage::Int8).count()
    };
    let f32 = export("f32", &[]);
    let all = f32.convolutions.len();
    // 1x1 convolutions are linear layers, as is the last projection.
    assert!(all >= 7 && all + f32.layers.len() >= 10, "{all}");
    assert_eq!(integers(&f32), 0);

    let f16 = export("f16", &["--precision", "f16"]);
    assert!(cosine(&f32, &f16) > 0.9999, "{}", cosine(&f32, &f16));
    let int8 = export("int8", &["--precision", "int8", "--report"]);
    let fidelity = int8.classifier.manifest().fidelity.unwrap();
    println!("{fidelity:?}, {}", cosine(&f32, &int8));
    // Those of one pixel between others are convolutions.
    let found = int8.convolutions.len();
    assert!(integers(&int8) == found && found >= all, "{found} of {all}");
    let bytes = int8.convolutions.iter().filter(|c| c.y == Element::U8);
    println!(
        "{} of {found} convolutions write bytes",
        bytes.clone().count()
    );
    assert!(bytes.count() >= 4, "{:?}", int8.convolutions);
    // The last projection multiplies little.
    let float = int8.layers.iter().filter(|l| l.storage == Storage::Float);
    assert!(float.count() <= 1, "{:?}", int8.layers);
    assert!(fidelity.mean_cosine > 0.99, "{fidelity:?}");
    assert!(cosine(&f32, &int8) > 0.99, "{}", cosine(&f32, &int8));
    // What other programs compute.
    let flat = export("flat", &["--precision", "int8", "--flat"]);
    assert_eq!(flat.convolutions.len() + flat.layers.len(), 0);
    assert!(cosine(&flat, &int8) > 0.9999, "{}", cosine(&flat, &int8));
    // Without the functions, which take as much as so few weights.
    let size = |name: &str| {
        let file = scene.path(name).join("image_encoder.onnx");
        let model = ModelProto::decode(&*std::fs::read(file).unwrap()).unwrap();
        model.graph.unwrap().encoded_len()
    };
    assert!(size("int8") < size("f16") && size("f16") < size("f32"));
}

/// One image of high contrast makes the steps coarse for the others. If this fails, values stay bytes whatever that costs, or
/// whole layers become f32 in their place, which is slower.
#[test]
fn values_that_lose_too_much_as_bytes_stay_f32() {
    let scene = Scene::new("cat\ndog\n");
    let clip = scene.path("clip");
    write_checkpoint_of(&clip, SIZE, |_, tensor| tensor);
    let photos = scene.path("photos");
    std::fs::create_dir(&photos).unwrap();
    for i in 0..FidelityGate::MIN_IMAGES {
        let byte = |at: usize| match i {
            0 => 255 * (at / 7 % 2) as u8,
            _ => (120 + at * (i * 7 + 3) % 20) as u8,
        };
        let data = (0..40 * 36 * 3).map(byte).collect();
        let image = image::RgbImage::from_raw(40, 36, data).unwrap();
        image.save(photos.join(format!("{i}.png"))).unwrap();
    }
    let photos = photos.to_str().unwrap();
    let export = |name: &str, min_cosine: f32| {
        let bounds = ["--min-agreement", "0", "--min-cosine"];
        let min_cosine = min_cosine.to_string();
        let data = [&*min_cosine, "--calibration", photos];
        let flags = [&["--precision", "int8"][..], &bounds, &data].concat();
        let file = "foreign_convolutions/f32.onnx";
        let exported = export(&scene, &clip, file, name, &flags);
        let convolutions = exported.convolutions.iter();
        let integers = convolutions.clone().filter(|c| c.storage == Storage::Int8);
        let bytes = convolutions.filter(|c| c.y == Element::U8);
        let mean_cosine = exported.classifier.manifest().fidelity.unwrap().mean_cosine;
        let found = (integers.count(), bytes.count(), mean_cosine);
        println!("{name}: {found:?}");
        found
    };
    let (integers, bytes, mean_cosine) = export("all", 0.0);
    let bound = mean_cosine + 0.2 * (1.0 - mean_cosine);
    let kept = export("kept", bound);
    assert_eq!(kept.0, integers);
    assert!((1..bytes).contains(&kept.1), "{} of {bytes}", kept.1);
    assert!(kept.2 >= bound, "{} < {bound}", kept.2);
}

/// A board must not read f32 as bytes, nor past the end of either.
#[test]
fn values_of_another_type_than_a_convolution_reads_are_errors() {
    let scene = Scene::new("cat\ndog\n");
    let clip = scene.path("clip");
    write_checkpoint_of(&clip, SIZE, |_, tensor| tensor);
    let photos = scene.photos();
    let flags = [
        "--precision",
        "int8",
        "--min-agreement",
        "0",
        "--calibration",
        &photos,
    ];
    let file = "foreign_convolutions/f32.onnx";
    let exported = export(&scene, &clip, file, "int8", &flags);
    let side = exported.classifier.manifest().model.image_size as usize;
    let folder = scene.path("int8");
    let path = folder.join("image_encoder.onnx");
    let model = ModelProto::decode(&*std::fs::read(&path).unwrap()).unwrap();
    let refused = |expected: &str, change: &dyn Fn(&mut NodeProto) -> bool| {
        let mut model = model.clone();
        let graph = model.graph.as_mut().unwrap();
        assert!(graph.node.iter_mut().any(change), "{expected}");
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        let error = pinhole::internal::load_onnx(&folder, side, 16).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    let renamed = |node: &mut NodeProto, from: &str, to: &str| {
        let found = node.op_type.contains(from);
        node.op_type = node.op_type.replace(from, to);
        found
    };
    // The last two parameters are those of the result.
    refused("expected U8, found F32", &|node| {
        let found = renamed(node, "ToU8", "");
        let left = node.input.len() - if found { 2 } else { 0 };
        node.input.truncate(left);
        found
    });
    // x's parameters become those of the result.
    refused("U8", &|node| {
        let from_bytes = node.op_type.starts_with("U8") && !node.op_type.contains("ToU8");
        if from_bytes {
            node.op_type = format!("{}ToU8", node.op_type.trim_start_matches("U8"));
        }
        from_bytes
    });
}

#[test]
fn files_that_cannot_have_a_precision_are_errors() {
    let scene = Scene::new("cat\ndog\n");
    let clip = scene.path("clip");
    write_checkpoint_of(&clip, SIZE, |_, tensor| tensor);
    let run = |name: &str, flags: &[&str]| {
        let file = golden(&format!("foreign/{name}"));
        let encoder = ["--encoder", file.to_str().unwrap()];
        scene.run("onnx", &clip, &[&encoder, flags].concat())
    };
    let quantised = run("dynamic.onnx", &INT8);
    let expected = ["dynamic.onnx", "expected linear layers", "--precision f32"];
    scene.assert_fails(&quantised, &expected);
    let few = run("f32.onnx", &["--precision", "int8"]);
    let message = String::from_utf8_lossy(&few.stderr);
    assert_eq!(few.status.code(), Some(2), "{message}");
    for part in ["--calibration", "at least 16 images", "found 0"] {
        assert!(message.contains(part), "{message}");
    }
    let gate = run("f32.onnx", &["--precision", "f16", "--min-cosine", "1"]);
    scene.assert_fails(&gate, &["mean cosine with f32 of at least 1"]);
    assert!(!scene.path("bundle").exists());
}
