//! Adaptation methods: compared with PyTorch, and as commands from training to evaluation.

use std::{fs, path::Path};

use pinhole_checkpoint::{Checkpoint, Existing, LearnedOptions, OpenOptions, read_learned};
use pinhole_model::{
    Activation, ClipConfig, ImageEncoderConfig, PreprocessConfig, Tensor, TextEncoderConfig,
    VitPooling, dot,
};
use pinhole_preprocessing::{Pixels, RgbImage};
use pinhole_training::{
    adaptation::{
        Examples, KeyTraining, LoraMatrix, LoraOptions, LoraTraining, fit_linear, train_keys,
    },
    image_encoder::ImageEncoder,
};
use serde_json::Value;

use crate::common::numbers::{uniform, weight};
use crate::common::{checkpoint, fail, images, refuse, succeed};

fn unit_rows(name: &str, rows: usize, dim: usize) -> Vec<f32> {
    let mut data = uniform(name, rows * dim);
    for row in data.chunks_exact_mut(dim) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    data
}

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/adaptation.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn number(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

fn count(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(number).collect()
}

#[track_caller]
fn close(ours: &[f32], expected: &[f32], bound: f32, what: &str) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (a, b) in ours.iter().zip(expected) {
        assert!((a - b).abs() <= bound, "{what}: {ours:?}\n{expected:?}");
    }
}

/// The class embeddings and examples of the reference.
fn examples(golden: &Value) -> (Vec<f32>, Examples) {
    let [dim, classes, images] = ["dim", "classes", "images"].map(|key| count(&golden[key]));
    let examples = Examples {
        labels: (0..images).map(|i| i % classes).collect(),
        embeddings: unit_rows("images", images, dim),
    };
    (unit_rows("texts", classes, dim), examples)
}

#[test]
fn the_linear_head_is_the_minimum_that_pytorch_finds() {
    let golden = golden();
    let (texts, examples) = examples(&golden);
    for case in golden["linear"].as_array().unwrap() {
        let decay = case["decay"].as_f64().unwrap();
        let head = fit_linear(&texts, &examples, number(&golden["scale"]), decay);
        let what = format!("decay {decay}");
        close(&head.weight.data, &numbers(&case["weight"]), 1e-3, &what);
        close(
            &head.bias.unwrap().data,
            &numbers(&case["bias"]),
            1e-3,
            &what,
        );
    }
    // With an infinite decay it is zero-shot.
    let head = fit_linear(&texts, &examples, 20.0, 1e9);
    let scaled: Vec<f32> = texts.iter().map(|t| 20.0 * t).collect();
    close(&head.weight.data, &scaled, 1e-4, "zero-shot");
}

#[test]
fn the_keys_of_tip_adapter_f_are_trained_as_by_pytorch() {
    let golden = golden();
    let (texts, examples) = examples(&golden);
    let case = &golden["tip_adapter_f"];
    let training = KeyTraining {
        class_embeddings: &texts,
        classes: count(&golden["classes"]),
        logit_scale: number(&case["scale"]),
        alpha: number(&case["alpha"]),
        beta: number(&case["beta"]),
        epochs: count(&case["epochs"]),
        batch_size: 64,
        learning_rate: number(&case["learning_rate"]),
        seed: 1,
    };
    let mut losses = vec![];
    let keys = train_keys(&training, &examples, &mut |event| {
        if let pinhole_training::prompt_learning::TrainingEvent::Updated { loss, .. } = event {
            losses.push(loss);
        }
    });
    close(&losses, &numbers(&case["losses"]), 1e-4, "losses");
    close(&keys.unwrap(), &numbers(&case["keys"]), 1e-4, "keys");
}

/// The model of make_adaptation.py.
fn lora_model(folder: &Path) -> Checkpoint {
    let config = ClipConfig {
        name: None,
        embedding: 32,
        image: ImageEncoderConfig::VisionTransformer {
            image_size: 32,
            patch_size: 16,
            width: 64,
            layers: 2,
            heads: 1,
            mlp: 256,
            input_norm: true,
            pooling: VitPooling::ClassToken,
        },
        text: TextEncoderConfig {
            context_length: 24,
            vocabulary: 49_408,
            width: 64,
            layers: 1,
            heads: 4,
            form: Default::default(),
        },
        activation: Activation::QuickGelu,
        text_activation: Activation::QuickGelu,
        preprocessing: PreprocessConfig::openai(32),
    };
    let shapes = config.tensors();
    pinhole_checkpoint::write(folder, &config, Existing::Replace, |name| {
        let (_, shape) = shapes.iter().find(|(known, _)| known == name).unwrap();
        Ok::<_, pinhole_checkpoint::Error>(weight(name, shape))
    })
    .unwrap();
    Checkpoint::open(folder, &OpenOptions::default()).unwrap()
}

#[test]
fn clip_lora_is_trained_as_by_pytorch_and_classifies_so() {
    let golden = golden();
    let case = &golden["lora"];
    let folder = tempfile::tempdir().unwrap();
    let mut clip = lora_model(&folder.path().join("clip"));
    let (images, classes) = (count(&case["images"]), count(&case["classes"]));
    let bytes = uniform("pixels", images * 32 * 32 * 3);
    let bytes: Vec<u8> = bytes.iter().map(|u| ((u + 1.0) * 127.5) as u8).collect();
    let pixels: Vec<Pixels> = (bytes.chunks_exact(32 * 32 * 3))
        .map(|data| Pixels {
            size: 32,
            data: data.to_vec(),
        })
        .collect();
    let texts = unit_rows("classes", classes, 32);
    let options = LoraOptions {
        rank: count(&case["rank"]),
        alpha: number(&case["alpha"]),
        learning_rate: number(&case["learning_rate"]),
        updates: count(&case["updates"]),
    };
    let initial = |matrix: LoraMatrix, [rows, columns]: [usize; 2]| {
        let name = match matrix {
            LoraMatrix::Down { layer, part } => format!("down {layer} {part}"),
            LoraMatrix::Up { layer, part } => format!("up {layer} {part}"),
        };
        let values = uniform(&name, rows * columns);
        values.iter().map(|value| value / 8.0).collect()
    };
    let mut training = LoraTraining::new(&clip, &options, initial).unwrap();
    let labels: Vec<usize> = (0..images).map(|i| i % classes).collect();
    let copy = |pixels: &Pixels| Ok(pixels.clone());
    let losses: Vec<f32> = (0..options.updates)
        .map(|_| training.update(&pixels, copy, &labels, &texts).unwrap())
        .collect();
    close(&losses, &numbers(&case["losses"]), 1e-3, "losses");
    let weights = training.weights().unwrap();
    let norm = |tensor: &Tensor| tensor.data.iter().map(|v| v * v).sum::<f32>().sqrt();
    for (update, expected) in weights.iter().zip(case["norms"].as_array().unwrap()) {
        let norms = [norm(&update.down), norm(&update.up)];
        close(&norms, &numbers(expected), 1e-3, &update.name);
    }
    // The changed checkpoint embeds as the trained encoder does.
    let learned = pinhole_model::Learned {
        weights,
        ..pinhole_model::Learned::new("CLIP-LoRA", pinhole_model::LearnedClasses::Templates)
    };
    clip.adapt(&learned).unwrap();
    let encoder = ImageEncoder::open(&clip).unwrap();
    let pictures: Vec<RgbImage> = (pixels.iter())
        .map(|pixels| RgbImage::new(32, 32, pixels.data.clone()).unwrap())
        .collect();
    let embeddings = encoder.embed_images(&pictures).unwrap();
    let logits: Vec<f32> = (embeddings.chunks_exact(32))
        .flat_map(|e| texts.chunks_exact(32).map(|t| 3f32.exp() * dot(e, t)))
        .collect();
    close(&logits, &numbers(&case["logits"]), 2e-3, "logits");

    let wrong = training
        .update(&pixels, copy, &[9; 10], &texts)
        .unwrap_err();
    assert!(wrong.to_string().contains("labelled below 5"), "{wrong}");
}

/// If this fails, what a command writes is not what `evaluate` and the export read.
#[test]
fn what_a_command_learns_is_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let clip = Checkpoint::open(&checkpoint(folder), &OpenOptions::default()).unwrap();
    let options_for_clip = LearnedOptions {
        clip: Some(clip.config().clone()),
        ..LearnedOptions::default()
    };
    images(folder);
    let mut first_classes = vec![];
    for (method, options) in [
        ("tip-adapter", "--method-option alpha=50"),
        (
            "tip-adapter-f",
            "--method-option epochs=30 --method-option learning-rate=0.01",
        ),
        ("linear", ""),
        (
            "clip-lora",
            "--method-option epochs=2 --method-option batch-size=8",
        ),
    ] {
        let call =
            format!("{method} --clip clip --data pictures --shots 3 {options} --out {method}");
        let (printed, _) = succeed(&call, folder);
        assert_eq!(printed, format!("wrote {method}/learned.safetensors\n"));
        let first = read_learned(&folder.join(method), &options_for_clip).unwrap();
        first_classes.clone_from(&first.trained_classes);
        let (_, name) = accuracy(&format!("--data pictures --learned {method}"), folder);
        assert!(name.to_lowercase().contains(&method[..3]), "{name}");
        // The result does not depend on the number of threads.
        assert!(fail(&call, folder).contains("already exists"));
        fs::remove_dir_all(folder.join(method)).unwrap();
        succeed(&format!("--threads 1 {call}"), folder);
        let second = read_learned(&folder.join(method), &options_for_clip).unwrap();
        assert!(first == second, "{method}");
    }
    // A head that may fit the 30 training images freely classifies these at least; an untrained CLIP guesses.
    let call =
        "linear --clip clip --data pictures --shots 6 --method-option decay=0.000001 --out fitted";
    succeed(call, folder);
    let (fitted, _) = accuracy("--images pictures --learned fitted", folder);
    let (zero_shot, _) = accuracy("--images pictures", folder);
    assert!(fitted >= 0.75 && zero_shot < 0.5, "{fitted} {zero_shot}");
    // Otherwise each row of the head counts for another class.
    let mut names = first_classes.clone();
    names.swap(1, 2);
    fs::write(folder.join("other.txt"), names.join("\n")).unwrap();
    let call = "evaluate --model clip --data pictures --learned linear --classes other.txt";
    let error = fail(call, folder);
    let expected = format!(
        "class 2: expected {:?}, as in the training, found {:?}",
        first_classes[1], first_classes[2]
    );
    assert!(error.contains(&expected), "{error}");
    // LoRA has no place for classes.
    succeed(&call.replace("linear", "clip-lora"), folder);
    let call = "linear --clip clip --data pictures --shots 3 --out x --method-option";
    for (option, expected) in [
        ("alpha=1", "expected an option of linear head (decay)"),
        ("decay=-1", "decay=-1: expected"),
    ] {
        let error = refuse(&format!("{call} {option}"), folder);
        assert!(error.contains(expected), "{error}");
    }
    assert!(!folder.join("x").exists());
}

/// Accuracy and name of the last method that `evaluate` compares.
fn accuracy(arguments: &str, folder: &Path) -> (f64, String) {
    let call = format!("evaluate --model clip {arguments} --json");
    let json: Value = serde_json::from_str(&succeed(&call, folder).0).unwrap();
    match json["methods"].as_array() {
        None => (json["accuracy"].as_f64().unwrap(), String::new()),
        Some(methods) => {
            let last = methods.last().unwrap();
            let accuracy = last["runs"][0]["all"]["accuracy"].as_f64().unwrap();
            (accuracy, last["method"].as_str().unwrap().to_owned())
        }
    }
}

#[test]
fn few_shot_reports_every_method_and_keeps_finished_trainings() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    checkpoint(folder);
    images(folder);
    let call = "few-shot --clip clip --data pictures --shots 1,3 --seeds 2 --coop-epochs 2 --cocoop-epochs 1 \
                --method-option clip-lora.epochs=1 --method-option tip-adapter-f.epochs=3 --out out";
    let (printed, logged) = succeed(call, folder);
    let lines: Vec<&str> = printed.lines().collect();
    let names = [
        "zero-shot",
        "CoOp",
        "CoCoOp",
        "Tip-Adapter",
        "Tip-Adapter-F",
        "linear head",
        "CLIP-LoRA",
    ];
    for (line, name) in lines[1..].iter().zip(names) {
        assert!(line.starts_with(name), "{printed}");
        let spreads = if name == "zero-shot" { 0 } else { 2 };
        assert_eq!(line.matches('±').count(), spreads, "{printed}");
    }
    assert!(
        logged.contains("linear head, 3 shots, seed 2: trained"),
        "{logged}"
    );
    let read = |name: &str| fs::read_to_string(folder.join("out").join(name)).unwrap();
    let table = read("accuracy.csv");
    assert_eq!(table.lines().count(), 2 + 6 * 2 * 2, "{table}");
    let json: Value = serde_json::from_str(&read("report.json")).unwrap();
    let last = &json["by_shots"][1]["methods"][4]["runs"][1];
    assert_eq!(
        (&last["name"], &last["all"]["images"]),
        (&"seed 2".into(), &10.into())
    );
    let cell = format!(
        "linear head,3,2,{:.6}\n",
        last["all"]["accuracy"].as_f64().unwrap()
    );
    assert!(table.contains(&cell), "{table}");
    let plot = read("plot.svg");
    assert_eq!(plot.matches("<circle").count(), 6 * 2, "{plot}");
    assert!(names.iter().all(|name| plot.contains(name)), "{plot}");
    // `evaluate` gives the same accuracy for the file.
    let (alone, _) = accuracy(
        "--data pictures --learned out/linear/3-shots/seed-2",
        folder,
    );
    assert_eq!(alone, last["all"]["accuracy"].as_f64().unwrap());

    let report = read("report.md");
    assert!(fail(call, folder).contains("--resume"));
    fs::remove_dir_all(folder.join("out/linear/1-shots/seed-1")).unwrap();
    let (_, logged) = succeed(&format!("{call} --resume"), folder);
    assert_eq!(logged.matches(": trained").count(), 1, "{logged}");
    assert_eq!(logged.matches(": kept").count(), 23, "{logged}");
    assert_eq!(read("report.md"), report);
    let other = format!("{call} --resume --method-option linear.decay=1");
    assert!(fail(&other, folder).contains("other options"));
    let descending = format!("{call} --resume").replace("1,3", "3,1");
    assert!(refuse(&descending, folder).contains("ascending"));
}

#[test]
fn base_to_new_takes_every_method() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    checkpoint(folder);
    images(folder);
    let call = "base-to-new --clip clip --data pictures --shots 2 --seeds 1 --methods tip-adapter,linear,clip-lora \
                --method-option clip-lora.epochs=2 --out out --json";
    let json: Value = serde_json::from_str(&succeed(call, folder).0).unwrap();
    let methods = json["methods"].as_array().unwrap();
    assert_eq!(methods.len(), 4);
    // Heads of the base classes leave zero-shot for the new ones.
    for method in &methods[1..3] {
        assert_eq!(method["runs"][0]["new"], methods[0]["runs"][0]["new"]);
        assert_ne!(method["runs"][0]["base"], methods[0]["runs"][0]["base"]);
    }
    assert!(methods[3]["harmonic_mean"]["mean"].as_f64().is_some());
    let error = fail(
        &call
            .replace("tip-adapter,linear,", "")
            .replace("--out out", "--out x --encoder nowhere"),
        folder,
    );
    assert!(error.contains("nowhere"), "{error}");
}
