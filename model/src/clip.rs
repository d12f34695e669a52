//! What a CLIP model is: its configuration, and from that the name and shape of every tensor.

use serde::{Deserialize, Serialize};

use crate::{Activation, PreprocessConfig};

/// Everything about a CLIP model that is not a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Name of the model, if a configuration file says it.
    pub name: Option<String>,
    /// Length of an image's and of a text's embedding.
    pub embedding: usize,
    /// The image encoder.
    pub image: ImageEncoderConfig,
    /// The text encoder.
    pub text: TextEncoderConfig,
    /// Activation function of the MLPs of both encoders. (A ModifiedResNet itself uses ReLU.)
    pub activation: Activation,
    /// What the image encoder's training did to a photo first.
    pub preprocessing: PreprocessConfig,
}

/// The image encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageEncoderConfig {
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
}

impl ImageEncoderConfig {
    /// Side of the square image in pixels.
    pub fn image_size(&self) -> u32 {
        match self {
            ImageEncoderConfig::VisionTransformer { image_size, .. }
            | ImageEncoderConfig::ModifiedResNet { image_size, .. } => *image_size,
        }
    }
}

impl ClipConfig {
    /// Name and shape of every tensor of the model, in OpenAI's and open_clip's names and order:
    /// the canonical names of this crate. Linear weights are `[out, in]`; the projections
    /// `visual.proj` and `text_projection` are `[in, out]`.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut list = List(Vec::new());
        let text = &self.text;
        list.add("positional_embedding", &[text.context_length, text.width]);
        list.add("text_projection", &[text.width, self.embedding]);
        list.add("logit_scale", &[]);
        match &self.image {
            ImageEncoderConfig::VisionTransformer {
                image_size,
                patch_size,
                width,
                layers,
                ..
            } => {
                let patch = *patch_size as usize;
                let grid = (image_size / patch_size) as usize;
                list.add("visual.class_embedding", &[*width]);
                list.add("visual.positional_embedding", &[grid * grid + 1, *width]);
                list.add("visual.proj", &[*width, self.embedding]);
                list.add("visual.conv1.weight", &[*width, 3, patch, patch]);
                list.pair("visual.ln_pre", &[*width]);
                list.transformer("visual.transformer", *width, *layers);
                list.pair("visual.ln_post", &[*width]);
            }
            ImageEncoderConfig::ModifiedResNet {
                image_size,
                layers,
                width,
                ..
            } => {
                list.resnet(*image_size as usize, layers, *width, self.embedding);
            }
        }
        list.transformer("transformer", text.width, text.layers);
        list.add("token_embedding.weight", &[text.vocabulary, text.width]);
        list.pair("ln_final", &[text.width]);
        list.0
    }
}

struct List(Vec<(String, Vec<usize>)>);

impl List {
    fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push((name.into(), shape.to_vec()));
    }

    /// A weight of this shape with a bias of its first dimension: a layer norm or a linear layer.
    fn pair(&mut self, name: &str, weight: &[usize]) {
        self.add(format!("{name}.weight"), weight);
        self.add(format!("{name}.bias"), &weight[..1]);
    }

    fn transformer(&mut self, name: &str, width: usize, layers: usize) {
        for layer in 0..layers {
            let block = format!("{name}.resblocks.{layer}");
            self.pair(&format!("{block}.ln_1"), &[width]);
            self.add(format!("{block}.attn.in_proj_weight"), &[3 * width, width]);
            self.add(format!("{block}.attn.in_proj_bias"), &[3 * width]);
            self.pair(&format!("{block}.attn.out_proj"), &[width, width]);
            self.pair(&format!("{block}.ln_2"), &[width]);
            self.pair(&format!("{block}.mlp.c_fc"), &[4 * width, width]);
            self.pair(&format!("{block}.mlp.c_proj"), &[width, 4 * width]);
        }
    }

    /// A convolution without bias and the batch norm after it.
    fn conv(&mut self, conv: &str, norm: &str, out: usize, input: usize, kernel: usize) {
        self.add(format!("{conv}.weight"), &[out, input, kernel, kernel]);
        self.pair(norm, &[out]);
        self.add(format!("{norm}.running_mean"), &[out]);
        self.add(format!("{norm}.running_var"), &[out]);
    }

    fn resnet(&mut self, image_size: usize, layers: &[usize; 4], width: usize, embedding: usize) {
        self.conv("visual.conv1", "visual.bn1", width / 2, 3, 3);
        self.conv("visual.conv2", "visual.bn2", width / 2, width / 2, 3);
        self.conv("visual.conv3", "visual.bn3", width, width / 2, 3);
        let mut input = width;
        for (stage, blocks) in layers.iter().enumerate() {
            let planes = width << stage;
            for block in 0..*blocks {
                let name = format!("visual.layer{}.{block}", stage + 1);
                self.conv(
                    &format!("{name}.conv1"),
                    &format!("{name}.bn1"),
                    planes,
                    input,
                    1,
                );
                self.conv(
                    &format!("{name}.conv2"),
                    &format!("{name}.bn2"),
                    planes,
                    planes,
                    3,
                );
                self.conv(
                    &format!("{name}.conv3"),
                    &format!("{name}.bn3"),
                    4 * planes,
                    planes,
                    1,
                );
                if block == 0 {
                    let (conv, norm) = (
                        format!("{name}.downsample.0"),
                        format!("{name}.downsample.1"),
                    );
                    self.conv(&conv, &norm, 4 * planes, input, 1);
                }
                input = 4 * planes;
            }
        }
        let grid = image_size / 32;
        self.add(
            "visual.attnpool.positional_embedding",
            &[grid * grid + 1, input],
        );
        for projection in ["k_proj", "q_proj", "v_proj"] {
            self.pair(&format!("visual.attnpool.{projection}"), &[input, input]);
        }
        self.pair("visual.attnpool.c_proj", &[embedding, input]);
    }
}

impl std::fmt::Display for ClipConfig {
    /// The architecture in one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.image {
            ImageEncoderConfig::VisionTransformer {
                image_size,
                patch_size,
                width,
                layers,
                heads,
            } => {
                write!(
                    f,
                    "ViT of {layers} layers, width {width}, {heads} heads, patches of \
                     {patch_size} in images of {image_size} pixels"
                )?;
            }
            ImageEncoderConfig::ModifiedResNet {
                image_size,
                layers,
                width,
                heads,
            } => write!(
                f,
                "ModifiedResNet of {layers:?} blocks, width {width}, {heads} heads, images of \
                 {image_size} pixels"
            )?,
        }
        let TextEncoderConfig {
            context_length,
            vocabulary,
            width,
            layers,
            heads,
        } = &self.text;
        write!(
            f,
            "; text encoder of {layers} layers, width {width}, {heads} heads, {context_length} of \
             {vocabulary} tokens; embedding {}",
            self.embedding
        )
    }
}
