//! The deploy format: a folder that export writes and the runtime reads.
//!
//! ```text
//! manifest.json             what the bundle is, how to preprocess, the classes, every file's size and SHA-256
//! image_encoder.onnx        pixels u8 `[N, S, S, 3]` to embedding f32 `[N, D]`, L2-normalised
//! image_encoder.weights     the graph's external data, if the weights exceed 64 MiB
//! head.safetensors          class_embeddings f32 `[C, D]`, or the tensors of another [`HeadForm`]
//! text_encoder.safetensors  the text encoder, for a conditional head or new classes on the board
//! examples.safetensors      what the bundle was taught on the board, if it was ([`TaughtExamples`])
//! golden/embeddings.json    the exporter's embeddings of the images in this folder
//! golden/*.png              a few images, to compare the board with the exporter
//! ```
//!
//! It is a folder so that each part can be inspected, compared and copied by itself. [`Manifest`] documents
//! every field of `manifest.json`.
//!
//! # Reading
//! [`Bundle::open`] checks before it returns: format and version, unknown fields, ranges of every
//! number, that each file listed lies inside the folder and has its size and SHA-256, and the
//! head's types, shapes, finiteness and norms. [`Bundle::open_with`] checks the same, with the hashes computed
//! while the files are loaded. The text encoder of a static head is checked when it is read
//! ([`Bundle::check_text_encoder`]): images are classified without it, so it may be missing or unreadable. A bundle that
//! is exchanged for another while it is read is read again. An error names the file and the field. The ONNX graph is not checked here but by
//! the runtime, when it builds the network.
//!
//! # Writing
//! [`BundleWriter`] collects the files in a temporary folder beside the destination.
//! [`BundleWriter::finish`] syncs them and renames the folder to the destination, so that an export that is
//! killed leaves no partial bundle; what it leaves under a temporary name is removed by the next one to the same
//! destination. An existing bundle is replaced only by [`BundleWriter::replace`], which needs the lock of
//! [`LockedBundle`], so that changes at the same time are made one after the other. Files of the folder that are not the
//! bundle's are kept, and so are permissions and owners.

mod cache_search;
mod calibration;
pub mod dialect;
mod error;
mod examples;
mod golden;
mod head;
#[doc(hidden)]
pub mod internal;
mod lock;
mod manifest;
mod not_a_bundle;
mod read;
mod tensor_file;
mod write;

pub use cache_search::{INITIAL_CACHE, search_cache};
pub use calibration::{Calibration, expected_calibration_error};
pub use error::Error;
pub use examples::{
    EXAMPLES_PER_CLASS, MAX_EXAMPLES, NONE_OF_THESE, Span, TaughtClass, TaughtExample,
    TaughtExamples, UNDO_STEPS, Untaught,
};
pub use golden::{Golden, GoldenImage};
pub use head::{CacheTerms, Head, HeadForm};
pub use lock::{LOCK_PATIENCE, LockedBundle};
pub use manifest::{
    CacheInfo, ConditionalInfo, FORMAT, Fidelity, FileEntry, HeadKind, Manifest, ModelInfo,
    PromptLearnerInfo, TextEncoderInfo, TextFidelity, UnknownPolicy, VERSION,
};
pub use read::Bundle;
pub use tensor_file::TensorFile;
pub use write::BundleWriter;

/// File name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// File name of the image encoder.
pub const IMAGE_ENCODER: &str = "image_encoder.onnx";
/// File name of the image encoder's external data, if it has any.
pub const IMAGE_ENCODER_WEIGHTS: &str = "image_encoder.weights";
/// File name of the head.
pub const HEAD: &str = "head.safetensors";
/// File name of the text encoder, if the bundle has one.
pub const TEXT_ENCODER: &str = "text_encoder.safetensors";
/// File name of the taught examples, if the bundle was taught.
pub const EXAMPLES: &str = "examples.safetensors";
/// File name of the golden embeddings.
pub const GOLDEN: &str = "golden/embeddings.json";
