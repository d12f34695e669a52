//! Methods with prompts inside of both encoders, from file to logit: compared with their formulas in PyTorch
//! (tests/reference/deep_prompts.py). Their files are written here: every tensor is the pseudo-random numbers of its name,
//! which the reference computes too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use pinhole::Classifier;
use pinhole_model::{ClipConfig, Tensor, TextEncoderConfig};
use pinhole_prompts::Tokenizer;

use crate::common::reference::{TOLERANCE, expected, logits};
use crate::common::{Scene, checkpoint, random, small_clip, small_vit, write_clip};

const CLASSES: [&str; 3] = ["cat", "polar_bear", "great white shark"];
/// Sizes of the reference: context vectors of MaPLe and of IVLP, image tokens of IVLP.
const N_MAPLE: usize = 2;
const N_IVLP: usize = 4;
const N_IMAGE: usize = 3;
const WIDTH: usize = 64;
const IMAGE_WIDTH: usize = 128;
const LENGTH: usize = 16;
const EMBEDDING: usize = 32;

/// The CLIP, written once.
static CLIP: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    write_clip(&folder.path().join("clip"), &config(), |_, tensor| tensor);
    folder
});

fn clip() -> PathBuf {
    CLIP.path().join("clip")
}

fn config() -> ClipConfig {
    let small = small_clip(EMBEDDING);
    ClipConfig {
        image: small_vit(IMAGE_WIDTH, 4),
        text: TextEncoderConfig {
            layers: 4,
            ..small.text
        },
        ..small
    }
}

type Tensors = BTreeMap<String, Tensor>;

fn add(tensors: &mut Tensors, name: &str, shape: &[usize]) {
    tensors.insert(name.to_owned(), random(name, shape));
}

/// Both encoders as the trainers save them, which are others than the CLIP's, and the names of the classes behind `n_ctx`
/// context vectors and the words that follow them.
fn file(n_ctx: usize, words: &str) -> Tensors {
    let mut tensors = Tensors::new();
    for (name, shape) in config().tensors() {
        let in_file = match name.strip_prefix("visual.") {
            Some(rest) => format!("image_encoder.{rest}"),
            None if name == "logit_scale" => name,
            None => format!("text_encoder.{name}"),
        };
        add(&mut tensors, &in_file, &shape);
    }
    tensors.remove("text_encoder.token_embedding.weight");
    let table = random("token_embedding.weight", &[49_408, WIDTH]);
    let row = |id: u32| &table.data[id as usize * WIDTH..][..WIDTH];
    let (mut prefix, mut suffix) = (vec![], vec![]);
    for class in CLASSES {
        let context = "X ".repeat(n_ctx);
        let text = format!("{context}{words}{}.", class.replace('_', " "));
        let mut ids = Tokenizer::new().tokens(&text, LENGTH).unwrap();
        ids.resize(LENGTH, 0);
        prefix.extend_from_slice(row(ids[0]));
        ids[1 + n_ctx..]
            .iter()
            .for_each(|id| suffix.extend_from_slice(row(*id)));
    }
    for (name, rows, data) in [
        ("prefix", 1, prefix),
        ("suffix", LENGTH - 1 - n_ctx, suffix),
    ] {
        let shape = vec![CLASSES.len(), rows, WIDTH];
        tensors.insert(
            format!("prompt_learner.token_{name}"),
            Tensor { shape, data },
        );
    }
    add(&mut tensors, "prompt_learner.ctx", &[n_ctx, WIDTH]);
    tensors
}

/// MaPLe's file with prompts in `deep` blocks behind the first.
fn maple(deep: usize, words: &str) -> Tensors {
    let mut tensors = file(N_MAPLE, words);
    let mut projections = vec!["proj".to_owned()];
    for i in 0..deep {
        let name = format!("prompt_learner.compound_prompts_text.{i}");
        add(&mut tensors, &name, &[N_MAPLE, WIDTH]);
        projections.push(format!("compound_prompt_projections.{i}"));
    }
    for name in projections {
        add(
            &mut tensors,
            &format!("prompt_learner.{name}.weight"),
            &[IMAGE_WIDTH, WIDTH],
        );
        add(
            &mut tensors,
            &format!("prompt_learner.{name}.bias"),
            &[IMAGE_WIDTH],
        );
    }
    tensors
}

fn ivlp() -> Tensors {
    let mut tensors = file(N_IVLP, "");
    add(&mut tensors, "image_encoder.VPT", &[N_IMAGE, IMAGE_WIDTH]);
    for i in [1, 2] {
        for (side, shape) in [("image", [N_IMAGE, IMAGE_WIDTH]), ("text", [N_IVLP, WIDTH])] {
            let name = format!("{side}_encoder.transformer.resblocks.{i}.VPT_shallow");
            add(&mut tensors, &name, &shape);
        }
    }
    tensors
}

/// IVLP's prompts of the image encoder alone.
fn vpt() -> Tensors {
    let mut tensors = ivlp();
    let of_text = |name: &str| name.starts_with("text_encoder.") && name.ends_with("VPT_shallow");
    tensors.retain(|name, _| !name.starts_with("prompt_learner.") && !of_text(name));
    tensors
}

/// With the copy of CLIP that the training compares with.
fn promptsrc() -> Tensors {
    let mut tensors = ivlp();
    add(
        &mut tensors,
        "prompt_learner.ZS_image_encoder.proj",
        &[IMAGE_WIDTH, EMBEDDING],
    );
    tensors
}

fn coprompt() -> Tensors {
    let mut tensors = maple(2, "of a ");
    for side in ["image", "text"] {
        let hidden = EMBEDDING / 4;
        add(
            &mut tensors,
            &format!("adapter_{side}.fc.0.weight"),
            &[hidden, EMBEDDING],
        );
        add(
            &mut tensors,
            &format!("adapter_{side}.fc.2.weight"),
            &[EMBEDDING, hidden],
        );
    }
    add(
        &mut tensors,
        "model_distill.token_embedding.weight",
        &[3, WIDTH],
    );
    tensors
}

/// Writes the file where a trainer would.
fn write(scene: &Scene, trainer: &str, tensors: &Tensors) -> String {
    let folder = scene.path("output").join(trainer);
    fs::create_dir_all(&folder).unwrap();
    let bytes: Vec<(&String, &Tensor, Vec<u8>)> = (tensors.iter())
        .map(|(name, tensor)| {
            let bytes = tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, tensor, bytes)
        })
        .collect();
    let views = bytes.iter().map(|(name, tensor, bytes)| {
        let (kind, shape) = (safetensors::Dtype::F32, tensor.shape.clone());
        let view = safetensors::tensor::TensorView::new(kind, shape, bytes);
        (name.as_str(), view.unwrap())
    });
    let file = folder.join("model.pth.tar-5");
    fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    scene.path("output").to_str().unwrap().to_owned()
}

const MAPLE: &str = "MultiModalPromptLearner";
const IVLP: &str = "VLPromptLearner";
const VPT: &str = "prompt_learner";

fn scene() -> Scene {
    Scene::new(&CLASSES.join("\n"))
}

/// If this fails, a board computes something else than what was trained.
#[test]
fn every_method_equals_its_formula() {
    for (trainer, tensors, flags, key, method) in [
        (MAPLE, maple(2, "of a "), &[][..], "maple", "MaPLe"),
        (MAPLE, maple(2, "of a "), &["--flat"], "maple", "MaPLe"),
        // Trained from random vectors: no words remain.
        (MAPLE, maple(2, ""), &[], "maple-other-words", "MaPLe"),
        (MAPLE, maple(0, "of a "), &[], "maple-shallow", "MaPLe"),
        (MAPLE, coprompt(), &[], "coprompt", "CoPrompt"),
        (IVLP, ivlp(), &[], "ivlp", "IVLP"),
        (IVLP, promptsrc(), &[], "ivlp", "PromptSRC"),
        (VPT, vpt(), &[], "vpt", "VPT"),
    ] {
        let scene = scene();
        let path = write(&scene, trainer, &tensors);
        let output = scene.export(&clip(), &[&["--learned", &path], flags].concat());
        assert!(output.status.success(), "{key}: {output:?}");
        let (found, name) = logits(&scene.path("bundle"));
        assert_eq!(name.as_deref(), Some(method));
        let pairs = (found.iter().flatten()).zip(expected(key).into_iter().flatten());
        let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= TOLERANCE, "{key} {flags:?}: {apart}");
    }
}

/// If this fails, tokens are not calibrated and quantised with the graph, or do not hold in a reduced precision.
#[test]
fn tokens_are_exported_in_every_precision() {
    for (trainer, tensors) in [(MAPLE, coprompt()), (IVLP, promptsrc())] {
        for precision in ["f16", "int8"] {
            let scene = scene();
            let (path, photos) = (write(&scene, trainer, &tensors), scene.photos());
            let flags = [
                "--learned",
                &path,
                "--precision",
                precision,
                "--calibration",
                &photos,
            ];
            let output = scene.export(&clip(), &flags);
            assert!(output.status.success(), "{precision}: {output:?}");
            let classifier = Classifier::open(scene.path("bundle")).unwrap();
            let cosine = classifier.manifest().fidelity.unwrap().mean_cosine;
            assert!(cosine > 0.98, "{trainer} {precision}: {cosine}");
            assert!(classifier.self_test().unwrap().passed());
        }
    }
}

#[test]
fn what_the_training_alone_uses_is_noted() {
    let scene = scene();
    let path = write(&scene, IVLP, &promptsrc());
    let output = scene.export(&clip(), &["--learned", &path]);
    let message = String::from_utf8(output.stderr).unwrap();
    let note = "note: PromptSRC: ZS_image_encoder.* not used";
    assert!(message.contains(note), "{message}");
    assert!(!message.contains("--class-position"), "{message}");
}

/// A change of a file, and what the error says.
type Case<'a> = (Tensors, &'a dyn Fn(&mut Tensors), &'a [&'a str]);

/// If this fails, what does not fit is exported, or the user is not told what would.
#[test]
fn files_that_do_not_fit_are_errors_that_name_the_tensor() {
    let remove = |name: &'static str| move |t: &mut Tensors| drop(t.remove(name).unwrap());
    let put =
        |name: &'static str, shape: &'static [usize]| move |t: &mut Tensors| add(t, name, shape);
    let cases: [Case; 12] = [
        (
            maple(2, ""),
            &remove("image_encoder.conv1.weight"),
            &[
                "image_encoder.conv1.weight",
                "[128, 3, 8, 8]",
                "found none",
                "pass the CLIP",
            ],
        ),
        (
            maple(2, ""),
            &put("text_encoder.ln_final.weight", &[32]),
            &["text_encoder.ln_final.weight", "shape [64]", "shape [32]"],
        ),
        (
            maple(2, ""),
            &put("image_encoder.transformer.resblocks.4.ln_1.weight", &[128]),
            &[
                "image_encoder.transformer.resblocks.4.ln_1.weight",
                "ViT of 4 layers",
            ],
        ),
        (
            maple(2, ""),
            &remove("prompt_learner.compound_prompts_text.0"),
            &["compound_prompts_text.0", "found none"],
        ),
        (
            maple(2, ""),
            &remove("prompt_learner.compound_prompt_projections.1.bias"),
            &["compound_prompt_projections.1.bias", "found none"],
        ),
        (
            maple(1, ""),
            &|t| {
                add(
                    t,
                    "prompt_learner.compound_prompt_projections.1.weight",
                    &[128, 64],
                );
                add(
                    t,
                    "prompt_learner.compound_prompt_projections.1.bias",
                    &[128],
                );
            },
            &["compound_prompt_projections.1.weight", "expected 1"],
        ),
        (
            maple(4, ""),
            &|_| (),
            &[
                "tokens in the image encoder",
                "at most 4 blocks",
                "those of 5",
            ],
        ),
        (
            maple(2, ""),
            &|t| t.get_mut("prompt_learner.proj.bias").unwrap().data[7] = f32::NAN,
            &["prompt_learner.proj.bias", "finite"],
        ),
        (
            maple(2, ""),
            &put("prompt_learner.other", &[2]),
            &["prompt_learner.other", "MaPLe"],
        ),
        (
            ivlp(),
            &put(
                "image_encoder.transformer.resblocks.1.VPT_shallow",
                &[2, 128],
            ),
            &[
                "image_encoder.transformer.resblocks.1.VPT_shallow",
                "[3, 128]",
                "[2, 128]",
            ],
        ),
        (
            ivlp(),
            &remove("text_encoder.transformer.resblocks.1.VPT_shallow"),
            &[
                "text_encoder.transformer.resblocks.1.VPT_shallow",
                "from 1 on",
            ],
        ),
        (
            ivlp(),
            &|t| {
                t.get_mut("prompt_learner.token_prefix")
                    .unwrap()
                    .data
                    .reverse()
            },
            &["token_prefix", "pass the CLIP that it was trained with"],
        ),
    ];
    for (mut tensors, change, parts) in cases {
        let scene = scene();
        change(&mut tensors);
        let path = write(&scene, MAPLE, &tensors);
        scene.assert_fails(&scene.export(&clip(), &["--learned", &path]), parts);
        assert!(!scene.path("bundle").exists());
    }
}

#[test]
fn what_has_no_place_in_the_bundle_is_refused() {
    let other = checkpoint();
    for (clip, flags, parts) in [
        (
            clip(),
            &["--with-text"][..],
            &["--with-text", "inside of the text encoder"][..],
        ),
        (
            clip(),
            &["--class-position", "front"],
            &["--class-position", "expected end"],
        ),
        // The trainer's encoders are deeper and wider.
        (other, &[], &["image_encoder.", "this CLIP"]),
        (clip(), &["--method", "coop"], &["CoOp", "image_encoder."]),
    ] {
        let scene = scene();
        let path = write(&scene, MAPLE, &maple(2, ""));
        scene.assert_fails(
            &scene.export(&clip, &[&["--learned", &path], flags].concat()),
            parts,
        );
    }
    let scene = scene();
    fs::create_dir_all(scene.path("output").join(MAPLE)).unwrap();
    let path = scene.path("output");
    let learned = ["--learned", path.to_str().unwrap()];
    scene.assert_fails(&scene.export(&clip(), &learned), &["output", "model"]);
}

/// Only such files need a newer program.
#[test]
fn files_with_tokens_alone_need_the_newest_version_of_the_dialect() {
    use prost::Message;
    let version = |bundle: &Path| {
        let bytes = fs::read(bundle.join("image_encoder.onnx")).unwrap();
        let model = tract_onnx::pb::ModelProto::decode(&*bytes).unwrap();
        let found = model
            .opset_import
            .iter()
            .find(|set| set.domain == "pinhole");
        found.unwrap().version
    };
    let with_tokens = scene();
    let path = write(&with_tokens, MAPLE, &maple(1, ""));
    assert!(
        with_tokens
            .export(&clip(), &["--learned", &path])
            .status
            .success()
    );
    assert_eq!(version(&with_tokens.path("bundle")), 3);
    let without = scene();
    assert!(without.export(&clip(), &[]).status.success());
    assert_eq!(version(&without.path("bundle")), 1);
}
