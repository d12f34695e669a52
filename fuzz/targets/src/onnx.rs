//! Image encoders.

use pinhole::internal;
use pinhole_bundle::IMAGE_ENCODER;
use pinhole_export::graph::{OnnxEncoder, OnnxOptions};
use pinhole_model::PreprocessConfig;

use crate::scratch;

/// Sides and lengths of the embeddings of the seeds.
const SIZES: [(usize, usize); 2] = [(32, 16), (64, 16)];

/// What is checked before tract sees a graph.
pub(crate) fn check(bytes: &[u8]) {
    for (side, embedding) in SIZES {
        let _ = internal::check_onnx(bytes, side, embedding);
    }
}

/// A bundle's graph, up to the plan.
pub(crate) fn load(bytes: &[u8]) {
    let path = scratch::file(IMAGE_ENCODER, bytes);
    let Some(folder) = path.parent() else {
        return;
    };
    for (side, embedding) in SIZES {
        let _ = internal::load_onnx(folder, side, embedding);
    }
}

/// A graph of another program: wrapped as the exporter does it, then loaded.
pub(crate) fn foreign(bytes: &[u8]) {
    let path = scratch::file("foreign.onnx", bytes);
    let options = OnnxOptions {
        image_size: 32,
        output: None,
    };
    let Ok(encoder) = OnnxEncoder::open(&path, &options) else {
        return;
    };
    // Pixels of larger images take long, and nothing else.
    if encoder.image_size() > 64 {
        return;
    }
    let preprocessing = PreprocessConfig::openai(encoder.image_size());
    let Some(folder) = path.parent() else {
        return;
    };
    if encoder
        .write(&preprocessing, folder, &mut |_, _| {})
        .is_ok()
    {
        let side = encoder.image_size() as usize;
        let _ = internal::load_onnx(folder, side, encoder.embedding_size());
    }
}
