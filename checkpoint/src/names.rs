//! The tensor names of each file format, for the canonical names.

use crate::{Error, StateDict};

/// The naming scheme of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// OpenAI's, and open_clip's `CLIP`.
    Native,
    /// open_clip's `CustomTextCLIP`: the names of the text encoder start with `text.`.
    CustomText,
    /// transformers' `CLIPModel`.
    Transformers,
    /// open_clip's SigLIP: timm's names of the image encoder.
    TimmSigLip,
    /// transformers' `SiglipModel`.
    TransformersSigLip,
}

/// How a canonical tensor is made from the tensors of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recipe {
    Same(String),
    /// A transposed matrix.
    Transposed(String),
    /// Tensors concatenated along the first dimension, each with its part of that dimension; the whole is the sum of the
    /// parts.
    Rows(Vec<(String, usize)>),
}

impl Recipe {
    /// The name of the tensor, or of the first one.
    pub(crate) fn first(self) -> String {
        match self {
            Recipe::Same(name) | Recipe::Transposed(name) => name,
            Recipe::Rows(parts) => {
                let first = parts.into_iter().next();
                first.map_or_else(String::new, |(name, _)| name)
            }
        }
    }
}

impl Naming {
    /// Recognises the scheme by the names in a file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models of another architecture than OpenAI's CLIP.
    pub(crate) fn of(state: &StateDict) -> Result<Naming, Error> {
        let any = |prefix: &str| state.names().any(|name| name.starts_with(prefix));
        // PE-Core has such a pooling too, with CLIP's text encoder, whose projection is one tensor.
        if any("visual.trunk.attn_pool.latent")
            && any("visual.trunk.blocks.")
            && any("text.text_projection.")
        {
            return Ok(Naming::TimmSigLip);
        }
        if any("vision_model.head.probe") && any("text_model.head.") {
            return Ok(Naming::TransformersSigLip);
        }
        let unsupported = [
            (
                "prompt_learner.",
                "a prompt learner (CoOp, CoCoOp; --prompt-learner) without its CLIP model",
            ),
            (
                "ctx",
                "a prompt learner (CoOp, CoCoOp; --prompt-learner) without its CLIP model",
            ),
            ("text_decoder.", "a CoCa model (text_decoder.*)"),
            (
                "visual.attn_pool",
                "an image encoder with attentional pooling (visual.attn_pool*)",
            ),
            (
                "vision_model.head.",
                "a SigLIP image encoder alone (vision_model.head.* without text_model.head.*)",
            ),
            (
                "image_encoder.",
                "a model with its own image encoder (image_encoder.*)",
            ),
            (
                "text.transformer.embeddings.",
                "a Hugging Face text encoder (text.transformer.*)",
            ),
            (
                "text.transformer.encoder.",
                "a Hugging Face text encoder (text.transformer.*)",
            ),
            (
                "text.cls_emb",
                "a text encoder with a class token (text.cls_emb)",
            ),
            ("cls_emb", "a text encoder with a class token (cls_emb)"),
        ];
        if let Some((_, found)) = unsupported.iter().find(|(prefix, _)| any(prefix)) {
            return Err(Error::unsupported(state.path(), *found));
        }
        let (vision, text) = (any("vision_model."), any("text_model."));
        let refuse = |found| Err(Error::unsupported(state.path(), found));
        match (vision, text, any("visual.")) {
            (true, true, _) => Ok(Naming::Transformers),
            (true, false, _) => refuse("an image encoder alone (vision_model.*)".to_owned()),
            (_, true, _) => refuse("a text encoder alone (text_model.*)".to_owned()),
            (_, _, true) if any("text.") => Ok(Naming::CustomText),
            (_, _, true) => Ok(Naming::Native),
            _ if any("token_embedding.") => {
                refuse("a model without an image encoder (no visual.*)".to_owned())
            }
            _ => {
                let some: Vec<_> = state.names().take(3).collect();
                refuse(match some.as_slice() {
                    [] => "a file without tensors".to_owned(),
                    some => format!("a model with tensors such as {}", some.join(", ")),
                })
            }
        }
    }

    /// Whether the model is a SigLIP.
    pub(crate) fn is_siglip(self) -> bool {
        matches!(self, Naming::TimmSigLip | Naming::TransformersSigLip)
    }

    /// Whether the configuration files are transformers'.
    pub(crate) fn is_transformers(self) -> bool {
        matches!(self, Naming::Transformers | Naming::TransformersSigLip)
    }

    /// How a canonical tensor is made from the tensors of the file.
    pub(crate) fn recipe(self, name: &str) -> Recipe {
        match self {
            Naming::Native => Recipe::Same(name.to_owned()),
            Naming::CustomText if name.starts_with("visual.") || name.starts_with("logit_") => {
                Recipe::Same(name.to_owned())
            }
            Naming::CustomText => Recipe::Same(format!("text.{name}")),
            Naming::Transformers => transformers(name),
            Naming::TimmSigLip => timm_siglip(name),
            Naming::TransformersSigLip => transformers_siglip(name),
        }
    }
}

/// Whether a tensor is a buffer or a setting, which are stored with the parameters.
pub(crate) fn is_no_parameter(name: &str) -> bool {
    // The last three are OpenAI's.
    ["position_ids", "attn_mask", "num_batches_tracked"]
        .iter()
        .any(|end| name.rsplit('.').next() == Some(end))
        || OPENAI_SETTINGS.contains(&name)
}

/// Integers that only OpenAI's archives store with the weights.
pub(crate) const OPENAI_SETTINGS: [&str; 3] = ["input_resolution", "context_length", "vocab_size"];

/// The inverse of transformers' convert_clip_original_pytorch_to_hf.py.
fn transformers(name: &str) -> Recipe {
    let same = |name: String| Recipe::Same(name);
    if let Some(rest) = name.strip_prefix("visual.transformer.resblocks.") {
        return transformers_block("vision_model", rest);
    }
    if let Some(rest) = name.strip_prefix("transformer.resblocks.") {
        return transformers_block("text_model", rest);
    }
    let fixed = match name {
        "visual.proj" => return Recipe::Transposed("visual_projection.weight".into()),
        "text_projection" => return Recipe::Transposed("text_projection.weight".into()),
        "visual.class_embedding" => "vision_model.embeddings.class_embedding",
        "visual.positional_embedding" => "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight" => "vision_model.embeddings.patch_embedding.weight",
        // transformers' spelling.
        "visual.ln_pre.weight" => "vision_model.pre_layrnorm.weight",
        "visual.ln_pre.bias" => "vision_model.pre_layrnorm.bias",
        "visual.ln_post.weight" => "vision_model.post_layernorm.weight",
        "visual.ln_post.bias" => "vision_model.post_layernorm.bias",
        "token_embedding.weight" => "text_model.embeddings.token_embedding.weight",
        "positional_embedding" => "text_model.embeddings.position_embedding.weight",
        "ln_final.weight" => "text_model.final_layer_norm.weight",
        "ln_final.bias" => "text_model.final_layer_norm.bias",
        other => other,
    };
    same(fixed.to_owned())
}

fn transformers_block(encoder: &str, rest: &str) -> Recipe {
    let (layer, part) = rest.split_once('.').unwrap_or((rest, ""));
    let block = format!("{encoder}.encoder.layers.{layer}");
    let attention = |kind: &str| {
        ["q", "k", "v"]
            .map(|p| (format!("{block}.self_attn.{p}_proj.{kind}"), 1))
            .to_vec()
    };
    match part {
        "attn.in_proj_weight" => Recipe::Rows(attention("weight")),
        "attn.in_proj_bias" => Recipe::Rows(attention("bias")),
        _ => {
            let part = part
                .replace("attn.out_proj", "self_attn.out_proj")
                .replace("ln_", "layer_norm")
                .replace("mlp.c_fc", "mlp.fc1")
                .replace("mlp.c_proj", "mlp.fc2");
            Recipe::Same(format!("{block}.{part}"))
        }
    }
}

/// The names of transformers' `SiglipModel` (modeling_siglip.py).
fn transformers_siglip(name: &str) -> Recipe {
    if let Some(part) = name.strip_prefix("visual.attn_pool.") {
        let part = part
            .replace("in_proj", "attention.in_proj")
            .replace("out_proj", "attention.out_proj")
            .replace("ln.", "layernorm.")
            .replace("mlp.c_fc", "mlp.fc1")
            .replace("mlp.c_proj", "mlp.fc2");
        return Recipe::Same(format!("vision_model.head.{part}"));
    }
    match name {
        "visual.conv1.bias" => Recipe::Same("vision_model.embeddings.patch_embedding.bias".into()),
        "text_projection" => Recipe::Transposed("text_model.head.weight".into()),
        "text_projection.bias" => Recipe::Same("text_model.head.bias".into()),
        other => transformers(other),
    }
}

/// The names of open_clip's SigLIP: `visual.trunk` is a `VisionTransformer` of timm (vision_transformer.py), its
/// `attn_pool` an `AttentionPoolLatent`.
fn timm_siglip(name: &str) -> Recipe {
    let Some(visual) = name.strip_prefix("visual.") else {
        return match name {
            "text_projection" => Recipe::Transposed("text.text_projection.weight".into()),
            "text_projection.bias" => Recipe::Same("text.text_projection.bias".into()),
            name if name.starts_with("logit_") => Recipe::Same(name.to_owned()),
            name => Recipe::Same(format!("text.{name}")),
        };
    };
    let mlp = |part: &str| part.replace("c_fc", "fc1").replace("c_proj", "fc2");
    let trunk = |part: String| Recipe::Same(format!("visual.trunk.{part}"));
    if let Some(part) = visual.strip_prefix("attn_pool.") {
        if let Some(kind) = part.strip_prefix("in_proj_") {
            let layer = |layer: &str| format!("visual.trunk.attn_pool.{layer}.{kind}");
            return Recipe::Rows(vec![(layer("q"), 1), (layer("kv"), 2)]);
        }
        let part = part
            .replace("probe", "latent")
            .replace("out_proj", "proj")
            .replace("ln.", "norm.");
        return trunk(format!("attn_pool.{}", mlp(&part)));
    }
    if let Some(rest) = visual.strip_prefix("transformer.resblocks.") {
        let (layer, part) = rest.split_once('.').unwrap_or((rest, ""));
        let part = part
            .replace("attn.in_proj_", "attn.qkv.")
            .replace("attn.out_proj", "attn.proj")
            .replace("ln_", "norm");
        return trunk(format!("blocks.{layer}.{}", mlp(&part)));
    }
    trunk(
        visual
            .replace("conv1", "patch_embed.proj")
            .replace("positional_embedding", "pos_embed")
            .replace("ln_post", "norm"),
    )
}
