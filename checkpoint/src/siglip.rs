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
const HEADS: [(&str, usize); 4] = [
    ("vit_base_patch", 12),
    ("vit_large_patch", 16),
    ("vit_giantopt_patch", 16),
    ("vit_so400m_patch", 16),
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
    if timm.contains("naflex") {
        return Err(Error::unsupported(path, NAFLEX));
    }
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
            "mlp_ratio",
            "output_tokens",
        ],
        &[
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
    if let Some(width) = text.number("width")? {
        sizes.add_mlp(Quantity::TextMlp, text, width)?;
    }
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
        text_form: text_form(&sizes),
        timm: None,
        vit: VitForm::CLIP,
        sizes,
    })
}

/// The tensors decide where a file does not state the MLPs' width.
fn text_form(sizes: &Sizes) -> TextForm {
    let mlp = sizes.get(Quantity::TextMlp).map_or(0, |(_, mlp)| mlp);
    TextForm::SigLip { mlp }
}

/// Why a NaFlex model cannot be read.
const NAFLEX: &str = "a NaFlex model, which takes images of any aspect ratio as a varying number of patches; bundles have images \
                      of one size: use a SigLIP2 of fixed resolution, such as hf:google/siglip2-base-patch16-256";

/// Reads the `config.json` of transformers' `SiglipModel`.
///
/// After `SiglipConfig` in configuration_siglip.py, which also has the defaults.
pub(crate) fn read_transformers(path: &Path) -> Result<Declared, Error> {
    let root = Object::read(path)?;
    // `Siglip2Model` is NaFlex; SigLIP2s of fixed resolution are `SiglipModel`s.
    if root.text("model_type")? == Some("siglip2") {
        return Err(Error::unsupported(path, NAFLEX));
    }
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
    sizes.add(Quantity::ImageMlp, &vision, "intermediate_size")?;
    sizes.add(Quantity::TextMlp, &text, "intermediate_size")?;
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
        text_form: text_form(&sizes),
        timm: None,
        vit: VitForm::CLIP,
        sizes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &tempfile::TempDir, text: &str) -> std::path::PathBuf {
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// open_clip's ViT-SO400M-14-SigLIP-384.json: 16 heads of 72, and MLPs of 4304.
    #[test]
    fn so400m_has_its_own_heads_and_mlps() {
        let config = r#"{
            "embed_dim": 1152, "init_logit_bias": -10, "custom_text": true,
            "vision_cfg": {
                "image_size": 384, "timm_model_name": "vit_so400m_patch14_siglip_384", "timm_model_pretrained": false,
                "timm_pool": "map", "timm_proj": "none"
            },
            "text_cfg": {
                "context_length": 64, "vocab_size": 32000, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
                "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 1152, "heads": 16, "layers": 27,
                "mlp_ratio": 3.7362, "no_causal_mask": true, "proj_bias": true, "pool_type": "last",
                "norm_kwargs": {"eps": 1e-6}
            }
        }"#;
        let folder = tempfile::tempdir().unwrap();
        let model = Object::read(&file(&folder, config)).unwrap();
        let [vision, text] = ["vision_cfg", "text_cfg"].map(|n| model.object(n).unwrap().unwrap());
        let read = |timm: &str| {
            let path = folder.path();
            read_open_clip(path, None, timm, [&model, &vision, &text])
        };
        let declared = read("vit_so400m_patch14_siglip_384").unwrap();
        let size = |quantity| declared.sizes.get(quantity).unwrap().1;
        assert_eq!(declared.activation, Activation::Gelu);
        assert_eq!(declared.text_form, TextForm::SigLip { mlp: 4304 });
        assert_eq!(
            [Quantity::ImageHeads, Quantity::TextHeads, Quantity::TextMlp].map(size),
            [16, 16, 4304]
        );
        let naflex = read("naflexvit_base_patch16_siglip").unwrap_err();
        assert!(naflex.to_string().contains("NaFlex"), "{naflex}");
    }

    /// As of google/siglip2-base-patch16-naflex.
    #[test]
    fn naflex_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{
            "model_type": "siglip2", "text_config": {"vocab_size": 256000},
            "vision_config": {"num_patches": 256, "hidden_size": 768}
        }"#;
        let error = read_transformers(&file(&folder, config)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("NaFlex") && error.contains("fixed resolution"),
            "{error}"
        );
    }
}
