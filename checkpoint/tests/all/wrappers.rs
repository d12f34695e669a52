//! A CLIP inside of something else in its file reads as the CLIP alone, and what is ambiguous is refused.

use std::fs;
use std::path::{Path, PathBuf};

use pinhole_checkpoint::{Checkpoint, read_state_dict};

use crate::common::{self, digests, golden, golden_digests, models, op, open, torch_save};

const MODEL: &str = "vit-quickgelu/open-clip";

/// Name, shape and values of a tensor.
type Named = (String, Vec<usize>, Vec<f32>);

fn tensors() -> Vec<Named> {
    let state = read_state_dict(&models().join(MODEL).join("open_clip_model.safetensors")).unwrap();
    let parameters = state.names().filter(|name| *name != "attn_mask");
    parameters
        .map(|name| {
            let tensor = state.tensor(name).unwrap();
            (name.to_owned(), tensor.shape, tensor.data)
        })
        .collect()
}

fn renamed(rename: impl Fn(&str) -> String) -> Vec<Named> {
    let tensors = tensors().into_iter();
    tensors.map(|(n, s, d)| (rename(&n), s, d)).collect()
}

/// Element type of forged storages.
#[derive(Clone, Copy, PartialEq)]
enum Element {
    F32,
    F64,
}

/// A file of `torch.save` in construction.
struct Saved {
    storages: Vec<(String, Vec<u8>)>,
    element: Element,
}

impl Saved {
    fn new(element: Element) -> Self {
        let storages = vec![];
        Self { storages, element }
    }

    /// The pickle of a dictionary of tensors.
    fn dict(&mut self, tensors: &[Named]) -> Vec<u8> {
        let items: Vec<(&str, Vec<u8>)> = tensors
            .iter()
            .map(|(name, shape, data)| {
                let key = self.storages.len().to_string();
                let (class, bytes) = match self.element {
                    Element::F32 => (
                        "FloatStorage",
                        data.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    ),
                    Element::F64 => (
                        "DoubleStorage",
                        data.iter()
                            .flat_map(|v| f64::from(*v).to_le_bytes())
                            .collect(),
                    ),
                };
                let storage = op::storage(class, &key, data.len() as i64);
                self.storages.push((key, bytes));
                let mut strides = vec![1; shape.len()];
                for axis in (1..shape.len()).rev() {
                    strides[axis - 1] = strides[axis] * shape[axis] as i64;
                }
                let shape: Vec<i64> = shape.iter().map(|&s| s as i64).collect();
                (name.as_str(), op::tensor(storage, 0, &shape, &strides))
            })
            .collect();
        op::dict(&items)
    }

    /// The file, with open_clip's configuration beside it.
    fn write(self, items: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
        self.write_pickle(op::dict(items))
    }

    fn write_pickle(self, body: Vec<u8>) -> (tempfile::TempDir, PathBuf) {
        let storages = self.storages.iter();
        let storages: Vec<(&str, Vec<u8>)> =
            storages.map(|(k, d)| (k.as_str(), d.clone())).collect();
        let (folder, path) = common::file(&torch_save(body, &storages));
        let config = "open_clip_config.json";
        fs::copy(
            models().join(MODEL).join(config),
            folder.path().join(config),
        )
        .unwrap();
        (folder, path)
    }
}

fn file_of(tensors: &[Named]) -> (tempfile::TempDir, PathBuf) {
    let mut file = Saved::new(Element::F32);
    let body = file.dict(tensors);
    file.write_pickle(body)
}

#[track_caller]
fn assert_golden(path: &Path) -> Checkpoint {
    let checkpoint = open(path).unwrap();
    let expected = golden_digests(&golden("vit-quickgelu"));
    assert_eq!(digests(&checkpoint).unwrap(), expected);
    checkpoint
}

#[test]
fn a_model_in_one_dictionary_is_taken_with_a_note() {
    for key in [
        "model",
        "model_state_dict",
        "state_dict",
        "state_dict_ema",
        "net",
    ] {
        let mut file = Saved::new(Element::F32);
        let model = file.dict(&tensors());
        let head = file.dict(&[("weight".into(), vec![2], vec![0.5, 1.0])]);
        let (_folder, path) = file.write(&[("epoch", op::int(3)), ("head", head), (key, model)]);
        let found = assert_golden(&path);
        assert_eq!(
            found.assumptions(),
            [format!("weights: those of {key}")],
            "{key}"
        );
    }
    // Two levels, as a launcher around a trainer saves them.
    let mut file = Saved::new(Element::F32);
    let inner = file.dict(&renamed(|name| format!("module.clip.{name}")));
    let outer = op::dict(&[("state_dict", inner)]);
    let (_folder, path) = file.write(&[("trainer", outer)]);
    let note = assert_golden(&path).assumptions().to_vec();
    assert_eq!(note, ["weights: those of trainer.state_dict, clip.*"]);
}

#[test]
fn prefixes_of_wrapping_modules_are_removed() {
    for prefix in [
        "module.",
        "_orig_mod.",
        "model.",
        "clip.",
        "module._orig_mod.",
        "_orig_mod.module.model.clip.",
        "model.clip_model.",
    ] {
        let (_folder, path) = file_of(&renamed(|name| format!("{prefix}{name}")));
        assert_golden(&path);
    }
    // Parts of the model compiled or distributed by themselves.
    let (_folder, path) = file_of(&renamed(|name| {
        name.replace("visual.", "visual._orig_mod.")
            .replace("resblocks.0.", "resblocks.0._checkpoint_wrapped_module.")
    }));
    assert_golden(&path);
}

#[test]
fn what_is_left_out_is_named() {
    let mut tensors = renamed(|name| format!("clip.{name}"));
    tensors.push(("classifier.weight".into(), vec![1], vec![1.0]));
    let (_folder, path) = file_of(&tensors);
    let found = assert_golden(&path);
    assert_eq!(
        found.assumptions(),
        ["weights: those of clip.*; left out: classifier.weight"]
    );
    // Without a prefix, they may belong to the model.
    let mut tensors = self::tensors();
    tensors.push(("classifier.weight".into(), vec![1], vec![1.0]));
    let (_folder, path) = file_of(&tensors);
    assert!(common::refusal(&path).contains("classifier.weight with shape [1] is not part"));
}

#[test]
fn several_models_or_none_are_an_error_with_the_keys() {
    let mut file = Saved::new(Element::F32);
    let items = [
        ("epoch", op::int(3)),
        ("state_dict", file.dict(&tensors())),
        ("state_dict_ema", file.dict(&tensors())),
    ];
    let (_folder, path) = file.write(&items);
    let error = common::refusal(&path);
    assert!(
        error.contains("found several: state_dict, state_dict_ema; save"),
        "{error}"
    );

    let (_folder, path) = file_of(
        &[
            renamed(|n| format!("student.{n}")),
            renamed(|n| format!("teacher.{n}")),
        ]
        .concat(),
    );
    let error = common::refusal(&path);
    assert!(
        error.contains("found several: student.*, teacher.*; save"),
        "{error}"
    );

    let mut file = Saved::new(Element::F32);
    let weight = |file: &mut Saved| file.dict(&[("weight".into(), vec![1], vec![1.0])]);
    let items = [
        ("epoch", op::int(3)),
        ("generator", weight(&mut file)),
        ("critic", weight(&mut file)),
    ];
    let (_folder, path) = file.write(&items);
    let error = common::refusal(&path);
    assert!(
        error.contains("none (no logit_scale) under its keys epoch, generator, critic"),
        "{error}"
    );
}

#[test]
fn tinyclips_names_are_read() {
    let tinyclip = |name: &str, module: &str| match name {
        "logit_scale" => format!("_logit_scale.{module}logit_scale"),
        _ if name.starts_with("visual.") => format!("_image_encoder.{module}{name}"),
        _ => format!("_text_encoder.{module}{name}"),
    };
    for module in ["", "module."] {
        let mut file = Saved::new(Element::F32);
        let model = file.dict(&renamed(|name| {
            format!("{module}{}", tinyclip(name, module))
        }));
        let (_folder, path) = file.write(&[("epoch", op::int(25)), ("state_dict", model)]);
        assert_golden(&path);
    }
}

#[test]
fn pruned_tinyclips_are_refused_by_name() {
    let tinyclip = |name: &str| match name {
        "logit_scale" => "_logit_scale.logit_scale".to_owned(),
        _ if name.starts_with("visual.") => format!("_image_encoder.{name}"),
        _ => format!("_text_encoder.{name}"),
    };
    let mut masked = renamed(tinyclip);
    let mask = "_image_encoder.l0_module.hidden_loga".to_owned();
    masked.push((mask, vec![1], vec![1.0]));
    let mut pruned = renamed(tinyclip);
    let (_, shape, data) = pruned
        .iter_mut()
        .find(|(name, ..)| name.ends_with("visual.transformer.resblocks.1.attn.in_proj_weight"))
        .unwrap();
    shape[0] /= 2;
    data.truncate(shape[0] * shape[1]);
    for tensors in [masked, pruned] {
        let (_folder, path) = file_of(&tensors);
        let error = common::refusal(&path);
        assert!(error.contains("TinyCLIP \"auto\" model"), "{error}");
    }
}

#[test]
fn double_precision_is_converted() {
    let mut file = Saved::new(Element::F64);
    let body = file.dict(&tensors());
    let (_folder, path) = file.write_pickle(body);
    assert_golden(&path);

    // A value beyond f32 is an error, not infinity.
    let mut file = Saved::new(Element::F64);
    let body = file.dict(&[("a".into(), vec![1], vec![1.0])]);
    file.storages[0].1 = 1e300f64.to_le_bytes().to_vec();
    let (_folder, path) = file.write_pickle(body);
    let error = read_state_dict(&path)
        .unwrap()
        .tensor("a")
        .unwrap_err()
        .to_string();
    assert!(error.contains("expected finite values"), "{error}");
}
