//! Labelled calibration images: temperature, thresholds, and what the manifest records, at export and for a bundle that
//! exists.

use std::fs;
use std::path::Path;

use pinhole::{Bundle, Classifier, DecodeOptions};
use pinhole_export::{CalibrationImages, CalibrationLabel, UnknownFolder};

use crate::common::{Scene, checkpoint};

/// A picture in one of four plain colours, slightly different each time.
fn picture(path: &Path, colour: usize, i: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let paint = [[200, 40, 40], [40, 200, 40], [40, 40, 200], [210, 210, 60]][colour];
    let bytes = (0..40 * 40 * 3).map(|at| (paint[at % 3] + (at * (i + 3) % 17) + i) as u8);
    let png = image::RgbImage::from_raw(40, 40, bytes.collect()).unwrap();
    png.save(path).unwrap();
}

/// The best class of each colour by the random model, so that labels can be correct.
fn nearest(scene: &Scene, classes: &[&str]) -> Vec<usize> {
    let out = scene.path("plain");
    let output = scene.export(&checkpoint(), &["--out", out.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("not calibrated"), "{message}");
    let classifier = Classifier::open(&out).unwrap();
    (0..3)
        .map(|colour| {
            let path = scene.path(&format!("probe-{colour}.png"));
            picture(&path, colour, 0);
            let image = pinhole::open_image(&path, &DecodeOptions::default()).unwrap();
            let best = classifier.classify(&image).unwrap().ranking[0]
                .name
                .to_string();
            classes.iter().position(|class| *class == best).unwrap()
        })
        .collect()
}

const CLASSES: [&str; 6] = ["cat", "dog", "polar bear", "mug", "fern", "lamp"];

/// Writes 25 images of classes, one of them with a wrong label, and 4 of no class.
fn labelled_images(scene: &Scene) {
    let nearest = nearest(scene, &CLASSES);
    for (colour, class) in nearest.iter().enumerate() {
        for i in 0..8 {
            let folder = CLASSES[*class].replace(' ', "_");
            let name = format!("images/{folder}/{colour}-{i}.png");
            picture(&scene.path(&name), colour, i);
        }
    }
    let wrong = CLASSES[(nearest[0] + 1) % 6].replace(' ', "_");
    picture(&scene.path(&format!("images/{wrong}/wrong.png")), 0, 3);
    for i in 0..4 {
        picture(&scene.path(&format!("images/sky/{i}.png")), 3, i);
    }
}

#[test]
fn labelled_images_set_temperature_and_thresholds() {
    let classes = CLASSES;
    let scene = Scene::new(&classes.join("\n"));
    labelled_images(&scene);
    let images = scene.path("images");
    let output = scene.export(
        &checkpoint(),
        &[
            "--calibration",
            images.to_str().unwrap(),
            "--keep",
            "0.8",
            "--with-text",
        ],
    );
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    assert!(message.contains("count as unknown: sky"), "{message}");

    let classifier = Classifier::open(scene.path("bundle")).unwrap();
    let manifest = classifier.manifest();
    let found = manifest.calibration.unwrap();
    assert_eq!((found.images, found.strangers), (25, 4));
    assert_ne!(manifest.temperature, 1.0);
    assert!(manifest.unknown.min_similarity.is_some() && manifest.unknown.min_margin.is_some());

    // The manifest's figures are those of classify's answers.
    let (mut answers, mut kept) = (vec![], 0);
    for (class, name) in classes.iter().enumerate() {
        let folder = images.join(name.replace(' ', "_"));
        for file in fs::read_dir(folder).into_iter().flatten() {
            let path = file.unwrap().path();
            let image = pinhole::open_image(&path, &DecodeOptions::default()).unwrap();
            let answer = classifier.classify(&image).unwrap();
            let right = *answer.ranking[0].name == *classes[class];
            answers.push((f64::from(answer.ranking[0].probability), right));
            kept += usize::from(right && !answer.unknown);
        }
    }
    let right = answers.iter().filter(|(_, right)| *right).count();
    assert!((20..25).contains(&right), "{right}");
    assert!(
        (found.accuracy - right as f32 / 25.0).abs() < 1e-6,
        "{found:?}"
    );
    assert!(
        (found.kept - kept as f32 / right as f32).abs() < 1e-6,
        "{kept}: {found:?}"
    );
    assert!(
        found.kept < 1.0 && found.kept >= 0.75,
        "--keep 0.8: {found:?}"
    );
    let ece = pinhole_bundle::expected_calibration_error(answers) as f32;
    assert!((found.ece_after - ece).abs() < 1e-5, "{ece}: {found:?}");

    // New classes void the figures.
    let names = pinhole::Classes::new(["cat", "cup"]).unwrap();
    let manifest =
        pinhole::set_classes(scene.path("bundle"), &names, None, &mut |_, _| {}).unwrap();
    assert!(manifest.calibration.is_none() && manifest.unknown.min_margin.is_none());
    assert_eq!(manifest.temperature, 1.0);
}

#[test]
fn a_negative_text_more_similar_than_any_class_makes_the_answer_unknown() {
    let scene = Scene::new("cat\ndog");
    // The first negative is a class's own prompt, so it is never more similar than the best class.
    let answer = |negative: &str, name: &str| {
        let path = scene.path("negatives.txt");
        fs::write(&path, negative).unwrap();
        let out = scene.path(name);
        let flags = [
            "--negatives",
            path.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ];
        let output = scene.export(&checkpoint(), &flags);
        assert!(output.status.success(), "{output:?}");
        let image = scene.path("probe.png");
        picture(&image, 1, 1);
        let image = pinhole::open_image(&image, &DecodeOptions::default()).unwrap();
        let classifier = Classifier::open(&out).unwrap();
        let embedding = classifier.embed(&image).unwrap().values;
        let head = classifier.bundle().head();
        let negative = head.negative_similarity(&embedding).unwrap();
        let answer = classifier.classify(&image).unwrap();
        (negative > answer.ranking[0].similarity, answer.unknown)
    };
    let mut seen = [false; 2];
    for (i, text) in [
        "a photo of a cat.",
        "an empty room",
        "rain",
        "the sky at night",
        "blur",
    ]
    .into_iter()
    .enumerate()
    {
        let (nearer, unknown) = answer(text, &format!("bundle-{i}"));
        assert_eq!(nearer, unknown, "{text}");
        seen[usize::from(nearer)] = true;
    }
    assert_eq!(seen, [true, true], "both happen");
}

#[test]
fn images_without_class_folders_are_unlabelled() {
    let scene = Scene::new("cat\ndog");
    for i in 0..3 {
        picture(&scene.path(&format!("images/some/{i}.png")), i, i);
    }
    let images = scene.path("images");
    let output = scene.export(&checkpoint(), &["--calibration", images.to_str().unwrap()]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    assert!(
        message.contains("not calibrated (--calibration: "),
        "{message}"
    );
    assert!(message.contains("found only some)"), "{message}");
    let bundle = Bundle::open(&scene.path("bundle")).unwrap();
    assert!(bundle.manifest().calibration.is_none());
    assert!(bundle.manifest().unknown.min_similarity.is_none());
}

/// If this fails, a manifest states a temperature and thresholds that two photos, or guesses, gave.
#[test]
fn a_calibration_that_means_nothing_is_not_written() {
    let scene = Scene::new(&CLASSES.join("\n"));
    let nearest = nearest(&scene, &CLASSES);
    let export = |name: &str, extra: &[&str]| {
        let (images, out) = (scene.path("images"), scene.path(name));
        let flags = [
            "--calibration",
            images.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ];
        let output = scene.export(&checkpoint(), &[&flags[..], extra].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{message}");
        let manifest = Bundle::open(&out).unwrap().manifest().clone();
        assert_eq!((manifest.temperature, manifest.calibration), (1.0, None));
        assert!(manifest.unknown.min_similarity.is_none() && manifest.unknown.min_margin.is_none());
        message
    };
    let label = |class: usize, colour: usize, i: usize| {
        let folder = CLASSES[class].replace(' ', "_");
        picture(
            &scene.path(&format!("images/{folder}/{colour}-{i}.png")),
            colour,
            i,
        );
    };
    for i in 0..2 {
        label(nearest[0], 0, i);
    }
    let message = export("two", &[]);
    assert!(
        message.contains("found 2)") && message.contains("no image is answered"),
        "{message}"
    );
    let message = export("negatives", &["--negatives", "an empty room"]);
    assert!(message.contains("only --negatives decide"), "{message}");
    // Thirty photos of the wrong classes.
    for i in 0..30 {
        label((nearest[i % 3] + 1) % 6, i % 3, i);
    }
    let message = export("guess", &[]);
    assert!(message.contains(" of 32 images correct"), "{message}");
    let output = calibrate(&scene, "guess", &[]);
    scene.assert_fails(&output, &[" of 32 images correct", "unchanged"]);
}

/// A note about the calibration would hide the error.
#[test]
fn an_error_stands_alone() {
    let scene = Scene::new("cat\ndog");
    picture(&scene.path("images/cat/0.png"), 0, 0);
    picture(&scene.path("images/sky/0.png"), 1, 0);
    let images = scene.path("images");
    for extra in [vec![], vec!["--calibration", images.to_str().unwrap()]] {
        let output = scene.export(&scene.path("missing.pt"), &extra);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            message.starts_with("error: ") && message.lines().count() == 1,
            "{message}"
        );
    }
}

/// `pinhole-export calibrate` on the bundle `name` and the scene's images.
fn calibrate(scene: &Scene, name: &str, extra: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pinhole-export"));
    command.arg("calibrate").arg(scene.path(name));
    command.arg("--calibration").arg(scene.path("images"));
    command.args(extra).output().unwrap()
}

#[test]
fn calibrating_a_bundle_equals_calibrating_at_export() {
    let scene = Scene::new(&CLASSES.join("\n"));
    labelled_images(&scene);
    let (images, at_export) = (scene.path("images"), scene.path("at-export"));
    fs::write(scene.path("negatives.txt"), "an empty room\n").unwrap();
    let negatives = scene.path("negatives.txt");
    let negatives = ["--negatives", negatives.to_str().unwrap()];
    let flags = [
        "--calibration",
        images.to_str().unwrap(),
        "--keep",
        "0.8",
        "--out",
        at_export.to_str().unwrap(),
    ];
    let output = scene.export(&checkpoint(), &[&flags[..], &negatives].concat());
    assert!(output.status.success(), "{output:?}");
    assert!(scene.export(&checkpoint(), &negatives).status.success());

    let card = scene.path("card.txt");
    fs::write(&card, "For tests.").unwrap();
    let flags = ["--keep", "0.8", "--model-card", card.to_str().unwrap()];
    let output = calibrate(&scene, "bundle", &flags);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    assert!(message.contains("25 images"), "{message}");
    assert!(
        message.contains("held-out fifths of the 29 images: mean log loss "),
        "{message}"
    );
    let expected = Bundle::open(&at_export).unwrap();
    let found = Bundle::open(&scene.path("bundle")).unwrap();
    assert_eq!(found.head(), expected.head());
    assert_eq!(found.golden(), expected.golden());
    let mut manifest = expected.manifest().clone();
    assert!(manifest.calibration.is_some());
    manifest.model_card = "For tests.".into();
    assert_eq!(found.manifest(), &manifest);

    // Again: the fit does not depend on an earlier one.
    let output = calibrate(&scene, "bundle", &["--keep", "0.8"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("log loss"));
    let again = Bundle::open(&scene.path("bundle")).unwrap();
    assert_eq!(again.manifest(), &manifest);
    let classifier = Classifier::open(scene.path("bundle")).unwrap();
    assert!(classifier.self_test().unwrap().passed());
}

#[test]
fn a_bundle_that_cannot_be_calibrated_stays_unchanged() {
    let scene = Scene::new("cat\ndog\n");
    assert!(scene.export(&checkpoint(), &[]).status.success());
    let before = fs::read(scene.path("bundle/manifest.json")).unwrap();
    for i in 0..3 {
        picture(&scene.path(&format!("images/some/{i}.png")), i, i);
    }
    let output = calibrate(&scene, "bundle", &[]);
    scene.assert_fails(&output, &["--calibration", "named after a class"]);
    fs::create_dir_all(scene.path("images/cat")).unwrap();
    fs::write(scene.path("images/cat/cut.png"), b"\x89PNG").unwrap();
    let output = calibrate(&scene, "bundle", &[]);
    scene.assert_fails(&output, &["cut.png"]);
    fs::rename(scene.path("images"), scene.path("image")).unwrap();
    let output = calibrate(&scene, "bundle", &[]);
    let meant = "images: expected a folder of images, found no such file; did you mean ";
    scene.assert_fails(&output, &[meant, "image?"]);
    let output = calibrate(&scene, "missing", &[]);
    scene.assert_fails(&output, &["missing"]);
    assert_eq!(
        fs::read(scene.path("bundle/manifest.json")).unwrap(),
        before
    );
}

/// If this fails, an archive's hidden folders count as images of no class, or folders such as `n01440764` do.
#[test]
fn folders_are_matched_by_a_list_of_names_and_hidden_ones_are_skipped() {
    let scene = Scene::new("");
    let folder = scene.path("images");
    let files = [
        "n03/a",
        "n01/b",
        "n02/c",
        ".git/d",
        "__MACOSX/e",
        "n01/._b",
        "sky/f",
    ];
    for (i, file) in files.into_iter().enumerate() {
        picture(&folder.join(format!("{file}.png")), 0, i);
    }
    let list = scene.path("names.txt");
    fs::write(&list, "n01 missile\nn02 polar_bear\nn03 missile\n").unwrap();
    let names = pinhole_prompts::FolderNames::read(&list).unwrap();
    let classes = ["polar bear", "missile", "cat", "missile"].map(String::from);
    let found = CalibrationImages::find(&folder, &classes, &names).unwrap();
    // In the order of the paths: n01, n02, n03, sky.
    let class = CalibrationLabel::Class;
    let expected = [class(1), class(0), class(3), CalibrationLabel::Unknown];
    assert_eq!(found.labels().unwrap(), expected);
    let sky = UnknownFolder {
        name: "sky".into(),
        similar_class: None,
    };
    assert_eq!(found.unknown_folders(), [sky]);
    // Of a class that has no images.
    picture(&folder.join("Polar_baer/g.png"), 0, 7);
    picture(&folder.join("cat/h.png"), 0, 8);
    let none = pinhole_prompts::FolderNames::default();
    let found = CalibrationImages::find(&folder, &classes, &none).unwrap();
    let unknown: Vec<String> = found
        .unknown_folders()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        unknown[0],
        "Polar_baer (did you mean the class \"polar bear\"?)"
    );
    assert_eq!(unknown[1..], ["n01", "n02", "n03", "sky"]);
    fs::remove_dir_all(folder.join("cat")).unwrap();
    let found = CalibrationImages::find(&folder, &classes, &none).unwrap();
    assert_eq!(found.labels(), None);
}
