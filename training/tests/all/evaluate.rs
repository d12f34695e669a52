//! Evaluation and the base-to-new protocol, as a library and as commands.

use std::{fs, path::Path};

use pinhole_checkpoint::{Checkpoint, OpenOptions, write_prompt_learner};
use pinhole_model::{ClassPosition, Learned, LearnedClasses, MetaNet, PromptLearner, Tensor};
use pinhole_prompts::{FolderNames, Templates, TextEncoder, Tokenizer};
use pinhole_training::{
    dataset::{self, DatasetOptions, all_to_test},
    evaluate::{PromptEvaluator, TestSet},
    image_encoder::ImageEncoder,
};
use serde_json::Value;

use crate::common::{call, checkpoint, fail, images, refuse, succeed};

fn learner(encoder: &TextEncoder, words: &str) -> PromptLearner {
    let tokens = Tokenizer::new().encode(words);
    let data = encoder.token_rows(&tokens).unwrap();
    PromptLearner {
        context: Tensor {
            shape: vec![tokens.len(), data.len() / tokens.len()],
            data,
        },
        meta_net: None,
        class_position: Some(ClassPosition::End),
    }
}

/// A meta-net with the same shift for all images: its first layer is always 0.
fn constant_net(shift: Vec<f32>, embedding: usize) -> MetaNet {
    let tensor = |shape: Vec<usize>, value: f32| Tensor {
        data: vec![value; shape.iter().product()],
        shape,
    };
    MetaNet {
        linear1_weight: tensor(vec![2, embedding], 0.0),
        linear1_bias: tensor(vec![2], -1.0),
        linear2_weight: tensor(vec![shift.len(), 2], 1.0),
        linear2_bias: Tensor {
            shape: vec![shift.len()],
            data: shift,
        },
    }
}

#[test]
fn a_context_of_words_predicts_as_the_words_do() {
    let folder = tempfile::tempdir().unwrap();
    let clip = checkpoint(folder.path());
    let clip = Checkpoint::open(&clip, &OpenOptions::default()).unwrap();
    let data = all_to_test(&images(folder.path()), &FolderNames::default()).unwrap();
    let encoder = ImageEncoder::open(&clip).unwrap();
    let set = TestSet::new(&encoder, &data, &|_| {}).unwrap();
    let texts = PromptEvaluator::open(&clip).unwrap();
    let encoder = TextEncoder::load(&clip).unwrap();
    let zero_shot = |template: &str| {
        let templates = Templates::single(template).unwrap();
        texts.zero_shot(&set, &templates).unwrap()
    };
    let words = zero_shot("a photo of a {}.");
    let close = |a: f64, b: f64| (a - b).abs() < 1e-4;

    let mut coop = learner(&encoder, "a photo of a");
    let learned = texts.learned(&set, &coop, None).unwrap();
    assert_eq!(learned.confusion, words.confusion);
    assert!(close(learned.calibration_error, words.calibration_error));

    // CoCoOp with a shift of 0 equals CoOp; with a constant shift it equals CoOp with that shift added.
    let width = coop.width();
    let mut cocoop = learner(&encoder, "a photo of a");
    cocoop.meta_net = Some(constant_net(vec![0.0; width], encoder.embedding()));
    let learned = texts.learned(&set, &cocoop, None).unwrap();
    assert_eq!(learned.confusion, words.confusion);
    let shift: Vec<f32> = (0..width).map(|i| (i as f32 * 1.7).sin() * 0.5).collect();
    for row in coop.context.data.chunks_exact_mut(width) {
        row.iter_mut().zip(&shift).for_each(|(x, s)| *x += s);
    }
    cocoop.meta_net = Some(constant_net(shift, encoder.embedding()));
    let shifted = texts.learned(&set, &coop, None).unwrap();
    let learned = texts.learned(&set, &cocoop, None).unwrap();
    assert_eq!(learned.confusion, shifted.confusion);
    assert!(close(learned.calibration_error, shifted.calibration_error));
    assert_ne!(shifted.confusion, words.confusion);
    // With the class name in front the same context gives other predictions.
    coop.class_position = None;
    let front = texts.learned(&set, &coop, Some(ClassPosition::Front));
    assert_ne!(front.unwrap().confusion, shifted.confusion);
    cocoop.class_position = None;
    assert!(
        texts
            .learned(&set, &cocoop, Some(ClassPosition::Front))
            .is_err()
    );
    assert!(
        texts
            .learned(&set, &cocoop, Some(ClassPosition::End))
            .is_ok()
    );
    // Tokens inside of the image encoder are not computed here: without them it would be zero-shot.
    let mut vpt = Learned::new("VPT", LearnedClasses::Templates);
    vpt.image_tokens = vec![coop.context];
    let templates = Templates::single("a photo of a {}.").unwrap();
    let refused = texts.imported(&set, &vpt, None, &templates).unwrap_err();
    assert!(
        refused.to_string().contains("expected a bundle"),
        "{refused}"
    );
}

#[test]
fn learned_prompts_are_compared_with_zero_shot() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let clip = checkpoint(folder);
    images(folder);
    let clip = Checkpoint::open(&clip, &OpenOptions::default()).unwrap();
    let encoder = TextEncoder::load(&clip).unwrap();
    for (file, words) in [("a", "a photo of a"), ("b", "the big blue")] {
        let path = folder.join(format!("{file}.safetensors"));
        write_prompt_learner(&path, &learner(&encoder, words), &[]).unwrap();
    }
    let call = "evaluate --model clip --data pictures";
    let (printed, logged) = succeed(call, folder);
    assert!(
        printed.contains("% of 10 images, calibration error"),
        "{printed}"
    );
    assert!(
        logged.contains("10 of its 40 images are the test set"),
        "{logged}"
    );
    let (printed, _) = succeed("evaluate --model clip --images pictures", folder);
    assert!(printed.contains("% of 40 images"), "{printed}");

    let learners = "--prompt-learner a.safetensors --prompt-learner b.safetensors";
    let call = format!("{call} {learners} --part base-to-new");
    let (printed, _) = succeed(&format!("{call} --confusion table.csv"), folder);
    let lines: Vec<&str> = printed.lines().collect();
    assert!(
        lines[0].contains("base") && lines[0].contains("ECE new"),
        "{printed}"
    );
    assert!(lines[1].starts_with("zero-shot") && !lines[1].contains('±'));
    assert_eq!(lines[2].matches('±').count(), 5, "{printed}");
    assert!(printed.contains("b.safetensors: base "), "{printed}");
    let table = |part: &str| fs::read_to_string(folder.join(format!("table-{part}.csv"))).unwrap();
    // Three base classes and two new ones. Each class has two test images, and the matrix sums two files.
    assert_eq!(table("base").lines().count(), 4);
    let sum = |text: String| -> u64 {
        let lines = text
            .lines()
            .skip(1)
            .flat_map(|line| line.split(',').skip(1));
        lines.map(|cell| cell.parse::<u64>().unwrap()).sum()
    };
    assert_eq!(sum(table("new")), 2 * 2 * 2);

    let (json, _) = succeed(&format!("{call} --json"), folder);
    let json: Value = serde_json::from_str(&json).unwrap();
    let methods = &json["methods"];
    // The first file contains the words of the template.
    let classes = |method: usize| &methods[method]["runs"][0]["base"]["classes"];
    assert_eq!(classes(1), classes(0));
    assert_eq!(methods[0]["harmonic_mean"]["sd"], Value::Null);
    let of = |run: usize| methods[1]["runs"][run]["new"]["accuracy"].as_f64().unwrap();
    let mean = methods[1]["new"]["accuracy"]["mean"].as_f64().unwrap();
    assert!(((of(0) + of(1)) / 2.0 - mean).abs() < 1e-12);

    let (_, _) = succeed(
        "evaluate --model clip --images pictures --part new --confusion table.svg",
        folder,
    );
    let svg = fs::read_to_string(folder.join("table.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.matches("red_circle").count() == 2);

    let one = "evaluate --model clip --images pictures --prompt-learner a.safetensors";
    let error = fail(&format!("{one} --class-position front"), folder);
    assert!(
        error.contains("a.safetensors") && error.contains("at the end"),
        "{error}"
    );
    assert!(refuse(&format!("{one} --confusion a.png"), folder).contains(".svg"));
    let error = fail("evaluate --model clip --data picture", folder);
    let meant = "picture: expected a folder of images, found no such file; did you mean pictures?";
    assert!(error.contains(meant), "{error}");
    assert!(
        refuse(
            "evaluate --model clip --images pictures --templates plain",
            folder
        )
        .contains("plain")
    );
    fs::write(folder.join("classes.txt"), "red circle\n").unwrap();
    let error = fail(
        "evaluate --model clip --images pictures --classes classes.txt",
        folder,
    );
    assert!(error.contains("is not among the 1 classes"), "{error}");
    for usage in ["--part some --images a", "", "--images a --data b"] {
        let usage = format!("evaluate --model clip {usage}");
        let output = self::call(&usage, folder);
        assert_eq!(output.status.code(), Some(2), "{usage}");
    }
}

#[test]
fn base_to_new_trains_reports_and_keeps_finished_trainings() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    checkpoint(folder);
    images(folder);
    let call = "base-to-new --clip clip --data pictures --shots 2 --seeds 2 --n-ctx 3 \
                --coop-epochs 3 --cocoop-epochs 2";
    let (printed, logged) = succeed(&format!("{call} --out out"), folder);
    assert!(logged.contains("CoCoOp, seed 2: trained"), "{logged}");
    let lines: Vec<&str> = printed.lines().collect();
    for (line, method) in lines[1..4].iter().zip(["zero-shot", "CoOp", "CoCoOp"]) {
        assert!(line.starts_with(method), "{printed}");
        let spreads = if method == "zero-shot" { 0 } else { 5 };
        assert_eq!(line.matches('±').count(), spreads, "{printed}");
    }
    let report = fs::read_to_string(folder.join("out/report.md")).unwrap();
    assert!(report.contains("2 images of each of the 3 base classes, 2 seeds"));
    assert!(
        report.contains("| CoCoOp, seed 2 |") && report.contains("| words | - | a photo of a |")
    );
    let json = fs::read_to_string(folder.join("out/report.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["new"].as_array().unwrap().len(), 2);
    assert_eq!(json["methods"][2]["runs"][1]["name"], "seed 2");
    assert_eq!(json["methods"][2]["runs"][1]["new"]["images"], 4);

    // `evaluate` gives the same results for the trained prompt learner.
    let learner = "--prompt-learner out/cocoop/seed-2/prompt_learner.safetensors";
    let alone =
        format!("evaluate --model clip --data pictures {learner} --part base-to-new --json");
    let alone: Value = serde_json::from_str(&succeed(&alone, folder).0).unwrap();
    let parts = |run: &Value| (run["base"].clone(), run["new"].clone());
    assert_eq!(
        parts(&alone["methods"][1]["runs"][0]),
        parts(&json["methods"][2]["runs"][1])
    );

    // An existing report is neither overwritten nor continued with other options.
    assert!(fail(&format!("{call} --out out"), folder).contains("--resume"));
    let resume = format!("{call} --out out --resume");
    let error = fail(&resume.replace("--n-ctx 3", "--n-ctx 4"), folder);
    assert!(
        error.contains("trained.json") && error.contains("other options"),
        "{error}"
    );
    let error = fail(&resume.replace("--shots 2", "--shots 3"), folder);
    assert!(error.contains("other"), "{error}");

    // Finished trainings are kept, the others run or continue, and the report is the same.
    fs::remove_dir_all(folder.join("out/coop/seed-2")).unwrap();
    fs::remove_file(folder.join("out/cocoop/seed-1/trained.json")).unwrap();
    fs::remove_file(folder.join("out/report.json")).unwrap();
    let log = folder.join("out/coop/seed-1/log.jsonl");
    let before = fs::metadata(&log).unwrap().modified().unwrap();
    let (_, logged) = succeed(&format!("--threads 1 {resume}"), folder);
    for line in [
        "CoOp, seed 1: kept",
        "CoOp, seed 2: trained",
        "CoCoOp, seed 1: trained",
        "CoCoOp, seed 2: kept",
    ] {
        assert!(logged.contains(line), "{line}: {logged}");
    }
    assert_eq!(fs::metadata(&log).unwrap().modified().unwrap(), before);
    let again = fs::read_to_string(folder.join("out/report.md")).unwrap();
    assert_eq!(again, report);
}

#[test]
fn base_to_new_reports_errors_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    checkpoint(folder);
    let data = images(folder);
    let call = "base-to-new --clip clip --data pictures --out out";
    let error = fail(&format!("{call} --shots 16"), folder);
    assert!(
        error.contains("has 6 training images; --shots 16"),
        "{error}"
    );
    assert!(refuse(&format!("{call} --seeds 0"), folder).contains("--seeds 0"));
    assert!(refuse(&format!("{call} --shots 0"), folder).contains("--shots 0"));
    let twice = refuse(&format!("{call} --shots 1 --methods coop coop"), folder);
    assert!(twice.contains("each once"), "{twice}");
    assert!(!folder.join("out").exists());
    let mut classes: Vec<_> = fs::read_dir(&data).unwrap().flatten().collect();
    classes.truncate(4);
    classes
        .iter()
        .for_each(|class| fs::remove_dir_all(class.path()).unwrap());
    let error = fail(&format!("{call} --shots 1"), folder);
    assert!(error.contains("new class among 1 classes"), "{error}");
}

/// Real photos, if PINHOLE_DATA is set to the folder with caltech101/.
#[test]
fn a_real_split_file_is_read() {
    let Some(folder) = std::env::var_os("PINHOLE_DATA") else {
        eprintln!("skipped: PINHOLE_DATA is not set");
        return;
    };
    let path = Path::new(&folder).join("caltech101/split_zhou_Caltech101.json");
    let data = dataset::open(&path, &DatasetOptions::default()).unwrap();
    assert_eq!((data.classes.len(), &*data.classes[0]), (100, "face"));
    assert_eq!((data.train.len(), data.test.len()), (4128, 1649));
    assert_eq!(data.few_shot(16, 1).unwrap().len(), 1600);
}
