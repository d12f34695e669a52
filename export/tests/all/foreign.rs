//! Image encoders that other programs exported and quantised, compared with ONNX Runtime's results for the same files,
//! which `tests/reference/make_foreign.py` made.

use std::fs;
use std::path::{Path, PathBuf};

use image::ImageEncoder;
use image::codecs::png::PngEncoder;
use pinhole::internal::NetworkOperator;
use pinhole::{Classifier, DecodeOptions};
use pinhole_bundle::dialect::{AttentionInput, AttentionScores, Op};
use pinhole_bundle::{BundleWriter, IMAGE_ENCODER};
use pinhole_export::graph::{self, OnnxEncoder, OnnxOptions};
use pinhole_model::{Precision, PreprocessConfig};
use prost::Message;
use serde_json::Value;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto};
use tract_onnx::prelude::tract_ndarray::Array4;
use tract_onnx::prelude::*;

use crate::common::{Scene, checkpoint, finish_bundle, write_checkpoint_of};

const SIDE: u32 = 32;
const SIZE: usize = 16;
const LAYERS: usize = 2;

fn files() -> PathBuf {
    golden("foreign")
}

fn golden(folder: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    golden.join(folder)
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

fn options() -> OnnxOptions {
    OnnxOptions {
        image_size: SIDE,
        output: None,
    }
}

/// A bundle with the encoder `file`.
fn bundle(file: &Path, out: &Path) -> anyhow::Result<Classifier> {
    let preprocessing = PreprocessConfig::openai(SIDE);
    let encoder = OnnxEncoder::open(file, &options())?;
    encoder.check(&preprocessing, SIZE)?;
    let writer = BundleWriter::create(out).unwrap();
    encoder.write(&preprocessing, writer.folder(), &mut |_, _| {})?;
    finish_bundle(writer, preprocessing, Precision::F32, SIZE, 100.0);
    Ok(Classifier::open(out)?)
}

/// A bundle with the encoder `file` after `change`, which starts with the graph that earlier versions wrote: the file's
/// own operators.
fn changed_bundle(
    file: &Path,
    out: &Path,
    change: impl FnOnce(ModelProto) -> ModelProto,
) -> Result<Classifier, pinhole::Error> {
    let encoder = OnnxEncoder::open(file, &options()).unwrap();
    let preprocessing = PreprocessConfig::openai(encoder.image_size());
    let writer = BundleWriter::create(out).unwrap();
    let model = change(encoder.wrapped(&preprocessing));
    fs::write(writer.folder().join(IMAGE_ENCODER), model.encode_to_vec()).unwrap();
    finish_bundle(writer, preprocessing, Precision::F32, SIZE, 100.0);
    Classifier::open(out)
}

/// Worst cosine with ONNX Runtime's embeddings, and the operators.
fn compare(files: &Path, name: &str) -> (f64, Vec<NetworkOperator>) {
    let folder = tempfile::tempdir().unwrap();
    let file = files.join(format!("{name}.onnx"));
    let classifier = bundle(&file, &folder.path().join("bundle")).unwrap();
    (
        worst_cosine(&classifier, files, name),
        pinhole::internal::operators(&classifier),
    )
}

fn worst_cosine(classifier: &Classifier, files: &Path, name: &str) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let golden: Value =
        serde_json::from_slice(&fs::read(files.join("golden.json")).unwrap()).unwrap();
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
    worst
}

/// Every quantised form runs in integers, except u8 weights that use both ends of their range, which are multiplied in
/// f32.
#[test]
fn embeddings_equal_onnx_runtimes() {
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
        let (worst, operators) = compare(&files(), name);
        let integer = |o: &&NetworkOperator| {
            let product = matches!(
                o.function,
                Some(Op::AffineLinear(..) | Op::AffineConvolution(..))
            );
            assert_eq!(product, o.kernel.starts_with("int8 "), "{o:?}");
            product
        };
        let found = operators.iter().filter(integer).count();
        let scores = match name.starts_with("qdq") {
            true => AttentionScores::Quantized,
            false => AttentionScores::Exact,
        };
        let attention = |o: &&NetworkOperator| match o.function {
            Some(Op::Attention(AttentionInput::Columns, found)) => found == scores,
            Some(Op::Attention(..)) => scores == AttentionScores::Exact,
            _ => false,
        };
        let attention = operators.iter().filter(attention).count();
        let precision = graph::precision(&operators);
        println!("{name}: worst cosine {worst:.6}, {found} products in integers, {precision}");
        if worst.is_nan() || worst < 0.999_99 || found != integers || attention != LAYERS {
            failed.push(format!(
                "{name}: {worst}, {found} of {integers}, {attention} of {LAYERS}: {operators:?}"
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// A network with all kinds of convolutions: each of its ten runs in integers; see
/// `tests/reference/make_foreign_convolutions.py`.
#[test]
fn convolutions_equal_onnx_runtimes() {
    let mut failed = vec![];
    for (name, convolutions) in [
        ("f32", 0),
        ("dynamic", 10),
        ("dynamic-u8", 10),
        ("qdq", 10),
        ("qdq-s8", 10),
        ("qdq-u8-weights", 10),
    ] {
        let (worst, operators) = compare(&golden("foreign_convolutions"), name);
        let found = operators.iter().filter(|o| {
            matches!(o.function, Some(Op::AffineConvolution(..))) && o.kernel.starts_with("int8 ")
        });
        let found = found.count();
        let of_tract = operators
            .iter()
            .find(|o| o.operator.starts_with("Conv") && o.kernel == "tract");
        assert!(of_tract.is_none(), "{name}: {of_tract:?}");
        println!("{name}: worst cosine {worst:.6}, {found} convolutions in integers");
        if worst.is_nan() || worst < 0.999_99 || found != convolutions {
            failed.push(format!(
                "{name}: {worst}, {found} of {convolutions}: {operators:?}"
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What other programs compute: the functions' bodies, in standard operators.
#[test]
fn bodies_of_functions_compute_what_the_operators_do() {
    let folder = tempfile::tempdir().unwrap();
    let convolutions = golden("foreign_convolutions");
    for (files, name, functions) in [
        (
            files(),
            "f32",
            "LayerNorm Linear LinearQuickGelu NormalizePixelsChannelsLast Convolution SelfAttention",
        ),
        (
            convolutions.clone(),
            "f32",
            "NormalizePixelsChannelsLast Convolution ConvolutionRelu ConvolutionSilu ConvolutionHardSwish \
             ConvolutionGelu ConvolutionAddRelu Linear",
        ),
        (
            convolutions.clone(),
            "dynamic-u8",
            "NormalizePixelsChannelsLast DynamicAffineConvolutionChannelsLast",
        ),
        (
            convolutions,
            "qdq",
            "NormalizePixelsChannelsLast FakeQuantize AffineConvolutionChannelsLast",
        ),
        (
            files(),
            "dynamic-u8-per-channel",
            "LayerNorm Linear NormalizePixelsChannelsLast DynamicFakeQuantize DynamicAffineConvolutionChannelsLast",
        ),
        (
            files(),
            "dynamic",
            "LayerNorm NormalizePixelsChannelsLast DynamicAffineLinear DynamicAffineConvolutionChannelsLast",
        ),
        (
            files(),
            "qdq",
            "LayerNorm NormalizePixelsChannelsLast QuantizedTable AffineLinear FakeQuantize AffineConvolutionChannelsLast \
             QuantizedColumnAttention",
        ),
        (
            files(),
            "qdq-u8-weights",
            "LayerNorm Linear NormalizePixelsChannelsLast QuantizedTable AffineLinear FakeQuantize",
        ),
    ] {
        let file = files.join(format!("{name}.onnx"));
        let folder = folder.path().join(files.file_name().unwrap());
        fs::create_dir_all(&folder).unwrap();
        let fused = bundle(&file, &folder.join(name)).unwrap();
        let graph = fs::read(folder.join(name).join(IMAGE_ENCODER)).unwrap();
        let mut graph = ModelProto::decode(&*graph).unwrap();
        let found: Vec<&str> = graph.functions.iter().map(|f| f.name()).collect();
        println!("{name}: {}", found.join(" "));
        for function in functions.split(' ') {
            assert!(
                found.contains(&function),
                "{name}: no {function} in {found:?}"
            );
        }
        graph::inline(&mut graph).unwrap();
        let flat = folder.join(format!("{name}-flat"));
        let flat = changed_bundle(&file, &flat, |_| graph).unwrap();
        let operators = pinhole::internal::operators(&flat);
        let ours = operators.iter().find(|o| o.function.is_some());
        assert!(ours.is_none(), "{name}: {ours:?}");
        let (worst, own) = (
            worst_cosine(&flat, &files, name),
            worst_cosine(&fused, &files, name),
        );
        println!("{name}: {worst}, {own}");
        assert!(worst >= 0.999_99, "{name}: {worst}");
    }
}

/// Bundles of earlier versions have no functions: tract runs what it computes correctly.
#[test]
fn bundles_of_standard_operators_run_or_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["f32", "dynamic"] {
        let file = files().join(format!("{name}.onnx"));
        let classifier = changed_bundle(&file, &folder.path().join(name), |model| model);
        let worst = worst_cosine(&classifier.unwrap(), &files(), name);
        assert!(worst >= 0.999_99, "{name}: {worst}");
    }
    let file = files().join("qdq.onnx");
    let error = changed_bundle(&file, &folder.path().join("qdq"), |model| model);
    let error = error.map(drop).unwrap_err().to_string();
    assert!(error.contains("DequantizeLinear"), "{error}");
    assert!(error.contains("export the encoder again"), "{error}");
}

/// A program that reads version 1 of the dialect must not meet a function that it does not know.
#[test]
fn functions_newer_than_the_imported_version_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = files().join("f32.onnx");
    let out = folder.path().join("new");
    bundle(&file, &out).unwrap();
    let graph = fs::read(out.join(IMAGE_ENCODER)).unwrap();
    let graph = ModelProto::decode(&*graph).unwrap();
    for (version, expected) in [
        (1, "NormalizePixels"),
        (2, "a function of version 2"),
        (5, "expected version 1 to 4, found 5"),
    ] {
        let mut graph = graph.clone();
        let mut imports = graph.opset_import.iter_mut();
        let import = imports.find(|o| o.domain == "pinhole").unwrap();
        assert_eq!(import.version, 3);
        import.version = version;
        let out = folder.path().join(version.to_string());
        let error = changed_bundle(&file, &out, |_| graph);
        let error = error.map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Compares the float file after `change` with plain tract; the attention of `fused` layers must be one operator.
#[track_caller]
fn attention_after(fused: usize, change: impl FnOnce(&mut GraphProto)) {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(files().join("f32.onnx")).unwrap();
    let mut model = ModelProto::decode(&*bytes).unwrap();
    let graph = model.graph.as_mut().unwrap();
    change(graph);
    let file = folder.path().join("changed.onnx");
    fs::write(&file, model.encode_to_vec()).unwrap();
    let classifier = bundle(&file, &folder.path().join("bundle")).unwrap();
    let operators = pinhole::internal::operators(&classifier);
    let found = (operators.iter()).filter(|o| matches!(o.function, Some(Op::Attention(..))));
    assert_eq!(found.count(), fused, "{operators:?}");

    let plain = tract_onnx::onnx().model_for_path(&file).unwrap();
    let plain = plain.into_typed().unwrap().into_runnable().unwrap();
    let golden: Value =
        serde_json::from_slice(&fs::read(files().join("golden.json")).unwrap()).unwrap();
    let pixels = numbers(&golden["images"][0]);
    let preprocessing = PreprocessConfig::openai(SIDE);
    let side = SIDE as usize;
    let pixels = Array4::from_shape_fn((1, 3, side, side), |(_, c, y, x)| {
        let value = pixels[(y * side + x) * 3 + c] as f32 / 255.0;
        (value - preprocessing.mean[c]) / preprocessing.std[c]
    });
    let expected = plain.run(tvec![pixels.into_tensor().into()]).unwrap();
    let expected = expected[0].try_as_plain_ram().unwrap();
    let expected = expected.as_slice::<f32>().unwrap();
    let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();

    let path = folder.path().join("a.png");
    fs::write(&path, png(&golden["images"][0])).unwrap();
    let image = pinhole::open_image(&path, &DecodeOptions::default()).unwrap();
    let found = classifier.embed(&image).unwrap().values;
    for (found, expected) in found.iter().zip(expected) {
        let expected = expected / norm;
        assert!((found - expected).abs() < 1e-5, "{expected}, found {found}");
    }
}

/// The node of the first layer's attention whose name ends in `name`.
fn attention_node<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut NodeProto {
    let name = format!("resblocks.0/attn/{name}");
    let mut nodes = graph.node.iter_mut();
    nodes.find(|n| n.name.ends_with(&name)).unwrap()
}

fn set_integers(node: &mut NodeProto, name: &str, values: &[i64]) {
    let mut attributes = node.attribute.iter_mut();
    let attribute = attributes.find(|a| a.name == name).unwrap();
    match values {
        [value] => attribute.i = *value,
        _ => attribute.ints = values.to_vec(),
    }
}

/// Gives `node` its own shape tensor.
fn set_shape(graph: &mut GraphProto, node: &str, shape: &[i64]) {
    let tensor = TensorProto {
        name: format!("shape of {node}"),
        data_type: 7,
        dims: vec![shape.len() as i64],
        raw_data: shape.iter().flat_map(|d| d.to_le_bytes()).collect(),
        ..Default::default()
    };
    attention_node(graph, node).input[1] = tensor.name.clone();
    graph.initializer.push(tensor);
}

/// Only attention becomes the attention operator; similar graphs are computed node by node.
#[test]
fn only_attention_is_fused() {
    attention_after(LAYERS, |_| {});
    // Keys and queries swapped.
    attention_after(LAYERS, |graph| {
        let [q, k] = ["Gather", "Gather_1"].map(|n| attention_node(graph, n).input[1].clone());
        attention_node(graph, "Gather").input[1] = k;
        attention_node(graph, "Gather_1").input[1] = q;
    });
    // Four heads, whose width does not match the scale.
    attention_after(LAYERS, |graph| {
        for (split, join) in [(3, 6), (4, 7), (5, 8)] {
            set_shape(graph, &format!("Reshape_{split}"), &[17, 4, 8]);
            set_shape(graph, &format!("Reshape_{join}"), &[1, 4, 17, 8]);
        }
    });
    // Interleaved heads, which are moved first.
    attention_after(LAYERS, |graph| {
        for (i, split) in [(2, 3), (3, 4)] {
            set_shape(graph, &format!("Reshape_{split}"), &[17, 16, 2]);
            set_integers(
                attention_node(graph, &format!("Transpose_{i}")),
                "perm",
                &[2, 0, 1],
            );
        }
    });
    // Values of other heads than the attention weights, which are moved first.
    attention_after(LAYERS, |graph| {
        set_shape(graph, "Reshape_5", &[2, 17, 16]);
        set_integers(attention_node(graph, "Transpose_4"), "perm", &[0, 1, 2]);
    });
    // Softmax over the queries.
    attention_after(LAYERS - 1, |graph| {
        set_integers(attention_node(graph, "Softmax"), "axis", &[2]);
    });
    // Heads joined in another order: attention's result is transposed.
    for perm in [[2, 0, 3, 1], [3, 0, 1, 2]] {
        attention_after(LAYERS, |graph| {
            set_integers(attention_node(graph, "Transpose_6"), "perm", &perm);
        });
    }
    // A mask before softmax.
    attention_after(LAYERS - 1, |graph| {
        let at = graph.node.iter().position(|n| n.op_type == "Softmax");
        let at = at.unwrap();
        let mask = TensorProto {
            name: "mask".into(),
            data_type: 1,
            dims: vec![17, 17],
            raw_data: (0..17 * 17)
                .flat_map(|i| (if i % 17 > i / 17 { -9f32 } else { 0.0 }).to_le_bytes())
                .collect(),
            ..Default::default()
        };
        graph.initializer.push(mask);
        let scores = std::mem::replace(&mut graph.node[at].input[0], "masked".into());
        let add = NodeProto {
            name: "masked".into(),
            op_type: "Add".into(),
            input: vec![scores, "mask".into()],
            output: vec!["masked".into()],
            ..Default::default()
        };
        graph.node.insert(at, add);
    });
}

/// Checks the error for the golden file `name` after `change`, which returns what the message must contain.
#[track_caller]
fn refused(name: &str, change: impl FnOnce(&mut GraphProto) -> Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(files().join(format!("{name}.onnx"))).unwrap();
    let mut model = ModelProto::decode(&*bytes).unwrap();
    let parts = change(model.graph.as_mut().unwrap());
    let file = folder.path().join("changed.onnx");
    fs::write(&file, model.encode_to_vec()).unwrap();
    let error = match bundle(&file, &folder.path().join("bundle")) {
        Ok(_) => panic!("{name}: expected an error about {parts:?}"),
        Err(error) => format!("{error:#}"),
    };
    for part in parts {
        assert!(error.contains(&part), "expected {part:?} in: {error}");
    }
}

fn first<'a>(graph: &'a mut GraphProto, op: &str) -> &'a mut NodeProto {
    let mut nodes = graph.node.iter_mut();
    nodes.find(|n| n.op_type == op).unwrap()
}

fn initializer<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut TensorProto {
    let mut tensors = graph.initializer.iter_mut();
    tensors.find(|t| t.name == name).unwrap()
}

/// Bad files give an error that names the node, not a panic or wrong numbers.
#[test]
fn graphs_that_cannot_run_are_errors_that_name_the_node() {
    refused("dynamic", |graph| {
        let node = first(graph, "MatMulInteger");
        (node.domain, node.op_type) = ("com.microsoft".into(), "QGemm".into());
        vec![
            node.name.clone(),
            "com.microsoft.QGemm".into(),
            "QuantFormat.QDQ".into(),
        ]
    });
    // Names of the runtime's internal operators.
    for op in ["AffineLinear", "FakeQuantize", "ActivateGelu"] {
        refused("qdq", |graph| {
            let node = first(graph, "QuantizeLinear");
            node.op_type = op.into();
            node.input.truncate(1);
            vec![node.name.clone(), op.into()]
        });
    }
    // One scale too few.
    refused("qdq", |graph| {
        let rank = |name: &str| {
            let tensor = graph.initializer.iter().find(|t| t.name == name);
            tensor.map(|t| t.dims.len())
        };
        let weight = graph.node.iter().find(|n| {
            n.op_type == "DequantizeLinear"
                && (rank(&n.input[0]), rank(&n.input[1])) == (Some(2), Some(1))
        });
        let scale = weight.unwrap().input[1].clone();
        let scale = initializer(graph, &scale);
        let count = scale.dims[0] - 1;
        scale.dims[0] = count;
        scale.raw_data.truncate(4 * count as usize);
        scale.float_data.truncate(count as usize);
        vec!["scale: expected".into(), format!("found {count}")]
    });
    // Dequantised with another scale.
    refused("qdq", |graph| {
        let node = first(graph, "QuantizeLinear");
        let (output, scale) = (node.output[0].clone(), node.input[1].clone());
        let mut other = initializer(graph, &scale).clone();
        other.name = "other".into();
        match other.float_data.first_mut() {
            Some(scale) => *scale *= 2.0,
            None => other.raw_data = 0.5f32.to_le_bytes().to_vec(),
        }
        graph.initializer.push(other);
        let readers = graph.node.iter_mut();
        let mut readers = readers.filter(|n| n.input.first() == Some(&output));
        let reader = readers.next().unwrap();
        reader.input[1] = "other".into();
        vec![
            reader.name.clone(),
            "expected the scale and zero point".into(),
        ]
    });
    // A computed scale.
    refused("qdq", |graph| {
        let node = first(graph, "QuantizeLinear");
        let name = node.name.clone();
        let scale = std::mem::replace(&mut node.input[1], "computed".into());
        let at = graph.node.iter().position(|n| n.name == name).unwrap();
        let computed = NodeProto {
            name: "computed".into(),
            op_type: "Abs".into(),
            input: vec![scale],
            output: vec!["computed".into()],
            ..Default::default()
        };
        graph.node.insert(at, computed);
        vec![name]
    });
    // A constant with absurd or negative dimensions.
    for dims in [vec![1 << 62], vec![1 << 40, 1 << 40], vec![-1]] {
        refused("f32", |graph| {
            let node = first(graph, "Constant");
            let tensor = node.attribute.iter_mut().find_map(|a| a.t.as_mut());
            tensor.unwrap().dims = dims;
            vec![]
        });
    }
}

/// The subcommand, from a file quantised by ONNX Runtime to a bundle that passes its self-test.
#[test]
fn a_quantised_file_becomes_a_bundle() {
    let scene = Scene::new("cat\ndog\n");
    let clip = scene.path("clip");
    write_checkpoint_of(&clip, SIZE, |_, tensor| tensor);
    let file = files().join("dynamic.onnx");
    let encoder = ["--encoder", file.to_str().unwrap()];
    let output = scene.run("onnx", &clip, &encoder);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{message}");
    assert!(message.contains("dynamic in int8, 2 classes"), "{message}");
    let classifier = Classifier::open(scene.path("bundle")).unwrap();
    assert!(classifier.self_test().unwrap().passed());
    assert_eq!(classifier.manifest().precision, Precision::Int8);
    let worst = worst_cosine(&classifier, &files(), "dynamic");
    assert!(worst >= 0.999_99, "{worst}");

    fs::remove_dir_all(scene.path("bundle")).unwrap();
    let other = scene.run("onnx", &checkpoint(), &encoder);
    scene.assert_fails(&other, &["dynamic.onnx", "embeddings of 32", "found 16"]);
    let missing = scene.run("onnx", &clip, &["--encoder", "missing.onnx"]);
    scene.assert_fails(&missing, &["missing.onnx"]);
    let text = scene.path("classes.txt");
    let text = scene.run("onnx", &clip, &["--encoder", text.to_str().unwrap()]);
    scene.assert_fails(&text, &["classes.txt", "expected an ONNX file"]);
    assert!(!scene.path("bundle").exists());
}

/// Before, tract searched for indices without end, asked for gigabytes, or panicked.
#[test]
fn graphs_with_impossible_attributes_are_refused_at_once() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/onnx_foreign");
    for (name, expected) in [
        (
            "gathernd",
            "node gatherndc (GatherND): input 1: expected indices of one dimension or more, found the shape []",
        ),
        (
            "perm",
            "node transposet (Transpose): perm: expected 4 dimensions, found [2, 0, 3]",
        ),
        (
            "pad",
            "node padq (Pad): pads: expected at most 65536 at dimension 2, found 1099511627776 and 1099511627776",
        ),
    ] {
        let file = seeds.join(format!("{name}.onnx"));
        let started = std::time::Instant::now();
        let error = OnnxEncoder::open(&file, &options()).err().unwrap();
        let error = format!("{error:#}");
        assert!(error.contains(expected), "{error}");
        assert!(
            started.elapsed() < std::time::Duration::from_secs(2),
            "{name}: {:?}",
            started.elapsed()
        );
    }
}

#[test]
fn ordinary_operators_are_accepted() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/onnx_foreign");
    for name in ["linear", "convolution", "sizes", "einsum", "resize"] {
        let file = seeds.join(format!("{name}.onnx"));
        let encoder = OnnxEncoder::open(&file, &options()).unwrap();
        let preprocessing = PreprocessConfig::openai(encoder.image_size());
        let folder = tempfile::tempdir().unwrap();
        encoder
            .write(&preprocessing, folder.path(), &mut |_, _| {})
            .unwrap();
        let (side, size) = (encoder.image_size() as usize, encoder.embedding_size());
        if let Err(error) = pinhole::internal::load_onnx(folder.path(), side, size) {
            panic!("{name}: {error}");
        }
    }
}
