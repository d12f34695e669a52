//! Fidelity of int8 where a few channels are far larger than the others, as in trained CLIPs.

use std::path::{Path, PathBuf};
use std::process::Output;

use pinhole::Classifier;
use pinhole_bundle::Fidelity;
use pinhole_bundle::dialect::{Op, Storage};
use pinhole_model::Tensor;

use crate::common::{self, INT8, Scene, write_checkpoint};

/// Makes six gains of each layer norm 20 to 60 times larger, the matching columns of the next linear layer smaller by
/// the square root of that, and shifts the mean of attention's values from 0.
fn outliers(name: &str, mut tensor: Tensor) -> Tensor {
    let norm = name.ends_with("ln_1.weight") || name.ends_with("ln_2.weight");
    let linear = name.ends_with("in_proj_weight") || name.ends_with("c_fc.weight");
    if name.starts_with("visual.transformer") && (norm || linear) {
        let width = *tensor.shape.last().unwrap();
        for (i, channel) in [3, 10, 22, 37, 45, 60].into_iter().enumerate() {
            let factor = 20.0 + 8.0 * i as f32;
            let factor = if norm { factor } else { factor.sqrt().recip() };
            for value in tensor.data.iter_mut().skip(channel).step_by(width) {
                *value *= factor;
            }
        }
    }
    if name.starts_with("visual.transformer") && name.ends_with("in_proj_bias") {
        let values = tensor.data.len() / 3 * 2;
        tensor.data[values..].iter_mut().for_each(|v| *v += 0.5);
    }
    tensor
}

fn checkpoint(scene: &Scene) -> PathBuf {
    let folder = scene.path("outliers");
    if !folder.exists() {
        write_checkpoint(&folder, outliers);
    }
    folder
}

/// Exports in int8 with `--min-cosine min_cosine` to the folder `out`.
fn export(scene: &Scene, checkpoint: &Path, min_cosine: f32, out: &str) -> Output {
    let (min_cosine, path) = (min_cosine.to_string(), scene.path(out));
    let photos = scene.photos();
    let flags = [
        "--precision",
        "int8",
        "--min-agreement",
        "0",
        "--min-cosine",
        &min_cosine,
        "--calibration",
        &photos,
        "--out",
        path.to_str().unwrap(),
    ];
    scene.export(checkpoint, &flags)
}

fn fidelity(classifier: &Classifier) -> Fidelity {
    classifier.manifest().fidelity.unwrap()
}

/// Number of linear layers in floating point, without the last projection.
fn kept(classifier: &Classifier) -> usize {
    let operators = pinhole::internal::operators(classifier);
    let float = |op: Option<Op>| match op {
        Some(Op::Linear(layer)) => layer.storage == Storage::Float,
        Some(Op::PatchEmbedding(storage)) => storage == Storage::Float,
        _ => false,
    };
    let kept = operators
        .iter()
        .filter(|o| float(o.function) && o.name != "proj");
    kept.count()
}

#[test]
fn smoothing_keeps_the_embedding_of_a_model_with_outlier_channels() {
    let scene = Scene::new("cat\ndog");
    let photos = scene.photos();
    let flags = [&INT8[..], &["--report", "--calibration", &photos]].concat();
    let output = scene.export(&checkpoint(&scene), &flags);
    assert!(output.status.success(), "{output:?}");
    let classifier = Classifier::open(scene.path("bundle")).unwrap();
    // Without smoothing: 0.9962.
    let found = fidelity(&classifier);
    assert!(found.mean_cosine > 0.9993, "{found:?}");
    assert_eq!(kept(&classifier), 0);

    let report = String::from_utf8(output.stdout).unwrap();
    assert!(report.contains("16 calibration images"), "{report}");
    let rows: Vec<Vec<&str>> = report
        .lines()
        .filter(|l| l.starts_with("| block_") || l.starts_with("| patch_"))
        .map(|l| l.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 10, "{report}");
    for row in &rows {
        let number =
            |column: usize| -> f32 { row[column].split(' ').next().unwrap().parse().unwrap() };
        if row[1].contains("query") || row[1].contains("key_value") || row[1].contains("c_fc") {
            assert!(row[2].contains("smoothed"), "{row:?}");
            assert!(number(3) < 0.4 * number(4) && number(5) > 10.0, "{row:?}");
        }
        assert!(number(6) >= 0.0, "{row:?}");
    }
}

/// A layer in floating point must apply the input transform of the int8 layer that reads its outputs.
#[test]
fn values_in_floating_point_are_centred_for_an_int8_projection() {
    let scene = Scene::new("cat\ndog");
    let folder = scene.path("spikes");
    // One weight of each output is so large that the others round to almost 0.
    write_checkpoint(&folder, |name, mut tensor| {
        if name == "visual.transformer.resblocks.0.attn.in_proj_weight" {
            let width = tensor.shape[1];
            for (i, row) in tensor.data.chunks_exact_mut(width).enumerate() {
                row[7 * i % width] *= 40.0;
            }
        }
        outliers(name, tensor)
    });
    // The images of the self-test, of which the layer with the spikes is the most sensitive.
    let output = scene.export(
        &folder,
        &[&INT8[..], &["--out", &scene.path("any").to_string_lossy()]].concat(),
    );
    assert!(output.status.success(), "{output:?}");
    let images = scene.path("photos");
    std::fs::create_dir(&images).unwrap();
    for name in ["bars", "disc", "tiles"] {
        for copy in 0..6 {
            let golden = scene.path(&format!("any/golden/{name}.png"));
            std::fs::copy(golden, images.join(format!("{copy}-{name}.png"))).unwrap();
        }
    }
    let bounds = [
        "--min-agreement",
        "0",
        "--min-cosine",
        "0.99995",
        "--calibration",
    ];
    let flags = [
        &["--precision", "int8"][..],
        &bounds,
        &[images.to_str().unwrap()],
    ]
    .concat();
    let output = scene.export(&folder, &flags);
    assert!(output.status.success(), "{output:?}");
    let classifier = Classifier::open(scene.path("bundle")).unwrap();
    let operator = |name: &str| {
        let operators = pinhole::internal::operators(&classifier);
        let found = operators.iter().find(|o| o.name == name);
        found.map(|o| o.operator.clone())
    };
    assert_eq!(operator("block_0.query_key_value").unwrap(), "Linear");
    assert_eq!(operator("block_0.out_proj").unwrap(), "QuantizedLinearAdd");
}

#[test]
fn layers_stay_in_floating_point_until_the_gate_accepts() {
    let scene = Scene::new("cat\ndog");
    let export = |min_cosine, out| export(&scene, &checkpoint(&scene), min_cosine, out);
    let output = export(0.0, "any");
    assert!(output.status.success(), "{output:?}");
    let all = fidelity(&Classifier::open(scene.path("any")).unwrap());
    let asked = 1.0 - 0.9 * (1.0 - all.mean_cosine);
    let output = export(asked, "better");
    assert!(output.status.success(), "{output:?}");
    let better = Classifier::open(scene.path("better")).unwrap();
    assert!(fidelity(&better).mean_cosine >= asked);
    assert!(kept(&better) > 0);

    // A gate that a quarter of the weights in f16 cannot satisfy: an error with the table, and nothing left behind.
    let output = export(1.0, "perfect");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains(
            "error: precision int8: expected a mean cosine with f32 of at least 1 (--min-cosine)"
        ) && message.contains("on 16 images"),
        "{message}"
    );
    assert!(
        message.contains("| block_1.c_proj | ") && message.contains(" | f16 | "),
        "{message}"
    );
    let left: Vec<_> = std::fs::read_dir(scene.folder.path()).unwrap().collect();
    assert_eq!(left.len(), 5, "{left:?}");
}

/// If this fails, int8 is called good because it agrees with f32 on three generated images.
#[test]
fn int8_is_not_judged_by_a_few_images() {
    let scene = Scene::new("cat\ndog");
    let int8 = ["--precision", "int8"];
    let expected = [
        "--calibration",
        "at least 16 images",
        "--min-cosine 0 --min-agreement 0",
    ];
    let photos = scene.photos();
    std::fs::remove_file(scene.path("photos/0.png")).unwrap();
    let bounds = [["--min-cosine", "0"], ["--min-agreement", "0"]];
    for bound in [&[][..], &bounds[0], &bounds[1]] {
        let flags = [&int8[..], &["--calibration", &photos], bound].concat();
        let few = scene.export(&common::checkpoint(), &flags);
        scene.assert_fails(&few, &[&expected[..], &["found 15"]].concat());
    }
    let output = scene.export(&common::checkpoint(), &INT8);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{message}");
    assert!(message.contains("note: int8 was not judged"), "{message}");
}
