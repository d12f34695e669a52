//! Export: from a checkpoint to a bundle.
//!
//! [`export`] runs one stage after the other, each on the results of the earlier ones:
//!
//! 1. class embeddings (`class_embeddings.rs`)
//! 2. the image encoder of a checkpoint or an ONNX file as an ONNX [`graph`], quantised and measured against f32 (`image_encoder.rs`,
//!    `quantization.rs`, `convolution_quantization.rs`, `byte_values.rs`, `fidelity.rs`)
//! 3. the text encoder, for bundles that include it (`text_encoder.rs`)
//! 4. the head, static or conditional (`head.rs`)
//! 5. temperature and thresholds (`calibrate.rs`), which [`calibrate`] also fits for an existing bundle
//!
//! Then it writes the manifest, once, and renames the folder into place.

mod byte_values;
mod cache;
mod calibrate;
mod class_embeddings;
mod convolution_quantization;
mod encoder_comparison;
mod encoder_graph;
mod encoder_source;
mod export;
mod fidelity;
mod given_embeddings;
mod golden;
pub mod graph;
mod head;
mod image_encoder;
mod images;
mod progress;
mod quantization;
mod rounding;
mod sentencepiece;
mod text_encoder;
mod tokenizer;

pub use calibrate::{CalibrationOptions, Recalibrated, calibrate};
pub use class_embeddings::{ClassPrompts, TextOptions};
pub use encoder_source::EncoderSource;
pub use export::{ExportOptions, Exported, export};
pub use fidelity::FidelityGate;
pub use given_embeddings::GivenEmbeddings;
pub use image_encoder::EncoderOptions;
pub use images::{CalibrationImages, UnknownFolder};
pub use pinhole::internal::CalibrationLabel;
pub use progress::{ExportProgress, ExportStep};
pub use tokenizer::{FileTokenizer, TokenizerFormat, model_tokenizer};
