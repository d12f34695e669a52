//! Where an image encoder comes from.

use std::path::Path;

use anyhow::{Result, anyhow};
use pinhole::internal::StandaloneEncoder;
use pinhole_checkpoint::Checkpoint;
use pinhole_model::PreprocessConfig;

use crate::graph::{self, GraphOptions, OnnxEncoder};
use crate::quantization::QuantizationPlan;

/// Where an image encoder comes from. All can be written in every precision.
#[derive(Clone, Copy)]
pub enum EncoderSource<'a> {
    /// The checkpoint's own.
    Checkpoint(&'a Checkpoint),
    /// One that another program exported.
    Onnx {
        /// The file.
        file: &'a OnnxEncoder,
        /// The checkpoint whose own image encoder it may be, to compare with.
        checkpoint: Option<&'a Checkpoint>,
    },
}

impl EncoderSource<'_> {
    /// Its name, for display.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Onnx { file, .. } => file.name(),
            Self::Checkpoint(checkpoint) => {
                let config = checkpoint.config();
                (config.name.clone()).unwrap_or_else(|| config.image.usual_name())
            }
        }
    }

    /// Writes `image_encoder.onnx` to `folder`, for images that are preprocessed as `preprocessing` says. In int8 each
    /// linear layer has the form that `plan` chooses for it and records. `progress` is called with (done, total) tensors.
    ///
    /// # Errors
    /// As [`graph::write`] and [`OnnxEncoder::write`].
    pub(crate) fn write(
        &self,
        preprocessing: &PreprocessConfig,
        folder: &Path,
        options: GraphOptions,
        plan: &mut QuantizationPlan,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        match self {
            Self::Checkpoint(checkpoint) => {
                graph::write_planned(checkpoint, folder, options, plan, progress)
            }
            Self::Onnx { file, .. } => {
                file.write_planned(preprocessing, folder, options, plan, progress)
            }
        }
    }

    /// Loads what [`EncoderSource::write`] has written. If `f16_arithmetic`, weights in f16 are multiplied in f16.
    ///
    /// # Errors
    /// A graph that the runtime cannot load.
    pub(crate) fn load(
        &self,
        preprocessing: &PreprocessConfig,
        folder: &Path,
        f16_arithmetic: bool,
    ) -> Result<StandaloneEncoder> {
        let size = match self {
            Self::Checkpoint(checkpoint) => checkpoint.config().embedding,
            Self::Onnx { file, .. } => file.embedding_size(),
        };
        let loaded = StandaloneEncoder::load(folder, preprocessing, size, f16_arithmetic);
        loaded.map_err(|error| match (self, error) {
            // The bundle's folder is a temporary one, and the user has another file.
            (Self::Onnx { file, .. }, error) => {
                let reason = match error {
                    pinhole::Error::Network { reason, .. } => reason,
                    other => other.to_string(),
                };
                anyhow!(
                    "{}: {reason}; if the graph is right, simplify it (onnxsim), or export it again with \
                     torch.onnx.export(..., opset_version=17)",
                    file.path().display()
                )
            }
            (_, error) => error.into(),
        })
    }

    /// The linear layer that reads patches of the pixels, as [`graph::patch_layer`].
    pub(crate) fn patch_layer(&self) -> Option<(&'static str, usize)> {
        match self {
            Self::Checkpoint(checkpoint) => graph::patch_layer(&checkpoint.config().image),
            Self::Onnx { .. } => None,
        }
    }
}
