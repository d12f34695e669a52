//! Reading ONNX files of other programs: which value is the embedding, symbolic sizes, floats of every width, external
//! weights, and errors that name the file, the format and the remedy.

use std::fs;
use std::path::Path;

use pinhole::RgbImage;
use pinhole::internal::{StandaloneEncoder, cosine};
use pinhole_export::graph::{OnnxEncoder, OnnxOptions};
use pinhole_model::PreprocessConfig;
use prost::Message;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, type_proto,
};

use crate::common::onnx::Size::{Is, Named, Open};
use crate::common::onnx::value;
use crate::common::{Scene, write_checkpoint_of};

const SIDE: u32 = 32;
const SIZE: usize = 16;
const FLOAT: i32 = 1;
const INT64: i32 = 7;
const FLOAT16: i32 = 10;

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: format!("the {op}"),
        op_type: op.into(),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

fn with(mut node: NodeProto, name: &str, ints: &[i64]) -> NodeProto {
    // 7 is INTS, 2 INT.
    let attribute = AttributeProto {
        name: name.into(),
        ..Default::default()
    };
    node.attribute.push(match ints {
        &[i] => AttributeProto {
            i,
            r#type: 2,
            ..attribute
        },
        ints => AttributeProto {
            ints: ints.to_vec(),
            r#type: 7,
            ..attribute
        },
    });
    node
}

fn floats(name: &str, dims: &[i64], values: impl Iterator<Item = f32>) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: FLOAT,
        dims: dims.to_vec(),
        raw_data: values.flat_map(|v| v.to_le_bytes()).collect(),
        ..Default::default()
    }
}

/// `count` numbers that f16 holds exactly, from -1 to 1.
fn numbers(count: i64) -> impl Iterator<Item = f32> {
    (0..count).map(|i| ((i * 37 + i / 11 * 5) % 65 - 32) as f32 / 32.0)
}

fn random(name: &str, dims: &[i64]) -> TensorProto {
    floats(name, dims, numbers(dims.iter().product()))
}

/// Pixels `[n, 3, 32, 32]` to patches, their mean, and a projection to `embedding` `[n, 16]`.
fn model() -> ModelProto {
    let patches = with(node("Conv", &["x", "patch"], "patches"), "strides", &[8, 8]);
    let graph = GraphProto {
        input: vec![value("x", FLOAT, &[Named("n"), Is(3), Is(32), Is(32)])],
        output: vec![value("y", FLOAT, &[Named("n"), Is(16)])],
        node: vec![
            patches,
            node("Relu", &["patches"], "active"),
            node("GlobalAveragePool", &["active"], "mean"),
            with(node("Flatten", &["mean"], "flat"), "axis", &[1]),
            node("MatMul", &["flat", "projection"], "y"),
        ],
        initializer: vec![
            random("patch", &[24, 3, 8, 8]),
            random("projection", &[24, 16]),
        ],
        ..Default::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        }],
        graph: Some(graph),
        ..Default::default()
    }
}

fn changed(change: impl FnOnce(&mut GraphProto)) -> ModelProto {
    let mut model = model();
    change(model.graph.as_mut().unwrap());
    model
}

fn options() -> OnnxOptions {
    OnnxOptions {
        image_size: SIDE,
        output: None,
    }
}

fn open(folder: &Path, model: &ModelProto, options: &OnnxOptions) -> anyhow::Result<OnnxEncoder> {
    let file = folder.join("encoder.onnx");
    fs::write(&file, model.encode_to_vec()).unwrap();
    OnnxEncoder::open(&file, options)
}

/// The embedding of one image.
fn embed_with(model: &ModelProto, options: &OnnxOptions) -> anyhow::Result<Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    let encoder = open(folder.path(), model, options)?;
    let preprocessing = PreprocessConfig::openai(SIDE);
    encoder.check(&preprocessing, SIZE)?;
    encoder.write(&preprocessing, folder.path(), &mut |_, _| {})?;
    let loaded = StandaloneEncoder::load(folder.path(), &preprocessing, SIZE, false)?;
    let pixels = (0..40 * 36 * 3).map(|i| (i * 7 % 251) as u8).collect();
    Ok(loaded.embed(&RgbImage::new(40, 36, pixels)?)?)
}

fn embed(model: &ModelProto) -> Vec<f32> {
    embed_with(model, &options()).unwrap()
}

#[track_caller]
fn refused(model: &ModelProto, parts: &[&str]) {
    refused_with(model, &options(), parts);
}

#[track_caller]
fn refused_with(model: &ModelProto, options: &OnnxOptions, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let error = match open(folder.path(), model, options) {
        Ok(_) => panic!("expected an error about {parts:?}"),
        Err(error) => format!("{error:#}"),
    };
    for part in parts.iter().chain(&["encoder.onnx: "]) {
        assert!(error.contains(part), "expected {part:?} in: {error}");
    }
}

#[test]
fn open_sizes_come_from_the_preprocessing_and_the_graph() {
    let expected = embed(&model());
    let all = [Named("batch"), Named("channels"), Named("h"), Named("w")];
    for sizes in [
        all,
        [Open; 4],
        [Is(1), Is(3), Open, Open],
        [Open, Is(3), Is(32), Named("w")],
        [Is(0), Is(3), Is(32), Is(32)],
    ] {
        let open = changed(|graph| {
            graph.input = vec![value("x", FLOAT, &sizes)];
            graph.output = vec![value("y", FLOAT, &[Open, Named("d")])];
        });
        assert_eq!(embed(&open), expected);
    }
    let unknown = changed(|graph| {
        for value in [&mut graph.input[0], &mut graph.output[0]] {
            let Some(type_proto::Value::TensorType(tensor)) =
                &mut value.r#type.as_mut().unwrap().value
            else {
                unreachable!()
            };
            tensor.shape = None;
        }
    });
    assert_eq!(embed(&unknown), expected);
    let other =
        changed(|graph| graph.input = vec![value("x", FLOAT, &[Open, Is(3), Is(64), Is(64)])]);
    let folder = tempfile::tempdir().unwrap();
    let encoder = open(folder.path(), &other, &options()).unwrap();
    let error = encoder
        .check(&PreprocessConfig::openai(SIDE), SIZE)
        .unwrap_err();
    assert!(error.to_string().contains("images of 32 pixels"), "{error}");
}

#[test]
fn channels_may_be_last() {
    let last = changed(|graph| {
        graph.input = vec![value("pixels", FLOAT, &[Open, Is(32), Is(32), Is(3)])];
        let first = with(node("Transpose", &["pixels"], "x"), "perm", &[0, 3, 1, 2]);
        graph.node.insert(0, first);
    });
    assert!(cosine(&embed(&last), &embed(&model())) > 0.999_999);
}

#[test]
fn a_fixed_batch_is_an_error_with_the_remedy() {
    let two =
        changed(|graph| graph.input = vec![value("x", FLOAT, &[Is(2), Is(3), Is(32), Is(32)])]);
    refused(
        &two,
        &[
            "batch of 1",
            "x f32 [2, 3, 32, 32]",
            "dynamic_axes={\"x\": {0: \"batch\"}}",
        ],
    );
}

#[test]
fn inputs_that_are_no_pixels_are_errors() {
    for (data_type, sizes, found) in [
        (
            2,
            vec![Open, Is(3), Is(32), Is(32)],
            "x uint8 [?, 3, 32, 32]",
        ),
        (
            FLOAT,
            vec![Named("n"), Is(1), Is(32), Is(32)],
            "x f32 [n, 1, 32, 32]",
        ),
        (
            FLOAT,
            vec![Open, Is(3), Is(32), Is(64)],
            "x f32 [?, 3, 32, 64]",
        ),
        (FLOAT, vec![Open, Is(768)], "x f32 [?, 768]"),
    ] {
        let model = changed(|graph| graph.input = vec![value("x", data_type, &sizes)]);
        refused(
            &model,
            &["input: expected normalised pixels, f32 [N, 3, S, S]", found],
        );
    }
}

/// As optimum writes a vision model: the tokens, and the embedding.
#[test]
fn of_several_outputs_the_embedding_is_taken() {
    let expected = embed(&model());
    let several = changed(|graph| {
        let tokens = value("patches", FLOAT, &[Named("n"), Is(24), Is(4), Is(4)]);
        graph.output.insert(0, tokens);
    });
    assert_eq!(embed(&several), expected);

    let two = changed(|graph| {
        graph.node.push(node("Neg", &["y"], "negative"));
        graph.output.push(value("negative", FLOAT, &[Open, Open]));
    });
    let parts = [
        "expected one embedding",
        "y f32 [n, 16], negative f32 [?, ?]",
        "--output NAME",
    ];
    refused(&two, &parts);
    let named = |name: &str| OnnxOptions {
        output: Some(name.into()),
        ..options()
    };
    assert_eq!(embed_with(&two, &named("y")).unwrap(), expected);
    let negative = embed_with(&two, &named("negative")).unwrap();
    assert!(cosine(&negative, &expected) < -0.999);
    refused_with(&two, &named("z"), &["--output z", "y f32 [n, 16]"]);
    // No embedding by its shape.
    refused_with(
        &two,
        &named("mean"),
        &["output mean", "[1, 24, 1, 1]", "--output NAME"],
    );
}

/// `text` is what else the two outputs depend on.
fn whole_clip(graph: &mut GraphProto) {
    graph
        .input
        .push(value("ids", INT64, &[Named("m"), Named("length")]));
    graph.initializer.push(random("table", &[50, 16]));
    let mean = with(node("ReduceMean", &["rows"], "text"), "axes", &[1]);
    graph.node.extend([
        node("Gather", &["table", "ids"], "rows"),
        with(mean, "keepdims", &[0]),
        with(node("Transpose", &["text"], "columns"), "perm", &[1, 0]),
        node("MatMul", &["y", "columns"], "logits"),
    ]);
    let mut axes = graph.node.last_mut().unwrap().attribute.iter_mut();
    assert!(axes.next().is_none());
    // A list of one axis.
    let mean = graph
        .node
        .iter_mut()
        .find(|n| n.op_type == "ReduceMean")
        .unwrap();
    mean.attribute[0] = AttributeProto {
        name: "axes".into(),
        ints: vec![1],
        r#type: 7,
        ..Default::default()
    };
}

#[test]
fn the_image_part_of_a_whole_clip_is_found_or_named() {
    let expected = embed(&model());
    let with_embeddings = changed(|graph| {
        whole_clip(graph);
        graph.output = vec![
            value("logits", FLOAT, &[Named("n"), Named("m")]),
            value("text", FLOAT, &[Named("m"), Is(16)]),
            value("y", FLOAT, &[Named("n"), Is(16)]),
        ];
    });
    assert_eq!(embed(&with_embeddings), expected);
    let logits = changed(|graph| {
        whole_clip(graph);
        graph.output = vec![value("logits", FLOAT, &[Named("n"), Named("m")])];
    });
    refused(
        &logits,
        &[
            "pixels alone",
            "logits f32 [n, m]",
            "--output NAME (the image part ends in y)",
        ],
    );
    let named = OnnxOptions {
        output: Some("y".into()),
        ..options()
    };
    assert_eq!(embed_with(&logits, &named).unwrap(), expected);
}

fn half(tensor: &mut TensorProto) {
    let values = tensor.raw_data.as_chunks().0.iter();
    let values: Vec<u8> = values
        .flat_map(|&b| half::f16::from_f32(f32::from_le_bytes(b)).to_le_bytes())
        .collect();
    (tensor.data_type, tensor.raw_data) = (FLOAT16, values);
}

#[test]
fn half_and_double_precision_are_computed_in_f32() {
    let expected = embed(&model());
    let halved = changed(|graph| {
        graph.initializer.iter_mut().for_each(half);
        graph.input = vec![value("x", FLOAT16, &[Open, Is(3), Is(32), Is(32)])];
        graph.output = vec![value("y", FLOAT16, &[Open, Is(16)])];
    });
    assert_eq!(embed(&halved), expected);
    // f32 outside, f16 inside, as onnxconverter_common writes it.
    let inside = changed(|graph| {
        graph.initializer.iter_mut().for_each(half);
        graph.node[0].input[0] = "half".into();
        graph
            .node
            .insert(0, with(node("Cast", &["x"], "half"), "to", &[10]));
        graph.node.last_mut().unwrap().output[0] = "narrow".into();
        graph
            .node
            .push(with(node("Cast", &["narrow"], "y"), "to", &[1]));
    });
    assert_eq!(embed(&inside), expected);
    let double = changed(|graph| {
        let tensor = &mut graph.initializer[1];
        let values = tensor.raw_data.as_chunks().0.iter();
        tensor.double_data = values.map(|&b| f32::from_le_bytes(b).into()).collect();
        tensor.raw_data.clear();
        tensor.data_type = 11;
    });
    assert_eq!(embed(&double), expected);
}

/// `location` of the projection's values.
fn external(folder: &Path, location: &str) -> ModelProto {
    changed(|graph| {
        let tensor = &mut graph.initializer[1];
        fs::write(folder.join("x.data"), &tensor.raw_data).unwrap();
        tensor.raw_data.clear();
        tensor.data_location = Some(1);
        tensor.external_data = vec![StringStringEntryProto {
            key: "location".into(),
            value: location.into(),
        }];
    })
}

#[test]
fn external_weights_are_found_beside_the_file_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    for location in ["x.data", "./x.data"] {
        let model = external(folder.path(), location);
        let encoder = open(folder.path(), &model, &options()).unwrap();
        assert_eq!(encoder.embedding_size(), SIZE);
    }
    for (location, part) in [
        ("../x.data", "a file in the folder of the ONNX file"),
        ("/etc/passwd", "a file in the folder of the ONNX file"),
        (".", "a file in the folder of the ONNX file"),
        ("", "a file in the folder of the ONNX file"),
        ("y.data", "keep them beside the ONNX file"),
    ] {
        let model = external(folder.path(), location);
        let error = open(folder.path(), &model, &options()).err().unwrap();
        let error = format!("{error:#}");
        assert!(
            error.contains("initializer projection") && error.contains(part),
            "{error}"
        );
    }
    let model = external(folder.path(), "x.data");
    fs::write(folder.path().join("x.data"), [0; 100]).unwrap();
    let error = open(folder.path(), &model, &options()).err().unwrap();
    let error = format!("{error:#}");
    assert!(
        error.contains("expected 1536 bytes") && error.contains("a file of 100"),
        "{error}"
    );
}

#[test]
fn formats_that_are_not_supported_are_named_with_the_remedy() {
    let operator = |domain: &str, op: &str| {
        changed(|graph| {
            let node = &mut graph.node[1];
            (node.domain, node.op_type) = (domain.into(), op.into());
        })
    };
    for (domain, op, parts) in [
        ("", "QLinearConv", ["QOperator", "QuantFormat.QDQ"]),
        (
            "com.microsoft",
            "QLinearAdd",
            ["QOperator", "QuantFormat.QDQ"],
        ),
        (
            "com.microsoft",
            "QAttention",
            ["QOperator", "QuantFormat.QDQ"],
        ),
        (
            "com.microsoft",
            "MatMulNBits",
            ["few bits", "the float file"],
        ),
        (
            "com.microsoft",
            "FusedMatMul",
            ["fused operators", "ORT_ENABLE_BASIC"],
        ),
        (
            "com.microsoft",
            "QuickGelu",
            ["fused operators", "ORT_ENABLE_BASIC"],
        ),
        (
            "org.pytorch.aten",
            "ATen",
            ["PyTorch's own", "operator_export_type"],
        ),
        (
            "my.domain",
            "Gelu",
            ["domain my.domain", "standard operators"],
        ),
        ("", "Attention", ["opset 23", "opset_version=20"]),
    ] {
        refused(
            &operator(domain, op),
            &[&["node the Relu (", op], &parts[..]].concat(),
        );
    }
    let typed = |data_type: i32| changed(|graph| graph.initializer[1].data_type = data_type);
    for (data_type, parts) in [
        (4, ["uint16", "16 bits", "QuantType.QUInt8"]),
        (22, ["int4", "less than 8 bits", "the float file"]),
        (17, ["float8e4m3fn", "8-bit floats", "8-bit integers"]),
        (8, ["text", "expected f32", "image encoder alone"]),
        (
            99,
            ["an unknown type", "expected f32", "image encoder alone"],
        ),
    ] {
        refused(
            &typed(data_type),
            &[&["initializer projection"], &parts[..]].concat(),
        );
    }
    let version = |version: i64| {
        let mut model = model();
        model.opset_import[0].version = version;
        model
    };
    refused(
        &version(12),
        &["version 13 to 24, found 12", "opset_version=17"],
    );
    refused(
        &version(25),
        &["version 13 to 24, found 25", "opset_version=24"],
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pointer.onnx");
    fs::write(
        &file,
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    )
    .unwrap();
    let error = OnnxEncoder::open(&file, &options()).err().unwrap();
    assert!(format!("{error:#}").contains("git lfs pull"), "{error:#}");
}

/// Every version computes the same, also with the operators that it brought.
#[test]
fn every_operator_set_gives_the_same_embedding() {
    let expected = embed(&model());
    for version in 13..=24 {
        let mut model = model();
        model.opset_import[0].version = version;
        assert_eq!(embed(&model), expected, "{version}");
    }
    let gelu = |exact: bool| {
        changed(|graph| {
            let mut nodes = vec![];
            if exact {
                graph
                    .initializer
                    .push(floats("root", &[], [0.5f32.sqrt()].into_iter()));
                graph
                    .initializer
                    .push(floats("one", &[], [1.0].into_iter()));
                graph
                    .initializer
                    .push(floats("half", &[], [0.5].into_iter()));
                nodes.extend([
                    node("Mul", &["patches", "root"], "scaled"),
                    node("Erf", &["scaled"], "erf"),
                    node("Add", &["erf", "one"], "more"),
                    node("Mul", &["patches", "more"], "twice"),
                    node("Mul", &["twice", "half"], "active"),
                ]);
            } else {
                nodes.push(node("Gelu", &["patches"], "active"));
            }
            graph.node.splice(1..2, nodes);
        })
    };
    let expected = embed(&gelu(true));
    for version in [20, 22, 24] {
        let mut model = gelu(false);
        model.opset_import[0].version = version;
        let found = embed(&model);
        assert!(cosine(&found, &expected) > 0.999_999, "{version}");
    }
}

/// A layer norm by ONNX's operator, over the embedding.
#[test]
fn layer_normalization_is_computed_as_specified() {
    let model = changed(|graph| {
        graph
            .initializer
            .push(floats("gain", &[16], numbers(16).map(|v| v + 1.5)));
        graph.initializer.push(random("shift", &[16]));
        graph.node.last_mut().unwrap().output[0] = "before".into();
        let mut norm = node("LayerNormalization", &["before", "gain", "shift"], "y");
        norm = with(norm, "axis", &[-1]);
        graph.node.push(norm);
    });
    let before = changed(|_| {});
    let folder = tempfile::tempdir().unwrap();
    // The embedding is normalised, which a layer norm undoes up to its epsilon.
    drop(folder);
    let plain = embed(&before);
    let mean = plain.iter().sum::<f32>() / 16.0;
    let variance = plain.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 16.0;
    let gains = numbers(16).map(|v| v + 1.5);
    let expected: Vec<f32> = (plain.iter().zip(gains).zip(numbers(16)))
        .map(|((v, gain), shift)| (v - mean) / variance.sqrt() * gain + shift)
        .collect();
    let found = embed(&model);
    assert!(
        cosine(&found, &expected) > 0.999_9,
        "{}",
        cosine(&found, &expected)
    );
}

/// Before, the library failed where a bias is added behind a transposition: "running pass ChangeAxes".
#[test]
fn a_bias_behind_a_transposition_is_the_convolutions() {
    let stem = |graph: &mut GraphProto| {
        let padded = |node| with(node, "pads", &[1, 1, 1, 1]);
        graph.initializer = vec![
            random("w1", &[64, 3, 3, 3]),
            random("w2", &[32, 64, 1, 1]),
            random("w3", &[32, 32, 3, 3]),
            random("w4", &[16, 32, 1, 1]),
            random("bias", &[32]),
        ];
        graph.node = vec![
            padded(node("Conv", &["x", "w1"], "first")),
            node("Conv", &["first", "w2"], "second"),
            padded(node("Conv", &["second", "w3"], "third")),
        ];
    };
    let end = |graph: &mut GraphProto, from: &str| {
        let mean = node("ReduceMean", &["fourth"], "y");
        let mean = with(with(mean, "axes", &[2, 3]), "keepdims", &[0]);
        let last = node("Conv", &[from, "w4"], "fourth");
        graph.node.extend([last, mean]);
        for (i, node) in graph.node.iter_mut().enumerate() {
            node.name = format!("{}-{i}", node.op_type);
        }
    };
    let turned = changed(|graph| {
        stem(graph);
        let transpose = |from, to, perm| with(node("Transpose", &[from], to), "perm", perm);
        graph.node.extend([
            transpose("third", "last", &[0, 2, 3, 1]),
            node("Add", &["last", "bias"], "sum"),
            transpose("sum", "back", &[0, 3, 1, 2]),
        ]);
        end(graph, "back");
    });
    let direct = changed(|graph| {
        stem(graph);
        graph.node[2].input.push("bias".into());
        end(graph, "third");
    });
    assert_eq!(embed(&turned), embed(&direct));
}

/// If this fails, an error names a temporary folder, or leaves the user without a remedy.
#[test]
fn what_the_library_cannot_run_names_the_users_file() {
    let scene = Scene::new("cat\ndog\n");
    let clip = scene.path("clip");
    write_checkpoint_of(&clip, SIZE, |_, tensor| tensor);
    let model = changed(|graph| {
        // An exponent per image is legal, but not for this library.
        graph.node[1] = node("Hardmax", &["patches"], "active");
        graph.node[1].attribute = vec![AttributeProto {
            name: "axis".into(),
            s: b"first".to_vec(),
            r#type: 3,
            ..Default::default()
        }];
    });
    let file = scene.path("strange.onnx");
    fs::write(&file, model.encode_to_vec()).unwrap();
    let output = scene.run("onnx", &clip, &["--encoder", file.to_str().unwrap()]);
    scene.assert_fails(
        &output,
        &["strange.onnx: ", "the Hardmax", "opset_version=17"],
    );
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!message.contains("partial"), "{message}");
}
