//! Damaged, hostile and unsupported files give one-line errors: never a panic, a hang, or a wrong model.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pinhole_checkpoint::{Error, OpenOptions, read_state_dict};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::common::{
    FILES, Forged, copy, digests, file, golden, golden_digests, models, op, open, refusal,
    torch_save, zip,
};

type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// The error of opening and reading the small open_clip model after its tensors were changed.
fn changed(change: impl FnOnce(&mut Tensors)) -> Error {
    let (folder, path) = copy("vit-quickgelu", "open-clip/open_clip_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, view)| {
            (
                name.to_owned(),
                view.dtype(),
                view.shape().to_vec(),
                view.data().to_vec(),
            )
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let error = open(folder.path())
        .and_then(|checkpoint| digests(&checkpoint))
        .unwrap_err();
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

fn find<'a>(tensors: &'a mut Tensors, name: &str) -> &'a mut (String, Dtype, Vec<usize>, Vec<u8>) {
    tensors
        .iter_mut()
        .find(|(found, ..)| found == name)
        .unwrap()
}

#[test]
fn wrong_tensors_are_named() {
    let name = "transformer.resblocks.0.mlp.c_fc.bias";
    match changed(|tensors| tensors.retain(|(found, ..)| found != name)) {
        Error::MissingTensor {
            name: found,
            expected,
            ..
        } => {
            assert_eq!(
                (found.as_str(), expected.as_slice()),
                (name, [96].as_slice())
            );
        }
        other => panic!("{other}"),
    }
    // Block 0 alone would be a valid, shallower model.
    let block = "visual.transformer.resblocks.0.";
    let error = changed(|tensors| tensors.retain(|(found, ..)| !found.starts_with(block)));
    let expected = format!("tensor {block}mlp.c_fc.weight is missing");
    assert!(error.to_string().contains(&expected), "{error}");
    let surplus = (
        "visual.head.weight".to_owned(),
        Dtype::F32,
        vec![2],
        vec![0; 8],
    );
    match changed(|tensors| tensors.push(surplus)) {
        Error::SurplusTensor { name, shape, .. } => {
            assert_eq!(
                (name.as_str(), shape.as_slice()),
                ("visual.head.weight", [2].as_slice())
            );
        }
        other => panic!("{other}"),
    }
    match changed(|tensors| find(tensors, "ln_final.weight").2 = vec![4, 6]) {
        Error::Shape {
            name,
            expected,
            found,
            ..
        } => {
            assert_eq!(name, "ln_final.weight");
            assert_eq!((expected, found), (vec![24], vec![4, 6]));
        }
        other => panic!("{other}"),
    }
    match changed(|tensors| find(tensors, "visual.ln_pre.bias").1 = Dtype::I32) {
        Error::Dtype { name, found, .. } => {
            assert_eq!(
                (name.as_str(), found.as_str()),
                ("visual.ln_pre.bias", "I32")
            );
        }
        other => panic!("{other}"),
    }
    for (value, bytes) in [
        ("NaN", f32::NAN),
        ("inf", f32::INFINITY),
        ("-inf", f32::NEG_INFINITY),
    ] {
        let error = changed(|tensors| {
            find(tensors, "visual.proj").3[20..24].copy_from_slice(&bytes.to_le_bytes());
        });
        assert!(
            error.to_string().ends_with(&format!(
                "tensor visual.proj: expected finite values, found {value} at element 5"
            )),
            "{error}"
        );
    }
    let error = changed(|tensors| {
        find(tensors, "logit_scale")
            .3
            .copy_from_slice(&200.0f32.to_le_bytes());
    });
    assert!(error.to_string().contains("logit_scale"), "{error}");
    let error = changed(|tensors| {
        let positions = find(tensors, "visual.positional_embedding");
        positions.2[0] -= 1;
        positions.3.truncate(16 * 32 * 4);
    });
    assert!(
        error
            .to_string()
            .contains("a square number of rows and one, found 16"),
        "{error}"
    );
}

#[test]
fn other_architectures_are_refused() {
    for (extra, found) in [
        ("text_decoder.ln_1.weight", "CoCa"),
        ("vision_model.head.probe", "SigLIP"),
        ("image_encoder.model.stem", "image_encoder"),
        (
            "text.transformer.encoder.layer.0.output",
            "Hugging Face text encoder",
        ),
        ("prompt_learner.ctx", "prompt learner"),
    ] {
        let extra = (extra.to_owned(), Dtype::F32, vec![1], vec![0; 4]);
        let error = changed(|tensors| tensors.push(extra));
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(found) && text.contains("supported are CLIP models"),
            "{text}"
        );
    }
    let error = changed(|tensors| {
        *tensors = vec![("layer.0.weight".to_owned(), Dtype::F32, vec![1], vec![0; 4])];
    });
    assert!(
        error.to_string().contains("tensors such as layer.0.weight"),
        "{error}"
    );
    // MLPs that are not as wide as the configuration says, by default four times the transformer.
    let error = changed(|tensors| {
        for layer in 0..2 {
            let block = format!("visual.transformer.resblocks.{layer}.mlp");
            for (name, shape) in [
                ("c_fc.weight", vec![96, 32]),
                ("c_fc.bias", vec![96]),
                ("c_proj.weight", vec![32, 96]),
            ] {
                let tensor = find(tensors, &format!("{block}.{name}"));
                tensor.3.truncate(4 * shape.iter().product::<usize>());
                tensor.2 = shape;
            }
        }
    });
    assert!(
        error
            .to_string()
            .contains("model_cfg.vision_cfg.mlp_ratio: expected 96, as in the weights, found 128"),
        "{error}"
    );
}

#[test]
fn wrong_configuration_fields_are_named() {
    let (folder, _) = copy("vit-quickgelu", "open-clip/open_clip_model.safetensors");
    let file = folder.path().join("open_clip_config.json");
    let original: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for (pointer, value, expected) in [
        (
            "vision_cfg/width",
            64.into(),
            "model_cfg.vision_cfg.width: expected 32, as in the weights",
        ),
        (
            "vision_cfg/layers",
            serde_json::json!([1, 1, 1, 1]),
            "the architecture of the weights",
        ),
        (
            "vision_cfg/layers",
            3.into(),
            "model_cfg.vision_cfg.layers: expected 2",
        ),
        (
            "vision_cfg/head_width",
            0.into(),
            "head_width: expected a number above zero",
        ),
        (
            "vision_cfg/head_width",
            5.into(),
            "heads of the image encoder",
        ),
        (
            "vision_cfg/image_size",
            48.into(),
            "model_cfg.vision_cfg.image_size: expected 32",
        ),
        ("text_cfg/heads", 5.into(), "heads of the text encoder"),
        (
            "text_cfg/vocab_size",
            49408.into(),
            "expected 64, as in the weights, found 49408",
        ),
        (
            "text_cfg/no_causal_mask",
            1.into(),
            "model_cfg.text_cfg.no_causal_mask: expected true or false",
        ),
        (
            "text_cfg/hf_model_name",
            "roberta-base".into(),
            "hf_model_name",
        ),
        ("text_cfg/pool_type", "last".into(), "pool_type"),
        (
            "vision_cfg/timm_model_name",
            "vit".into(),
            "timm_model_name",
        ),
        (
            "embed_dim",
            "512".into(),
            "model_cfg.embed_dim: expected a whole number",
        ),
        (
            "quick_gelu",
            1.into(),
            "model_cfg.quick_gelu: expected true or false",
        ),
        ("multimodal_cfg", serde_json::json!({}), "multimodal_cfg"),
    ] {
        let mut json = original.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        let parent = if parent.is_empty() {
            "/model_cfg".into()
        } else {
            format!("/model_cfg/{parent}")
        };
        json.pointer_mut(&parent).unwrap()[name] = value;
        fs::write(&file, json.to_string()).unwrap();
        let error = open(folder.path())
            .map(|_| pointer)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("open_clip_config.json") && error.contains(expected),
            "{error}"
        );
    }
    let mut json = original.clone();
    json["model_cfg"]["vision_cfg"]["no_ln_pre"] = true.into();
    fs::write(&file, json.to_string()).unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("tensor visual.ln_pre.") && error.contains("no norm before the blocks"),
        "{error}"
    );
    for text in ["", "[]", "{", "{\"model_cfg\": 3}", "{}"] {
        fs::write(&file, text).unwrap();
        assert!(open(folder.path()).is_err(), "{text}");
    }

    let (folder, _) = copy("vit-quickgelu", "transformers/model.safetensors");
    let file = folder.path().join("config.json");
    let original: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for (pointer, value, expected) in [
        ("/model_type", "siglip".into(), "a model of type siglip"),
        ("/projection_dim", 512.into(), "projection_dim: expected 16"),
        (
            "/vision_config/hidden_act",
            "gelu".into(),
            "gelu in the image encoder with quickgelu",
        ),
        (
            "/text_config/hidden_act",
            "relu".into(),
            "text_config.hidden_act = relu",
        ),
        (
            "/text_config/num_attention_heads",
            7.into(),
            "heads of the text encoder",
        ),
        (
            "/vision_config/layer_norm_eps",
            1e-6.into(),
            "vision_config.layer_norm_eps",
        ),
        (
            "/vision_config/patch_size",
            16.into(),
            "vision_config.patch_size: expected 8",
        ),
    ] {
        let mut json = original.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        fs::write(&file, json.to_string()).unwrap();
        let error = open(folder.path())
            .map(|_| pointer)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("config.json") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn other_files_are_refused() {
    let missing = Path::new("/nonexistent/model.safetensors");
    assert!(matches!(open(missing), Err(Error::Io { .. })));
    let folder = tempfile::tempdir().unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("open_clip_model.safetensors"), "{error}");
    for (bytes, found) in [
        (b"".as_slice(), "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "Git LFS pointer",
        ),
        (b"<!DOCTYPE html>", "a web page instead of the file"),
        (b"\x80\x04\x95 a plain pickle", "torch.save did not write"),
        (b"PK\x03\x04", "the zip archive is damaged or cut short"),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
            "safetensors header: expected at most",
        ),
        (b"\x02\0\0\0\0\0\0\0{}", "a file without tensors"),
        (b"\x02\0\0\0\0\0\0\0{]", "the safetensors header is damaged"),
    ] {
        let (_folder, path) = file(bytes);
        let text = refusal(&path);
        assert!(text.contains(found), "{text}");
    }
    // The tensor and its field are named.
    let header = br#"{"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F33","shape":[],"data_offsets":[4,8]}}"#;
    let bytes = [(header.len() as u64).to_le_bytes().as_slice(), header].concat();
    let (_folder, path) = file(&bytes);
    let text = refusal(&path);
    assert!(
        text.contains("field a.dtype: unknown variant `F33`"),
        "{text}"
    );
    // A header whose tensor is larger than any file.
    let header = br#"{"a":{"dtype":"F32","shape":[4611686018427387903],"data_offsets":[0,18446744073709551612]}}"#;
    let bytes = [(header.len() as u64).to_le_bytes().as_slice(), header].concat();
    let (_folder, path) = file(&bytes);
    assert!(refusal(&path).contains("safetensors"));
}

#[cfg(unix)]
#[test]
fn a_device_is_refused_without_reading() {
    assert!(
        open(Path::new("/dev/zero"))
            .unwrap_err()
            .to_string()
            .contains("expected a file")
    );
}

#[test]
fn nothing_in_a_pickle_is_executed() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("executed");
    let command = op::text(&format!("touch {}", marker.display()));
    let attack = op::call(op::global("os", "system"), &[command]);
    let good = op::tensor(op::storage("FloatStorage", "0", 2), 0, &[2], &[1]);
    let body = op::dict(&[("bad", attack.clone()), ("good", good)]);
    let data: Vec<u8> = [1.5f32, -2.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let (_folder, path) = file(&torch_save(body, &[("0", data)]));
    // Only reading the tensor is an error.
    let state = read_state_dict(&path).unwrap();
    assert_eq!(state.tensor("good").unwrap().data, [1.5, -2.0]);
    let error = state.tensor("bad").unwrap_err().to_string();
    assert!(
        error.contains("tensor bad is built by unknown global os.system"),
        "{error}"
    );
    assert!(!marker.exists());
    // A file that is one such object has no state dict.
    let (_folder, path) = file(&torch_save(attack, &[]));
    assert!(refusal(&path).contains("an object of os.system"));
    assert!(!marker.exists());
}

#[test]
fn pickle_bombs_are_refused() {
    let started = Instant::now();
    let repeat = |bytes: &[u8], count| bytes.repeat(count);
    // Modules of two attributes that are the same module: 2^levels paths.
    let forest = |levels: u8| {
        let mut body = Vec::new();
        for level in 0..levels {
            body.extend(op::global("__torch__", "M"));
            body.extend(b")\x81}(");
            for name in ["a", "b"] {
                body.extend(op::text(name));
                body.extend(if level == 0 {
                    b"N".to_vec()
                } else {
                    vec![b'h', level - 1]
                });
            }
            body.extend(b"ub");
            body.extend([b'q', level]);
        }
        body
    };
    let long_name = [op::text(&"n".repeat(1 << 20)), b"q\0".to_vec()].concat();
    let one = op::tensor(op::storage("FloatStorage", "0", 1), 0, &[1], &[1]);
    let names = [
        long_name,
        b"}(".to_vec(),
        [b"h\0".to_vec(), one].concat().repeat(10_000),
        b"u".to_vec(),
    ];
    for (what, body, expected) in [
        ("marks", repeat(b"(", 1 << 20), "nested deeper"),
        (
            "nested tuples",
            [b")".to_vec(), repeat(b"\x85", 1 << 20)].concat(),
            "more than",
        ),
        (
            "nested lists",
            [repeat(b"](", 5000)].concat(),
            "nested deeper",
        ),
        ("a full stack", repeat(b"N", 1 << 21), "more than 48 MiB"),
        (
            "a full memo",
            [
                b"N".to_vec(),
                (0..1_100_000u32)
                    .flat_map(|key| [b"r".as_slice(), &key.to_le_bytes()].concat())
                    .collect(),
            ]
            .concat(),
            "memo",
        ),
        (
            "a list of itself",
            [b"]q\0(".to_vec(), repeat(b"h\0", 1000), b"e".to_vec()].concat(),
            "dictionary of tensors",
        ),
        (
            "many pushes",
            [
                b"](".to_vec(),
                repeat(&[repeat(b"N", 1000), b"e(".to_vec()].concat(), 5000),
            ]
            .concat(),
            "more than",
        ),
        ("deep modules", forest(60), "nested deeper than 32"),
        ("endless modules", forest(30), "a file without tensors"),
        (
            "long names",
            names.concat(),
            "names, or one of more than 1024 bytes",
        ),
        ("a missing memo", b"h\x07".to_vec(), "memo 7 is not set"),
        ("an empty stack", b"R".to_vec(), "its stack is empty"),
        (
            "text of 4 GB",
            b"X\xff\xff\xff\xff".to_vec(),
            "expected 4294967295 more bytes",
        ),
        (
            "bytes of 2^63",
            b"\x8e\0\0\0\0\0\0\0\x80".to_vec(),
            "more bytes",
        ),
        ("protocol 0", b"S'text'\n".to_vec(), "opcode 0x53"),
    ] {
        let data = vec![0; 4];
        let (_folder, path) = file(&torch_save(body, &[("0", data)]));
        let text = refusal(&path);
        assert!(text.contains(expected), "{what}: {text}");
    }
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn tensors_stay_inside_their_storage() {
    for (offset, shape, strides) in [
        (0, [4, 3].as_slice(), [3, 1].as_slice()),
        (3, &[4], &[1]),
        (0, &[2], &[6]),
        (0, &[1 << 40], &[0]),
        (0, &[1 << 40, 1 << 40], &[0, 0]),
        (i64::MAX, &[1], &[1]),
        (0, &[2, 2], &[i64::MAX, i64::MAX]),
    ] {
        let tensor = op::tensor(op::storage("FloatStorage", "0", 6), offset, shape, strides);
        let (_folder, path) = file(&torch_save(
            op::dict(&[("a", tensor)]),
            &[("0", vec![0; 24])],
        ));
        let text = read_state_dict(&path).unwrap_err().to_string();
        assert!(
            text.contains("tensor a: shape") && text.contains("does not fit"),
            "{text}"
        );
    }
    // Arguments that describe no view.
    for (offset, shape, strides) in [
        (-1, [1].as_slice(), [1].as_slice()),
        (0, &[-1], &[1]),
        (0, &[1], &[]),
    ] {
        let tensor = op::tensor(op::storage("FloatStorage", "0", 6), offset, shape, strides);
        let (_folder, path) = file(&torch_save(
            op::dict(&[("a", tensor)]),
            &[("0", vec![0; 24])],
        ));
        let error = read_state_dict(&path).unwrap().tensor("a").unwrap_err();
        assert!(matches!(error, Error::UnknownGlobal { .. }), "{error}");
    }
    // A storage of another length than in the pickle, or missing.
    for storages in [vec![("0", vec![0; 20])], vec![("1", vec![0; 24])]] {
        let tensor = op::tensor(op::storage("FloatStorage", "0", 6), 0, &[6], &[1]);
        let (_folder, path) = file(&torch_save(op::dict(&[("a", tensor)]), &storages));
        assert!(
            read_state_dict(&path)
                .unwrap_err()
                .to_string()
                .contains("tensor a: ")
        );
    }
}

#[test]
fn strided_views_are_read_in_row_major_order() {
    let data: Vec<u8> = (0..12)
        .flat_map(|value| (value as f32).to_le_bytes())
        .collect();
    let read = |offset, shape: &[i64], strides: &[i64]| {
        let tensor = op::tensor(op::storage("FloatStorage", "0", 12), offset, shape, strides);
        let body = op::dict(&[("a", tensor)]);
        let (_folder, path) = file(&torch_save(body, &[("0", data.clone())]));
        read_state_dict(&path).unwrap().tensor("a").unwrap().data
    };
    assert_eq!(read(0, &[2, 3], &[3, 1]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(read(6, &[2, 3], &[3, 1]), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    assert_eq!(read(0, &[3, 2], &[1, 3]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(
        read(1, &[2, 2, 2], &[1, 4, 2]),
        [1.0, 3.0, 5.0, 7.0, 2.0, 4.0, 6.0, 8.0]
    );
    assert_eq!(read(2, &[3], &[4]), [2.0, 6.0, 10.0]);
    assert_eq!(read(5, &[3], &[0]), [5.0, 5.0, 5.0]);
    assert_eq!(read(11, &[1, 1], &[99, 7]), [11.0]);
    assert_eq!(read(4, &[], &[]), [4.0]);
    assert_eq!(read(99, &[0, 3], &[3, 1]), [0.0; 0]);
    // A view into the middle of a deflated storage.
    let tensor = op::tensor(op::storage("FloatStorage", "0", 12), 7, &[3], &[2]);
    let root = op::pickle(op::dict(&[("a", tensor)]));
    let entries = [
        Forged::stored("a/data.pkl", &root),
        Forged::deflated("a/data/0", &data),
    ];
    let (_folder, path) = file(&zip(&entries));
    let found = read_state_dict(&path).unwrap().tensor("a").unwrap();
    assert_eq!(found.data, [7.0, 9.0, 11.0]);
}

#[test]
fn zip_bombs_are_refused_by_their_headers() {
    let started = Instant::now();
    let tensor = |elements| {
        let tensor = op::tensor(
            op::storage("FloatStorage", "0", elements),
            0,
            &[elements],
            &[1],
        );
        Forged::stored("a/data.pkl", &op::pickle(op::dict(&[("w", tensor)])))
    };
    let gigabyte = vec![0; 1 << 26];
    // A header with 100 GB, stored or deflated.
    let claim = 100_000_000_000;
    for deflated in [false, true] {
        let entry = Forged {
            size: claim,
            deflated,
            ..Forged::stored("a/data/0", &[0; 64])
        };
        let (_folder, path) = file(&zip(&[tensor(claim as i64 / 4), entry]));
        assert!(
            refusal(&path).contains("zip entry a/data/0"),
            "{}",
            refusal(&path)
        );
    }
    // A header with more bytes than the file has.
    let entry = Forged {
        size: claim,
        packed: claim,
        ..Forged::stored("a/data/0", &[0; 64])
    };
    let (_folder, path) = file(&zip(&[tensor(claim as i64 / 4), entry]));
    assert!(
        refusal(&path).contains("but the file ends at"),
        "{}",
        refusal(&path)
    );
    // A pickle that inflates to more than the limit.
    let (_folder, path) = file(&zip(&[Forged::deflated("a/data.pkl", &gigabyte)]));
    assert!(
        refusal(&path).contains("a/data.pkl has 67108864 bytes"),
        "{}",
        refusal(&path)
    );
    // A pickle that inflates to more than its header states.
    let lie = Forged {
        size: 100,
        ..Forged::deflated("a/data.pkl", &gigabyte)
    };
    let (_folder, path) = file(&zip(&[lie]));
    assert!(refusal(&path).contains("checksum"), "{}", refusal(&path));
    // Data of a tensor that inflate to less than its header states.
    let short = Forged {
        size: 1 << 16,
        ..Forged::deflated("a/data/0", &[1; 1 << 10])
    };
    let short = Forged {
        data: [short.data.clone(), vec![0; 200]].concat(),
        packed: short.packed + 200,
        ..short
    };
    let (_folder, path) = file(&zip(&[tensor(1 << 14), short]));
    let error = read_state_dict(&path).unwrap().tensor("w").unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    // Entries that share their bytes, entries of one name, two roots.
    let one = || Forged::stored("a/data/0", &[0; 4]);
    let mut shared = zip(&[tensor(1), one(), Forged::stored("a/data/1", &[0; 4])]);
    let place = shared
        .windows(4)
        .rposition(|bytes| bytes == b"PK\x01\x02")
        .unwrap();
    let first = shared
        .windows(4)
        .position(|bytes| bytes == b"PK\x01\x02")
        .unwrap();
    let second = first
        + 4
        + shared[first + 4..]
            .windows(4)
            .position(|b| b == b"PK\x01\x02")
            .unwrap();
    let offset = shared[second + 42..second + 46].to_vec();
    shared[place + 42..place + 46].copy_from_slice(&offset);
    let (_folder, path) = file(&shared);
    assert!(refusal(&path).contains("overlap"), "{}", refusal(&path));
    let (_folder, path) = file(&zip(&[tensor(1), one(), one()]));
    assert!(refusal(&path).contains("occurs twice"));
    let root = Forged {
        name: "b/data.pkl".into(),
        ..tensor(1)
    };
    let (_folder, path) = file(&zip(&[tensor(1), root]));
    assert!(refusal(&path).contains("one data.pkl"));
    let big = Forged::stored("a/byteorder", b"big");
    let (_folder, path) = file(&zip(&[tensor(1), one(), big]));
    assert!(refusal(&path).contains("expected byte order little, found big"));
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn legacy_storages_must_be_in_the_file() {
    let magic = [
        0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
    ];
    let legacy = |version: i32, elements: i64, count: i64, key: &str| {
        let tensor = op::tensor(op::storage("FloatStorage", "7", elements), 0, &[2], &[1]);
        let keys = [b"](".to_vec(), op::text(key), b"e".to_vec()].concat();
        let mut bytes = [
            op::pickle(magic.to_vec()),
            op::pickle(op::int(version)),
            op::pickle(b"}".to_vec()),
            op::pickle(op::dict(&[("w", tensor)])),
            op::pickle(keys),
        ]
        .concat();
        bytes.extend(count.to_le_bytes());
        bytes.extend([1.0f32, 2.0].iter().flat_map(|value| value.to_le_bytes()));
        file(&bytes)
    };
    let (_folder, path) = legacy(1001, 2, 2, "7");
    assert_eq!(
        read_state_dict(&path).unwrap().tensor("w").unwrap().data,
        [1.0, 2.0]
    );
    for ((_folder, path), expected) in [
        (legacy(1000, 2, 2, "7"), "expected torch.save version 1001"),
        (legacy(1001, 2, 3, "7"), "expected 2 elements, found 3"),
        (legacy(1001, 3, 3, "7"), "but the file ends"),
        (legacy(1001, i64::MAX, i64::MAX, "7"), "but the file ends"),
        (legacy(1001, 2, 2, "8"), "storage 8: its type is unknown"),
    ] {
        let error = read_state_dict(&path)
            .map(|_| expected)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_truncated_file_is_an_error_wherever_it_is_cut() {
    for (family, name) in FILES {
        let (folder, path) = copy(family, name);
        let bytes = fs::read(&path).unwrap();
        let ends = (0..700).step_by(9).chain((700..bytes.len()).step_by(4001));
        for length in ends.chain((bytes.len() - 300..bytes.len()).step_by(7)) {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(
                open(folder.path().join(path.file_name().unwrap()).as_path()).is_err(),
                "{name} cut to {length}"
            );
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(150))]

    /// Zip archives have checksums, so a flipped bit is found or has no effect.
    #[test]
    fn a_flipped_bit_in_a_zip_is_found_or_harmless(which in 0usize..5, at: proptest::sample::Index, bit in 0u8..8) {
        let (family, name) = [FILES[1], FILES[3], FILES[5], FILES[6], FILES[7]][which];
        let (_folder, path) = copy(family, name);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(&path, &bytes).unwrap();
        if let Ok(found) = open(&path).and_then(|checkpoint| digests(&checkpoint)) {
            proptest::prop_assert_eq!(found, golden_digests(&golden(family)));
        }
    }

    /// Other formats have none: a flipped bit may change a weight, but must not panic.
    #[test]
    fn a_flipped_bit_elsewhere_does_not_panic(which in 0usize..3, at: proptest::sample::Index, bit in 0u8..8, header: bool) {
        let (family, name) = [FILES[0], FILES[2], FILES[4]][which];
        let (_folder, path) = copy(family, name);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(if header { 8000 } else { bytes.len() });
        bytes[at] ^= 1 << bit;
        fs::write(&path, &bytes).unwrap();
        let _ = open(&path).and_then(|checkpoint| digests(&checkpoint));
    }

    /// Any bytes give a value or an error.
    #[test]
    fn any_pickle_is_answered(body in proptest::collection::vec(proptest::sample::select(
        b"().0123NJKMG]}{ltdaesuqrhjcRbQX\x81\x85\x86\x87\x88\x8a\x8b\x8c\x8d\x8e\x90\x91\x92\x93\x94\x95\x00\x01\n".as_slice()), 0..60)) {
        let (_folder, path) = file(&torch_save(body, &[]));
        let _ = read_state_dict(&path);
    }
}

#[test]
fn shards_must_be_plain_names_and_disjoint() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(models().join("vit-gelu/transformers-sharded")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    for (map, expected) in [
        (
            serde_json::json!({"a": "../model.safetensors"}),
            "plain file names",
        ),
        (serde_json::json!({"a": "/etc/passwd"}), "plain file names"),
        (
            serde_json::json!({"a": "missing.safetensors"}),
            "missing.safetensors",
        ),
        (serde_json::json!({}), "a file without tensors"),
        (
            serde_json::json!({"a": "model-00001-of-00002.safetensors"}),
            "missing",
        ),
    ] {
        fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
        let error = pinhole_checkpoint::Checkpoint::open(folder.path(), &OpenOptions::default());
        let error = error.map(|_| expected).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    fs::copy(
        folder.path().join("model-00001-of-00002.safetensors"),
        folder.path().join("again.safetensors"),
    )
    .unwrap();
    let map =
        serde_json::json!({"a": "model-00001-of-00002.safetensors", "b": "again.safetensors"});
    fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("is in another file"), "{error}");
}
