//! One classifier serves several threads.

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
