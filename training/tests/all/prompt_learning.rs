//! Prompt learning: compared with PyTorch, resumed, and its errors.

use std::path::{Path, PathBuf};

use pinhole_checkpoint::{
    Checkpoint, Existing, OpenOptions, read_prompt_learner, write_prompt_learner,
};
use pinhole_model::{
    Activation, ClassPosition, ClipConfig, ImageEncoderConfig, MetaNet, PreprocessConfig,
    PromptLearner, TextEncoderConfig,
};
use pinhole_training::{
    dataset::{self, DatasetOptions, LabelledImage},
    log::UpdateStats,
    prompt_learning::{
        ImageFeatures, Intervals, LEARNER_FILE, Method, PromptOptions, PromptOutput,
        PromptTraining, Start, TrainingEvent, image_features, train,
    },
    shapes,
};
use serde_json::Value;

use crate::common::numbers::{uniform, weight};

/// The model of make_prompt_training.py.
fn model(folder: &Path, activation: Activation) -> Checkpoint {
    write(folder, &config(activation))
}

fn config(activation: Activation) -> ClipConfig {
    ClipConfig {
        name: None,
        embedding: 32,
        image: ImageEncoderConfig::VisionTransformer {
            image_size: 32,
            patch_size: 16,
            width: 64,
            layers: 1,
            heads: 1,
            mlp: 4 * 64,
            input_norm: true,
            pooling: pinhole_model::VitPooling::ClassToken,
        },
        text: TextEncoderConfig {
            context_length: 24,
            vocabulary: 49_408,
            width: 64,
            layers: 3,
            heads: 4,
            form: Default::default(),
        },
        activation,
        text_activation: activation,
        preprocessing: PreprocessConfig::openai(32),
    }
}

fn write(folder: &Path, config: &ClipConfig) -> Checkpoint {
    let shapes = config.tensors();
    pinhole_checkpoint::write(folder, config, Existing::Replace, |name| {
        let (_, shape) = shapes.iter().find(|(known, _)| known == name).unwrap();
        Ok::<_, pinhole_checkpoint::Error>(weight(name, shape))
    })
    .unwrap();
    Checkpoint::open(folder, &OpenOptions::default()).unwrap()
}

fn quick(folder: &Path) -> Checkpoint {
    model(&folder.join("clip"), Activation::QuickGelu)
}

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/prompt_training.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    let texts = value.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn features(images: usize) -> (ImageFeatures, Vec<usize>) {
    let mut data = uniform("features", images * 32);
    for row in data.chunks_exact_mut(32) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    let features = ImageFeatures {
        views: 1,
        embedding: 32,
        data,
    };
    (features, (0..images).map(|image| image % 6).collect())
}

fn length(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|&v| f64::from(v).powi(2))
        .sum::<f64>()
        .sqrt()
}

fn close(ours: f64, expected: f64, what: &str) {
    let fine = (ours - expected).abs() < 1e-4 * expected.abs();
    assert!(fine, "{what}: {ours}, PyTorch {expected}");
}

#[test]
fn losses_equal_pytorchs() {
    let folder = tempfile::tempdir().unwrap();
    let golden = golden();
    let number = |name: &str| golden[name].as_f64().unwrap();
    let classes = strings(&golden["classes"]);
    let n_ctx = golden["n_ctx"].as_u64().unwrap() as usize;
    let gelu = model(&folder.path().join("gelu"), Activation::Gelu);
    let quick = quick(folder.path());
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let what = format!(
            "{} {} class-specific {} {} batch {}",
            case["method"],
            case["position"],
            case["class_specific"],
            case["activation"],
            case["batch_size"]
        );
        let clip = match case["activation"].as_str() {
            Some("gelu") => &gelu,
            _ => &quick,
        };
        let class_specific = case["class_specific"].as_bool().unwrap();
        let shape = match class_specific {
            true => vec![classes.len(), n_ctx, 64],
            false => vec![n_ctx, 64],
        };
        let cocoop = case["method"] == "cocoop";
        let init = folder.path().join("init.safetensors");
        let learner = PromptLearner {
            context: weight("ctx", &shape),
            meta_net: cocoop.then(|| MetaNet {
                linear1_weight: weight("meta_net.linear1.weight", &[2, 32]),
                linear1_bias: weight("meta_net.linear1.bias", &[2]),
                linear2_weight: weight("meta_net.linear2.weight", &[64, 2]),
                linear2_bias: weight("meta_net.linear2.bias", &[64]),
            }),
            class_position: None,
        };
        write_prompt_learner(&init, &learner, &[]).unwrap();
        let method = if cocoop { Method::COCOOP } else { Method::COOP };
        let options = PromptOptions {
            words: None,
            init: Some(init),
            class_specific,
            class_position: case["position"].as_str().unwrap().parse().unwrap(),
            epochs: number("epochs") as u64,
            batch_size: case["batch_size"].as_u64().unwrap() as usize,
            learning_rate: number("learning_rate"),
            warm_up_rate: number("warm_up_rate"),
            momentum: number("momentum"),
            weight_decay: number("weight_decay"),
            ..PromptOptions::new(method, 16, 1)
        };
        let (features, labels) = features(number("images") as usize);
        let mut training = PromptTraining::new(clip, &classes, features, labels, &options).unwrap();
        let batches = case["batches"].as_array().unwrap().iter();
        let losses = case["losses"].as_array().unwrap();
        assert_eq!(losses.len(), 20);
        for (step, (batch, expected)) in batches.zip(losses).enumerate() {
            let batch = batch.as_array().unwrap().iter();
            let batch: Vec<_> = batch.map(|i| (i.as_u64().unwrap() as usize, 0)).collect();
            let UpdateStats { loss, gradient, .. } = training.update(&batch).unwrap();
            let expected = expected.as_f64().unwrap();
            close(f64::from(loss), expected, &format!("{what}: loss {step}"));
            if step == 0 {
                let lengths = case["gradient_lengths"].as_object().unwrap().values();
                let squares = lengths.map(|l| l.as_f64().unwrap().powi(2)).sum::<f64>();
                close(gradient, squares.sqrt(), &format!("{what}: gradient"));
            }
        }
        let learner = training.learner();
        let mut tensors = vec![("ctx", learner.context)];
        if let Some(net) = learner.meta_net {
            tensors.push(("meta_net.linear1.weight", net.linear1_weight));
            tensors.push(("meta_net.linear1.bias", net.linear1_bias));
            tensors.push(("meta_net.linear2.weight", net.linear2_weight));
            tensors.push(("meta_net.linear2.bias", net.linear2_bias));
        }
        assert_eq!(
            tensors.len(),
            case["final_lengths"].as_object().unwrap().len()
        );
        for (name, tensor) in tensors {
            let expected = case["final_lengths"][name].as_f64().unwrap();
            close(length(&tensor.data), expected, &format!("{what}: {name}"));
        }
    }
}

/// Six images of the synthetic shapes for each of three classes.
fn images() -> (Vec<String>, Vec<LabelledImage>) {
    let set = dataset::open(Path::new("shapes"), &DatasetOptions::default()).unwrap();
    let mut items = set.few_shot(6, 1).unwrap();
    items.retain(|item| item.label < 3);
    (set.classes[..3].to_vec(), items)
}

/// A new training in a folder.
fn output(folder: impl Into<PathBuf>) -> PromptOutput {
    PromptOutput {
        folder: folder.into(),
        start: Start::New,
        intervals: Intervals::default(),
    }
}

/// Continues the training in a folder.
fn resume(folder: &Path) -> PromptOutput {
    PromptOutput {
        start: Start::Resume,
        ..output(folder)
    }
}

fn no_progress(_: TrainingEvent) {}

fn short(method: Method) -> PromptOptions {
    PromptOptions {
        epochs: 3,
        batch_size: 4,
        ..PromptOptions::new(method, 16, 1)
    }
}

fn bits(learner: &PromptLearner) -> Vec<u32> {
    let mut tensors = vec![&learner.context];
    if let Some(net) = &learner.meta_net {
        tensors.extend([&net.linear1_weight, &net.linear1_bias]);
        tensors.extend([&net.linear2_weight, &net.linear2_bias]);
    }
    tensors
        .iter()
        .flat_map(|t| &t.data)
        .map(|v| v.to_bits())
        .collect()
}

#[test]
fn a_resumed_training_equals_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let (classes, items) = images();
    let labels: Vec<usize> = items.iter().map(|item| item.label).collect();
    for method in [Method::COOP, Method::COCOOP] {
        let options = PromptOptions {
            views: 2,
            ..short(method)
        };
        let features = image_features(&clip, &items, &options, &mut no_progress).unwrap();
        let new = || {
            PromptTraining::new(&clip, &classes, features.clone(), labels.clone(), &options)
                .unwrap()
        };
        let out = |name: &str| folder.path().join(format!("{method:?}-{name}"));
        let parts = |start: Start| PromptOutput {
            start,
            intervals: Intervals { log: 2, save: 3 },
            ..output(out("parts"))
        };
        let whole = train(
            &clip,
            &classes,
            &items,
            &options,
            &output(out("whole")),
            &mut no_progress,
        )
        .unwrap();
        let mut first = new();
        assert_eq!(first.steps(), 12);
        first
            .run_until(5, &parts(Start::New), &mut no_progress)
            .unwrap();
        assert_ne!(bits(&whole), bits(&first.learner()));
        // As if killed after a log line and before the next saved state.
        let log = out("parts").join("log.jsonl");
        let mut text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().count(), 3);
        let last = text
            .lines()
            .last()
            .unwrap()
            .replace("\"step\":5", "\"step\":6");
        text.push_str(&last);
        text.push('\n');
        std::fs::write(&log, text).unwrap();
        let mut second = new();
        let resumed = second.run(&parts(Start::Resume), &mut no_progress).unwrap();
        assert_eq!(bits(&whole), bits(&resumed));
        let written = read_prompt_learner(&out("parts").join(LEARNER_FILE)).unwrap();
        assert_eq!(bits(&whole), bits(&written));
        assert_eq!(written.class_position, Some(ClassPosition::End));
        let text = std::fs::read_to_string(&log).unwrap();
        let step = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["step"].as_u64().unwrap()
        };
        assert_eq!(
            text.lines().map(step).collect::<Vec<_>>(),
            [2, 4, 5, 6, 8, 10, 12]
        );
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["images"], 48);
        // A finished training is read, not trained again.
        let again = train(
            &clip,
            &classes,
            &items,
            &options,
            &resume(&out("whole")),
            &mut no_progress,
        );
        assert_eq!(bits(&whole), bits(&again.unwrap()));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let (classes, items) = images();
    for method in [Method::COOP, Method::COCOOP] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let out = folder.path().join(format!("{method:?}-{threads}"));
            let options = short(method);
            pool.build().unwrap().install(|| {
                let out = output(out);
                bits(&train(&clip, &classes, &items, &options, &out, &mut no_progress).unwrap())
            })
        };
        assert_eq!(run(1), run(3));
    }
}

#[test]
fn classes_in_several_parts_have_the_same_loss() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let mut classes = shapes::class_names();
    classes.truncate(60);
    // Two classes of one name, in different parts: their rows are the same nodes of the tree, or are not.
    classes[59] = classes[0].clone();
    for (class_specific, method) in [
        (false, Method::COOP),
        (true, Method::COOP),
        (false, Method::COCOOP),
    ] {
        let run = |memory: usize| {
            let (features, _) = features(60);
            let options = PromptOptions {
                class_specific,
                memory,
                learning_rate: 0.01,
                warm_up: 0,
                ..short(method)
            };
            let labels = (0..60).collect();
            let mut training =
                PromptTraining::new(&clip, &classes, features, labels, &options).unwrap();
            let batch = training.batch(0);
            let found = (0..4).map(|_| training.update(&batch).unwrap());
            found
                .map(|update| (update.loss, update.gradient))
                .collect::<Vec<_>>()
        };
        // A row takes 12 KiB here, so 1 MiB holds less than 60 prompts of at least 2 rows.
        let (whole, parts) = (run(1024), run(1));
        // Class-specific contexts have no sum over classes that parts could split.
        assert_eq!(whole == parts, class_specific);
        for ((a, b), (c, d)) in whole.into_iter().zip(parts) {
            assert!(
                (a - c).abs() < 1e-5 * a && (b - d).abs() < 1e-4 * b,
                "{a} {c}, {b} {d}"
            );
        }
    }
}

#[test]
fn the_loss_equals_that_of_exported_class_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let names = strings(&golden()["classes"]);
    let encoder = pinhole_prompts::TextEncoder::load(&clip).unwrap();
    let tokenizer = pinhole_prompts::Tokenizer::new();
    let classes = pinhole_prompts::Classes::new(&names).unwrap();
    let (all, labels) = features(12);
    let loss = |class: &dyn Fn(&[f32]) -> Vec<f32>| {
        let mut sum = 0.0;
        for (image, &label) in all.data.chunks_exact(32).zip(&labels) {
            let dot = |t: &[f32]| {
                t.iter()
                    .zip(image)
                    .map(|(t, f)| f64::from(t * f))
                    .sum::<f64>()
            };
            let class = class(image);
            let scale = f64::from(clip.logit_scale());
            let logits: Vec<f64> = class.chunks_exact(32).map(|t| scale * dot(t)).collect();
            sum += logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[label];
        }
        sum / labels.len() as f64
    };
    for position in [
        ClassPosition::End,
        ClassPosition::Middle,
        ClassPosition::Front,
    ] {
        let options = PromptOptions {
            class_position: position,
            n_ctx: 5,
            ..PromptOptions::new(Method::COOP, 1, 1)
        };
        let mut training =
            PromptTraining::new(&clip, &names, all.clone(), labels.clone(), &options).unwrap();
        let learner = training.learner();
        let embeddings = pinhole_prompts::learned_embeddings(
            &encoder,
            &tokenizer,
            &classes,
            &learner,
            position,
            &mut |_, _| {},
        )
        .unwrap();
        let batch: Vec<(usize, usize)> = (0..12).map(|image| (image, 0)).collect();
        let ours = training.update(&batch).unwrap().loss;
        close(
            f64::from(ours),
            loss(&|_| embeddings.data.clone()),
            &position.to_string(),
        );
    }
    let options = PromptOptions::new(Method::COCOOP, 16, 1);
    let mut training =
        PromptTraining::new(&clip, &names, all.clone(), labels.clone(), &options).unwrap();
    let learner = training.learner();
    let head = pinhole_prompts::Conditional::new(&encoder, &tokenizer, &classes, &learner).unwrap();
    let batch: Vec<(usize, usize)> = (0..12).map(|image| (image, 0)).collect();
    let ours = training.update(&batch).unwrap().loss;
    let expected = loss(&|image| head.exact(&encoder, image, None).unwrap());
    close(f64::from(ours), expected, "cocoop");
}

#[test]
fn training_lowers_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let classes = strings(&golden()["classes"]);
    for (method, rate) in [(Method::COOP, 0.1), (Method::COCOOP, 0.02)] {
        let (features, labels) = features(12);
        let options = PromptOptions {
            epochs: 40,
            learning_rate: rate,
            ..short(method)
        };
        let mut training =
            PromptTraining::new(&clip, &classes, features, labels, &options).unwrap();
        let mut records = Vec::new();
        let out = folder.path().join(format!("{method:?}"));
        let mut observe = |event: TrainingEvent| {
            if let TrainingEvent::Logged { record, .. } = event {
                records.push(record.clone());
            }
        };
        training.run(&output(&out), &mut observe).unwrap();
        let (first, last) = (&records[0], &records[records.len() - 1]);
        assert!(
            last.loss < 0.8 * first.loss,
            "{method:?}: {} {}",
            first.loss,
            last.loss
        );
        assert!(
            std::fs::read_to_string(out.join("plot.svg"))
                .unwrap()
                .contains("<polyline")
        );
    }
}

#[test]
fn the_initial_context_is_words_or_random() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let classes = ["cat".to_owned(), "dog".to_owned()];
    let start = |options: &PromptOptions| {
        let (features, _) = features(2);
        PromptTraining::new(&clip, &classes, features, vec![0, 1], options)
            .unwrap()
            .learner()
    };
    let cocoop = start(&PromptOptions::new(Method::COCOOP, 16, 1));
    let table = clip.tensor("token_embedding.weight").unwrap().data;
    // "a photo of a" in CLIP's vocabulary.
    let words: Vec<f32> = [320, 1125, 539, 320usize]
        .iter()
        .flat_map(|id| table[id * 64..(id + 1) * 64].to_vec())
        .collect();
    assert_eq!(
        (cocoop.context.shape, cocoop.context.data),
        (vec![4, 64], words)
    );
    let net = cocoop.meta_net.unwrap();
    assert_eq!(net.linear1_weight.shape, [2, 32]);
    let most = net
        .linear1_weight
        .data
        .iter()
        .fold(0f32, |m, v| m.max(v.abs()));
    assert!(most <= 32f32.sqrt().recip() && most > 0.1, "{most}");

    let coop = start(&PromptOptions::new(Method::COOP, 16, 1));
    assert_eq!(coop.context.shape, [16, 64]);
    let deviation = length(&coop.context.data) / 1024f64.sqrt();
    assert!((deviation - 0.02).abs() < 0.002, "{deviation}");
    assert_ne!(
        coop.context,
        start(&PromptOptions::new(Method::COOP, 16, 2)).context
    );
    let own = PromptOptions {
        class_specific: true,
        ..PromptOptions::new(Method::COOP, 16, 1)
    };
    assert_eq!(start(&own).context.shape, [2, 16, 64]);
}

#[test]
fn views_vary_and_depend_on_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let (_, items) = images();
    let encode = |views: usize, seed: u64| {
        let options = PromptOptions {
            views,
            ..PromptOptions::new(Method::COOP, 1, seed)
        };
        let mut reported = Vec::new();
        let found = image_features(&clip, &items, &options, &mut |event: TrainingEvent| {
            if let TrainingEvent::Encoded { done, total } = event {
                reported.push((done, total));
            }
        });
        let all = items.len() * views.max(1);
        assert_eq!(
            (reported[0], reported[reported.len() - 1]),
            ((0, all), (all, all))
        );
        found.unwrap()
    };
    let plain = encode(0, 1);
    assert_eq!((plain.views, plain.data.len()), (1, items.len() * 32));
    assert_eq!(plain, encode(0, 2));
    let views = encode(3, 1);
    assert_eq!((views.views, views.data.len()), (3, items.len() * 96));
    assert_eq!(views, encode(3, 1));
    assert_ne!(views, encode(3, 2));
    let rows: Vec<&[f32]> = views.data.chunks_exact(32).collect();
    assert!(rows[0] != rows[1] && rows[0] != &plain.data[..32]);
    for row in rows {
        assert!((length(row) - 1.0).abs() < 1e-5);
    }
}

#[test]
fn a_bundle_can_encode_the_images() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let demo = root.join("assets/demo");
    let bundle = pinhole::Classifier::open(&demo).unwrap();
    let (embedding, size) = {
        let model = &bundle.manifest().model;
        (model.embedding_size, model.image_size)
    };
    let options = PromptOptions {
        encoder: Some(demo),
        ..PromptOptions::new(Method::COOP, 1, 1)
    };
    let (_, items) = images();
    let encode = |clip: &Checkpoint, options: &PromptOptions| {
        image_features(clip, &items, options, &mut no_progress).map_err(|error| error.to_string())
    };
    let mut config = config(Activation::QuickGelu);
    config.embedding = embedding;
    config.preprocessing = PreprocessConfig::openai(size);
    if let ImageEncoderConfig::VisionTransformer { image_size, .. } = &mut config.image {
        *image_size = size;
    }
    let fitting = write(&folder.path().join("fitting"), &config);
    let features = encode(&fitting, &options).unwrap();
    assert_eq!(features.data.len(), items.len() * embedding);
    for (row, item) in features.data.chunks_exact(embedding).zip(&items) {
        assert_eq!(row, bundle.embed(&item.decode().unwrap()).unwrap().values);
    }
    let error = encode(&quick(folder.path()), &options).unwrap_err();
    assert!(error.contains("the same model"), "{error}");
    // A ModifiedResNet needs a bundle.
    let resnet = root.join("tests/golden/models/resnet/open-clip");
    let resnet = Checkpoint::open(&resnet, &OpenOptions::default()).unwrap();
    let error = encode(&resnet, &PromptOptions::new(Method::COOP, 1, 1)).unwrap_err();
    assert!(error.contains("--encoder"), "{error}");
}

#[test]
fn each_epoch_has_its_own_order_and_views() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let (features, labels) = features(30);
    let features = ImageFeatures {
        views: 3,
        ..features
    };
    let options = PromptOptions {
        views: 3,
        ..short(Method::COOP)
    };
    let classes = strings(&golden()["classes"]);
    let new = |seed: u64| {
        let options = PromptOptions {
            seed,
            ..options.clone()
        };
        let labels = labels[..10].to_vec();
        PromptTraining::new(&clip, &classes, features.clone(), labels, &options).unwrap()
    };
    let training = new(1);
    // 10 images in batches of 4: two batches per epoch, two images dropped.
    assert_eq!(training.steps(), 6);
    let epoch = |training: &PromptTraining, epoch: u64| {
        [training.batch(2 * epoch), training.batch(2 * epoch + 1)].concat()
    };
    let mut views = [false; 3];
    for i in 0..3 {
        let mut images: Vec<usize> = epoch(&training, i).iter().map(|&(i, _)| i).collect();
        images.sort();
        images.dedup();
        assert_eq!(images.len(), 8);
        epoch(&training, i)
            .iter()
            .for_each(|&(_, view)| views[view] = true);
    }
    assert_eq!(views, [true; 3]);
    assert_eq!(epoch(&training, 1), epoch(&new(1), 1));
    assert_ne!(epoch(&training, 1), epoch(&new(2), 1));
    assert_ne!(epoch(&training, 0), epoch(&training, 1));
    let view_of = |found: &[(usize, usize)], image: usize| {
        found
            .iter()
            .find(|(i, _)| *i == image)
            .map(|(_, view)| *view)
    };
    let (first, second) = (epoch(&training, 0), epoch(&training, 1));
    let changed = (0..10).filter(|&image| {
        let views = view_of(&first, image).zip(view_of(&second, image));
        views.is_some_and(|(a, b)| a != b)
    });
    assert!(changed.count() > 0);
}

#[test]
fn invalid_options_and_classes_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let fail = |classes: &[&str], options: &PromptOptions| {
        let classes: Vec<String> = classes.iter().map(|&c| c.into()).collect();
        let (features, _) = features(2);
        match PromptTraining::new(&clip, &classes, features, vec![0, 0], options) {
            Ok(_) => panic!("{classes:?} {options:?}"),
            Err(error) => error.to_string(),
        }
    };
    let coop = PromptOptions::new(Method::COOP, 1, 1);
    let long = "a very much longer name of a bird";
    let error = fail(&["a rather long name of a dog", long, "cat"], &coop);
    assert!(error.contains(long) && error.contains("24"), "{error}");
    assert!(fail(&["cat", " "], &coop).contains("class 1"));
    assert!(fail(&["cat"], &coop).contains("at least two classes"));
    assert!(fail(&["cat <end&#95;of&#95;text> a", "dog"], &coop).contains("starts or ends"));
    let with = |change: fn(&mut PromptOptions)| {
        let mut options = PromptOptions::new(Method::COOP, 1, 1);
        change(&mut options);
        fail(&["cat", "dog"], &options)
    };
    assert!(with(|o| o.n_ctx = 0).contains("--n-ctx"));
    assert!(with(|o| o.words = Some(" ".into())).contains("--words"));
    assert!(with(|o| o.momentum = 1.0).contains("out of range"));
    assert!(with(|o| o.learning_rate = f64::NAN).contains("out of range"));
    assert!(with(|o| o.init = Some("nowhere".into())).contains("nowhere"));
    assert!(
        with(|o| {
            o.class_specific = true;
            o.words = Some("a".into());
        })
        .contains("--class-specific")
    );
    assert!(
        with(|o| {
            o.method = Method::COCOOP;
            o.class_position = ClassPosition::Front;
        })
        .contains("--class-position")
    );
    assert!(with(|o| o.views = 2).contains("2 views"));

    let (few, _) = features(2);
    let classes = ["cat".to_owned(), "dog".to_owned()];
    let new = |features: ImageFeatures, labels: Vec<usize>| {
        PromptTraining::new(&clip, &classes, features, labels, &coop).map(|_| ())
    };
    assert!(
        new(few.clone(), vec![0, 2])
            .unwrap_err()
            .to_string()
            .contains("label 2")
    );
    assert!(new(few.clone(), vec![0]).is_err());
    assert!(new(few.clone(), vec![]).is_err());
    let mut training = PromptTraining::new(&clip, &classes, few, vec![0, 1], &coop).unwrap();
    assert!(training.update(&[(2, 0)]).is_err());
    assert!(training.update(&[(0, 1)]).is_err());
    assert!(training.update(&[]).is_err());
}

#[test]
fn a_prompt_learner_of_another_model_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let path = folder.path().join("init.safetensors");
    let start = |shape: &[usize], position: Option<ClassPosition>, options: PromptOptions| {
        let learner = PromptLearner {
            context: weight("ctx", shape),
            meta_net: None,
            class_position: position,
        };
        write_prompt_learner(&path, &learner, &[]).unwrap();
        let options = PromptOptions {
            init: Some(path.clone()),
            words: None,
            ..options
        };
        let classes = ["cat".to_owned(), "dog".to_owned()];
        let (features, _) = features(2);
        let training = PromptTraining::new(&clip, &classes, features, vec![0, 1], &options);
        training.map(|_| ()).map_err(|error| error.to_string())
    };
    let coop = || PromptOptions::new(Method::COOP, 1, 1);
    start(&[3, 64], None, coop()).unwrap();
    assert!(start(&[3, 32], None, coop()).unwrap_err().contains("32"));
    assert!(
        start(&[2, 3, 64], None, coop())
            .unwrap_err()
            .contains("class-specific contexts of 2 classes")
    );
    assert!(
        start(&[3, 64], Some(ClassPosition::Front), coop())
            .unwrap_err()
            .contains("end")
    );
    let error = start(&[3, 64], None, PromptOptions::new(Method::COCOOP, 16, 1)).unwrap_err();
    assert!(error.contains("found one of CoOp"), "{error}");
}

#[test]
fn a_state_of_other_options_or_data_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let (classes, items) = images();
    let out: PathBuf = folder.path().join("out");
    let options = PromptOptions {
        epochs: 1,
        ..short(Method::COOP)
    };
    let go =
        |classes: &[String], items: &[LabelledImage], options: &PromptOptions, start: Start| {
            let output = PromptOutput {
                start,
                ..output(&out)
            };
            let done = train(&clip, classes, items, options, &output, &mut no_progress);
            done.map(|_| ()).map_err(|error| error.to_string())
        };
    go(&classes, &items, &options, Start::New).unwrap();
    assert!(
        go(&classes, &items, &options, Start::New)
            .unwrap_err()
            .contains("--resume")
    );
    go(&classes, &items, &options, Start::Resume).unwrap();
    let other = PromptOptions {
        seed: 2,
        ..options.clone()
    };
    assert!(
        go(&classes, &items, &other, Start::Resume)
            .unwrap_err()
            .contains("other hyper-parameters")
    );
    let mut renamed = classes.clone();
    renamed[0] = "zebra".into();
    let other = "other classes or other images";
    assert!(
        go(&renamed, &items, &options, Start::Resume)
            .unwrap_err()
            .contains(other)
    );
    assert!(
        go(&classes, &items[1..], &options, Start::Resume)
            .unwrap_err()
            .contains(other)
    );
    let state = out.join("state.safetensors");
    let bytes = std::fs::read(&state).unwrap();
    std::fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    assert!(
        go(&classes, &items, &options, Start::Resume)
            .unwrap_err()
            .contains("state.safetensors")
    );
    std::fs::remove_file(&state).unwrap();
    assert!(
        go(&classes, &items, &options, Start::Resume)
            .unwrap_err()
            .contains("state.safetensors")
    );
}

#[test]
fn a_non_finite_loss_stops_the_training() {
    let folder = tempfile::tempdir().unwrap();
    let clip = quick(folder.path());
    let (classes, items) = images();
    let options = PromptOptions {
        learning_rate: 1e38,
        warm_up: 0,
        weight_decay: 0.0,
        ..short(Method::COOP)
    };
    let out = folder.path().join("out");
    let error = train(
        &clip,
        &classes,
        &items,
        &options,
        &output(&out),
        &mut no_progress,
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("lower --learning-rate"),
        "{error}"
    );
    assert!(!out.join(LEARNER_FILE).exists());
}
