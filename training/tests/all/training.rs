//! Pre-training: compared with PyTorch, resumed, and from files.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use pinhole_checkpoint::{Checkpoint, OpenOptions};
use pinhole_preprocessing::Pixels;
use pinhole_prompts::{FolderNames, Templates};
use pinhole_training::{
    Error,
    contrastive::{Batch, encode_images, encode_texts, loss_and_gradients},
    dataset::all_to_test,
    evaluate::{PromptEvaluator, TestSet},
    image_encoder::ImageEncoder,
    model::{ClipModel, normalise, tensor_specs},
    optimiser::{AdamWOptions, Parameter, clip_norm, update},
    pairs::{ListOptions, PairFiles, PairSource},
    pretraining::{
        ModelSizes, Pretraining, PretrainingOptions, PretrainingOutput, evaluate_shapes, pretrain,
    },
    shapes::{self, Split},
    vocabulary::{Tokens, Vocabulary},
};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

/// The images and texts that the golden embeddings are of.
fn inputs() -> (Vec<Pixels>, Vec<Tokens>) {
    let inputs = json("models/inputs-32.json");
    let images = inputs["images"].as_array().unwrap().iter();
    let images = images.map(|image| Pixels {
        size: 32,
        data: numbers(image).into_iter().map(|v| v as u8).collect(),
    });
    let texts = inputs["texts"].as_array().unwrap().iter().map(|text| {
        let ids: Vec<u32> = numbers(text).into_iter().map(|v| v as u32).collect();
        let end = ids.iter().position(|&id| id == 63).unwrap();
        Tokens(ids[..=end].to_vec())
    });
    (images.collect(), texts.collect())
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&golden("models").join(name), &OpenOptions::default()).unwrap()
}

fn parameters(checkpoint: &Checkpoint) -> Vec<Parameter> {
    let specs = tensor_specs(checkpoint.config()).unwrap();
    let load = |name: String| {
        let tensor = checkpoint.tensor(&name).unwrap();
        let var = Var::from_vec(tensor.data, tensor.shape, &Device::Cpu).unwrap();
        Parameter::new(name, var)
    };
    specs.into_iter().map(|spec| load(spec.name)).collect()
}

fn model(checkpoint: &Checkpoint, parameters: &[Parameter]) -> ClipModel {
    ClipModel::new(checkpoint.config(), |name| {
        let parameter = parameters.iter().find(|p| p.name == name).unwrap();
        Ok(parameter.var.as_tensor().clone())
    })
    .unwrap()
}

#[test]
fn embeddings_equal_open_clips() {
    let (images, texts) = inputs();
    for (family, file) in [
        ("vit-quickgelu", "open-clip"),
        ("vit-gelu", "custom-text"),
        ("vit-openai", "openai.pt"),
    ] {
        let checkpoint = open(&format!("{family}/{file}"));
        let model = model(&checkpoint, &parameters(&checkpoint));
        let expected = json(&format!("models/{family}/golden.json"));
        let check = |ours: &Tensor, expected: &Value| {
            let ours = normalise(ours).unwrap().to_vec2::<f32>().unwrap();
            for (ours, expected) in ours.iter().zip(expected.as_array().unwrap()) {
                let expected = numbers(expected);
                assert_eq!(ours.len(), expected.len());
                let cosine: f64 = ours
                    .iter()
                    .zip(&expected)
                    .map(|(a, b)| f64::from(*a) * b)
                    .sum();
                assert!(cosine > 0.999_999, "{family}: {cosine}");
            }
        };
        let config = checkpoint.config();
        check(
            &encode_images(&model.image, config, &images).unwrap(),
            &expected["image_embeddings"],
        );
        check(
            &encode_texts(&model, &texts).unwrap(),
            &expected["text_embeddings"],
        );
    }
}

#[test]
fn updates_equal_pytorchs() {
    let golden = json("training.json");
    let number = |name: &str| golden[name].as_f64().unwrap();
    let checkpoint = open("vit-quickgelu/open-clip");
    let mut parameters = parameters(&checkpoint);
    let model = model(&checkpoint, &parameters);
    let (images, mut texts) = inputs();
    texts.truncate(2);
    let batch = Batch { images, texts };
    let options = AdamWOptions {
        beta1: number("beta1"),
        beta2: number("beta2"),
        epsilon: number("epsilon"),
        weight_decay: number("weight_decay"),
    };
    for (done, expected) in numbers(&golden["losses"]).into_iter().enumerate() {
        let mut found =
            loss_and_gradients(&model, checkpoint.config(), &parameters, &batch).unwrap();
        let loss = f64::from(found.loss);
        assert!(
            (loss - expected).abs() < 2e-3 * expected + 1e-6,
            "{done}: {loss} {expected}"
        );
        if done == 0 {
            for (parameter, gradient) in parameters.iter().zip(&found.gradients) {
                let expected = golden["gradient_lengths"][&parameter.name]
                    .as_f64()
                    .unwrap();
                let length = gradient
                    .iter()
                    .map(|g| f64::from(*g).powi(2))
                    .sum::<f64>()
                    .sqrt();
                let close = (length - expected).abs() < 1e-4 * expected + 1e-6;
                assert!(close, "{}: {length} {expected}", parameter.name);
            }
        }
        clip_norm(&mut found.gradients, number("clip_gradient"));
        let rate = number("learning_rate");
        update(
            &mut parameters,
            &found.gradients,
            &options,
            rate,
            done as u64,
        )
        .unwrap();
    }
}

fn tiny(steps: u64) -> PretrainingOptions {
    PretrainingOptions {
        model: ModelSizes {
            image_size: 16,
            patch_size: 8,
            width: 64,
            layers: 1,
            text_width: 64,
            text_layers: 1,
            context_length: 16,
            embedding: 16,
        },
        steps,
        batch_size: 40,
        learning_rate: 2e-3,
        warm_up: 2,
        beta1: 0.9,
        beta2: 0.98,
        epsilon: 1e-6,
        weight_decay: 0.1,
        clip_gradient: 1.0,
        seed: 3,
    }
}

fn new(options: PretrainingOptions, source: &PairSource) -> Pretraining {
    let texts = source.texts();
    let vocabulary = Vocabulary::of(texts.iter().map(String::as_str));
    Pretraining::new(options, vocabulary).unwrap()
}

fn output(folder: &Path) -> PretrainingOutput {
    PretrainingOutput {
        folder: folder.into(),
        log_every: 2,
        save_every: 3,
    }
}

/// The bits of weights and moments.
fn bits(training: &Pretraining) -> Vec<(String, Vec<u32>)> {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let one = |p: &Parameter| {
        let weights = p.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let all = [&weights[..], &p.first, &p.second].map(bits).concat();
        (p.name.clone(), all)
    };
    training.parameters.iter().map(one).collect()
}

#[test]
fn a_resumed_training_equals_an_uninterrupted_one() {
    let source = PairSource::Shapes;
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut a = new(tiny(8), &source);
    let log_a = pretrain(&mut a, &source, &output(whole.path()), 8, |_| Ok(())).unwrap();

    let mut b = new(tiny(8), &source);
    pretrain(&mut b, &source, &output(parts.path()), 3, |_| Ok(())).unwrap();
    let mut c = new(tiny(8), &source);
    assert_ne!(bits(&b), bits(&c));
    c.load(&source, &output(parts.path()).state()).unwrap();
    assert_eq!(c.done, 3);
    assert_eq!(bits(&b), bits(&c));
    let log_c = pretrain(&mut c, &source, &output(parts.path()), 8, |_| Ok(())).unwrap();
    assert_eq!(bits(&a), bits(&c));
    assert_eq!(log_a.last().unwrap().loss, log_c.last().unwrap().loss);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let source = PairSource::Shapes;
    let train = |threads: usize| {
        let folder = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let mut training = new(tiny(3), &source);
            pretrain(
                &mut training,
                &source,
                &output(folder.path()),
                3,
                |_| Ok(()),
            )
            .unwrap();
            bits(&training)
        })
    };
    assert_eq!(train(1), train(3));
}

#[test]
fn a_state_of_other_options_or_a_truncated_one_is_an_error() {
    let source = PairSource::Shapes;
    let folder = tempfile::tempdir().unwrap();
    let mut training = new(tiny(3), &source);
    pretrain(
        &mut training,
        &source,
        &output(folder.path()),
        3,
        |_| Ok(()),
    )
    .unwrap();
    let path = output(folder.path()).state();
    let problem = |training: &mut Pretraining, path: &Path| match training.load(&source, path) {
        Err(Error::State { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    let mut other = tiny(3);
    other.learning_rate = 1e-4;
    assert!(problem(&mut new(other, &source), &path).contains("hyper-parameters"));
    let whole = std::fs::read(&path).unwrap();
    let cut = folder.path().join("cut");
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cut, &whole[..length]).unwrap();
        problem(&mut new(tiny(3), &source), &cut);
    }
}

#[test]
fn checkpoint_and_png_files_give_the_accuracy_of_the_model_in_memory() {
    let source = PairSource::Shapes;
    let folder = tempfile::tempdir().unwrap();
    // The class embeddings of an untrained model are far apart: rounding does not change their order.
    let training = new(tiny(1), &source);
    let template = "a photo of a {}.";
    let count = 104;
    let expected = evaluate_shapes(
        &training.model,
        &training.config,
        &training.vocabulary,
        template,
        (Split::Seen, 11, count),
    )
    .unwrap();
    // If all predictions were the same class, the pixels would not matter.
    let predicted = |class: &usize| expected.counts.iter().any(|row| row[*class] > 0);
    let predicted = (0..expected.classes.len()).filter(predicted).count();
    assert!(predicted > 4, "{predicted}");

    let checkpoint = output(folder.path()).checkpoint();
    training.write_checkpoint(&checkpoint).unwrap();
    let images = folder.path().join("images");
    for index in 0..count {
        let (scene, class, _) = shapes::sample(Split::Seen, 11, index);
        let path = images
            .join(shapes::class_name(class))
            .join(format!("{index}.png"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let image = shapes::render(&scene, 320, 240);
        let kind = image::ExtendedColorType::Rgb8;
        image::save_buffer(path, &image.data, image.width, image.height, kind).unwrap();
    }
    let classes = shapes::class_names();
    let checkpoint = Checkpoint::open(&checkpoint, &OpenOptions::default()).unwrap();
    let data = all_to_test(&images, &FolderNames::default()).unwrap();
    let data = data.with_classes(classes).unwrap();
    let encoder = ImageEncoder::open(&checkpoint).unwrap();
    let set = TestSet::new(&encoder, &data, &|_| {}).unwrap();
    let texts = PromptEvaluator::open(&checkpoint).unwrap();
    let outcome = texts.zero_shot(&set, &Templates::single(template).unwrap());
    assert_eq!(outcome.unwrap().confusion, expected);
}

/// Two PNG files and a list of them.
fn list(folder: &Path, rows: &str) -> PathBuf {
    for (name, index) in [("one.png", 0), ("two.png", 1)] {
        let image = shapes::render(&shapes::sample(Split::Train, 1, index).0, 40, 30);
        let kind = image::ExtendedColorType::Rgb8;
        image::save_buffer(folder.join(name), &image.data, 40, 30, kind).unwrap();
    }
    let path = folder.join("list.tsv");
    std::fs::write(&path, rows).unwrap();
    path
}

#[test]
fn each_epoch_of_a_list_has_every_pair_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = list(
        folder.path(),
        "filepath\ttitle\none.png\ta dog\ntwo.png\ta cat, asleep\n",
    );
    let source =
        PairSource::Files(PairFiles::from_list(&path, &ListOptions::default(), 0.8).unwrap());
    assert_eq!(source.epoch_images(), Some(2));
    let preprocessing = pinhole_model::PreprocessConfig::openai(16);
    let mut orders = std::collections::HashSet::new();
    for epoch in 0..16u64 {
        let at = |i: u64| source.pair(4, 2 * epoch + i, &preprocessing).unwrap();
        let (a, b) = (at(0), at(1));
        assert_eq!(a, at(0));
        let mut texts = [a.1.clone(), b.1];
        texts.sort();
        assert_eq!(texts, ["a cat, asleep", "a dog"]);
        orders.insert(a.1);
    }
    assert_eq!(orders.len(), 2, "every epoch has the same order");
    let mut options = tiny(2);
    options.batch_size = 3;
    let mut training = new(options, &source);
    let out = folder.path().join("out");
    pretrain(&mut training, &source, &output(&out), 2, |_| Ok(())).unwrap();
    // Other crops and captions are other data, though their number and words are the same.
    let mut options = tiny(2);
    options.batch_size = 3;
    let rows = std::fs::read_to_string(&path).unwrap();
    for (crop, rows) in [(0.5, rows.clone()), (0.8, rows.replace("a dog", "dog a"))] {
        std::fs::write(&path, rows).unwrap();
        let files = PairFiles::from_list(&path, &ListOptions::default(), crop).unwrap();
        let source = PairSource::Files(files);
        let mut training = new(options.clone(), &source);
        let refused = training.load(&source, &output(&out).state()).unwrap_err();
        assert!(refused.to_string().contains("--crop"), "{refused}");
    }
}

#[test]
fn errors_in_lists_name_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let error = |rows: &str| {
        let path = list(folder.path(), rows);
        match PairFiles::from_list(&path, &ListOptions::default(), 1.0) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{rows:?} was accepted"),
        }
    };
    assert!(error("filepath\ttitle\n").contains("no image"));
    assert!(error("").contains("no column"));
    assert!(error("file\ttitle\none.png\ta\n").contains("--image-column"));
    let missing = error("filepath\ttitle\none.png\ta\nthree.png\tb\n");
    assert!(
        missing.contains("line 3") && missing.contains("three.png"),
        "{missing}"
    );
    assert!(error("filepath\ttitle\none.png\t \n").contains("line 2: the caption is empty"));
    // A file that is not an image is an error when it is read.
    std::fs::write(folder.path().join("bad.png"), "no image").unwrap();
    let path = list(folder.path(), "filepath\ttitle\nbad.png\ta\n");
    let files = PairFiles::from_list(&path, &ListOptions::default(), 1.0).unwrap();
    let preprocessing = pinhole_model::PreprocessConfig::openai(16);
    let error = PairSource::Files(files)
        .pair(1, 0, &preprocessing)
        .unwrap_err()
        .to_string();
    assert!(error.contains("bad.png"), "{error}");
}

#[test]
fn class_folders_use_templates() {
    let folder = tempfile::tempdir().unwrap();
    for class in ["red dog", "cat"] {
        std::fs::create_dir(folder.path().join(class)).unwrap();
        list(&folder.path().join(class), "");
    }
    let templates = ["a photo of a {}.", "{}"].map(String::from);
    let source = PairSource::Files(
        PairFiles::from_folder(folder.path(), &templates, &FolderNames::default(), 1.0).unwrap(),
    );
    assert_eq!(source.epoch_images(), Some(4));
    let mut texts = source.texts();
    texts.sort();
    assert_eq!(
        texts,
        [
            "a photo of a cat.",
            "a photo of a red dog.",
            "cat",
            "red dog"
        ]
    );
    let wrong = PairFiles::from_folder(
        folder.path(),
        &["a photo".into()],
        &FolderNames::default(),
        1.0,
    );
    assert!(matches!(wrong, Err(Error::Options(_))));
    let empty = tempfile::tempdir().unwrap();
    assert!(
        PairFiles::from_folder(empty.path(), &templates, &FolderNames::default(), 1.0).is_err()
    );
}

#[test]
fn invalid_options_are_errors() {
    let change = |f: fn(&mut PretrainingOptions)| {
        let mut options = tiny(1);
        f(&mut options);
        let made = Pretraining::new(options, Vocabulary::of(["a"]));
        assert!(matches!(made, Err(Error::Options(_))));
    };
    change(|o| o.model.patch_size = 7);
    change(|o| o.model.patch_size = 0);
    change(|o| o.model.width = 65);
    change(|o| o.model.text_layers = 0);
    change(|o| o.model.context_length = 2);
    change(|o| o.steps = 0);
    change(|o| o.batch_size = 1);
    change(|o| o.learning_rate = f64::NAN);
    change(|o| o.beta2 = 1.0);
}
