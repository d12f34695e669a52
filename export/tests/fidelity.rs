//! What int8 keeps of f32 where a few channels are far larger than the others, as in trained CLIPs.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::{Scene, write_checkpoint};
use pinhole::{Classifier, Fidelity};
use pinhole_model::Tensor;

/// Six gains of each layer norm 20 to 60 times larger, the matching columns of the next linear layer smaller by
/// that factor's square root; values of attention that lie off zero.
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

/// In int8, of which `least` is asked, into the folder `out`.
fn export(scene: &Scene, checkpoint: &Path, least: f32, out: &str) -> Output {
    let (least, path) = (least.to_string(), scene.path(out));
    let flags = [
        "--precision",
        "int8",
        "--min-agreement",
        "0",
        "--min-cosine",
        &least,
        "--out",
        path.to_str().unwrap(),
    ];
    scene.export(checkpoint, &flags)
}

fn fidelity(classifier: &Classifier) -> Fidelity {
    classifier.manifest().fidelity.unwrap()
}

/// Operators of floating point, the last projection aside.
fn kept(classifier: &Classifier) -> usize {
    let operators = classifier.operators();
    let kept = |name: &str, op: &str| {
        (op.starts_with("Linear") || op == "PatchEmbedding") && name != "proj"
    };
    operators
        .iter()
        .filter(|o| kept(&o.name, &o.operator))
        .count()
}

#[test]
fn smoothing_keeps_the_embedding_of_a_model_with_outlier_channels() {
    let scene = Scene::new("cat\ndog");
    let flags = ["--precision", "int8", "--min-agreement", "0", "--report"];
    let output = scene.export(&checkpoint(&scene), &flags);
    assert!(output.status.success(), "{output:?}");
    let classifier = Classifier::open(scene.path("bundle")).unwrap();
    // Without smoothing: 0.9962.
    let found = fidelity(&classifier);
    assert!(found.mean_cosine > 0.9993, "{found:?}");
    assert_eq!(kept(&classifier), 0);

    let report = String::from_utf8(output.stdout).unwrap();
    assert!(report.contains("3 generated images"), "{report}");
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

/// What an int8 layer wants done to its inputs, a layer before it does in floating point as well.
#[test]
fn values_in_floating_point_are_centred_for_the_projection_behind_them() {
    let scene = Scene::new("cat\ndog");
    let folder = scene.path("spikes");
    // One weight of each output so large that the others round to next to nothing.
    write_checkpoint(&folder, |name, mut tensor| {
        if name == "visual.transformer.resblocks.0.attn.in_proj_weight" {
            let width = tensor.shape[1];
            for (i, row) in tensor.data.chunks_exact_mut(width).enumerate() {
                row[7 * i % width] *= 40.0;
            }
        }
        outliers(name, tensor)
    });
    let output = export(&scene, &folder, 0.99995, "bundle");
    assert!(output.status.success(), "{output:?}");
    let classifier = Classifier::open(scene.path("bundle")).unwrap();
    let operator = |name: &str| {
        let operators = classifier.operators();
        let found = operators.iter().find(|o| o.name == name);
        found.map(|o| o.operator.clone())
    };
    assert_eq!(operator("block_0.query_key_value").unwrap(), "Linear");
    assert_eq!(operator("block_0.out_proj").unwrap(), "QuantizedLinearAdd");
}

#[test]
fn layers_stay_in_floating_point_until_the_gate_holds() {
    let scene = Scene::new("cat\ndog");
    let export = |least, out| export(&scene, &checkpoint(&scene), least, out);
    let output = export(0.0, "any");
    assert!(output.status.success(), "{output:?}");
    let all = fidelity(&Classifier::open(scene.path("any")).unwrap());
    let asked = 1.0 - 0.9 * (1.0 - all.mean_cosine);
    let output = export(asked, "better");
    assert!(output.status.success(), "{output:?}");
    let better = Classifier::open(scene.path("better")).unwrap();
    assert!(fidelity(&better).mean_cosine >= asked);
    assert!(kept(&better) > 0);

    // What a quarter of the weights cannot bring: an error with the table, and nothing left.
    let output = export(1.0, "perfect");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("error: precision int8 stays below the gate on 3 images"),
        "{message}"
    );
    assert!(
        message.contains("| block_1.c_proj | ") && message.contains(" | f16 | "),
        "{message}"
    );
    let left: Vec<_> = std::fs::read_dir(scene.folder.path()).unwrap().collect();
    assert_eq!(left.len(), 4, "{left:?}");
}
