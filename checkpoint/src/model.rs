//! What a CLIP model is: its configuration, and from that the name and shape of every tensor.

use pinhole_preprocessing::Preprocessing;

/// Everything about a CLIP model that is not a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Name of the model, if a configuration file says it.
    pub name: Option<String>,
    /// Length of an image's and of a text's embedding.
    pub embedding: usize,
    /// The image encoder.
    pub image: ImageTower,
    /// The text encoder.
    pub text: TextTower,
    /// Activation function of both towers' MLPs. (A ModifiedResNet itself uses ReLU.)
    pub activation: Activation,
    /// What the image encoder's training did to a photo first.
    pub preprocessing: Preprocessing,
}

/// Activation function of the transformers' MLPs: a property of the weights, not of any shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(1.702 x): OpenAI's, MetaCLIP's and open_clip's `*-quickgelu` weights.
    QuickGelu,
    /// x * Phi(x), with the exact normal distribution: LAION's and DataComp's weights.
    Gelu,
}

/// The image encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageTower {
    /// A vision transformer (OpenAI's `VisionTransformer`), MLP 4 x `width`.
    VisionTransformer {
        /// Side of the square image in pixels.
        image_size: u32,
        /// Side of a patch in pixels; divides `image_size`.
        patch_size: u32,
        /// Width of the residual stream.
        width: usize,
        /// Number of residual blocks.
        layers: usize,
        /// Attention heads; divides `width`.
        heads: usize,
    },
    /// OpenAI's ResNet with a three-convolution stem, antialiased strides and attention pooling.
    ModifiedResNet {
        /// Side of the square image in pixels; a multiple of 32.
        image_size: u32,
        /// Bottlenecks in each of the four stages.
        layers: [usize; 4],
        /// Channels after the stem; the last stage has 32 x `width`.
        width: usize,
        /// Heads of the attention pool; divides 32 x `width`.
        heads: usize,
    },
}

/// The text encoder: a causal transformer, MLP 4 x `width`, read at the end-of-text token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTower {
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
}

impl ImageTower {
    /// Side of the square image in pixels.
    pub fn image_size(&self) -> u32 {
        match self {
            ImageTower::VisionTransformer { image_size, .. }
            | ImageTower::ModifiedResNet { image_size, .. } => *image_size,
        }
    }
}
