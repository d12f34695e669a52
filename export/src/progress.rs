//! Progress of an export.

/// A step of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportStep {
    /// Class embeddings, in prompts.
    Text,
    /// Writing the graph, in tensors.
    Graph,
    /// Embeddings of the encoder in f32, in images.
    Reference,
    /// Sampling the inputs of each layer, in images.
    LayerInputs,
    /// The sensitivity of each layer, in layers.
    Sensitivity,
    /// Comparison with f32, in images.
    Fidelity,
    /// Embeddings of the calibration images.
    Embeddings,
    /// Fitting the conditional head's cheaper modes, in images.
    Conditional,
    /// Temperature and thresholds, in images.
    Calibration,
}

/// Called with a step, what is done of it, and its total.
pub type ExportProgress<'a> = dyn FnMut(ExportStep, u64, u64) + 'a;
