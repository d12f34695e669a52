//! Files of learned methods, as their reference implementations save them, from file to logit: compared with each method's
//! formula in PyTorch (tests/reference/make_learned.py).

use std::fs;
use std::path::Path;

use pinhole::{Bundle, Classifier};
use pinhole_bundle::{BundleWriter, CacheInfo, Head, HeadForm, HeadKind, Manifest};
use pinhole_checkpoint::{
    LearnedOptions, StateDict, read_learned, read_prompt_learner, read_state_dict, write_learned,
};
use pinhole_model::{Learned, LearnedClasses, LinearClassifier, Tensor};

use crate::common::reference::{TOLERANCE, expected, golden, images, logits};
use crate::common::{self, Scene, checkpoint};

const CLASSES: &str = "cat\npolar_bear\ngreat white shark\n";
const CACHE: [&str; 4] = ["--method-option", "alpha=20", "--method-option", "beta=5.5"];

/// Exports, and compares with the reference; the largest difference.
#[track_caller]
fn difference(scene: &Scene, flags: &[&str], key: &str, method: Option<&str>) -> f32 {
    let output = scene.export(&checkpoint(), flags);
    assert!(output.status.success(), "{key}: {output:?}");
    let (found, name) = logits(&scene.path("bundle"));
    assert_eq!(name.as_deref(), method);
    let pairs = found
        .iter()
        .flatten()
        .zip(expected(key).into_iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_method_equals_its_formula() {
    for (file, flags, key, method) in [
        ("", &[][..], "zero-shot", None),
        ("kgcoop.pth.tar", &[], "kgcoop", Some("KgCoOp")),
        (
            "prograd.pth.tar",
            &["--class-position", "end"],
            "prograd",
            Some("CoOp"),
        ),
        (
            "prograd.pth.tar",
            &["--method", "ProGrad"],
            "prograd",
            Some("ProGrad"),
        ),
        ("taskres.pth.tar", &[], "taskres-1.0", Some("TaskRes")),
        (
            "taskres.pth.tar",
            &["--method-option", "alpha=0.5", "--negatives", "a wall"],
            "taskres-0.5",
            Some("TaskRes"),
        ),
        ("linear.npz", &[], "linear", Some("linear head")),
        ("linear.pt", &[], "linear", Some("linear head")),
        ("keys_2shots.pt", &CACHE, "tip-adapter", Some("Tip-Adapter")),
        (
            "best_F_2shots.pt",
            &CACHE,
            "tip-adapter-f",
            Some("Tip-Adapter-F"),
        ),
        (
            "clip_adapter.pth.tar",
            &[],
            "clip-adapter-0.2",
            Some("CLIP-Adapter"),
        ),
        (
            "clip_adapter.pth.tar",
            &["--method-option", "ratio=0.6", "--flat"],
            "clip-adapter-0.6",
            Some("CLIP-Adapter"),
        ),
        ("clip_lora.pt", &[], "clip-lora", Some("CLIP-LoRA")),
    ] {
        let scene = Scene::new(CLASSES);
        let path = golden(file);
        let learned = ["--learned", path.to_str().unwrap()];
        let learned = if file.is_empty() { &[][..] } else { &learned };
        let apart = difference(&scene, &[learned, flags].concat(), key, method);
        assert!(apart <= TOLERANCE, "{key}: {apart}");
    }
}

/// If this fails, each row of a head that was learned with another order of the classes gets another class's name.
#[test]
fn recorded_classes_are_compared() {
    let linear = read_learned(&golden("linear.npz"), &LearnedOptions::default()).unwrap();
    let context = LearnedClasses::Prompts {
        learner: Box::new(read_prompt_learner(&golden("prograd.pth.tar")).unwrap()),
        names: None,
    };
    let scene = Scene::new(CLASSES);
    let path = scene.path("learned.safetensors");
    let export = |learned: &Learned, trained: &[&str]| {
        let trained_classes = trained.iter().map(|name| (*name).to_owned()).collect();
        let learned = Learned {
            trained_classes,
            ..learned.clone()
        };
        write_learned(&path, &learned).unwrap();
        let flags = ["--learned", path.to_str().unwrap()];
        let output = scene.export(&checkpoint(), &flags);
        let message = String::from_utf8(output.stderr).unwrap();
        (output.status.success(), message)
    };
    let (exported, message) = export(&linear, &["Cat", "polar bear", "great_white_shark"]);
    assert!(exported, "{message}");
    fs::remove_dir_all(scene.path("bundle")).unwrap();
    for (trained, parts) in [
        (
            &["polar_bear", "cat", "great white shark"][..],
            &["class 1: expected \"polar_bear\"", "found \"cat\""][..],
        ),
        (
            &["cat", "polar_bear", "whale"],
            &["class 3: expected \"whale\", as in the training, found \"great white shark\""],
        ),
        (
            &["cat", "polar_bear"],
            &["expected the 2 classes of the training in their order, found 3"],
        ),
    ] {
        let (exported, message) = export(&linear, trained);
        assert!(!exported);
        for part in ["--classes: linear head: "].iter().chain(parts) {
            assert!(message.contains(part), "{message}");
        }
    }
    // One context for all classes serves others too.
    let (exported, message) = export(&Learned::new("CoOp", context), &["whale", "ant"]);
    assert!(exported, "{message}");
    let note = "note: CoOp: learned with the classes whale, ant\n";
    assert!(message.contains(note), "{message}");
}

#[test]
fn what_is_not_used_is_noted() {
    let scene = Scene::new(CLASSES);
    let path = golden("kgcoop.pth.tar");
    let output = scene.export(&checkpoint(), &["--learned", path.to_str().unwrap()]);
    let message = String::from_utf8(output.stderr).unwrap();
    for part in [
        "note: KgCoOp: bias_vectors, meta_net.linear1.weight",
        "not used",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn files_and_names_of_other_methods_are_refused_with_the_reason() {
    for (file, flags, parts) in [
        (
            "plot.pth.tar",
            &[][..],
            &["plot.pth.tar", "PLOT", "optimal transport"][..],
        ),
        (
            "taskres.pth.tar",
            &["--method", "coop"],
            &["base_text_features", "CoOp"],
        ),
        (
            "prograd.pth.tar",
            &["--method", "taskres"],
            &["tensor ctx", "TaskRes"],
        ),
        (
            "taskres.pth.tar",
            &["--method-option", "beta=1"],
            &["option beta", "expected alpha, for TaskRes"],
        ),
        (
            "taskres.pth.tar",
            &["--method-option", "alpha=-1"],
            &["option alpha", "expected 0 to 100, found -1"],
        ),
        (
            "taskres.pth.tar",
            &["--with-text"],
            &["--with-text", "--learned", "class embeddings"],
        ),
        (
            "taskres.pth.tar",
            &["--templates", "a {}"],
            &["--templates", "--learned", "TaskRes"],
        ),
        (
            "",
            &CACHE,
            &["Tip-Adapter and of Tip-Adapter-F", "--method"],
        ),
        (
            "keys_2shots.pt",
            &[],
            &[
                "alpha and beta",
                "--method-option",
                "--calibration",
                "found 0",
            ],
        ),
        (
            "keys_2shots.pt",
            &[&CACHE[..], &["--with-text"]].concat(),
            &["--with-text", "cache"],
        ),
        (
            "linear.pt",
            &["--negatives", "a wall"],
            &["linear head", "--negatives"],
        ),
    ] {
        let scene = Scene::new(CLASSES);
        let path = golden(file);
        let learned = ["--learned", path.to_str().unwrap()];
        scene.assert_fails(
            &scene.export(&checkpoint(), &[&learned, flags].concat()),
            parts,
        );
        assert!(!scene.path("bundle").exists());
    }
    let scene = Scene::new(CLASSES);
    let path = golden("prograd.pth.tar");
    let flags = ["--learned", path.to_str().unwrap(), "--method", "TPT"];
    let output = scene.export(&checkpoint(), &flags);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("TPT is not supported: it trains"),
        "{message}"
    );
}

/// If this fails, PLOT's contexts are taken for class-specific ones of CoOp where its names are not saved.
#[test]
fn a_folder_named_after_a_method_tells_it() {
    let scene = Scene::new("cat\ndog\n");
    let state = read_state_dict(&golden("plot.pth.tar")).unwrap();
    let file = scene.path("output/PLOT/prompt_learner/model.pth.tar-50");
    write(&file, &state, &["ctx"]);
    let folder = scene.path("output/PLOT");
    let learned = ["--learned", folder.to_str().unwrap()];
    scene.assert_fails(
        &scene.export(&checkpoint(), &learned),
        &["PLOT", "pass --method"],
    );
    let output = scene.export(
        &checkpoint(),
        &[&learned[..], &["--method", "coop"]].concat(),
    );
    assert!(output.status.success(), "{output:?}");
}

/// Writes some tensors of a state dict as safetensors.
fn write(path: &Path, state: &StateDict, names: &[&str]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let tensors: Vec<_> = (names.iter())
        .map(|name| {
            let tensor = state.tensor(name).unwrap();
            let bytes: Vec<u8> = tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect();
            (*name, tensor.shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
        (*name, view.unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_learner_of_another_clip_is_refused() {
    let scene = Scene::new(CLASSES);
    let clip = scene.path("clip");
    common::write_checkpoint(&clip, |name, mut tensor| {
        if name == "token_embedding.weight" {
            tensor.data.reverse();
        }
        tensor
    });
    let path = golden("prograd.pth.tar");
    let output = scene.export(&clip, &["--learned", path.to_str().unwrap()]);
    let parts = ["token_prefix", "pass the CLIP that it was trained with"];
    scene.assert_fails(&output, &parts);
}

#[test]
fn class_specific_contexts_are_for_the_classes_of_the_training_in_their_order() {
    let path = golden("coop-specific.pth.tar");
    let learned = ["--learned", path.to_str().unwrap()];
    let scene = Scene::new(CLASSES);
    let output = scene.export(&checkpoint(), &learned);
    assert!(output.status.success(), "{output:?}");
    for (classes, parts) in [
        (
            "cat\ngreat white shark\npolar_bear\n",
            &[
                "found \"polar bear\" as class 2",
                "\"great white shark\"",
                "in their order",
            ][..],
        ),
        (
            "cat\npolar bear\ndog\n",
            &["\"great white shark\" as class 3", "\"dog\""],
        ),
        (
            "cat\npolar bear\n",
            &["class-specific", "found 3", "expected 2"],
        ),
    ] {
        let scene = Scene::new(classes);
        scene.assert_fails(&scene.export(&checkpoint(), &learned), parts);
    }
}

/// If this fails, alpha and beta are not searched, or not on the labelled images.
#[test]
fn alpha_and_beta_are_searched_on_labelled_images() {
    let scene = Scene::new(CLASSES);
    for (class, name) in ["cat", "great white shark"].into_iter().enumerate() {
        let folder = scene.path("labelled").join(name);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..6 {
            let mut image = images()[class].clone();
            image.put_pixel(i, 3, image::Rgb([0, 0, 0]));
            image.save(folder.join(format!("{i}.png"))).unwrap();
        }
    }
    let (keys, photos) = (golden("keys_2shots.pt"), scene.path("labelled"));
    let flags = [
        "--learned",
        keys.to_str().unwrap(),
        "--calibration",
        photos.to_str().unwrap(),
    ];
    let output = scene.export(&checkpoint(), &flags);
    assert!(output.status.success(), "{output:?}");
    let classifier = Classifier::open(scene.path("bundle")).unwrap();
    let manifest = classifier.manifest();
    assert_eq!(manifest.head, pinhole::manifest::HeadKind::Cache);
    let found = manifest.cache.unwrap();
    assert!(
        (0.1..3.0).contains(&found.alpha) && (0.1..7.0).contains(&found.beta),
        "{found:?}"
    );
}

/// If this fails, a learned method does not hold in a reduced precision.
#[test]
fn a_tail_and_changed_weights_are_exported_in_every_precision() {
    for file in ["clip_adapter.pth.tar", "clip_lora.pt"] {
        for precision in ["f16", "int8"] {
            let scene = Scene::new(CLASSES);
            let (path, photos) = (golden(file), scene.photos());
            let flags = [
                "--learned",
                path.to_str().unwrap(),
                "--precision",
                precision,
                "--calibration",
                &photos,
            ];
            let output = scene.export(&checkpoint(), &flags);
            assert!(output.status.success(), "{file} {precision}: {output:?}");
            let classifier = Classifier::open(scene.path("bundle")).unwrap();
            let cosine = classifier.manifest().fidelity.unwrap().mean_cosine;
            assert!(cosine > 0.98, "{file} {precision}: {cosine}");
            assert!(classifier.self_test().unwrap().passed());
        }
    }
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let linear = golden("linear.pt");
    let scene = Scene::new("cat\ndog\n");
    let learned = ["--learned", linear.to_str().unwrap()];
    let parts = ["--learned", "2 classes", "found 3"];
    scene.assert_fails(&scene.export(&checkpoint(), &learned), &parts);
    let keys = golden("keys_2shots.pt");
    let learned = ["--learned", keys.to_str().unwrap()];
    let parts = ["2 classes", "found 3"];
    let output = scene.export(&checkpoint(), &[&learned[..], &CACHE].concat());
    scene.assert_fails(&output, &parts);
    // Of another CLIP.
    let clip = scene.path("clip");
    common::write_checkpoint_of(&clip, 48, |_, tensor| tensor);
    let scene = Scene::new(CLASSES);
    for (file, parts) in [
        ("keys_2shots.pt", &["keys of length 48", "[6, 32]"][..]),
        ("linear.pt", &["48", "32"]),
        (
            "clip_adapter.pth.tar",
            &["CLIP-Adapter", "embeddings of length 48"],
        ),
        ("taskres.pth.tar", &["rows of 48", "32"]),
    ] {
        let path = golden(file);
        let cache = if file.starts_with("keys") {
            &CACHE[..]
        } else {
            &[]
        };
        let learned = ["--learned", path.to_str().unwrap()];
        scene.assert_fails(&scene.export(&clip, &[&learned, cache].concat()), parts);
    }
}

/// If this fails, a board reads a head that its manifest does not describe.
#[test]
fn forged_heads_are_errors_that_name_the_field() {
    let scene = Scene::new(CLASSES);
    let keys = golden("keys_2shots.pt");
    let learned = [&["--learned", keys.to_str().unwrap()][..], &CACHE].concat();
    assert!(scene.export(&checkpoint(), &learned).status.success());
    let bundle = Bundle::open(&scene.path("bundle")).unwrap();
    let forged = |name: &str, change: &dyn Fn(&mut Head, &mut Manifest)| {
        let folder = scene.path(name);
        let (mut head, mut manifest) = (bundle.head().clone(), bundle.manifest().clone());
        let writer = BundleWriter::create(&folder).unwrap();
        for file in manifest
            .files
            .iter()
            .filter(|file| file.path != "head.safetensors")
        {
            let bytes = fs::read(bundle.folder().join(&file.path)).unwrap();
            writer.add(&file.path, &bytes).unwrap();
        }
        change(&mut head, &mut manifest);
        writer.add_head(&head).unwrap();
        writer.finish(&mut manifest).unwrap();
        Bundle::open(&folder)
    };
    assert_eq!(forged("same", &|_, _| ()).unwrap().head(), bundle.head());
    let label = |label: usize| {
        move |head: &mut Head| {
            if let HeadForm::Cache(terms) = &mut head.form {
                terms.labels[4] = label;
            }
        }
    };
    type Change<'a> = Box<dyn Fn(&mut Head, &mut Manifest) + 'a>;
    let cases: [(&str, &str, Change); 6] = [
        (
            "cache.labels[4]",
            "a class below 3",
            Box::new(|head, _| label(3)(head)),
        ),
        (
            "cache.labels",
            "f32 [6]",
            Box::new(|head, _| {
                if let HeadForm::Cache(terms) = &mut head.form {
                    terms.labels.pop();
                }
            }),
        ),
        (
            "cache.keys[7]",
            "a finite number",
            Box::new(|head, _| {
                if let HeadForm::Cache(terms) = &mut head.form {
                    terms.keys[7] = f32::INFINITY;
                }
            }),
        ),
        (
            "linear_head.weight",
            "f32 [3, 32]",
            Box::new(|_, manifest| {
                (manifest.head, manifest.cache) = (HeadKind::Linear, None);
            }),
        ),
        (
            "class_embeddings",
            "no such tensor",
            Box::new(|head, _| head.class_embeddings.clear()),
        ),
        (
            "cache.keys",
            "such a head",
            Box::new(|_, manifest| {
                (manifest.head, manifest.cache) = (HeadKind::Static, None);
            }),
        ),
    ];
    for (i, (field, part, change)) in cases.iter().enumerate() {
        let error = forged(&i.to_string(), change).unwrap_err().to_string();
        for part in ["head.safetensors", field, part] {
            assert!(error.contains(part), "{i}: expected {part:?} in: {error}");
        }
    }
    // A manifest that contradicts itself is not written.
    for (field, cache) in [
        ("cache", None),
        (
            "cache.alpha",
            Some(CacheInfo {
                alpha: -1.0,
                beta: 1.0,
            }),
        ),
    ] {
        let folder = scene.path(field);
        let writer = BundleWriter::create(&folder).unwrap();
        let mut manifest = Manifest {
            cache,
            ..bundle.manifest().clone()
        };
        let error = writer.finish(&mut manifest).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn one_row_for_two_classes_is_the_logit_of_the_second() {
    let tensor = |shape: &[usize], data: Vec<f32>| Tensor {
        shape: shape.to_vec(),
        data,
    };
    let classifier = LinearClassifier {
        weight: tensor(&[1, 2], vec![3.0, -4.0]),
        bias: Some(tensor(&[1], vec![0.5])),
    };
    let (head, scale) = Head::linear(&classifier, 2).unwrap();
    assert_eq!(scale, 5.5);
    let similarities = head.similarities(&[0.6, 0.8]);
    assert_eq!(similarities[0], 0.0);
    assert!(
        (scale * similarities[1] - (1.8 - 3.2 + 0.5)).abs() < 1e-6,
        "{similarities:?}"
    );
    assert!(
        Head::linear(&classifier, 3)
            .unwrap_err()
            .contains("3 classes")
    );
    let zeros = LinearClassifier {
        weight: tensor(&[2, 2], vec![0.0; 4]),
        bias: None,
    };
    assert!(Head::linear(&zeros, 2).unwrap_err().contains("zeros"));
}
