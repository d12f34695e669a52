//! The logits of learned methods by their formulas (tests/reference/make_learned.py), and those of bundles.

use std::fs;
use std::path::{Path, PathBuf};

use pinhole::{Classifier, RgbView};
use serde_json::Value;

/// Largest difference of a logit, at a logit scale of 99.5 (a linear head has its own).
pub const TOLERANCE: f32 = 0.002;

/// A file of the reference.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/learned")
        .join(name)
}

/// The logits [images][classes] of a method.
pub fn expected(key: &str) -> Vec<Vec<f32>> {
    let text = fs::read_to_string(golden("golden.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(json["logits"][key].clone()).unwrap()
}

/// The images of the reference.
pub fn images() -> [image::RgbImage; 2] {
    let first = |x: u32, y: u32, c: u32| (37 * y + 101 * x + 53 * c + 11 * x * y) as u8;
    let second = |x: u32, y: u32, c: u32| (7 * y * y + 3 * x + 80 * c) as u8;
    [first, second].map(|value| {
        image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([0, 1, 2].map(|c| value(x, y, c))))
    })
}

/// The logits of a bundle, and the name of its method.
pub fn logits(bundle: &Path) -> (Vec<Vec<f32>>, Option<String>) {
    let classifier = Classifier::builder().threads(1).open(bundle).unwrap();
    let scale = classifier.manifest().logit_scale;
    let logits = images().map(|image| {
        let view = RgbView::new(32, 32, image.as_raw()).unwrap();
        let similarities = classifier.similarities(&classifier.embed(view).unwrap().values);
        similarities.unwrap().iter().map(|s| scale * s).collect()
    });
    (logits.to_vec(), classifier.manifest().method.clone())
}
