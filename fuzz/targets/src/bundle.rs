//! The files of a bundle.

use std::path::Path;
use std::sync::OnceLock;

use pinhole_bundle::{Manifest, TensorFile, internal};

use crate::scratch;

pub(crate) fn manifest(bytes: &[u8]) {
    let _ = internal::read_manifest(Path::new("manifest.json"), bytes);
}

/// The demo bundle's manifest.
fn demo() -> &'static Manifest {
    static DEMO: OnceLock<Manifest> = OnceLock::new();
    DEMO.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/manifest.json");
        let bytes = std::fs::read(&path).expect("the demo bundle");
        internal::read_manifest(&path, &bytes).expect("the demo bundle")
    })
}

/// The head of a bundle with the demo's manifest.
pub(crate) fn head(bytes: &[u8]) {
    let manifest = demo();
    if let Ok(head) = internal::read_head(Path::new("head.safetensors"), bytes, manifest) {
        assert_eq!(
            head.class_embeddings.len(),
            head.classes * head.embedding_size
        );
    }
}

/// What a bundle with the demo's manifest was taught. What is read is written and read as the same.
pub(crate) fn examples(bytes: &[u8]) {
    let path = Path::new("examples.safetensors");
    if let Ok(taught) = internal::read_examples(path, bytes, demo()) {
        let mut earlier = taught.clone();
        while earlier.undo() {}
        let written = internal::write_examples(path, &taught).expect("what was read is in bounds");
        let read = internal::read_examples(path, &written, demo());
        assert_eq!(read.expect("what was written"), taught);
    }
}

/// The golden embeddings of a bundle with the demo's manifest.
pub(crate) fn golden(bytes: &[u8]) {
    let size = demo().model.embedding_size;
    let _ = internal::read_golden(Path::new("embeddings.json"), bytes, size);
}

/// The text encoder's tensors.
pub(crate) fn tensor_file(bytes: &[u8]) {
    let path = scratch::file("tensors", bytes);
    if let Ok(file) = TensorFile::open(&path) {
        for name in ["class_embeddings", "token_embedding.weight", "ctx"] {
            if let Ok(tensor) = file.tensor(name) {
                assert_eq!(tensor.data.len(), tensor.shape.iter().product::<usize>());
            }
            let _ = file.tensor_i8(name);
        }
    }
}
