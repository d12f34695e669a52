//! The commands `pinhole-train coop` and `cocoop`.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::OnceLock,
};

use pinhole_checkpoint::{LearnedOptions, read_learned, read_prompt_learner};
use pinhole_model::ClassPosition;

/// A small CLIP model, trained for two updates, and images by class.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let model = "clip --data shapes --out clip --steps 2 --image-size 16 --width 64 --layers 1 \
                     --text-width 64 --text-layers 1 --patch-size 8 --embedding 16 --batch-size 16 \
                     --context-length 16 --test-images 1";
        succeed_in(model, folder.path());
        let images = "shapes --out pictures --count 104 --seed 9 --split seen --size 40x30";
        succeed_in(images, folder.path());
        folder
    });
    folder.path()
}

fn call(arguments: &str, folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-train"));
    command
        .args(arguments.split_whitespace())
        .current_dir(folder);
    command.output().unwrap()
}

fn succeed_in(arguments: &str, folder: &Path) -> String {
    let output = call(arguments, folder);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn succeed(arguments: &str) -> String {
    succeed_in(arguments, folder())
}

/// The standard error of a failure, with one error line.
fn fail(arguments: &str) -> String {
    end_with(1, arguments)
}

/// The standard error of wrong usage, with one error line.
fn refuse(arguments: &str) -> String {
    end_with(2, arguments)
}

fn end_with(code: i32, arguments: &str) -> String {
    let output = call(arguments, folder());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments}: {errors}");
    let count = errors.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(count.count(), 1, "{errors}");
    errors
}

const COOP: &str =
    "coop --clip clip/checkpoint --data pictures --shots 1 --epochs 2 --batch-size 20 --n-ctx 4";

#[test]
fn coop_learns_resumes_and_is_evaluated() {
    let printed = succeed(&format!("{COOP} --out coop --log-every 1"));
    assert_eq!(printed, "wrote coop/prompt_learner.safetensors\n");
    let out = folder().join("coop");
    let learner = read_prompt_learner(&out.join("prompt_learner.safetensors")).unwrap();
    assert_eq!(learner.context.shape, [4, 64]);
    assert_eq!(learner.class_position, Some(ClassPosition::End));
    let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let rate = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["learning_rate"].as_f64().unwrap()
    };
    // 52 images in batches of 20, the remainder dropped; one epoch of warm-up.
    assert_eq!(
        log.lines().map(rate).collect::<Vec<_>>(),
        [1e-5, 1e-5, 0.002, 0.002]
    );
    let plot = fs::read_to_string(out.join("plot.svg")).unwrap();
    assert!(plot.contains("<polyline"));

    assert!(fail(&format!("{COOP} --out coop")).contains("--resume"));
    assert!(fail(&format!("{COOP} --out coop --resume --momentum 0.8")).contains("momentum: 0.9"));
    succeed(&format!("{COOP} --out coop --resume"));
    // The result does not depend on the number of threads.
    succeed(&format!("{COOP} --out coop-1 --threads 1"));
    let other = folder().join("coop-1/prompt_learner.safetensors");
    assert!(learner == read_prompt_learner(&other).unwrap());

    let evaluate = "evaluate --model clip/checkpoint --data pictures --prompt-learner";
    let file = "coop/prompt_learner.safetensors";
    let by_files = succeed(&format!("{evaluate} {file} --json"));
    assert!(!by_files.is_empty());
    // The output folders of the trainings, and names in any case.
    let evaluate = "evaluate --model clip --data pictures --activation QuickGELU --part ALL";
    let by_folders = succeed(&format!(
        "{evaluate} --prompt-learner coop --class-position End --json"
    ));
    let named = by_folders.replace("\"name\":\"coop\"", &format!("\"name\":\"{file}\""));
    assert_eq!(named, by_files);
}

#[test]
fn prompt_learners_state_the_class_position() {
    for (form, position, shape) in [
        (
            "--class-position middle",
            ClassPosition::Middle,
            vec![4, 64],
        ),
        ("--class-position front", ClassPosition::Front, vec![4, 64]),
        ("--class-specific", ClassPosition::End, vec![52, 4, 64]),
    ] {
        let out = format!("form{}", form.replace(' ', ""));
        succeed(&format!("{COOP} --out {out} {form}"));
        let path = folder().join(out).join("prompt_learner.safetensors");
        let learner = read_prompt_learner(&path).unwrap();
        assert_eq!(learner.class_position, Some(position));
        assert_eq!(learner.context.shape, shape);
    }
    // Class-specific contexts are of the training's classes in their order.
    let trained = folder().join("form--class-specific");
    let trained = read_learned(&trained, &LearnedOptions::default()).unwrap();
    let mut names = trained.trained_classes;
    names.reverse();
    fs::write(folder().join("reversed.txt"), names.join("\n")).unwrap();
    let evaluate = "evaluate --model clip/checkpoint --data pictures --classes reversed.txt";
    let error = fail(&format!("{evaluate} --learned form--class-specific"));
    assert!(error.contains("class 1: expected"), "{error}");
    let coop = COOP.replace("--n-ctx 4", "--init form--class-specific --class-specific");
    let error = fail(&format!("{coop} --classes reversed.txt --out reversed"));
    assert!(error.contains("class 1: expected"), "{error}");
    let learner = "--learned form--class-positionmiddle";
    succeed(&format!("{evaluate} {learner}"));
}

#[test]
fn cocoop_learns_on_base_classes_and_starts_from_a_file() {
    let cocoop =
        "cocoop --clip clip/checkpoint --data pictures --shots 1 --base --epochs 1 --views 2";
    succeed(&format!("{cocoop} --out cocoop"));
    let path = folder().join("cocoop/prompt_learner.safetensors");
    let learner = read_prompt_learner(&path).unwrap();
    assert_eq!(learner.context.shape, [4, 64]);
    let net = learner.meta_net.unwrap();
    assert_eq!(net.linear1_weight.shape, [1, 16]);
    let log = fs::read_to_string(folder().join("cocoop/log.jsonl")).unwrap();
    // One image of each of the first half of 52 classes.
    assert!(
        log.lines().last().unwrap().contains("\"images\":26,"),
        "{log}"
    );

    let init = "--init cocoop/prompt_learner.safetensors --learning-rate 1e-30 --warm-up 0";
    succeed(&format!("{cocoop} --out again {init}"));
    let again = read_prompt_learner(&folder().join("again/prompt_learner.safetensors"));
    assert_eq!(again.unwrap().context, learner.context);
    assert!(
        fail(
            &format!("{COOP} --out c")
                .replace("--n-ctx 4", "--init cocoop/prompt_learner.safetensors")
        )
        .contains("expected a prompt learner of CoOp, found one of CoCoOp")
    );
}

#[test]
fn errors_are_reported_before_anything_is_computed() {
    let error = fail(&COOP.replace("--n-ctx 4", "--n-ctx 12 --out x"));
    assert!(
        error.contains("16") && error.contains("12 context vectors"),
        "{error}"
    );
    assert!(
        fail(&format!("{COOP} --out x --shots 3").replace("--shots 1 ", "")).contains("--shots 3")
    );
    assert!(fail(&COOP.replace("pictures", "nowhere --out x")).contains("nowhere"));
    assert!(fail(&COOP.replace("clip/checkpoint", "nowhere --out x")).contains("nowhere"));
    assert!(refuse(&format!("{COOP} --out x --momentum 2")).contains("momentum"));
    assert!(refuse(&format!("{COOP} --out x --log-every 0")).contains("--log-every"));
    assert!(fail(&format!("{COOP} --out x --encoder nowhere")).contains("nowhere"));
    assert!(!folder().join("x").exists());
    let usage = call(&format!("{COOP} --out x --class-position left"), folder());
    assert_eq!(usage.status.code(), Some(2));
    // CoCoOp has no class-specific contexts.
    let cocoop = COOP.replacen("coop", "cocoop", 1);
    let usage = call(&format!("{cocoop} --out x --class-specific"), folder());
    assert_eq!(usage.status.code(), Some(2));
}
