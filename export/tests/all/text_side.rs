//! The text side of an image encoder from elsewhere: class embeddings that another program computed, and a checkpoint
//! that the encoder may not belong to.

use std::fs;
use std::path::{Path, PathBuf};

use pinhole::Classifier;
use pinhole_bundle::Bundle;
use pinhole_checkpoint::{Checkpoint, OpenOptions};
use pinhole_export::graph::{self, GraphOptions};
use pinhole_model::Precision;
use prost::Message;
use tract_onnx::pb::{ModelProto, NodeProto};

use crate::common::{Scene, checkpoint, write_checkpoint_of};

/// A NumPy file of f32, as numpy.save writes it.
fn npy(path: &Path, shape: [usize; 2], values: &[f32]) {
    let header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}\n",
        shape[0], shape[1]
    );
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

fn safetensors(path: &Path, tensors: &[(&str, [usize; 2], &[f32])]) {
    let bytes: Vec<Vec<u8>> = (tensors.iter())
        .map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (*name, view.unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The demo encoder's file of the tests: embeddings of 16 values of images of 32 pixels.
fn encoder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/foreign/f32.onnx")
}

/// 2 rows of 16 values of the norms 2 and 3, and their unit vectors.
fn rows() -> (Vec<f32>, Vec<f32>) {
    let mut unit = vec![0.0; 32];
    (unit[3], unit[16]) = (1.0, -1.0);
    let mut given = unit.clone();
    (given[3], given[16]) = (2.0, -3.0);
    (given, unit)
}

fn run(scene: &Scene, arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pinhole-export"));
    command
        .args(arguments)
        .arg("--classes")
        .arg(scene.path("classes.txt"));
    command.arg("--out").arg(scene.path("bundle"));
    command.output().unwrap()
}

#[test]
fn class_embeddings_stand_in_for_the_checkpoint() {
    let (given, unit) = rows();
    for (name, with_names) in [
        ("classes.npy", false),
        ("classes.safetensors", false),
        ("classes.safetensors", true),
    ] {
        let scene = Scene::new("cat\ndog\n");
        let file = scene.path(name);
        match (name, with_names) {
            ("classes.npy", _) => npy(&file, [2, 16], &given),
            (_, false) => safetensors(&file, &[("anything", [2, 16], &given)]),
            (_, true) => {
                let other = ("other", [1, 16], &given[..16]);
                safetensors(&file, &[other, ("class_embeddings", [2, 16], &given)]);
            }
        }
        let preprocessing = scene.path("preprocessor_config.json");
        fs::write(
            &preprocessing,
            r#"{"size": {"shortest_edge": 32}, "crop_size": 32, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#,
        )
        .unwrap();
        let encoder = encoder();
        let arguments = [
            "onnx",
            "--encoder",
            encoder.to_str().unwrap(),
            "--class-embeddings",
            file.to_str().unwrap(),
            "--preprocessing",
            preprocessing.to_str().unwrap(),
        ];
        let output = run(&scene, &arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{message}");
        assert!(message.contains("logit scale is assumed"), "{message}");
        let bundle = Bundle::open(&scene.path("bundle")).unwrap();
        assert_eq!(bundle.head().class_embeddings, unit);
        assert_eq!(bundle.manifest().classes, ["cat", "dog"]);
        assert_eq!(bundle.manifest().preprocessing.mean, [0.5; 3]);
        let classifier = Classifier::open(scene.path("bundle")).unwrap();
        assert!(classifier.self_test().unwrap().passed());
    }
}

/// Of a checkpoint, they replace the text encoder.
#[test]
fn class_embeddings_replace_the_text_encoder() {
    let scene = Scene::new("cat\ndog\n");
    let file = scene.path("classes.npy");
    let mut values = vec![0.0; 64];
    (values[0], values[33]) = (1.0, 1.0);
    npy(&file, [2, 32], &values);
    let flags = ["--class-embeddings", file.to_str().unwrap()];
    let output = scene.export(&checkpoint(), &flags);
    assert!(output.status.success(), "{output:?}");
    let bundle = Bundle::open(&scene.path("bundle")).unwrap();
    assert_eq!(bundle.head().class_embeddings, values);
    assert!(bundle.manifest().templates.is_empty());
}

#[test]
fn class_embeddings_that_do_not_fit_are_errors() {
    let scene = Scene::new("cat\ndog\n");
    let file = scene.path("classes.npy");
    let flags = ["--class-embeddings", file.to_str().unwrap()];
    let zeros = [vec![1.0; 32], vec![0.0; 32]].concat();
    let nan = [vec![1.0; 32], vec![f32::NAN; 32]].concat();
    for (shape, values, parts) in [
        (
            [3, 32],
            &[1.0; 96][..],
            ["one row for each of the 2 classes", "found 3"],
        ),
        ([2, 16], &[1.0; 32], ["rows of 32 values", "found 16"]),
        ([2, 32], &zeros, ["classes.npy: row 1", "norm 0"]),
        (
            [2, 32],
            &nan,
            ["classes.npy: tensor classes", "found NaN at element 32"],
        ),
        (
            [2, 33],
            &[1.0; 64],
            ["classes.npy: data: expected", "found 256"],
        ),
    ] {
        npy(&file, shape, values);
        let output = scene.export(&checkpoint(), &flags);
        scene.assert_fails(&output, &[&["--class-embeddings"], &parts[..]].concat());
    }
    fs::write(&file, "text").unwrap();
    let output = scene.export(&checkpoint(), &flags);
    scene.assert_fails(&output, &["classes.npy", "starts with \"text\""]);
    let both = [&flags[..], &["--with-text"]].concat();
    assert_eq!(scene.export(&checkpoint(), &both).status.code(), Some(2));
}

/// The image encoder of `clip` as another program would export it: normalised pixels `[N, 3, 32, 32]`, or 0..1 if `unit`.
fn own_encoder(scene: &Scene, clip: &Path, unit: bool) -> PathBuf {
    let checkpoint = Checkpoint::open(clip, &OpenOptions::default()).unwrap();
    let folder = scene.path(if unit { "unit" } else { "normalised" });
    fs::create_dir(&folder).unwrap();
    let options = GraphOptions {
        precision: Precision::F32,
        flat: true,
    };
    graph::write(&checkpoint, &folder, options, &mut |_, _| {}).unwrap();
    let file = folder.join("image_encoder.onnx");
    let mut model = ModelProto::decode(&*fs::read(&file).unwrap()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let preprocessing = &checkpoint.config().preprocessing;
    // Back to the bytes that the checkpoint's graph takes.
    let constant = |name: &str, values: Vec<f32>| tract_onnx::pb::TensorProto {
        name: name.into(),
        data_type: 1,
        dims: vec![1, 1, 1, values.len() as i64],
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Default::default()
    };
    let std = preprocessing
        .std
        .map(|std| if unit { 255.0 } else { 255.0 * std });
    let mean = preprocessing
        .mean
        .map(|mean| if unit { 0.5 } else { 255.0 * mean + 0.5 });
    graph.initializer.extend([
        constant("std", std.to_vec()),
        constant("mean", mean.to_vec()),
    ]);
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        name: format!("{op} to bytes"),
        op_type: op.into(),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        ..Default::default()
    };
    let attribute = |name: &str, ints: &[i64]| tract_onnx::pb::AttributeProto {
        name: name.into(),
        r#type: if ints.len() == 1 { 2 } else { 7 },
        i: ints[0],
        ints: if ints.len() == 1 {
            vec![]
        } else {
            ints.to_vec()
        },
        ..Default::default()
    };
    let mut transpose = node("Transpose", &["x"], "last");
    transpose.attribute.push(attribute("perm", &[0, 2, 3, 1]));
    let mut cast = node("Cast", &["shifted"], "bytes");
    cast.attribute.push(attribute("to", &[2]));
    let first = [
        transpose,
        node("Mul", &["last", "std"], "scaled"),
        node("Add", &["scaled", "mean"], "shifted"),
        cast,
    ];
    for name in graph.node.iter_mut().flat_map(|n| &mut n.input) {
        if name == "pixels" {
            *name = "bytes".into();
        }
    }
    graph.node.splice(0..0, first);
    let input = graph.input.first_mut().unwrap();
    input.name = "x".into();
    let tract_onnx::pb::type_proto::Value::TensorType(tensor) =
        input.r#type.as_mut().unwrap().value.as_mut().unwrap();
    tensor.elem_type = 1;
    tensor.shape = None;
    fs::write(&file, model.encode_to_vec()).unwrap();
    file
}

#[test]
fn an_encoder_that_does_not_belong_to_the_checkpoint_is_reported() {
    let scene = Scene::new("cat\ndog\n");
    let clip = scene.path("clip");
    // Otherwise random weights hardly see the pixels.
    let sharp = |name: &str, mut tensor: pinhole_model::Tensor| {
        let constant = ["bias", "class_embedding", "positional_embedding"];
        if name.starts_with("visual.") && constant.iter().any(|end| name.ends_with(end)) {
            tensor.data.fill(0.0);
        }
        tensor
    };
    write_checkpoint_of(&clip, 32, sharp);
    let warning = |file: &Path, extra: &[&str]| {
        let encoder = ["--encoder", file.to_str().unwrap()];
        let output = scene.run("onnx", &clip, &[&encoder[..], extra].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{message}");
        fs::remove_dir_all(scene.path("bundle")).unwrap();
        let warning = message.lines().find(|line| line.starts_with("warning: "));
        warning.map(str::to_owned)
    };
    let own = own_encoder(&scene, &clip, false);
    assert_eq!(warning(&own, &[]), None);
    let unit = own_encoder(&scene, &clip, true);
    let found = warning(&unit, &[]).unwrap();
    for part in [
        "image_encoder.onnx",
        "of 3 images",
        "with pixels 0..1",
        "--encoder-pixels 0..1",
    ] {
        assert!(found.contains(part), "{found}");
    }
    assert_eq!(warning(&unit, &["--encoder-pixels", "0..1"]), None);
    let other = scene.path("other");
    write_checkpoint_of(&other, 32, |name, tensor| {
        let mut tensor = sharp(name, tensor);
        if name == "visual.proj" {
            tensor.data.rotate_left(1000);
        }
        tensor
    });
    fs::remove_dir_all(own.parent().unwrap()).unwrap();
    let found = warning(&own_encoder(&scene, &other, false), &[]).unwrap();
    assert!(found.contains("another model than --clip"), "{found}");
}
