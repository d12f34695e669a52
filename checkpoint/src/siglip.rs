//! SigLIP's configuration files: open_clip's `open_clip_config.json` and transformers' `config.json`.

use std::path::Path;

use pinhole_model::{Activation, TextForm};

use crate::Error;
use crate::declared::{Declared, Quantity, Sizes, VitForm};
use crate::json::Object;

/// The timm encoders whose activation function is GELU by tanh (vision_transformer.py of timm 1.0.31).
const TANH: [&str; 4] = [
    "vit_base_patch32_siglip_256",
    "vit_large_patch16_siglip_512",
    "vit_giantopt_patch16_siglip_256",
    "vit_giantopt_patch16_siglip_384",
];
/// Beginnings of names of timm encoders, and their attention heads (the same file).
const HEADS: [(&str, usize); 3] = [
    ("vit_base_patch", 12),
    ("vit_large_patch", 16),
    ("vit_giantopt_patch", 16),
];

/// Whether an encoder of timm, which SigLIP's are to open_clip, is one of them by its name in `vision_cfg`.
pub(crate) fn is_siglip(timm: &str) -> bool {
    timm.contains("siglip")
}

/// Reads the three objects of `model_cfg` with timm's encoder `timm`.
pub(crate) fn read_open_clip(
    path: &Path,
    name: Option<&str>,
    timm: &str,
    [model, vision, text]: [&Object; 3],
) -> Result<Declared, Error> {
    model.only(
        &[
            "embed_dim",
            "vision_cfg",
            "text_cfg",
            "init_logit_scale",
            "init_logit_bias",
            "nonscalar_logit_scale",
            "cast_dtype",
            "output_dict",
            "model_type",
        ],
        &[("custom_text", true.into()), ("quick_gelu", false.into())],
    )?;
    vision.only(
        &[
            "image_size",
            "timm_model_name",
            "timm_model_pretrained",
            "output_tokens",
        ],
        &[
            ("timm_pool", "map".into()),
            ("timm_proj", "none".into()),
            ("timm_drop", 0.0.into()),
        ],
    )?;
    text.only(
        &[
            "context_length",
            "vocab_size",
            "width",
            "heads",
            "layers",
            "hf_tokenizer_name",
            "tokenizer_kwargs",
            "norm_kwargs",
            "act_kwargs",
            "output_tokens",
        ],
        &[
            ("mlp_ratio", 4.0.into()),
            ("no_causal_mask", true.into()),
            ("proj_bias", true.into()),
            ("pool_type", "last".into()),
            ("proj_type", "linear".into()),
        ],
    )?;
    for (field, expected) in [("no_causal_mask", true), ("proj_bias", true)] {
        if text.flag(field)? != Some(expected) {
            return Err(text.wrong(field, "true, as in SigLIP"));
        }
    }
    if text.text("pool_type")? != Some("last") {
        return Err(text.wrong("pool_type", "last, as in SigLIP"));
    }
    if let Some(tokenizer) = text.object("tokenizer_kwargs")? {
        tokenizer.only(&["context_length"], &[("clean", "canonicalize".into())])?;
    }
    match text.object("norm_kwargs")? {
        Some(norm) if norm.get("eps").and_then(|eps| eps.as_f64()) == Some(1e-6) => {
            norm.only(&["eps"], &[])?;
        }
        _ => return Err(text.wrong("norm_kwargs", "{\"eps\": 1e-6}, as in SigLIP")),
    }
    let text_activation = match text.object("act_kwargs")? {
        None => Activation::Gelu,
        Some(kwargs) => {
            kwargs.only(&["approximate"], &[])?;
            match kwargs.text("approximate")? {
                None | Some("none") => Activation::Gelu,
                Some("tanh") => Activation::GeluTanh,
                Some(_) => return Err(kwargs.wrong("approximate", "none or tanh")),
            }
        }
    };
    let mut sizes = Sizes::of_open_clip_text(model, text)?;
    sizes.add_square(Quantity::ImageSize, vision, "image_size")?;
    if let Some((_, heads)) = HEADS.iter().find(|(start, _)| timm.starts_with(start)) {
        sizes.push(
            Quantity::ImageHeads,
            vision.dotted("timm_model_name"),
            *heads,
        );
    }
    Ok(Declared {
        path: path.to_owned(),
        name: name.map(str::to_owned),
        activation: match TANH.contains(&timm) {
            true => Activation::GeluTanh,
            false => Activation::Gelu,
        },
        text_activation,
        text_form: TextForm::SigLip,
        timm: None,
        vit: VitForm::CLIP,
        sizes,
    })
}

/// Reads the `config.json` of transformers' `SiglipModel`.
///
/// After `SiglipConfig` in configuration_siglip.py, which also has the defaults.
pub(crate) fn read_transformers(path: &Path) -> Result<Declared, Error> {
    let root = Object::read(path)?;
    if let Some(found) = root.text("model_type")?
        && found != "siglip"
    {
        return Err(Error::unsupported(
            path,
            format!("a model of type {found} with the weights of a SigLIP"),
        ));
    }
    let encoder = |name: &str| -> Result<Object, Error> {
        let encoder = root.object(name)?;
        let encoder = encoder.unwrap_or_else(|| root.child(name, serde_json::Map::new()));
        for (field, expected) in [("num_channels", 3.0), ("layer_norm_eps", 1e-6)] {
            if let Some(found) = encoder.get(field)
                && found.as_f64() != Some(expected)
            {
                let found = format!("{} = {found}", encoder.dotted(field));
                return Err(Error::unsupported(path, found));
            }
        }
        Ok(encoder)
    };
    let (vision, text) = (encoder("vision_config")?, encoder("text_config")?);
    let activation = |encoder: &Object| match encoder.text("hidden_act")? {
        None | Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some("gelu") => Ok(Activation::Gelu),
        Some(_) => Err(encoder.wrong("hidden_act", "gelu_pytorch_tanh or gelu")),
    };
    let mut sizes = Sizes::default();
    sizes.add(Quantity::Embedding, &text, "projection_size")?;
    sizes.add(Quantity::ImageSize, &vision, "image_size")?;
    sizes.add(Quantity::PatchSize, &vision, "patch_size")?;
    sizes.add(Quantity::ImageWidth, &vision, "hidden_size")?;
    sizes.add(Quantity::ImageLayers, &vision, "num_hidden_layers")?;
    sizes.add_or(Quantity::ImageHeads, &vision, "num_attention_heads", 12)?;
    sizes.add(Quantity::ContextLength, &text, "max_position_embeddings")?;
    sizes.add(Quantity::Vocabulary, &text, "vocab_size")?;
    sizes.add(Quantity::TextWidth, &text, "hidden_size")?;
    sizes.add(Quantity::TextLayers, &text, "num_hidden_layers")?;
    sizes.add_or(Quantity::TextHeads, &text, "num_attention_heads", 12)?;
    let name = root.text("_name_or_path")?.filter(|name| !name.is_empty());
    Ok(Declared {
        path: path.to_owned(),
        name: name.map(str::to_owned),
        activation: activation(&vision)?,
        text_activation: activation(&text)?,
        text_form: TextForm::SigLip,
        timm: None,
        vit: VitForm::CLIP,
        sizes,
    })
}
