//! Model sizes and hyper-parameters of pre-training.

use pinhole_model::PreprocessConfig;
use pinhole_model::{Activation, ClipConfig, ImageEncoderConfig, TextEncoderConfig};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Rows of CLIP's token embedding.
const VOCABULARY: usize = 49_408;

/// Everything that determines the result of a pre-training, apart from its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainingOptions {
    /// The model.
    pub model: ModelSizes,
    /// Number of updates.
    pub steps: u64,
    /// Pairs per update.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Updates of linear warm-up.
    pub warm_up: u64,
    /// Decay rate of AdamW's first moment.
    pub beta1: f64,
    /// Decay rate of AdamW's second moment.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub epsilon: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Maximum global norm of the gradient; 0 for no limit.
    pub clip_gradient: f64,
    /// Seed of initial weights, order and augmentation of the data.
    pub seed: u64,
}

/// Sizes of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSizes {
    /// Side of the square image in pixels.
    pub image_size: u32,
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// Width of the image encoder, a multiple of 64.
    pub width: usize,
    /// Blocks of the image encoder.
    pub layers: usize,
    /// Width of the text encoder, a multiple of 64.
    pub text_width: usize,
    /// Blocks of the text encoder.
    pub text_layers: usize,
    /// Maximum length of a text in tokens.
    pub context_length: usize,
    /// Length of an embedding.
    pub embedding: usize,
}

impl PretrainingOptions {
    /// Rejects values out of range.
    pub(super) fn check(&self) -> Result<()> {
        let fraction = 0.0..1.0;
        let valid = self.steps > 0
            && self.batch_size > 1
            && self.batch_size <= 1 << 16
            && self.learning_rate > 0.0
            && self.learning_rate.is_finite()
            && self.weight_decay >= 0.0
            && self.weight_decay * self.learning_rate < 1.0
            && fraction.contains(&self.beta1)
            && fraction.contains(&self.beta2)
            && self.epsilon > 0.0
            && self.clip_gradient >= 0.0;
        if valid {
            return Ok(());
        }
        Err(Error::Options(format!(
            "hyper-parameters out of range: expected steps >= 1, batch size 2 to 65536, learning rate \
             > 0, betas in 0..1, epsilon > 0, weight decay >= 0, gradient limit >= 0; found {self:?}"
        )))
    }
}

impl ModelSizes {
    /// The configuration of such a model: QuickGELU, heads of width 64, OpenAI's preprocessing.
    ///
    /// # Errors
    /// [`Error::Options`] for sizes that do not fit each other.
    pub fn config(&self) -> Result<ClipConfig> {
        let wrong = |what: String| Err(Error::Options(what));
        for (flag, width) in [("--width", self.width), ("--text-width", self.text_width)] {
            if width == 0 || width % 64 != 0 || width > 8192 {
                return wrong(format!(
                    "{flag} {width}: expected a multiple of 64 up to 8192"
                ));
            }
        }
        let (size, patch) = (self.image_size, self.patch_size);
        if patch == 0 || size == 0 || size > 1024 || size % patch != 0 {
            return wrong(format!(
                "--image-size {size} --patch-size {patch}: expected an image size up to 1024 that is \
                 a multiple of the patch size"
            ));
        }
        for (flag, layers) in [
            ("--layers", self.layers),
            ("--text-layers", self.text_layers),
        ] {
            if layers == 0 || layers > 64 {
                return wrong(format!("{flag} {layers}: expected 1 to 64"));
            }
        }
        if !(3..=512).contains(&self.context_length) {
            return wrong(format!(
                "--context-length {}: expected 3 to 512",
                self.context_length
            ));
        }
        if self.embedding == 0 || self.embedding > 8192 {
            return wrong(format!(
                "--embedding {}: expected 1 to 8192",
                self.embedding
            ));
        }
        Ok(ClipConfig {
            name: None,
            embedding: self.embedding,
            image: ImageEncoderConfig::VisionTransformer {
                image_size: size,
                patch_size: patch,
                width: self.width,
                layers: self.layers,
                heads: self.width / 64,
                mlp: 4 * self.width,
                input_norm: true,
                pooling: pinhole_model::VitPooling::ClassToken,
            },
            text: TextEncoderConfig {
                context_length: self.context_length,
                vocabulary: VOCABULARY,
                width: self.text_width,
                layers: self.text_layers,
                heads: self.text_width / 64,
                form: Default::default(),
            },
            activation: Activation::QuickGelu,
            text_activation: Activation::QuickGelu,
            preprocessing: PreprocessConfig::openai(size),
        })
    }
}
