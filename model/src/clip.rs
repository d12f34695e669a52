//! The configuration of a CLIP model, and from that the name and shape of every tensor.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::shapes::Shapes;
use crate::{Activation, ImageEncoderConfig, PreprocessConfig};

/// Everything about a CLIP model that is not a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Name of the model, if a configuration file has one.
    pub name: Option<String>,
    /// Length of the embedding of an image or a text.
    pub embedding: usize,
    /// The image encoder.
    pub image: ImageEncoderConfig,
    /// The text encoder.
    pub text: TextEncoderConfig,
    /// Activation function of the image encoder's MLPs. (A ModifiedResNet uses ReLU.)
    pub activation: Activation,
    /// Activation function of the text encoder's MLPs; of all models but SigLIP2 the same.
    pub text_activation: Activation,
    /// How images were preprocessed in training.
    pub preprocessing: PreprocessConfig,
}

/// The sizes of the text encoder: a transformer, MLP 4 x `width`, of one of the forms of [`TextForm`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoderConfig {
    /// Longest text in tokens, with start and end.
    pub context_length: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Number of residual blocks.
    pub layers: usize,
    /// Attention heads; divides `width`.
    pub heads: usize,
    /// What the sizes do not show. Not in manifests: the text encoders of bundles are CLIP's.
    #[serde(skip)]
    pub form: TextForm,
}

/// What distinguishes the text encoders of the families beyond their sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextForm {
    /// CLIP: a causal mask; the output is that of the end-of-text token, the largest id; epsilon 1e-5; a projection
    /// without bias.
    #[default]
    Clip,
    /// MobileCLIP: as [`TextForm::Clip`] without a mask, so that every token attends to the padding too: texts are padded
    /// with id 0 to the context length.
    ClipUnmasked,
    /// SigLIP: no mask; texts are padded to the context length, and the output is that of the last position; epsilon 1e-6;
    /// a projection with a bias.
    SigLip {
        /// Width of the hidden layer of the MLPs; 4 x the width except in So400m.
        mlp: usize,
    },
}

impl TextEncoderConfig {
    /// Width of the hidden layer of the MLPs.
    pub fn mlp(&self) -> usize {
        match self.form {
            TextForm::SigLip { mlp } => mlp,
            TextForm::Clip | TextForm::ClipUnmasked => 4 * self.width,
        }
    }
}

impl TextForm {
    /// Whether a token attends to the ones before it only.
    pub fn is_causal(self) -> bool {
        self == Self::Clip
    }

    /// Epsilon of the layer norms.
    pub fn epsilon(self) -> f32 {
        match self {
            Self::Clip | Self::ClipUnmasked => 1e-5,
            Self::SigLip { .. } => 1e-6,
        }
    }
}

impl ClipConfig {
    /// Name and shape of every tensor of the model, in the names and order of OpenAI and open_clip: the
    /// canonical names of Pinhole. Linear weights are `[out, in]`; the projections `visual.proj` and
    /// `text_projection` are `[in, out]`.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Shapes::default();
        let text = &self.text;
        shapes.add("positional_embedding", &[text.context_length, text.width]);
        shapes.add("text_projection", &[text.width, self.embedding]);
        if matches!(text.form, TextForm::SigLip { .. }) {
            shapes.add("text_projection.bias", &[self.embedding]);
        }
        shapes.add("logit_scale", &[]);
        self.image.add_tensors(self.embedding, &mut shapes);
        shapes.add_transformer("transformer", text.width, text.mlp(), text.layers);
        shapes.add("token_embedding.weight", &[text.vocabulary, text.width]);
        shapes.add_with_bias("ln_final", &[text.width]);
        shapes.0
    }
}

impl fmt::Display for ClipConfig {
    /// The architecture in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TextEncoderConfig {
            context_length,
            vocabulary,
            width,
            layers,
            heads,
            form,
        } = &self.text;
        let form = match form {
            TextForm::Clip => "",
            TextForm::ClipUnmasked => "unmasked ",
            TextForm::SigLip { .. } => "SigLIP's ",
        };
        write!(
            f,
            "{}; {form}text encoder of {layers} layers, width {width}, {heads} heads, {context_length} of \
             {vocabulary} tokens; embedding {}",
            self.image, self.embedding
        )
    }
}
