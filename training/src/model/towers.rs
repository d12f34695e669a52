//! The forward passes.

use candle_core::{D, IndexOp, Result as TensorResult, Tensor};
use pinhole_model::{Activation, ClipConfig, ImageEncoderConfig};

use crate::{
    Error, Result,
    ops::{attention, layer_norm, linear, quick_gelu},
};

/// A CLIP model with a vision transformer.
///
/// The tensors are given by the caller: variables where they are trained, plain tensors where they
/// are frozen (then no gradient is computed for them).
pub struct Clip {
    /// The image encoder.
    pub image: VisionTransformer,
    /// The text encoder.
    pub text: TextTransformer,
    /// Natural logarithm of the factor on cosine similarities.
    pub logit_scale: Tensor,
}

impl Clip {
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

/// CLIP's vision transformer (OpenAI's `VisionTransformer`).
pub struct VisionTransformer {
    conv1: Tensor,
    class_embedding: Tensor,
    positions: Tensor,
    ln_pre: Norm,
    blocks: Blocks,
    ln_post: Norm,
    proj: Tensor,
}

impl VisionTransformer {
    /// The tower from its tensors by canonical name.
    ///
    /// # Errors
    /// Those of `tensor`; [`Error::Config`] for a ModifiedResNet.
    pub fn new(
        config: &ClipConfig,
        mut tensor: impl FnMut(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        let ImageEncoderConfig::VisionTransformer { layers, heads, .. } = config.image else {
            return Err(Error::Config(
                "the image tower is a ModifiedResNet, which is not trained or evaluated here: \
                 export the checkpoint to a bundle, and evaluate that or give it as --encoder"
                    .into(),
            ));
        };
        let tensor = &mut tensor;
        let conv1 = tensor("visual.conv1.weight")?;
        Ok(Self {
            conv1: conv1.flatten_from(1)?,
            class_embedding: tensor("visual.class_embedding")?,
            positions: tensor("visual.positional_embedding")?,
            ln_pre: Norm::new("visual.ln_pre", tensor)?,
            blocks: Blocks::new("visual.transformer", layers, heads, false, config, tensor)?,
            ln_post: Norm::new("visual.ln_post", tensor)?,
            proj: tensor("visual.proj")?,
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
        let x = self.ln_pre.forward(&x.broadcast_add(&self.positions)?)?;
        let x = self.blocks.forward(x)?;
        let x = self.ln_post.forward(&x.i((.., 0))?)?;
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
    /// The tower from its tensors by canonical name.
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
            blocks: Blocks::new("transformer", layers, heads, true, config, tensor)?,
            ln_final: Norm::new("ln_final", tensor)?,
            projection: tensor("text_projection")?,
        })
    }

    /// Embedding rows of token ids [texts, tokens] (u32), [texts, tokens, width]; without
    /// positions.
    pub fn embed(&self, ids: &Tensor) -> TensorResult<Tensor> {
        let (texts, tokens) = ids.dims2()?;
        let rows = self.token_embedding.index_select(&ids.flatten_all()?, 0)?;
        rows.reshape((texts, tokens, self.token_embedding.dim(1)?))
    }

    /// Embedded rows [texts, tokens, width] to embeddings [texts, embedding], not normalised, each
    /// read at its end-of-text position. Tokens behind that do not matter, so `tokens` may be
    /// anything from the last end of text to the context length.
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

struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
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
    in_proj: Affine,
    out_proj: Affine,
    ln_2: Norm,
    c_fc: Affine,
    c_proj: Affine,
}

struct Blocks {
    blocks: Vec<Block>,
    heads: usize,
    causal: bool,
    activation: Activation,
}

impl Blocks {
    fn new(
        prefix: &str,
        layers: usize,
        heads: usize,
        causal: bool,
        config: &ClipConfig,
        tensor: &mut impl FnMut(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut blocks = Vec::new();
        for layer in 0..layers {
            let name = |part: &str| format!("{prefix}.resblocks.{layer}.{part}");
            let mut affine = |part: &str| {
                let (weight, bias) = (format!("{part}.weight"), format!("{part}.bias"));
                Affine::new(&name(&weight), &name(&bias), tensor)
            };
            let (out_proj, c_fc) = (affine("attn.out_proj")?, affine("mlp.c_fc")?);
            let c_proj = affine("mlp.c_proj")?;
            let (weight, bias) = (name("attn.in_proj_weight"), name("attn.in_proj_bias"));
            blocks.push(Block {
                ln_1: Norm::new(&name("ln_1"), tensor)?,
                in_proj: Affine::new(&weight, &bias, tensor)?,
                out_proj,
                ln_2: Norm::new(&name("ln_2"), tensor)?,
                c_fc,
                c_proj,
            });
        }
        Ok(Self {
            blocks,
            heads,
            causal,
            activation: config.activation,
        })
    }

    fn forward(&self, mut x: Tensor) -> TensorResult<Tensor> {
        for block in &self.blocks {
            let qkv = block.in_proj.forward(&block.ln_1.forward(&x)?)?;
            let mixed = attention(&qkv, self.heads, self.causal)?;
            x = (x + block.out_proj.forward(&mixed)?)?;
            let hidden = block.c_fc.forward(&block.ln_2.forward(&x)?)?;
            let hidden = match self.activation {
                Activation::QuickGelu => quick_gelu(&hidden)?,
                Activation::Gelu => hidden.gelu_erf()?,
            };
            x = (x + block.c_proj.forward(&hidden)?)?;
        }
        Ok(x)
    }
}
