//! For the other crates of this repository, such as the exporter. Unstable: anything in it can change in any release.

use std::collections::HashMap;
use std::path::Path;

pub use crate::calibration::{
    CalibratedValues, CalibrationFit, CalibrationLabel, HeldOutComparison, LabelledAnswer, Logits,
    NoFit, compare_held_out, fit_calibration,
};
#[cfg(feature = "http")]
pub use crate::camera::answer_challenge;
pub use crate::camera::images_in;
pub use crate::conditional_fit::fit_conditional;
pub use crate::hang_up::ignores_hang_up;
pub use crate::json::{FrameLine, ImageAnswer, LatencyMs, LessonLine, TopClass, top_classes};
pub use crate::listen::listen_address;
pub use crate::network::attributes;
pub use crate::network::initializer::raw as raw_tensor;
pub use crate::network::window::read as convolution_window;
use crate::network::{GraphKind, ImageEncoder, check_model};
pub use crate::network::{
    GraphValue, NetworkOperator, Observed, decode as decode_onnx, graph_values, nonlinearity,
};
pub use crate::panics::catch as catch_panic;
pub use crate::selftest::cosine;
pub use crate::standalone::StandaloneEncoder;
pub use crate::standard_streams::{
    PrintableWriter, UnblockedStdout, json_path, note, note_within, printable, printable_path,
};
pub use crate::text_encoder::text_encoder_in;
pub use crate::usage::{UsageError, end_with_usage, exit_code, text_error};
use crate::{Classifier, Error};
pub use pinhole_model::{most_similar, without_credentials};
use tract_onnx::pb::ModelProto;

/// The operators of the image encoder in execution order, and the kernel that runs each.
pub fn operators(classifier: &Classifier) -> Vec<NetworkOperator> {
    classifier.operators()
}

/// Loads `image_encoder.onnx` in `folder` up to the plan, without a thread pool.
///
/// # Errors
/// [`crate::Error::Network`].
pub fn load_onnx(folder: &Path, image_size: usize, embedding_size: usize) -> Result<(), Error> {
    ImageEncoder::load_graph(folder, image_size, embedding_size, false).map(drop)
}

/// Decodes a file's ONNX graph and checks it, as before tract sees it; there are no external weights.
///
/// # Errors
/// What was expected and found.
pub fn check_onnx(bytes: &[u8], image_size: usize, embedding_size: usize) -> Result<(), String> {
    let kind = GraphKind::Deployed;
    check_model(
        &decode_onnx(bytes)?,
        kind,
        &|_| None,
        image_size,
        embedding_size,
    )
    .map(drop)
}

/// Checks the graph of another program, before the exporter rewrites it, and returns what is known of its values; all
/// weights are in it.
///
/// # Errors
/// What was expected and found.
pub fn check_imported(
    model: &ModelProto,
    image_size: usize,
    embedding_size: usize,
) -> Result<HashMap<String, GraphValue>, String> {
    check_model(
        model,
        GraphKind::Imported,
        &|_| None,
        image_size,
        embedding_size,
    )
}

/// Reads all frames of a Y4M stream, and returns their number.
///
/// # Errors
/// Those of the stream.
pub fn read_y4m(bytes: Vec<u8>) -> std::io::Result<u64> {
    crate::camera::count_y4m_frames(bytes)
}
