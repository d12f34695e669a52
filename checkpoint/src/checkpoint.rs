//! A CLIP checkpoint of any known format, by canonical tensor names.
use crate::{Activation, ClipConfig, Error, Tensor};
use std::path::Path;

/// What the caller knows that the files may not say.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Activation function of the weights. It wins over a configuration file that says otherwise,
    /// and that is then recorded in [`Checkpoint::assumptions`].
    pub activation: Option<Activation>,
}

/// An open CLIP checkpoint: a checked configuration, and weights that are read when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    config: ClipConfig,
    assumptions: Vec<String>,
    logit_scale: f32,
}

impl Checkpoint {
    /// Opens a file or a folder.
    pub fn open(_path: &Path, _options: &OpenOptions) -> Result<Checkpoint, Error> {
        todo!()
    }
    /// The model's configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }
    /// What was assumed because no file said it, one line each.
    pub fn assumptions(&self) -> &[String] {
        &self.assumptions
    }
    /// Factor on the cosine similarity: exp of the tensor `logit_scale`; finite and above zero.
    pub fn logit_scale(&self) -> f32 {
        self.logit_scale
    }
    /// Canonical names and shapes of all tensors.
    pub fn tensors(&self) -> &[(String, Vec<usize>)] {
        &[]
    }
    /// Reads one tensor by its canonical name.
    pub fn tensor(&self, _name: &str) -> Result<Tensor, Error> {
        todo!()
    }
}
