//! Which kernel variants give the same bits, as ARCHITECTURE.md says: those that share their f32 kernels, in every precision.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use pinhole::Classifier;

use crate::common::{Scene, checkpoint};

const FOLDER: &str = "PINHOLE_TEST_BUNDLE";

/// The f32 kernels of a variant, and the embeddings of the golden images by it, in a process of its own: a process chooses
/// its kernels once.
fn embeddings(bundle: PathBuf, variant: &str) -> (String, Vec<Vec<f32>>) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kernels::prints_embeddings",
            "--ignored",
            "--nocapture",
        ])
        .env(FOLDER, bundle)
        .env("PINHOLE_KERNELS", variant)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let value = |key: &str| {
        let mut lines = printed.lines().filter_map(|line| line.split_once(key));
        lines.next().unwrap().1.to_owned()
    };
    let found = serde_json::from_str(&value("embeddings: ")).unwrap();
    (value("f32 kernels: "), found)
}

#[test]
#[ignore = "started by the test below"]
fn prints_embeddings() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("started by a test"));
    let classifier = Classifier::builder()
        // In f16 as measured by an export: not on every processor.
        .f16_arithmetic(false)
        .open(&folder)
        .unwrap();
    let images = &classifier.bundle().golden().images;
    let embeddings: Vec<Vec<f32>> = (images.iter())
        .map(|image| {
            let path = folder.join(&image.file);
            let image = pinhole::open_image(&path, &Default::default()).unwrap();
            classifier.embed(&image).unwrap().values
        })
        .collect();
    println!("\nf32 kernels: {}", pinhole_kernels::chosen_f32());
    println!(
        "embeddings: {}",
        serde_json::to_string(&embeddings).unwrap()
    );
}

#[test]
fn variants_that_share_their_f32_kernels_give_the_same_bits() {
    for precision in ["f32", "f16", "int8"] {
        let scene = Scene::new("cat\ndog\n");
        let output = scene.export(
            &checkpoint(),
            &[
                "--precision",
                precision,
                "--min-cosine",
                "0",
                "--min-agreement",
                "0",
            ],
        );
        assert!(output.status.success(), "{output:?}");
        let mut by_f32 = BTreeMap::new();
        let mut first = None;
        for variant in pinhole_kernels::available() {
            let (f32_kernels, found) = embeddings(scene.path("bundle"), variant);
            let known = by_f32.entry(f32_kernels).or_insert_with(|| found.clone());
            // As text, JSON has every bit of an f32.
            assert!(*known == found, "{precision}: {variant} gives other bits");
            let first = first.get_or_insert_with(|| found.clone());
            for (a, b) in first.iter().zip(&found) {
                let cosine = pinhole::internal::cosine(a, b);
                let least = if precision == "int8" { 0.999 } else { 0.999_99 };
                assert!(cosine > least, "{precision}: {variant}: {cosine}");
            }
        }
        println!("{precision}: {:?}", by_f32.keys());
    }
}
