//! The library's classifier: threads, frames in the caller's memory, streams, thresholds for "unknown".

use std::path::Path;
use std::sync::Arc;

use pinhole::{Classifier, DecodeOptions, Image, Reduction, RgbView, UnknownThresholds};

#[test]
fn threads_share_a_classifier_and_get_bit_identical_embeddings() {
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

/// Thresholds of the builder replace those of the bundle; they are set just below and just above an image's values.
#[test]
fn thresholds_for_unknown_can_be_overridden() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let sample = assets.join("samples/red-heart.png");
    let image = pinhole::open_image(sample, &DecodeOptions::default()).unwrap();
    let demo = || Classifier::builder().threads(1);
    let answer = demo().open(assets.join("demo")).unwrap();
    let answer = answer.classify(&image).unwrap();
    // The demo's own thresholds accept the sample.
    assert!(!answer.unknown);
    let similarity = answer.ranking[0].similarity;
    let margin = similarity - answer.ranking[1].similarity;
    // A bundle with thresholds that no image reaches.
    let strict = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-r", "--"])
        .arg(assets.join("demo/."))
        .arg(strict.path())
        .status();
    assert!(copied.unwrap().success());
    let path = strict.path().join("manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let (before, policy) = manifest.split_once(r#""unknown": {"#).unwrap();
    let (_, after) = policy.split_once('}').unwrap();
    let policy = r#""unknown": {"min_similarity": 1.0, "min_margin": 2.0}"#;
    std::fs::write(&path, format!("{before}{policy}{after}")).unwrap();

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
        (
            "margin below",
            mild,
            demo().min_margin(margin - 1e-4),
            false,
        ),
        ("margin above", mild, demo().min_margin(margin + 1e-4), true),
    ] {
        let classifier = builder.open(bundle).unwrap();
        assert_eq!(
            classifier.classify(&image).unwrap().unknown,
            unknown,
            "{name}"
        );
    }
}

/// If this fails, frames in the caller's memory, streams or shared class names give other answers than owned images.
#[test]
fn owned_images_frames_and_streams_give_the_same_answer() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let image = pinhole::open_image(
        assets.join("samples/blue-square.png"),
        &DecodeOptions::default(),
    )
    .unwrap();
    let row = image.width as usize * 3;
    let padded: Vec<u8> = (image.data.chunks_exact(row))
        .flat_map(|row| [row, &[0xA5; 13]].concat())
        .collect();
    let frame = RgbView::with_stride(image.width, image.height, row + 13, &padded).unwrap();
    let classifier = Classifier::open(assets.join("demo")).unwrap();
    let expected = classifier.classify(&image).unwrap();
    assert_eq!(&*expected.ranking[0].name, "blue square");
    let again = classifier.classify(frame).unwrap();
    assert_eq!(again.ranking, expected.ranking);
    let mut stream = classifier.stream().unwrap();
    assert_eq!(stream.classify(frame).unwrap().ranking, expected.ranking);
    // Thresholds of a stream are its own.
    for (min_margin, unknown) in [(Some(2.0), true), (None, false)] {
        let min_similarity = None;
        stream.set_unknown_thresholds(UnknownThresholds {
            min_similarity,
            min_margin,
        });
        assert_eq!(stream.classify(frame).unwrap().unknown, unknown);
    }
    assert!(!classifier.classify(frame).unwrap().unknown);
    assert_eq!(
        classifier.embed(frame).unwrap().values,
        classifier.embed(&image).unwrap().values
    );
    for (a, b) in again.ranking.iter().zip(&expected.ranking) {
        assert!(Arc::ptr_eq(&a.name, &b.name), "{} was copied", a.name);
        assert_eq!(*a.name, *classifier.manifest().classes[a.index]);
    }
}

/// If this fails, `--fast-decode` changes answers by more than the guide admits.
#[test]
fn reduced_jpegs_have_nearly_the_same_embedding() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let classifier = Classifier::open(assets.join("demo")).unwrap();
    let reduced = DecodeOptions {
        reduction: Some(Reduction::to(&classifier.manifest().preprocessing)),
        ..DecodeOptions::default()
    };
    let mut worst = 1.0_f32;
    for sample in std::fs::read_dir(assets.join("samples")).unwrap() {
        let image = pinhole::open_image(sample.unwrap().path(), &DecodeOptions::default()).unwrap();
        let jpeg = image.to_jpeg(90, image.width).unwrap();
        let [exact, fast] = [&DecodeOptions::default(), &reduced].map(|options| {
            let image = Image::decode(&jpeg, options).unwrap();
            assert_eq!(image.original_size(), (320, 240));
            let answer = classifier.classify(&image).unwrap();
            let embedding = classifier.embed(&image).unwrap().values;
            (image.width(), answer.ranking[0].index, embedding)
        });
        assert_eq!((exact.0, fast.0), (320, 160));
        assert_eq!(exact.1, fast.1);
        let products = exact.2.iter().zip(&fast.2).map(|(a, b)| a * b);
        worst = worst.min(products.sum());
    }
    println!("worst cosine {worst}");
    assert!(worst > 0.99 && worst < 1.0, "{worst}");
}
