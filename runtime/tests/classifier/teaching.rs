//! Teaching a bundle by examples: what is taught is answered, counted, removed and undone, and the bundle stays whole.

use std::path::{Path, PathBuf};

use pinhole::manifest::HeadKind;
use pinhole::{
    Bundle, ClassText, Classifier, Error, Lesson, LockedBundle, NONE_OF_THESE, RgbImage,
    TaughtHead, TeachError, Teacher, lesson,
};
use pinhole_bundle::{BundleWriter, Head};

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets")
}

/// A copy of the demo bundle.
fn demo() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let copied = std::process::Command::new("cp")
        .args(["-r", "--"])
        .arg(assets().join("demo"))
        .arg(&bundle)
        .status();
    assert!(copied.unwrap().success());
    (folder, bundle)
}

fn sample(name: &str) -> RgbImage {
    let path = assets().join("samples").join(format!("{name}.png"));
    pinhole::open_image(path, &Default::default()).unwrap()
}

/// Embeddings of images that are nearly the sample.
fn like(classifier: &Classifier, name: &str, count: usize) -> Vec<Vec<f32>> {
    let embedding = classifier.embed(&sample(name)).unwrap().values;
    let noise = |i: usize, j: usize| 0.03 * ((i * 31 + j * 17) % 13) as f32 / 13.0;
    let one = |i: usize| {
        let values = embedding.iter().enumerate();
        values.map(|(j, v)| v + noise(i, j)).collect()
    };
    (0..count).map(one).collect()
}

fn open(folder: &Path) -> Classifier {
    Classifier::builder().threads(1).open(folder).unwrap()
}

fn teach(folder: &Path, change: impl FnOnce(&mut Teacher)) -> Lesson {
    let mut teacher = Teacher::open(folder, Some(1), &mut |_| {}).unwrap();
    change(&mut teacher);
    let lesson = teacher.save().unwrap();
    // What was saved is what a reader finds.
    assert_eq!(pinhole::lesson(folder).unwrap(), lesson);
    lesson
}

fn counts(lesson: &Lesson) -> Vec<(&str, usize)> {
    let classes = lesson.classes.iter();
    classes
        .map(|c| (c.name.as_str(), c.examples.len()))
        .collect()
}

#[test]
fn a_taught_class_is_answered_and_undoing_gives_the_former_bundle() {
    let (_folder, bundle) = demo();
    let before = open(&bundle);
    let lesson = teach(&bundle, |teacher| {
        for (class, name) in [("my heart", "red-heart"), ("my star", "green-star")] {
            teacher.add_class(class, ClassText::NameIfPossible).unwrap();
            let ids = teacher
                .add_examples(class, &like(&before, name, 4))
                .unwrap();
            assert_eq!(ids.len(), 4);
        }
    });
    assert_eq!(lesson.classes.len(), 66);
    assert_eq!(counts(&lesson)[64..], [("my heart", 4), ("my star", 4)]);
    assert_eq!(lesson.classes[65].accuracy, Some(1.0));
    assert_eq!(lesson.accuracy, Some(1.0));
    assert!(
        lesson
            .no_thresholds
            .unwrap()
            .contains("64 classes have no examples")
    );
    let after = open(&bundle);
    assert!(after.self_test().unwrap().passed());
    let answer = after.classify(&sample("red-heart")).unwrap();
    assert_eq!(&*answer.ranking[0].name, "my heart");
    // Classes without examples stay what they were.
    let answer = after.classify(&sample("blue-square")).unwrap();
    assert_eq!(&*answer.ranking[0].name, "blue square");
    let exported = before.classify(&sample("blue-square")).unwrap();
    let apart = answer.ranking[0].probability - exported.ranking[0].probability;
    assert!(apart.abs() < 0.02, "{apart}");
    assert_eq!(after.manifest().temperature, before.manifest().temperature);

    let removed = teach(&bundle, |teacher| teacher.remove_class("my star").unwrap());
    assert_eq!(counts(&removed)[64..], [("my heart", 4)]);
    for _ in 0..2 {
        teach(&bundle, |teacher| teacher.undo().unwrap());
    }
    let undone = open(&bundle);
    assert_eq!(undone.bundle().head(), before.bundle().head());
    let manifest = |classifier: &Classifier| {
        let mut manifest = classifier.manifest().clone();
        manifest.files.clear();
        manifest
    };
    assert_eq!(manifest(&undone), manifest(&before));
    let mut teacher = Teacher::open(&bundle, Some(1), &mut |_| {}).unwrap();
    let error = teacher.undo().unwrap_err();
    assert!(error.to_string().contains("a step to undo"), "{error}");
}

#[test]
fn thresholds_are_fitted_to_what_was_shown_and_nothing_can_be_taught() {
    let (_folder, bundle) = demo();
    let before = open(&bundle);
    let lesson = teach(&bundle, |teacher| {
        for class in &before.manifest().classes {
            teacher.remove_class(class).unwrap();
        }
        for (class, name) in [
            ("heart", "red-heart"),
            (NONE_OF_THESE, "blue-square"),
            ("star", "green-star"),
        ] {
            teacher.add_class(class, ClassText::NameIfPossible).unwrap();
            teacher
                .add_examples(class, &like(&before, name, 5))
                .unwrap();
        }
    });
    assert_eq!(
        counts(&lesson),
        [("heart", 5), (NONE_OF_THESE, 5), ("star", 5)]
    );
    assert_eq!(lesson.no_thresholds, None);
    let after = open(&bundle);
    let manifest = after.manifest();
    assert_eq!(manifest.unknown.class, Some(1));
    assert_eq!(manifest.method.as_deref(), Some("taught"));
    let calibration = manifest.calibration.unwrap();
    assert_eq!((calibration.images, calibration.strangers), (10, 5));
    assert!(manifest.unknown.min_similarity.is_some());
    let answer = |name: &str| {
        let answer = after.classify(&sample(name)).unwrap();
        (answer.ranking[0].name.to_string(), answer.unknown)
    };
    assert_eq!(answer("red-heart"), ("heart".into(), false));
    assert_eq!(answer("green-star"), ("star".into(), false));
    assert_eq!(answer("blue-square"), (NONE_OF_THESE.into(), true));
    // A class can be removed, and its examples one by one: then it waits for another.
    let star = lesson.classes[2].examples.clone();
    let lesson = teach(&bundle, |teacher| {
        star.iter()
            .for_each(|e| teacher.remove_example(e.id).unwrap());
    });
    assert_eq!(counts(&lesson)[2], ("star", 0));
    assert_eq!(open(&bundle).manifest().classes, ["heart", NONE_OF_THESE]);
}

/// If this fails, a bundle grows for ever, or undoing loses the oldest examples.
#[test]
fn of_too_many_examples_the_oldest_are_removed() {
    let (_folder, bundle) = demo();
    let before = open(&bundle);
    let examples = like(&before, "red-heart", 40);
    let first = teach(&bundle, |t| {
        drop(t.add_examples("red heart", &examples).unwrap())
    });
    let ids = |lesson: &Lesson| {
        let class = lesson
            .classes
            .iter()
            .find(|c| c.name == "red heart")
            .unwrap();
        class.examples.iter().map(|e| e.id).collect::<Vec<_>>()
    };
    let second = teach(&bundle, |t| {
        drop(t.add_examples("red heart", &examples).unwrap())
    });
    assert_eq!(ids(&second), (17..=80).collect::<Vec<_>>());
    let undone = teach(&bundle, |t| t.undo().unwrap());
    assert_eq!(ids(&undone), ids(&first));
}

#[test]
fn what_the_texts_know_already_stays_known() {
    let (_folder, bundle) = demo();
    let before = open(&bundle);
    let names = ["red-heart", "green-star", "blue-square", "white-heart"];
    let lesson = teach(&bundle, |teacher| {
        for name in names {
            let class = name.replace('-', " ");
            teacher
                .add_examples(&class, &like(&before, name, 3))
                .unwrap();
        }
    });
    // The demo knows them already.
    let accuracies = lesson.accuracies.iter().map(|(kind, _)| *kind);
    let kinds: Vec<TaughtHead> = accuracies.collect();
    assert_eq!(kinds, [TaughtHead::ZeroShot, TaughtHead::Linear]);
    let after = open(&bundle);
    let kind = match lesson.head {
        TaughtHead::ZeroShot | TaughtHead::Prototypes => HeadKind::Static,
        TaughtHead::Cache => HeadKind::Cache,
        TaughtHead::Linear => HeadKind::Linear,
    };
    assert_eq!(after.manifest().head, kind);
    for name in names {
        let answer = after.classify(&sample(name)).unwrap();
        assert_eq!(*answer.ranking[0].name, name.replace('-', " "));
    }
}

#[test]
fn what_cannot_be_taught_is_an_error_and_the_bundle_stays() {
    let (_folder, bundle) = demo();
    let mut teacher = Teacher::open(&bundle, Some(1), &mut |_| {}).unwrap();
    let reason = |result: Result<(), Error>| match result.unwrap_err() {
        Error::Teaching { reason, .. } => reason,
        other => panic!("{other}"),
    };
    let name = || "no such".to_owned();
    let unknown = TeachError::UnknownClass { name: name() };
    assert_eq!(reason(teacher.remove_class("no such")), unknown);
    assert_eq!(
        reason(teacher.add_examples("no such", &[]).map(drop)),
        unknown
    );
    let exists = reason(teacher.add_class("red heart", ClassText::None));
    assert!(matches!(exists, TeachError::ClassExists { .. }));
    assert_eq!(
        reason(teacher.remove_example(3)),
        TeachError::UnknownExample { id: 3 }
    );
    for bad in [vec![], vec![0.0; 64], vec![f32::NAN; 64], vec![1.0; 63]] {
        let error = reason(teacher.add_examples("red heart", &[bad]).map(drop));
        assert!(matches!(error, TeachError::Embedding { .. }), "{error}");
    }
    teacher
        .check_encoder(&open(&assets().join("demo")))
        .unwrap();
    let text = teacher.add_class("mug", ClassText::Name).unwrap_err();
    assert!(matches!(text, Error::NoTextEncoder { .. }), "{text}");
    teacher.add_class(" ", ClassText::None).unwrap_err();
    let text = teacher.add_class(NONE_OF_THESE, ClassText::Text("a wall"));
    assert_eq!(reason(text), TeachError::TextOfNone);
    let classes = teacher.bundle().manifest().classes.clone();
    for class in &classes {
        teacher.remove_class(class).unwrap();
    }
    teacher.add_class(NONE_OF_THESE, ClassText::None).unwrap();
    assert_eq!(reason(teacher.save().map(drop)), TeachError::NoClass);
    let untouched = lesson(&bundle).unwrap();
    assert_eq!(untouched.classes.len(), 64);
    assert_eq!((untouched.accuracy, untouched.undo_steps), (None, 0));
    // Once taught, the classes are changed by teaching alone.
    teach(&bundle, |t| t.add_class("mug", ClassText::None).unwrap());
    let classes = pinhole::Classes::new(["cat"]).unwrap();
    let error = pinhole::set_classes(&bundle, &classes, Some(1), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("pinhole teach"), "{error}");
}

/// If this fails, whatever was taught is answered "unknown": texts of nothing are compared with numbers of other heads.
#[test]
fn texts_of_nothing_apply_while_classes_are_recognised_by_texts() {
    let (_folder, bundle) = demo();
    // The text of a class stands for "nothing", as an export with --negatives writes it.
    let text = Bundle::open(&bundle).unwrap().head().class_embeddings[..64].to_vec();
    let locked = LockedBundle::open(&bundle, &mut |_| {}).unwrap();
    let mut manifest = locked.bundle().manifest().clone();
    manifest.unknown.negatives = vec!["nothing".into()];
    let head = Head {
        negative_embeddings: text,
        ..locked.bundle().head().clone()
    };
    let writer = BundleWriter::succeed(&locked).unwrap();
    writer.add_head(&head).unwrap();
    writer.replace(&mut manifest).unwrap();
    drop(locked);

    let before = open(&bundle);
    let lesson = teach(&bundle, |teacher| {
        teacher.add_class("my heart", ClassText::None).unwrap();
        teacher
            .add_examples("my heart", &like(&before, "red-heart", 4))
            .unwrap();
    });
    assert_eq!(lesson.head, TaughtHead::Linear);
    let after = open(&bundle);
    assert!(after.manifest().unknown.negatives.is_empty());
    let answer = after.classify(&sample("red-heart")).unwrap();
    assert_eq!(
        (&*answer.ranking[0].name, answer.unknown),
        ("my heart", false)
    );
    teach(&bundle, |teacher| teacher.undo().unwrap());
    assert_eq!(Bundle::open(&bundle).unwrap().head(), &head);
    assert_eq!(open(&bundle).manifest().unknown.negatives, ["nothing"]);
}

type Add = fn(&mut Teacher, &str, &[Vec<f32>]) -> Result<Vec<u64>, Error>;

/// If this fails, a button held for seconds makes any class look well known.
#[test]
fn bursts_are_left_out_whole() {
    let (_folder, bundle) = demo();
    let before = open(&bundle);
    let show = |class: usize, burst: usize| {
        // Each burst is of another thing: nothing tells the classes apart.
        let name = ["red-heart", "green-star", "blue-square", "white-heart"][burst];
        let mut embeddings = like(&before, name, 6);
        embeddings.iter_mut().for_each(|e| e[class] += 0.02);
        embeddings
    };
    let names = ["a", "b"];
    let classes = &before.manifest().classes;
    let lesson = |add: Add, bursts| {
        teach(&bundle, |teacher| {
            classes
                .iter()
                .for_each(|class| teacher.remove_class(class).unwrap());
            for (i, name) in names.iter().enumerate() {
                teacher.add_class(name, ClassText::None).unwrap();
                for burst in 0..bursts {
                    add(teacher, name, &show(i, 2 * burst + i)).unwrap();
                }
            }
        })
    };
    let undo = || teach(&bundle, |teacher| teacher.undo().unwrap());
    let apart = lesson(Teacher::add_examples, 2);
    assert_eq!((apart.accuracy, apart.no_thresholds), (Some(1.0), None));
    undo();
    let bursts = lesson(Teacher::add_burst, 2);
    assert!(bursts.accuracy.unwrap() < 0.8, "{bursts:?}");
    undo();
    let once = lesson(Teacher::add_burst, 1);
    assert_eq!(once.accuracy, None);
    let reason = once.no_thresholds.unwrap();
    assert!(
        reason.contains("2 classes were shown in one burst only"),
        "{reason}"
    );
    // They are answered all the same.
    let answer = open(&bundle).classify(&sample("red-heart")).unwrap();
    assert_eq!(&*answer.ranking[0].name, "a");
}

/// If this fails, a list is an error about a damaged file, or of another bundle, whenever a class is taught meanwhile.
#[test]
fn a_lesson_is_of_one_bundle_while_bundles_are_exchanged() {
    let (_folder, bundle) = demo();
    let examples = like(&open(&bundle), "red-heart", 1);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..12 {
                let mut teacher = Teacher::open(&bundle, Some(1), &mut |_| {}).unwrap();
                teacher.add_examples("red heart", &examples).unwrap();
                teacher.save().unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut known = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let found = lesson(&bundle).unwrap();
            let examples: usize = found.classes.iter().map(|c| c.examples.len()).sum();
            assert!(examples >= known && found.undo_steps as usize == examples);
            known = examples;
        }
    });
}
