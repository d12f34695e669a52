//! The command line on a small random checkpoint: its output, and errors. Bad input must give exit code 1, one
//! `error:` line that names what is wrong, and no output folder, not even a temporary one.

use std::fs;
use std::process::Command;

use pinhole::Classifier;
use pinhole::internal::NetworkOperator;
use pinhole_bundle::dialect::{Linear, LinearInput, Op, Storage};
use serde_json::Value;

use crate::common::{self, INT8, Scene, checkpoint, write_checkpoint};

#[test]
fn each_precision_and_the_flat_form_give_the_same_answer() {
    let scene = Scene::new("cat\ndog\n\nraspberry pi\n");
    let image = pinhole::RgbImage::new(
        50,
        40,
        (0..50 * 40 * 3).map(|i| (i * 7 % 251) as u8).collect(),
    )
    .unwrap();
    let mut embeddings = vec![];
    for (name, extra) in [
        ("a", vec![]),
        ("b", vec!["--precision", "f16"]),
        ("c", vec!["--flat"]),
        ("d", INT8.to_vec()),
        ("e", [&INT8[..], &["--flat"]].concat()),
    ] {
        let out = scene.path(name);
        let out = out.to_str().unwrap();
        let output = scene.export(&checkpoint(), &[&extra[..], &["--out", out]].concat());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let classifier = Classifier::open(out).unwrap();
        assert!(classifier.self_test().unwrap().passed());
        assert_eq!(
            classifier.manifest().classes,
            ["cat", "dog", "raspberry pi"]
        );
        let ours = pinhole::internal::operators(&classifier)
            .iter()
            .filter(|o| matches!(o.function, Some(Op::Attention(..))))
            .count();
        assert_eq!(ours, if extra.contains(&"--flat") { 0 } else { 2 });
        // int8 must not fall back to f32: four layers of the first block, five of the last and the last projection. Four of
        // the last block are for one token: they may stay in floating point, as they cost no time.
        let operators = pinhole::internal::operators(&classifier);
        let linear = |o: &NetworkOperator| match o.function {
            Some(Op::Linear(layer)) => Some(layer),
            _ => None,
        };
        let layers: Vec<Linear> = operators.iter().filter_map(linear).collect();
        let count = |storage| layers.iter().filter(|l| l.storage == storage).count();
        let (all, int8) = match name {
            "d" => (10, 5..=9),
            "c" | "e" => (0, 0..=0),
            _ => (10, 0..=0),
        };
        assert_eq!(count(Storage::Int8) + count(Storage::Float), all);
        assert!(int8.contains(&count(Storage::Int8)), "{layers:?}");
        // One behind each activation function.
        let offset = layers.iter().filter(|l| l.input == LinearInput::Offset);
        let expected = if name == "d" { 1..=2 } else { 0..=0 };
        assert!(expected.contains(&offset.count()), "{layers:?}");
        for o in &operators {
            let quantized = linear(o).is_some_and(|l| l.storage == Storage::Int8);
            assert!(!quantized || o.kernel.starts_with("int8 "), "{o:?}");
        }
        embeddings.push(classifier.embed(&image).unwrap().values);
    }
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    assert!(cosine(&embeddings[0], &embeddings[1]) > 0.999);
    assert!(cosine(&embeddings[0], &embeddings[2]) > 0.999_99);
    assert!(cosine(&embeddings[0], &embeddings[3]) > 0.995);
    // tract's own integer operators and ours.
    assert!(cosine(&embeddings[3], &embeddings[4]) > 0.9999);
    let manifest = Classifier::open(scene.path("b"))
        .unwrap()
        .manifest()
        .clone();
    assert!(manifest.fidelity.unwrap().mean_cosine > 0.999);
}

/// A board may multiply in f16 only if the gate accepted that at export, on whatever machine.
#[test]
fn f16_arithmetic_must_pass_the_gate() {
    let scene = Scene::new("cat\ndog\n");
    let export = |name: &str, extra: &[&str]| {
        let out = scene.path(name);
        let arguments = ["--precision", "f16", "--out", out.to_str().unwrap()];
        let output = scene.export(&checkpoint(), &[&arguments, extra].concat());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        out
    };
    let bundle = export("good", &[]);
    let by = |f16: bool| {
        let builder = Classifier::builder().f16_arithmetic(f16);
        builder.open(&bundle).unwrap()
    };
    let f16_operators = |classifier: &Classifier| {
        let operators = pinhole::internal::operators(classifier);
        let in_f16 = operators.iter().filter(|o| o.kernel.starts_with("f16 "));
        in_f16.count()
    };
    let (half, widened) = (by(true), by(false));
    // The patches, four layers of the first block and five of the last, and the last projection.
    assert_eq!((f16_operators(&half), f16_operators(&widened)), (11, 0));
    assert!(half.self_test().unwrap().passed());
    let manifest = half.manifest().clone();
    let (stored, multiplied) = (manifest.fidelity.unwrap(), manifest.f16_arithmetic.unwrap());
    assert_eq!(stored.images, multiplied.images);
    assert!(multiplied.mean_cosine > 0.999, "{multiplied:?}");
    assert!(
        multiplied.mean_cosine < stored.mean_cosine,
        "{multiplied:?}, {stored:?}"
    );
    // Chosen by default if the processor has f16 arithmetic.
    let classifier = Classifier::open(&bundle).unwrap();
    assert_eq!(f16_operators(&classifier) > 0, classifier.f16_arithmetic());
    assert!(cfg!(target_arch = "aarch64") || !classifier.f16_arithmetic());

    // A gate between the two: the bundle is accepted, f16 arithmetic is not.
    let between = (stored.mean_cosine + multiplied.mean_cosine) / 2.0;
    let bundle = export("between", &["--min-cosine", &between.to_string()]);
    let classifier = Classifier::open(&bundle).unwrap();
    assert!(classifier.manifest().fidelity.is_some());
    assert_eq!(classifier.manifest().f16_arithmetic, None);
    assert_eq!(f16_operators(&classifier), 0);
    let manifest = fs::read_to_string(bundle.join("manifest.json")).unwrap();
    assert!(!manifest.contains("f16_arithmetic"));
}

#[test]
fn text_prints_unit_vectors_as_json() {
    let output = Command::new(env!("CARGO_BIN_EXE_pinhole-export"))
        .args(["text", "--json", "--clip"])
        .arg(checkpoint())
        .args(["a photo of a cat", "ein Hund"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["text"], "ein Hund");
    let norm: f64 = lines[0]["embedding"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap().powi(2))
        .sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
}

#[test]
fn class_lists_are_checked() {
    for (classes, parts) in [
        ("", &["classes.txt", "class"][..]),
        (
            "cat\nUnknown\n",
            &["classes.txt:2", "\"Unknown\" is reserved"],
        ),
        ("cat\ndo\0g\n", &["classes.txt:2", "U+0000"]),
        ("['cat', 'dog']", &["classes.txt", "JSON array of strings"]),
        (
            "a name that is much too long for a context of sixteen tokens because it goes on and on and on\n",
            &["16"],
        ),
    ] {
        let scene = Scene::new(classes);
        scene.assert_fails(&scene.export(&checkpoint(), &[]), parts);
        assert!(!scene.path("bundle").exists());
    }
}

/// ImageNet's official list has 1,000 classes, of which two names occur twice, and names with brackets.
#[test]
fn classes_of_equal_names_are_exported_and_ranked_by_index() {
    let mut names: Vec<String> = (0..1000).map(|i| format!("thing {i}")).collect();
    for (class, name) in [
        (657, "missile"),
        (744, "missile"),
        (836, "sunglasses"),
        (837, "sunglasses"),
    ] {
        names[class] = name.into();
    }
    names[21] = "kite (bird of prey)".into();
    let scene = Scene::new(&names.join("\n"));
    let output = scene.export(&checkpoint(), &["--templates", "{}", "--with-text"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    let expected =
        "\"missile\" (index 657) = \"missile\" (index 744), \"sunglasses\" (index 836) = ";
    let warnings: Vec<&str> = message
        .lines()
        .filter(|l| l.starts_with("warning: "))
        .collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains(expected),
        "{message}"
    );

    let classifier = Classifier::open(scene.path("bundle")).unwrap();
    assert_eq!(classifier.manifest().classes, names);
    let image = pinhole::RgbImage::new(2, 2, vec![90; 12]).unwrap();
    let ranking = classifier.classify(&image).unwrap().ranking;
    let mut indices: Vec<usize> = ranking.iter().map(|class| class.index).collect();
    let at = |class: usize| indices.iter().position(|i| *i == class).unwrap();
    // Equal prompts have equal scores; the first class of the name is first.
    assert_eq!(at(657) + 1, at(744));
    indices.sort_unstable();
    assert_eq!(indices, (0..1000).collect::<Vec<_>>());

    // The classes can be changed, and the n-th of a name stays the n-th.
    let new = ["missile", "an empty room", "missile", "missile", "missile"];
    let new = pinhole::Classes::new(new).unwrap();
    let manifest = pinhole::set_classes(scene.path("bundle"), &new, None, &mut |_, _| {}).unwrap();
    assert_eq!(manifest.classes, new.names());
    let warnings = pinhole::class_warnings(&manifest, &new);
    assert!(
        warnings.len() == 1 && warnings[0].contains("\"missile\" (index 4)"),
        "{warnings:?}"
    );
    let classifier = Classifier::open(scene.path("bundle")).unwrap();
    assert_eq!(classifier.classify(&image).unwrap().ranking.len(), 5);
}

/// One list in every form that a user's editor or script writes it in, and what is seldom meant.
#[test]
fn lists_are_read_in_every_form_and_warned_about() {
    let export = |classes: &str, extra: &[&str]| {
        let scene = Scene::new(classes);
        let output = scene.export(&checkpoint(), extra);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{message}");
        let manifest = Classifier::open(scene.path("bundle"))
            .unwrap()
            .manifest()
            .clone();
        let warnings = message.lines().filter(|line| line.starts_with("warning: "));
        (manifest, warnings.map(str::to_owned).collect::<Vec<_>>())
    };
    for classes in ["cat\rdog\r", "[\"cat\", \"dog\"]", "# animals\ncat\ndog"] {
        let (manifest, warnings) = export(classes, &[]);
        assert_eq!(manifest.classes, ["cat", "dog"], "{classes:?}");
        assert!(warnings.is_empty(), "{warnings:?}");
    }
    let (manifest, warnings) = export("cat, dog, bird", &[]);
    assert_eq!(manifest.classes.len(), 1);
    assert!(
        warnings.len() == 1 && warnings[0].contains("its own line"),
        "{warnings:?}"
    );
    let (_, warnings) = export("cat", &[]);
    assert!(
        warnings.len() == 1 && warnings[0].contains("100 %"),
        "{warnings:?}"
    );
    let (manifest, warnings) = export("a cat", &["--negatives", "an empty room"]);
    assert_eq!(manifest.unknown.negatives, ["an empty room"]);
    assert!(
        warnings.len() == 1 && warnings[0].contains("a photo of a a cat."),
        "{warnings:?}"
    );

    let scene = Scene::new("cat\ndog");
    fs::write(scene.path("negatives.txt"), "# none of them\nrain\n").unwrap();
    let file = scene.path("negatives.txt");
    let flags = ["--negatives", file.to_str().unwrap(), "--negatives", "snow"];
    assert!(scene.export(&checkpoint(), &flags).status.success());
    let manifest = Classifier::open(scene.path("bundle"))
        .unwrap()
        .manifest()
        .clone();
    assert_eq!(manifest.unknown.negatives, ["rain", "snow"]);
    let output = scene.export(
        &checkpoint(),
        &["--negatives", "negativs.txt", "--out", "x"],
    );
    scene.assert_fails(&output, &["--negatives", "negativs.txt: no such file"]);
}

#[test]
fn output_folder_is_never_overwritten_and_must_be_writable() {
    let scene = Scene::new("cat\n");
    fs::create_dir(scene.path("bundle")).unwrap();
    fs::write(scene.path("bundle/precious"), "kept").unwrap();
    scene.assert_fails(&scene.export(&checkpoint(), &[]), &["bundle", "exists"]);
    assert_eq!(
        fs::read_to_string(scene.path("bundle/precious")).unwrap(),
        "kept"
    );

    let below_a_file = scene.path("classes.txt/bundle");
    let output = scene.export(&checkpoint(), &["--out", below_a_file.to_str().unwrap()]);
    scene.assert_fails(&output, &["classes.txt"]);
    let nowhere = scene.path("no/such/parent");
    scene.assert_fails(
        &scene.export(&checkpoint(), &["--out", nowhere.to_str().unwrap()]),
        &["no/such"],
    );
}

#[test]
fn bad_checkpoints_are_named() {
    let scene = Scene::new("cat\n");
    scene.assert_fails(
        &scene.export(&scene.path("missing.pt"), &[]),
        &["missing.pt"],
    );

    // A NaN in a weight is found when the weight is read, after the output folder was created. Our own writer refuses
    // NaN, so a unique number is replaced in the file.
    let nan = scene.path("nan");
    write_checkpoint(&nan, |name, mut tensor| {
        if name == "visual.transformer.resblocks.1.mlp.c_fc.weight" {
            tensor.data[5] = 12_345.678;
        }
        tensor
    });
    let file = nan.join("open_clip_model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let marker = 12_345.678f32.to_le_bytes();
    let at = bytes.windows(4).position(|w| w == marker).unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    scene.assert_fails(
        &scene.export(&nan, &[]),
        &["visual.transformer.resblocks.1.mlp.c_fc.weight", "NaN"],
    );
    assert!(!scene.path("bundle").exists());

    let whole = fs::read(checkpoint().join("open_clip_model.safetensors")).unwrap();
    let cut = scene.path("cut.safetensors");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    scene.assert_fails(
        &scene.export(&cut, &["--activation", "gelu"]),
        &["cut.safetensors"],
    );
}

#[test]
fn a_weight_beyond_f16_is_named() {
    let scene = Scene::new("cat\n");
    let large = scene.path("large");
    write_checkpoint(&large, |name, mut tensor| {
        if name == "visual.transformer.resblocks.0.mlp.c_proj.weight" {
            tensor.data[0] = 1e6;
        }
        tensor
    });
    let output = scene.export(&large, &["--precision", "f16"]);
    scene.assert_fails(
        &output,
        &["block_0.c_proj.weight", "f16", "--precision f32"],
    );
}

/// Weights so small that f16 keeps one or two bits of them: normalisation removes the scale of the last layer, not its
/// direction.
#[test]
fn a_precision_below_the_gate_is_an_error_with_figures() {
    let scene = Scene::new("cat\ndog\n");
    let tiny = scene.path("tiny");
    write_checkpoint(&tiny, |name, mut tensor| {
        if name == "visual.proj" {
            tensor.data.iter_mut().for_each(|v| *v *= 1e-6);
        }
        tensor
    });
    let output = scene.export(&tiny, &["--precision", "f16"]);
    scene.assert_fails(
        &output,
        &["mean cosine with f32 of at least 0.98 (--min-cosine)"],
    );
    assert!(!scene.path("bundle").exists());
    let output = scene.export(
        &tiny,
        &[
            "--precision",
            "f16",
            "--min-cosine",
            "0",
            "--min-agreement",
            "0",
        ],
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What people type: each works, or the error says what to do.
#[test]
fn natural_mistakes_work_or_are_explained() {
    let scene = Scene::new("cat\ndog\n");
    let classes = scene.path("classes.txt");
    let learner = scene.path("coop/prompt_learner.safetensors");
    fs::create_dir(learner.parent().unwrap()).unwrap();
    let tensor = common::random("ctx", &[2, 64]);
    let prompts = pinhole_model::PromptLearner {
        context: tensor,
        meta_net: None,
        class_position: None,
    };
    pinhole_checkpoint::write_prompt_learner(&learner, &prompts, &[]).unwrap();
    let coop = learner.parent().unwrap().to_str().unwrap();

    // The output folder of a training, and names in any case.
    let trained = scene.path("trained");
    fs::create_dir(&trained).unwrap();
    std::os::unix::fs::symlink(checkpoint(), trained.join("checkpoint")).unwrap();
    let flags = [
        "--precision",
        "INT8",
        "--min-cosine",
        "0",
        "--min-agreement",
        "0",
        "--prompt-learner",
        coop,
    ];
    let flags = [
        &flags[..],
        &["--class-position", "End", "--activation", "QuickGELU"],
    ]
    .concat();
    let output = scene.export(&trained, &flags);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let manifest = Classifier::open(scene.path("bundle"))
        .unwrap()
        .manifest()
        .clone();
    assert_eq!(manifest.precision, pinhole::Precision::Int8);
    assert_eq!(manifest.prompt_learner.unwrap().n_ctx, 2);

    let onnx = scene.path("encoder.onnx");
    fs::copy(scene.path("bundle/image_encoder.onnx"), &onnx).unwrap();
    let clip = checkpoint().join("open_clip_model.safetensors");
    let bundle = scene.path("bundle");
    for (given, parts) in [
        (&*onnx, &["an ONNX file", "--encoder"][..]),
        (&*classes, &["a text file", "swapped"]),
        (&*bundle, &["found a bundle"]),
        (&*learner, &["--prompt-learner"]),
        (learner.parent().unwrap(), &["--prompt-learner"]),
        (
            std::path::Path::new("openai/clip-vit-base-patch32"),
            &["hf download"],
        ),
        (
            std::path::Path::new("https://me:secret@example.org/a.pt"),
            &["https://...@example.org/a.pt: a URL"],
        ),
    ] {
        let output = scene.export(given, &["--out", "never"]);
        scene.assert_fails(&output, parts);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"));
    }
    let empty = scene.path("empty");
    fs::create_dir(&empty).unwrap();
    for (given, parts) in [
        (&*clip, &["a CLIP checkpoint", "swapped"][..]),
        (&*empty, &["found none"]),
    ] {
        let output = scene.export(
            &checkpoint(),
            &[
                "--out",
                "never",
                "--prompt-learner",
                given.to_str().unwrap(),
            ],
        );
        scene.assert_fails(&output, parts);
    }
    let with_classes = |classes: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-export"));
        command
            .args(["bundle", "--out", "never", "--clip"])
            .arg(checkpoint());
        command.arg("--classes").arg(classes).output().unwrap()
    };
    scene.assert_fails(
        &with_classes(std::path::Path::new("cat,dog")),
        &["cat,dog: no such file", "printf"],
    );
    scene.assert_fails(&with_classes(&clip), &["a safetensors file", "swapped"]);
    scene.assert_fails(&with_classes(&empty), &["found a folder", "ls "]);
    let output = scene.run(
        "onnx",
        &checkpoint(),
        &["--encoder", clip.to_str().unwrap(), "--out", "never"],
    );
    scene.assert_fails(
        &output,
        &["expected an ONNX file (a checkpoint is for --clip)"],
    );
}

/// Arguments that no file can make right, found by clap or behind it. If this fails, scripts take wrong usage for an error
/// of the checkpoint.
#[test]
fn wrong_usage_is_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("classes.txt"), "cat\ndog\n").unwrap();
    let bundle = "bundle --clip missing --classes classes.txt --out out";
    let clip = checkpoint();
    let made = format!(
        "bundle --clip {} --classes classes.txt --out out",
        clip.display()
    );
    let onnx = "onnx --encoder a.onnx --class-embeddings e.npy --preprocessing p.json --classes classes.txt --out out";
    for (call, part) in [
        (String::new(), "Usage"),
        ("bundle".into(), "--clip"),
        (format!("{bundle} --precision int3"), "int3"),
        ("text".into(), "--clip"),
        ("https://me:secret@example.org/a.pt".into(), "unrecognized"),
        (format!("{bundle} --precision int8"), "--calibration"),
        (format!("{onnx} --precision int8"), "--calibration"),
        (format!("{onnx} --score sigmoid"), "--clip"),
        ("text --clip hf:x/y/z a".into(), "hf:ORGANISATION/NAME"),
        (
            format!("{bundle} --learned x --method coop --method-option a=1"),
            "option a",
        ),
        (format!("{made} --templates plain"), "plain"),
        (format!("{made} --templates {{}}{{}}"), "exactly one"),
        (format!("{made} --negatives \u{7}"), "control"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_pinhole-export"))
            .args(call.split(' ').filter(|word| !word.is_empty()))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{call}: {message}");
        assert!(message.contains(part), "{call}: {message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

/// A stderr that is full: the work goes on, and the exit code is that of the error.
#[test]
fn a_full_stderr_does_not_panic() {
    let scene = Scene::new("cat\ndog\n");
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let run = |clip: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinhole-export"));
        command.args(["text", "a cat", "--clip"]).arg(clip);
        command
    };
    let missing = run(&scene.path("missing")).stderr(full()).status().unwrap();
    assert_eq!(missing.code(), Some(1));
    // The checkpoint's assumptions are notes on stderr.
    let output = run(&checkpoint()).stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.starts_with(b"a cat\t"));
    // The reader has gone.
    let closed = std::io::pipe().unwrap().1;
    let output = run(&checkpoint()).stdout(closed).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!message.contains("error"), "{message}");
}
