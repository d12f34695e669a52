//! The library's classifier: one serves several threads; the policy for "unknown" can be the program's.

use std::path::Path;

use pinhole::{Classifier, DecodeOptions};

#[test]
fn threads_share_a_classifier_and_get_the_same_bits() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let classifier = Classifier::open(assets.join("demo")).unwrap();
    let images: Vec<_> = std::fs::read_dir(assets.join("samples"))
        .unwrap()
        .map(|e| pinhole::open_image(e.unwrap().path(), &DecodeOptions::default()).unwrap())
        .collect();
    let alone: Vec<_> = images
        .iter()
        .map(|i| classifier.embed(i).unwrap().values)
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (image, expected) in images.iter().zip(&alone) {
                    assert_eq!(&classifier.embed(image).unwrap().values, expected);
                }
            });
        }
    });
}

/// Thresholds of the program's own, just below and just above what an image has, in place of the bundle's.
#[test]
fn the_policy_for_unknown_can_be_given() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let sample = assets.join("samples/red-heart.png");
    let image = pinhole::open_image(sample, &DecodeOptions::default()).unwrap();
    let demo = || Classifier::builder().threads(1);
    let answer = demo().open(assets.join("demo")).unwrap();
    let answer = answer.classify(&image).unwrap();
    // Of the demo bundle, which asks for nothing.
    assert!(!answer.unknown);
    let similarity = answer.ranking[0].similarity;
    let margin = similarity - answer.ranking[1].similarity;
    // A bundle that asks for more than any image has.
    let strict = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-r", "--"])
        .arg(assets.join("demo/."))
        .arg(strict.path())
        .status();
    assert!(copied.unwrap().success());
    let path = strict.path().join("manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let policy = r#""unknown": {"min_similarity": 1.0, "min_margin": 2.0}"#;
    let changed = manifest.replace(r#""unknown": {}"#, policy);
    assert_ne!(changed, manifest);
    std::fs::write(&path, changed).unwrap();

    let demo_folder = assets.join("demo");
    let (mild, strict) = (demo_folder.as_path(), strict.path());
    let lax = demo().min_similarity(-1.0).min_margin(0.0);
    for (name, bundle, builder, unknown) in [
        ("bundle", strict, demo(), true),
        ("both", strict, lax, false),
        (
            "similarity alone",
            strict,
            demo().min_similarity(-1.0),
            true,
        ),
        ("margin alone", strict, demo().min_margin(0.0), true),
        (
            "below",
            mild,
            demo().min_similarity(similarity - 1e-4),
            false,
        ),
        (
            "above",
            mild,
            demo().min_similarity(similarity + 1e-4),
            true,
        ),
        ("less apart", mild, demo().min_margin(margin - 1e-4), false),
        (
            "further apart",
            mild,
            demo().min_margin(margin + 1e-4),
            true,
        ),
    ] {
        let classifier = builder.open(bundle).unwrap();
        assert_eq!(
            classifier.classify(&image).unwrap().unknown,
            unknown,
            "{name}"
        );
    }
}
