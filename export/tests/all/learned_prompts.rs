//! CoOp's learned prompts, and new classes on the board.

use std::fs;
use std::path::Path;

use pinhole::{Bundle, Classes, Classifier, set_classes};
use pinhole_bundle::TensorFile;
use pinhole_checkpoint::{Checkpoint, Dtype, write_prompt_learner};
use pinhole_model::{ClassPosition, MetaNet, PromptLearner, PromptRow, Tensor};
use pinhole_prompts::{TextEncoder, Tokenizer, prompt_rows};

use crate::common::{self, INT8, Scene, checkpoint, random};

fn learner(shape: &[usize], class_position: Option<ClassPosition>) -> PromptLearner {
    PromptLearner {
        context: random("ctx", shape),
        meta_net: None,
        class_position,
    }
}

/// The embedding of one class from its rows.
fn embedded(class: &str, context: &[f32], n_ctx: usize, position: ClassPosition) -> Vec<f32> {
    let checkpoint = Checkpoint::open(&checkpoint(), &Default::default()).unwrap();
    let encoder = TextEncoder::load(&checkpoint).unwrap();
    let rows = prompt_rows(&Tokenizer::new(), class, n_ctx, position, 16).unwrap();
    let rows = rows.into_iter().flat_map(|row| match row {
        PromptRow::Token(id) => encoder.token_rows(&[id]).unwrap(),
        PromptRow::Context(i) => context[i * 64..][..64].to_vec(),
    });
    encoder.embed_rows(&rows.collect::<Vec<_>>()).unwrap()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-5)
}

fn export(scene: &Scene, learner: &PromptLearner, extra: &[&str]) -> std::process::Output {
    let file = scene.path("learner.safetensors");
    write_prompt_learner(&file, learner, &[]).unwrap();
    let flags = ["--prompt-learner", file.to_str().unwrap()];
    scene.export(&checkpoint(), &[&flags, extra].concat())
}

#[test]
fn every_form_of_coop_becomes_class_embeddings() {
    for (position, flag, specific) in [
        (ClassPosition::End, None, false),
        (ClassPosition::Middle, None, true),
        (ClassPosition::Front, Some("front"), false),
    ] {
        let scene = Scene::new("polar_bear\ncat\n");
        let shape: &[usize] = if specific { &[2, 4, 64] } else { &[4, 64] };
        // The command line takes precedence over the file.
        let recorded = flag.map_or(position, |_| ClassPosition::End);
        let learner = learner(shape, Some(recorded));
        let extra: Vec<&str> = flag.iter().flat_map(|f| ["--class-position", f]).collect();
        let output = export(&scene, &learner, &extra);
        assert!(output.status.success(), "{output:?}");
        let bundle = Bundle::open(&scene.path("bundle")).unwrap();
        let own = if specific { 4 * 64 } else { 0 };
        for (i, class) in ["polar bear", "cat"].into_iter().enumerate() {
            let expected = embedded(class, &learner.context.data[i * own..], 4, position);
            let found = &bundle.head().class_embeddings[i * 32..][..32];
            assert!(close(found, &expected), "{position} {class}");
        }
        let info = bundle.manifest().prompt_learner.unwrap();
        assert_eq!((info.n_ctx, info.class_position), (4, position));
        assert_eq!(info.class_specific, specific);
        assert!(bundle.manifest().templates.is_empty());
    }
}

#[test]
fn a_learner_of_another_model_is_an_error_that_names_what_fits() {
    let scene = Scene::new("cat\ndog\n");
    let end = Some(ClassPosition::End);
    let net = |embedding: usize| MetaNet {
        linear1_weight: random("a", &[2, embedding]),
        linear1_bias: random("b", &[2]),
        linear2_weight: random("c", &[64, 2]),
        linear2_bias: random("d", &[64]),
    };
    let mut foreign = learner(&[4, 64], end);
    foreign.meta_net = Some(net(48));
    for (learner, extra, parts) in [
        (
            learner(&[4, 512], end),
            &[][..],
            &["512", "ViT-B/32", "expected 64"][..],
        ),
        (
            learner(&[3, 4, 64], end),
            &[],
            &["class-specific", "found 3", "expected 2"],
        ),
        (learner(&[13, 64], end), &[], &["cat", "17", "at most 16"]),
        (foreign, &[], &["meta-net", "48", "32"]),
        (
            learner(&[2, 4, 64], end),
            &["--with-text"],
            &["--with-text", "class-specific"],
        ),
    ] {
        scene.assert_fails(&export(&scene, &learner, extra), parts);
        assert!(!scene.path("bundle").exists());
    }
}

#[test]
fn new_classes_are_named_without_the_checkpoint() {
    for (learner, precision) in [
        (None, "f32"),
        (Some(learner(&[4, 64], Some(ClassPosition::Middle))), "f16"),
        (None, "int8"),
        (Some(learner(&[4, 64], Some(ClassPosition::Middle))), "int8"),
    ] {
        let scene = Scene::new("cat\ndog\n");
        let photos = scene.photos();
        let flags = [
            "--with-text",
            "--precision",
            precision,
            "--calibration",
            &photos,
        ];
        let output = match &learner {
            Some(learner) => export(&scene, learner, &flags),
            None => scene.export(&checkpoint(), &flags),
        };
        assert!(output.status.success(), "{output:?}");
        let folder = scene.path("bundle");
        let before = Bundle::open(&folder).unwrap();

        let classes = Classes::new(["polar_bear", "dog"]).unwrap();
        let manifest = set_classes(&folder, &classes, None, &mut |_, _| {}).unwrap();
        assert_eq!(manifest.classes, ["polar_bear", "dog"]);
        let after = Bundle::open(&folder).unwrap();
        let (old, new) = (
            &before.head().class_embeddings,
            &after.head().class_embeddings,
        );
        assert_eq!(
            new[32..],
            old[32..],
            "a class that stays keeps its embedding"
        );
        let fresh = match &learner {
            Some(l) => embedded("polar bear", &l.context.data, 4, ClassPosition::Middle),
            None => {
                let checkpoint = Checkpoint::open(&checkpoint(), &Default::default()).unwrap();
                let encoder = TextEncoder::load(&checkpoint).unwrap();
                let text = Tokenizer::new()
                    .tokens("a photo of a polar bear.", 16)
                    .unwrap();
                encoder.embed_tokens(&text).unwrap()
            }
        };
        let cosine: f32 = new[..32].iter().zip(&fresh).map(|(a, b)| a * b).sum();
        let least = match precision {
            "f32" => 0.999_999,
            "f16" => 0.9999,
            _ => 0.999,
        };
        assert!(cosine > least, "{precision}: {cosine}");
        let info = before.manifest().text_encoder.as_ref().unwrap();
        assert_eq!(info.precision.to_string(), precision);
        assert_eq!(info.fidelity.is_some(), precision != "f32");
        if let Some(fidelity) = info.fidelity {
            assert_eq!(fidelity.classes, 2);
            assert!(fidelity.worst_cosine > least, "{fidelity:?}");
            assert!(
                fidelity.worst_cosine <= fidelity.mean_cosine,
                "{fidelity:?}"
            );
        }
        assert!(
            Classifier::open(&folder)
                .unwrap()
                .self_test()
                .unwrap()
                .passed()
        );

        // A name that does not fit changes nothing.
        let long = Classes::new(["dog", &"very ".repeat(20)]).unwrap();
        assert!(set_classes(&folder, &long, None, &mut |_, _| {}).is_err());
        assert_eq!(Bundle::open(&folder).unwrap().manifest(), &manifest);
        let left = fs::read_dir(scene.path("")).unwrap();
        let left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
        assert!(
            left.iter()
                .all(|n| !n.to_string_lossy().contains("partial")),
            "{left:?}"
        );
    }
}

#[test]
fn a_bundle_without_text_encoder_is_an_error_that_names_the_flag() {
    let scene = Scene::new("cat\n");
    assert!(scene.export(&checkpoint(), &[]).status.success());
    let classes = Classes::new(["dog"]).unwrap();
    let error = set_classes(scene.path("bundle"), &classes, None, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("--with-text"), "{error}");
}

#[test]
fn a_bundle_is_replaced_through_a_link() {
    let scene = Scene::new("cat\n");
    assert!(
        scene
            .export(&checkpoint(), &["--with-text"])
            .status
            .success()
    );
    let link = scene.path("link");
    #[cfg(unix)]
    std::os::unix::fs::symlink(scene.path("bundle"), &link).unwrap();
    let classes = Classes::new(["dog"]).unwrap();
    set_classes(&link, &classes, None, &mut |_, _| {}).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(
        Bundle::open(Path::new(&link)).unwrap().manifest().classes,
        ["dog"]
    );
}

#[test]
fn a_damaged_text_encoder_is_an_error() {
    let scene = Scene::new("cat\n");
    assert!(
        scene
            .export(&checkpoint(), &["--with-text"])
            .status
            .success()
    );
    let file = scene.path("bundle/text_encoder.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let classes = Classes::new(["dog"]).unwrap();
    let error = set_classes(scene.path("bundle"), &classes, None, &mut |_, _| {}).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("text_encoder.safetensors") && error.contains("sha256"),
        "{error}"
    );
}

const LAYER: &str = "transformer.resblocks.0.mlp.c_fc.weight";

/// A copy of a bundle with changed tensors in its text encoder, and with correct hashes.
fn forge(bundle: &Bundle, to: &Path, change: impl Fn(&str, Stored) -> Option<Stored>) {
    let bytes = fs::read(bundle.folder().join("text_encoder.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = vec![];
    for (name, view) in file.tensors() {
        let stored = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        if let Some(stored) = change(&name, stored) {
            tensors.push((name, stored));
        }
    }
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), data);
        (name.clone(), view.unwrap())
    });
    let forged = safetensors::serialize(views, None).unwrap();
    let writer = pinhole_bundle::BundleWriter::create(to).unwrap();
    for file in &bundle.manifest().files {
        let bytes = fs::read(bundle.folder().join(&file.path)).unwrap();
        let text = file.path == "text_encoder.safetensors";
        let bytes = if text { &forged } else { &bytes };
        writer.add(&file.path, bytes).unwrap();
    }
    writer.finish(&mut bundle.manifest().clone()).unwrap();
}

type Stored = (Dtype, Vec<usize>, Vec<u8>);

#[test]
fn linear_layers_in_int8_are_stored_with_a_scale_per_output() {
    let scene = Scene::new("cat\ndog\n");
    let output = scene.export(&checkpoint(), &[&INT8[..], &["--with-text"]].concat());
    assert!(output.status.success(), "{output:?}");
    let bundle = Bundle::open(&scene.path("bundle")).unwrap();
    let state = TensorFile::open(&scene.path("bundle/text_encoder.safetensors")).unwrap();
    let float = Checkpoint::open(&checkpoint(), &Default::default()).unwrap();
    let dtype = |name: &str| state.dtype(name).unwrap();
    for (name, dtype_expected) in [
        ("token_embedding.weight", Dtype::F16),
        ("positional_embedding", Dtype::F16),
        ("text_projection", Dtype::F16),
        ("ln_final.weight", Dtype::F32),
        ("transformer.resblocks.0.attn.in_proj_bias", Dtype::F32),
        ("transformer.resblocks.0.ln_1.weight", Dtype::F32),
    ] {
        assert_eq!(dtype(name), dtype_expected, "{name}");
    }
    for layer in [
        "attn.in_proj_weight",
        "attn.out_proj.weight",
        "mlp.c_fc.weight",
        "mlp.c_proj.weight",
    ] {
        let name = format!("transformer.resblocks.0.{layer}");
        let weight = state.tensor_i8(&name).unwrap();
        let scales = state.tensor(&format!("{name}_scale")).unwrap();
        let exact = float.tensor(&name).unwrap();
        assert_eq!(
            (&weight.shape, &scales.shape[..]),
            (&exact.shape, &weight.shape[..1])
        );
        let inputs = exact.shape[1];
        for (i, (weight, exact)) in weight.data.iter().zip(&exact.data).enumerate() {
            let scale = scales.data[i / inputs];
            assert!(
                (f32::from(*weight) * scale - exact).abs() < 0.501 * scale,
                "{name} {i}"
            );
        }
    }

    // The runtime refuses wrong tensors, and names the file and the tensor.
    let scale_of_9 = |value: f32| {
        move |mut stored: Stored| {
            stored.2[9 * 4..10 * 4].copy_from_slice(&value.to_le_bytes());
            Some(stored)
        }
    };
    let scales = format!("{LAYER}_scale");
    type Change<'a> = Box<dyn Fn(Stored) -> Option<Stored> + 'a>;
    let cases: [(&str, &str, Change); 7] = [
        (&scales, "no tensor", Box::new(|_| None)),
        (&scales, "NaN", Box::new(scale_of_9(f32::NAN))),
        (
            &scales,
            "expected positive numbers, found 0 at 9",
            Box::new(scale_of_9(0.0)),
        ),
        (
            &scales,
            "[2, 128]",
            Box::new(|(dtype, _, data)| Some((dtype, vec![2, 128], data))),
        ),
        (
            LAYER,
            "-128",
            Box::new(|mut stored| {
                stored.2[70] = 0x80;
                Some(stored)
            }),
        ),
        (
            LAYER,
            "[64, 256]",
            Box::new(|(dtype, _, data)| Some((dtype, vec![64, 256], data))),
        ),
        (
            LAYER,
            "expected type I8, found U8",
            Box::new(|(_, shape, data)| Some((Dtype::U8, shape, data))),
        ),
    ];
    for (i, (at, part, change)) in cases.into_iter().enumerate() {
        let forged = scene.path(&format!("forged-{i}"));
        forge(&bundle, &forged, |name, stored| match name == at {
            true => change(stored),
            false => Some(stored),
        });
        let classes = Classes::new(["bird"]).unwrap();
        let error = set_classes(&forged, &classes, None, &mut |_, _| {}).unwrap_err();
        let error = error.to_string();
        for part in ["text_encoder.safetensors", at, part] {
            assert!(error.contains(part), "expected {part:?} in: {error}");
        }
    }
}

#[test]
fn a_text_encoder_below_the_gate_in_int8_is_an_error() {
    let scene = Scene::new("cat\npolar bear\nmug\n");
    let clip = scene.path("clip");
    // One column contributes almost nothing but takes the whole range of the integers.
    common::write_checkpoint(&clip, |name, mut tensor| {
        let layer = name
            .strip_prefix("transformer.resblocks.")
            .map(|rest| &rest[1..]);
        match layer {
            Some(".ln_1.weight" | ".ln_2.weight") => tensor.data[7] *= 1e-4,
            Some(".ln_1.bias" | ".ln_2.bias") => tensor.data[7] = 0.0,
            Some(".attn.in_proj_weight" | ".mlp.c_fc.weight") => {
                let rows = tensor.data.chunks_exact_mut(64);
                rows.for_each(|row| row[7] = row[7].signum() * 2000.0);
            }
            // So that the layers' outputs outweigh the token embeddings.
            Some(".attn.out_proj.weight" | ".mlp.c_proj.weight") => {
                tensor.data.iter_mut().for_each(|v| *v *= 10.0);
            }
            _ => {}
        }
        tensor
    });
    let photos = scene.photos();
    let int8 = [
        "--precision",
        "int8",
        "--min-agreement",
        "0",
        "--calibration",
        &photos,
    ];
    let output = scene.export(&clip, &[&int8[..], &["--with-text"]].concat());
    let parts = [
        "text_encoder.safetensors",
        "int8",
        "at least 0.98",
        "--min-cosine",
        "on 3 classes",
        "--precision f16",
    ];
    scene.assert_fails(&output, &parts);
    assert!(!scene.path("bundle").exists());
    for flags in [["--precision", "f16"], ["--min-cosine", "0"]] {
        let out = scene.path(flags[0]);
        let out = ["--out", out.to_str().unwrap(), "--with-text"];
        let precision: &[&str] = if flags[0] == "--precision" {
            &[]
        } else {
            &int8
        };
        let output = scene.export(&clip, &[&flags[..], &out, precision].concat());
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn a_context_of_the_wrong_rank_is_an_error() {
    let scene = Scene::new("cat\n");
    let output = export(&scene, &learner(&[4, 64], None), &["--with-text"]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--class-position end"));
    let bundle = Bundle::open(&scene.path("bundle")).unwrap();
    let writer = pinhole_bundle::BundleWriter::create(&scene.path("forged")).unwrap();
    for file in &bundle.manifest().files {
        writer
            .add(
                &file.path,
                &fs::read(bundle.folder().join(&file.path)).unwrap(),
            )
            .unwrap();
    }
    let mut head = bundle.head().clone();
    let flat = Tensor {
        shape: vec![4 * 64],
        data: vec![0.0; 4 * 64],
    };
    head.learned.insert("context".into(), flat);
    writer.add_head(&head).unwrap();
    writer.finish(&mut bundle.manifest().clone()).unwrap();
    let error = Bundle::open(&scene.path("forged")).unwrap_err().to_string();
    assert!(
        error.contains("head.safetensors") && error.contains("context"),
        "{error}"
    );
}
