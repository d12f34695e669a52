//! CoCoOp from a prompt learner's file to the runtime's answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pinhole::{Bundle, Classes, Classifier, ConditionalMode as Mode, RgbImage, set_classes};
use pinhole_checkpoint::{Checkpoint, write_prompt_learner};
use pinhole_model::{ClassPosition, MetaNet, PromptLearner, PromptRow, Tensor};
use pinhole_prompts::{TextEncoder, Tokenizer, prompt_rows};

use crate::common::{Scene, checkpoint, random};

const CLASSES: [&str; 6] = ["cat", "polar_bear", "mug", "fern", "lamp", "red brick"];

fn learner() -> PromptLearner {
    // Large enough that answers depend on the image.
    let scaled = |name, shape: &[usize], scale: f32| {
        let mut tensor: Tensor = random(name, shape);
        tensor.data.iter_mut().for_each(|v| *v *= scale);
        tensor
    };
    PromptLearner {
        context: random("ctx", &[4, 64]),
        meta_net: Some(MetaNet {
            linear1_weight: scaled("meta_net.linear1.weight", &[3, 32], 2.0),
            linear1_bias: random("meta_net.linear1.bias", &[3]),
            linear2_weight: scaled("meta_net.linear2.weight", &[64, 3], 0.5),
            linear2_bias: random("meta_net.linear2.bias", &[64]),
        }),
        class_position: Some(ClassPosition::End),
    }
}

/// The similarity by CoCoOp's formulas, one whole prompt at a time.
fn reference_similarity(embedding: &[f32], learner: &PromptLearner, class: &str) -> f32 {
    let checkpoint = Checkpoint::open(&checkpoint(), &Default::default()).unwrap();
    let encoder = TextEncoder::load(&checkpoint).unwrap();
    let net = learner.meta_net.as_ref().unwrap();
    let affine = |weight: &Tensor, bias: &Tensor, x: &[f32]| -> Vec<f32> {
        (weight.data.chunks_exact(x.len()).zip(&bias.data))
            .map(|(row, b)| b + row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>())
            .collect()
    };
    let hidden = affine(&net.linear1_weight, &net.linear1_bias, embedding);
    let hidden: Vec<f32> = hidden.into_iter().map(|v| v.max(0.0)).collect();
    let shift = affine(&net.linear2_weight, &net.linear2_bias, &hidden);
    let rows = prompt_rows(&Tokenizer::new(), class, 4, ClassPosition::End, 16).unwrap();
    let rows = rows.into_iter().flat_map(|row| match row {
        PromptRow::Token(id) => encoder.token_rows(&[id]).unwrap(),
        PromptRow::Context(i) => (learner.context.data[i * 64..][..64].iter())
            .zip(&shift)
            .map(|(c, s)| c + s)
            .collect(),
    });
    let class = encoder.embed_rows(&rows.collect::<Vec<_>>()).unwrap();
    class.iter().zip(embedding).map(|(a, b)| a * b).sum()
}

fn picture(i: usize) -> RgbImage {
    // Each with its own contrast and brightness.
    let byte = |at: usize| ((at * (i * 7 + 3)) % 251 / (1 + i % 3) + i * 5 % 60).min(255) as u8;
    RgbImage::new(40, 36, (0..40 * 36 * 3).map(byte).collect()).unwrap()
}

/// A scene with a prompt learner's file and calibration images.
fn scene() -> (Scene, PathBuf) {
    let scene = Scene::new(&CLASSES.join("\n"));
    let file = scene.path("learner.safetensors");
    write_prompt_learner(&file, &learner(), &[]).unwrap();
    let images = scene.path("images");
    std::fs::create_dir(&images).unwrap();
    for i in 0..24 {
        let picture = picture(i);
        let data = picture.data.clone();
        let png = image::RgbImage::from_raw(40, 36, data).unwrap();
        png.save(images.join(format!("{i}.png"))).unwrap();
    }
    (scene, file)
}

fn export(scene: &Scene, learner: &Path, extra: &[&str]) -> std::process::Output {
    let images = scene.path("images");
    let flags = [
        "--prompt-learner",
        learner.to_str().unwrap(),
        "--calibration",
        images.to_str().unwrap(),
    ];
    scene.export(&checkpoint(), &[&flags, extra].concat())
}

fn open(scene: &Scene, mode: Mode) -> Classifier {
    Classifier::builder()
        .conditional(mode)
        .open(scene.path("bundle"))
        .unwrap()
}

#[test]
fn exact_equals_cocoops_formula_and_the_other_modes_are_within_the_manifests_figures() {
    let (scene, learner_file) = scene();
    let output = export(&scene, &learner_file, &[]);
    assert!(output.status.success(), "{output:?}");
    let exact = open(&scene, Mode::Exact);
    let manifest = exact.manifest();
    let info = manifest.conditional.unwrap();
    assert_eq!((info.fitted_images, info.compared_images), (18, 6));
    // Only the rows of the prompts' tokens are stored.
    let tokens = &manifest.text_encoder.as_ref().unwrap().tokens;
    assert!((8..20).contains(&tokens.len()), "{tokens:?}");

    let linear = open(&scene, Mode::Linear);
    let shortlist = open(&scene, Mode::Shortlist);
    let auto = open(&scene, Mode::Auto(Duration::from_secs(60)));
    let hasty = open(&scene, Mode::Auto(Duration::ZERO));
    let mut moved = std::collections::HashSet::new();
    for i in 100..112 {
        let embedding = exact.embed(&picture(i)).unwrap().values;
        let found = exact.similarities(&embedding).unwrap();
        for (class, found) in CLASSES.iter().zip(&found) {
            let expected = reference_similarity(&embedding, &learner(), class);
            // 0.002 at logit scale 100.
            assert!(
                (found - expected).abs() < 2e-5,
                "{class}: {found} {expected}"
            );
        }
        moved.insert(found.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        assert_eq!(auto.similarities(&embedding).unwrap(), found);
        let first = linear.similarities(&embedding).unwrap();
        assert_eq!(hasty.similarities(&embedding).unwrap(), first);
        for (a, b) in found.iter().zip(&first) {
            // The manifest's figure was measured on other images.
            let bound = 3.0 * info.linear.largest_logit_difference + 0.5;
            assert!((a - b).abs() * manifest.logit_scale < bound, "{info:?}");
        }
        let picked = shortlist.classify(&picture(i)).unwrap().ranking[0].clone();
        assert!(
            found.contains(&picked.similarity),
            "the best class has an exact similarity"
        );
    }
    assert_eq!(moved.len(), 12, "the class embeddings depend on the image");
}

#[test]
fn a_conditional_bundle_is_calibrated_as_at_export() {
    let (scene, learner_file) = scene();
    let plain = scene.path("plain");
    let output = export(&scene, &learner_file, &["--out", plain.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("on 6 images, too few to judge by"),
        "{message}"
    );
    // Labelled by the model's own answers, as a guess is not calibrated.
    let classifier = Classifier::open(plain).unwrap();
    let labelled = scene.path("labelled");
    for i in 0..12 {
        let answer = classifier.classify(&picture(i)).unwrap();
        let folder = labelled.join(&*answer.ranking[0].name);
        std::fs::create_dir_all(&folder).unwrap();
        let name = format!("{i}.png");
        std::fs::copy(scene.path("images").join(&name), folder.join(&name)).unwrap();
    }
    let learner = learner_file.to_str().unwrap();
    let labelled = labelled.to_str().unwrap();
    let flags = ["--prompt-learner", learner, "--calibration", labelled];
    let output = scene.export(&checkpoint(), &flags);
    assert!(output.status.success(), "{output:?}");
    let bundle = scene.path("bundle");
    let at_export = Bundle::open(&bundle).unwrap().manifest().clone();
    let calibration = at_export.calibration.unwrap();
    assert_eq!((calibration.images, calibration.strangers), (12, 0));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pinhole-export"))
        .args(["calibrate", "--calibration", labelled])
        .arg(&bundle)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(Bundle::open(&bundle).unwrap().manifest(), &at_export);
}

#[test]
fn a_stream_gives_the_answers_of_single_images() {
    let (scene, learner_file) = scene();
    assert!(export(&scene, &learner_file, &[]).status.success());
    let classifier = open(&scene, Mode::Exact);
    let mut stream = classifier.stream().unwrap();
    for i in [0, 0, 1, 1, 1, 2, 7, 7] {
        let (a, b) = (
            stream.classify(&picture(i)),
            classifier.classify(&picture(i)),
        );
        assert_eq!(a.unwrap().ranking[0].name, b.unwrap().ranking[0].name);
    }
}

#[test]
fn a_conditional_head_gets_new_classes() {
    for (precision, most) in [("f16", 3e-3), ("int8", 1e-2)] {
        let (scene, learner_file) = scene();
        let flags = ["--with-text", "--precision", precision];
        let output = export(&scene, &learner_file, &flags);
        assert!(output.status.success(), "{output:?}");
        let classes = Classes::new(["tea pot", "mug"]).unwrap();
        set_classes(scene.path("bundle"), &classes, None, &mut |_, _| {}).unwrap();
        let classifier = open(&scene, Mode::Exact);
        assert_eq!(classifier.manifest().classes, ["tea pot", "mug"]);
        let embedding = classifier.embed(&picture(5)).unwrap().values;
        let found = classifier.similarities(&embedding).unwrap();
        for (class, found) in ["tea pot", "mug"].iter().zip(&found) {
            let expected = reference_similarity(&embedding, &learner(), class);
            assert!(
                (found - expected).abs() < most,
                "{precision} {class}: {found} {expected}"
            );
        }
        let linear = open(&scene, Mode::Linear);
        assert_eq!(linear.similarities(&embedding).unwrap().len(), 2);
    }
}

#[test]
fn the_stored_token_rows_suffice_in_int8() {
    let (scene, learner_file) = scene();
    let output = export(&scene, &learner_file, &["--precision", "int8"]);
    assert!(output.status.success(), "{output:?}");
    let exact = open(&scene, Mode::Exact);
    let info = exact.manifest().text_encoder.as_ref().unwrap();
    assert_eq!(info.precision.to_string(), "int8");
    assert!(info.tokens.len() < 20, "{:?}", info.tokens);
    let fidelity = info.fidelity.unwrap();
    assert_eq!(fidelity.classes, CLASSES.len());
    assert!(fidelity.worst_cosine > 0.999, "{fidelity:?}");
    assert!(fidelity.mean_cosine < 0.999_999_9, "{fidelity:?}");
    let linear = open(&scene, Mode::Linear);
    let info = exact.manifest().conditional.unwrap();
    for i in 100..104 {
        let embedding = exact.embed(&picture(i)).unwrap().values;
        let (found, first) = (
            exact.similarities(&embedding).unwrap(),
            linear.similarities(&embedding).unwrap(),
        );
        for (class, (found, first)) in CLASSES.iter().zip(found.iter().zip(&first)) {
            let expected = reference_similarity(&embedding, &learner(), class);
            assert!(
                (found - expected).abs() < 3e-2,
                "{class}: {found} {expected}"
            );
            let bound = 3.0 * info.linear.largest_logit_difference + 0.5;
            let logits = (found - first).abs() * exact.manifest().logit_scale;
            assert!(logits < bound, "{info:?}");
        }
    }
}

#[test]
fn options_that_a_conditional_head_excludes_are_errors() {
    let (scene, learner_file) = scene();
    let file = learner_file.to_str().unwrap();
    let output = scene.export(&checkpoint(), &["--prompt-learner", file]);
    scene.assert_fails(&output, &["CoCoOp", "--calibration"]);
    for position in ["middle", "front"] {
        let output = export(&scene, &learner_file, &["--class-position", position]);
        scene.assert_fails(&output, &["CoCoOp", position, "end", "causal"]);
    }
    assert!(!scene.path("bundle").exists());
}

#[test]
fn a_head_without_one_of_its_tensors_is_an_error() {
    let (scene, learner_file) = scene();
    assert!(export(&scene, &learner_file, &[]).status.success());
    let bundle = Bundle::open(&scene.path("bundle")).unwrap();
    for name in ["meta_net.linear2.bias", "linear.core", "context"] {
        let forged = scene.path(&format!("without-{name}"));
        let writer = pinhole_bundle::BundleWriter::create(&forged).unwrap();
        for file in &bundle.manifest().files {
            let bytes = std::fs::read(bundle.folder().join(&file.path)).unwrap();
            writer.add(&file.path, &bytes).unwrap();
        }
        let mut head = bundle.head().clone();
        head.learned.remove(name);
        writer.add_head(&head).unwrap();
        writer.finish(&mut bundle.manifest().clone()).unwrap();
        let error = Classifier::open(&forged).err().unwrap().to_string();
        assert!(
            error.contains("head.safetensors") && error.contains(name),
            "{error}"
        );
    }
}
