//! The image encoder in candle against open_clip's embeddings, for every form of vision transformer.

use std::path::Path;

use pinhole::RgbImage;
use pinhole_checkpoint::{Checkpoint, OpenOptions};
use pinhole_training::image_encoder::ImageEncoder;
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn embeddings_of_every_form_equal_open_clips() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let json = |path: &str| -> Value {
        serde_json::from_slice(&std::fs::read(models.join(path)).unwrap()).unwrap()
    };
    let images: Vec<RgbImage> = (json("inputs-32.json")["images"].as_array().unwrap().iter())
        .map(|pixels| {
            let pixels = numbers(pixels).into_iter().map(|value| value as u8);
            RgbImage::new(32, 32, pixels.collect()).unwrap()
        })
        .collect();
    for form in [
        "vit-gelu",
        "vit-average",
        "vit-average-first",
        "vit-no-pre-norm",
    ] {
        let folder = models.join(form).join("open-clip");
        let checkpoint = Checkpoint::open(&folder, &OpenOptions::default()).unwrap();
        let encoder = ImageEncoder::open(&checkpoint).unwrap();
        let found = encoder.embed_images(&images).unwrap();
        let golden = json(&format!("{form}/golden.json"));
        let expected = golden["image_embeddings"].as_array().unwrap();
        let size = checkpoint.config().embedding;
        assert_eq!(found.len(), expected.len() * size, "{form}");
        for (found, expected) in found.chunks_exact(size).zip(expected) {
            // Both have length 1.
            let products = found.iter().zip(numbers(expected));
            let cosine: f64 = products.map(|(a, b)| f64::from(*a) * b).sum();
            assert!(cosine >= 0.999_99, "{form}: cosine {cosine}");
        }
    }
}
