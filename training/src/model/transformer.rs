//! The forward passes.

use candle_core::{D, IndexOp, Result as TensorResult, Tensor};
use pinhole_model::{Activation, ClipConfig, ImageEncoderConfig, VitPooling};

use crate::{
    Error, Result,
    ops::{AttentionMask, attention, layer_norm, linear, quick_gelu},
};

/// A CLIP model with a vision transformer.
///
/// The caller gives the tensors: variables if they are trained, plain tensors if they are frozen (then no
/// gradient is computed for them).
pub struct ClipModel {
    /// The image encoder.
    pub image: VisionTransformer,
    /// The text encoder.
    pub text: TextTransformer,
    /// Natural logarithm of the scale of cosine similarities.
    pub logit_scale: Tensor,
}

impl ClipModel {
    /// A model from its tensors by canonical name.
    ///
    /// # Errors
    /// Those of `tensor`; [`Error::Config`] for a ModifiedResNet.
    pub fn new(
        config: &ClipConfig,
        mut tensor: impl FnMut(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        Ok(Self {
            image: VisionTransformer::new(config, &mut tensor)?,
            text: TextTransformer::new(config, &mut tensor)?,
            logit_scale: tensor("logit_scale")?,
        })
    }
}

/// The vision transformer of OpenAI's CLIP and open_clip.
pub struct VisionTransformer {
    conv1: Tensor,
    class_embedding: Tensor,
    positions: Tensor,
    ln_pre: Option<Norm>,
    blocks: Blocks,
    ln_post: Norm,
    proj: Tensor,
    pooling: VitPooling,
}

impl VisionTransformer {
    /// The encoder from its tensors by canonical name.
    ///
    /// # Errors
    /// Those of `tensor`; [`Error::Config`] for a ModifiedResNet.
    pub fn new(
        config: &ClipConfig,
        mut tensor: impl FnMut(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        let ImageEncoderConfig::VisionTransformer {
            layers,
            heads,
            input_norm,
            pooling,
            ..
        } = config.image
        else {
            return Err(Error::Config(format!(
                "image encoder: expected a vision transformer, found a {}, which runs from a bundle only: \
                 export the checkpoint with pinhole-export bundle (any classes will do) and evaluate \
                 that bundle or give it as --encoder",
                config.image.family()
            )));
        };
        let tensor = &mut tensor;
        let conv1 = tensor("visual.conv1.weight")?;
        Ok(Self {
            conv1: conv1.flatten_from(1)?,
            class_embedding: tensor("visual.class_embedding")?,
            positions: tensor("visual.positional_embedding")?,
            ln_pre: (input_norm.then(|| Norm::new("visual.ln_pre", tensor))).transpose()?,
            blocks: Blocks::new(
                "visual.transformer",
                layers,
                heads,
                AttentionMask::None,
                config,
                tensor,
            )?,
            ln_post: Norm::new("visual.ln_post", tensor)?,
            proj: tensor("visual.proj")?,
            pooling,
        })
    }

    /// Patches [images, patches, 3 * patch * patch] from [`super::patches`] to embeddings
    /// [images, embedding], not normalised.
    pub fn forward(&self, patches: &Tensor) -> TensorResult<Tensor> {
        let images = patches.dim(0)?;
        let x = linear(patches, &self.conv1, None)?;
        let width = self.class_embedding.dim(0)?;
        let class = self.class_embedding.reshape((1, 1, width))?;
        let x = Tensor::cat(&[&class.broadcast_as((images, 1, width))?, &x], 1)?;
        let mut x = x.broadcast_add(&self.positions)?;
        if let Some(norm) = &self.ln_pre {
            x = norm.forward(&x)?;
        }
        let x = self.blocks.forward(x)?;
        let average = |x: &Tensor| x.i((.., 1..))?.mean(1);
        let x = match self.pooling {
            VitPooling::ClassToken => self.ln_post.forward(&x.i((.., 0))?)?,
            VitPooling::Average => average(&self.ln_post.forward(&x)?)?,
            VitPooling::AverageBeforeNorm => self.ln_post.forward(&average(&x)?)?,
        };
        linear(&x, &self.proj.t()?, None)
    }
}

/// CLIP's text transformer.
pub struct TextTransformer {
    token_embedding: Tensor,
    positions: Tensor,
    blocks: Blocks,
    ln_final: Norm,
    projection: Tensor,
}

impl TextTransformer {
    /// The encoder from its tensors by canonical name.
    ///
    /// # Errors
    /// Those of `tensor`.
    pub fn new(
        config: &ClipConfig,
        mut tensor: impl FnMut(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        let (layers, heads) = (config.text.layers, config.text.heads);
        let tensor = &mut tensor;
        Ok(Self {
            token_embedding: tensor("token_embedding.weight")?,
            positions: tensor("positional_embedding")?,
            blocks: Blocks::new(
                "transformer",
                layers,
                heads,
                AttentionMask::Causal,
                config,
                tensor,
            )?,
            ln_final: Norm::new("ln_final", tensor)?,
            projection: tensor("text_projection")?,
        })
    }

    /// Embeddings [texts, tokens, width] of token ids [texts, tokens] (u32), without position
    /// embeddings.
    pub fn embed(&self, ids: &Tensor) -> TensorResult<Tensor> {
        let (texts, tokens) = ids.dims2()?;
        let rows = self.token_embedding.index_select(&ids.flatten_all()?, 0)?;
        rows.reshape((texts, tokens, self.token_embedding.dim(1)?))
    }

    /// Embeddings [texts, embedding], not normalised, of token embeddings [texts, tokens, width], read at
    /// the position `ends` of each end of text. Later tokens have no effect, so `tokens` may be anything
    /// from the last end of text to the context length.
    pub fn forward(&self, rows: &Tensor, ends: &[u32]) -> TensorResult<Tensor> {
        let (texts, tokens, width) = rows.dims3()?;
        let x = rows.broadcast_add(&self.positions.narrow(0, 0, tokens)?)?;
        let x = self.blocks.forward(x)?;
        let at = ends
            .iter()
            .zip(0u32..)
            .map(|(&end, text)| text * tokens as u32 + end);
        let at = Tensor::from_vec(at.collect(), ends.len(), x.device())?;
        let x = x.reshape((texts * tokens, width))?.index_select(&at, 0)?;
        linear(&self.ln_final.forward(&x)?, &self.projection.t()?, None)
    }
}

/// Rows divided by their Euclidean length.
pub fn normalise(x: &Tensor) -> TensorResult<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

struct Norm {
    gain: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(name: &str, tensor: &mut impl FnMut(&str) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            gain: tensor(&format!("{name}.weight"))?,
            bias: tensor(&format!("{name}.bias"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> TensorResult<Tensor> {
        layer_norm(x, &self.gain, &self.bias)
    }
}

struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(
        weight: &str,
        bias: &str,
        tensor: &mut impl FnMut(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        Ok(Self {
            weight: tensor(weight)?,
            bias: tensor(bias)?,
        })
    }

    fn forward(&self, x: &Tensor) -> TensorResult<Tensor> {
        linear(x, &self.weight, Some(&self.bias))
    }
}

struct Block {
    ln_1: Norm,
    in_proj: Linear,
    out_proj: Linear,
    ln_2: Norm,
    c_fc: Linear,
    c_proj: Linear,
}

struct Blocks {
    blocks: Vec<Block>,
    heads: usize,
    mask: AttentionMask,
    activation: Activation,
}

impl Blocks {
    fn new(
        prefix: &str,
        layers: usize,
        heads: usize,
        mask: AttentionMask,
        config: &ClipConfig,
        tensor: &mut impl FnMut(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut blocks = Vec::new();
        for layer in 0..layers {
            let name = |part: &str| format!("{prefix}.resblocks.{layer}.{part}");
            let mut layer = |part: &str| {
                let (weight, bias) = (format!("{part}.weight"), format!("{part}.bias"));
                Linear::new(&name(&weight), &name(&bias), tensor)
            };
            let (out_proj, c_fc) = (layer("attn.out_proj")?, layer("mlp.c_fc")?);
            let c_proj = layer("mlp.c_proj")?;
            let (weight, bias) = (name("attn.in_proj_weight"), name("attn.in_proj_bias"));
            blocks.push(Block {
                ln_1: Norm::new(&name("ln_1"), tensor)?,
                in_proj: Linear::new(&weight, &bias, tensor)?,
                out_proj,
                ln_2: Norm::new(&name("ln_2"), tensor)?,
                c_fc,
                c_proj,
            });
        }
        Ok(Self {
            blocks,
            heads,
            mask,
            activation: config.activation,
        })
    }

    fn forward(&self, mut x: Tensor) -> TensorResult<Tensor> {
        for block in &self.blocks {
            let qkv = block.in_proj.forward(&block.ln_1.forward(&x)?)?;
            let attended = attention(&qkv, self.heads, self.mask)?;
            x = (x + block.out_proj.forward(&attended)?)?;
            let hidden = block.c_fc.forward(&block.ln_2.forward(&x)?)?;
            let hidden = match self.activation {
                Activation::QuickGelu => quick_gelu(&hidden)?,
                Activation::Gelu => hidden.gelu_erf()?,
                Activation::GeluTanh => hidden.gelu()?,
            };
            x = (x + block.c_proj.forward(&hidden)?)?;
        }
        Ok(x)
    }
}
