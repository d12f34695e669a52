//! `open_clip_config.json`, read and written.

use std::path::Path;

use pinhole_model::{
    Activation, ClipConfig, CropRounding, Filter, PreprocessConfig, Resize, TextForm,
};
use serde_json::{Value, json};

use crate::declared::{Declared, Quantity, Sizes, VitForm};
use crate::json::{Object, whole};
use crate::{Error, encoders, siglip};

/// Width of an attention head where the file has no `head_width`.
const HEAD_WIDTH: usize = 64;

/// Fields that change no embedding of a CLIP model, or that the shapes of the weights show.
const MODEL: &[&str] = &[
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "quick_gelu",
    "custom_text",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
    "cast_dtype",
    "output_dict",
    "model_type",
];
const VISION: &[&str] = &[
    "image_size",
    "layers",
    "width",
    "head_width",
    "patch_size",
    "mlp_ratio",
    "patch_dropout",
    "output_tokens",
    "no_ln_pre",
    "pool_type",
    "final_ln_after_pool",
    // Learned or not, the embeddings are stored with the weights.
    "pos_embed_type",
];
const TEXT: &[&str] = &[
    "context_length",
    "vocab_size",
    "width",
    "heads",
    "layers",
    "mlp_ratio",
    "tokenizer_kwargs",
    "output_tokens",
    "pad_id",
    "eos_id",
    "no_causal_mask",
];

/// Reads `open_clip_config.json`: `model_cfg`, and `preprocess_cfg` if it is there.
///
/// After open_clip's `CLIPVisionCfg`, `CLIPTextCfg` (model.py) and `PreprocessCfg` (transform.py), which also
/// have the defaults.
pub(crate) fn read(path: &Path) -> Result<(Declared, Option<PreprocessConfig>), Error> {
    let root = Object::read(path)?;
    let required = |object: &Object, name: &str, expected: &str| {
        object
            .object(name)?
            .ok_or_else(|| object.wrong(name, expected))
    };
    let model = required(&root, "model_cfg", "open_clip's model configuration")?;
    let vision = required(&model, "vision_cfg", "open_clip's image encoder")?;
    let text = required(&model, "text_cfg", "open_clip's text encoder")?;
    let name = root.text("name")?;
    let declared = match vision.text("timm_model_name")? {
        Some(timm) if siglip::is_siglip(timm) => {
            siglip::read_open_clip(path, name, timm, [&model, &vision, &text])?
        }
        _ => read_clip(path, name, [&model, &vision, &text])?,
    };
    let Some(config) = root.object("preprocess_cfg")? else {
        return Ok((declared, None));
    };
    let size = declared
        .sizes
        .get(Quantity::ImageSize)
        .map(|(_, size)| size);
    let mut preprocessing = read_preprocessing(&config, size)?;
    // What `describe` adds, because open_clip has no field for it.
    if let Some(pinhole) = root.object("pinhole")? {
        preprocessing.crop = match pinhole.text("crop")? {
            None | Some("half-even") => CropRounding::HalfEven,
            Some("floor") => CropRounding::Floor,
            Some(_) => return Err(pinhole.wrong("crop", "half-even or floor")),
        };
        if let Some(scaled) = pinhole.number("resize_to")? {
            preprocessing.resize_to = Some(pinhole.pixels("resize_to", scaled)?);
        }
    }
    Ok((declared, Some(preprocessing)))
}

/// Reads `preprocess_cfg` alone, of a configuration of any model; `None` if there is none.
pub(crate) fn read_preprocessing_alone(path: &Path) -> Result<Option<PreprocessConfig>, Error> {
    let root = Object::read(path)?;
    let Some(config) = root.object("preprocess_cfg")? else {
        return Ok(None);
    };
    let vision = match root.object("model_cfg")? {
        Some(model) => model.object("vision_cfg")?,
        None => None,
    };
    let size = match vision {
        Some(vision) => vision.square("image_size")?,
        None => None,
    };
    read_preprocessing(&config, size).map(Some)
}

fn read_clip(
    path: &Path,
    name: Option<&str>,
    [model, vision, text]: [&Object; 3],
) -> Result<Declared, Error> {
    let mut sizes = Sizes::of_open_clip_text(model, text)?;
    sizes.add_square(Quantity::ImageSize, vision, "image_size")?;
    // An encoder of timm comes from an ONNX file, whatever it is.
    let vit = match vision.text("timm_model_name")? {
        Some(_) => VitForm::CLIP,
        None => {
            refuse_other_encoders(vision)?;
            add_image_sizes(vision, &mut sizes)?;
            encoders::open_clip_form(vision)?
        }
    };
    refuse_other_models(model, text)?;
    check_tokenizer(text)?;
    let unmasked = text.flag("no_causal_mask")?.unwrap_or(false);
    let quick = model.flag("quick_gelu")?.unwrap_or(false);
    let activation = if quick {
        Activation::QuickGelu
    } else {
        Activation::Gelu
    };
    Ok(Declared {
        path: path.to_owned(),
        name: name.map(str::to_owned),
        activation,
        text_activation: activation,
        text_form: match unmasked {
            true => TextForm::ClipUnmasked,
            false => TextForm::Clip,
        },
        timm: (vision.text("timm_model_name")?)
            .map(|timm| (vision.dotted("timm_model_name"), timm.to_owned())),
        vit,
        sizes,
    })
}

/// Refuses settings of image encoders other than CLIP's.
fn refuse_other_encoders(vision: &Object) -> Result<(), Error> {
    vision.only(
        VISION,
        &[
            ("timm_pool", "avg".into()),
            ("timm_proj", "linear".into()),
            ("timm_drop", 0.0.into()),
            ("attn_pooler_queries", 256.into()),
            ("attn_pooler_heads", 8.into()),
        ],
    )
}

/// Refuses settings of models with another text encoder than CLIP's.
fn refuse_other_models(model: &Object, text: &Object) -> Result<(), Error> {
    model.only(MODEL, &[])?;
    text.only(
        TEXT,
        &[
            ("pool_type", "argmax".into()),
            ("proj_type", "linear".into()),
            ("hf_model_pretrained", true.into()),
            ("hf_proj_type", "mlp".into()),
            ("hf_pooler_type", "mean_pooler".into()),
        ],
    )
}

/// Refuses settings of open_clip's `SimpleTokenizer` (tokenizer.py) that give other tokens than OpenAI's.
fn check_tokenizer(text: &Object) -> Result<(), Error> {
    let Some(settings) = text.object("tokenizer_kwargs")? else {
        return Ok(());
    };
    settings.only(
        &["context_length"],
        &[("clean", "lower".into()), ("reduction_mask", "".into())],
    )
}

fn add_image_sizes(vision: &Object, sizes: &mut Sizes) -> Result<(), Error> {
    sizes.add(Quantity::ImageWidth, vision, "width")?;
    let head_width = vision.number("head_width")?.unwrap_or(HEAD_WIDTH);
    if head_width == 0 {
        return Err(vision.wrong("head_width", "a number above zero"));
    }
    if let Some(width) = encoders::read_open_clip(vision, sizes)? {
        let field = vision.dotted("head_width");
        sizes.push(Quantity::ImageHeads, field, width / head_width);
    }
    Ok(())
}

/// open_clip's `PreprocessCfg`, with its defaults.
fn read_preprocessing(config: &Object, size: Option<usize>) -> Result<PreprocessConfig, Error> {
    config.only(
        &[
            "size",
            "mean",
            "std",
            "interpolation",
            "resize_mode",
            "fill_color",
        ],
        &[("mode", "RGB".into())],
    )?;
    let size = config.square("size")?.or(size).unwrap_or(224);
    let mut preprocessing = PreprocessConfig::openai(config.pixels("size", size)?);
    preprocessing.filter = match config.text("interpolation")? {
        // open_clip resizes with bicubic at inference where training drew one at random.
        None | Some("bicubic" | "random") => Filter::Bicubic,
        Some("bilinear") => Filter::Bilinear,
        Some(_) => return Err(config.wrong("interpolation", "bicubic, bilinear or random")),
    };
    preprocessing.resize = match config.text("resize_mode")? {
        None | Some("shortest") => Resize::Shortest,
        Some("longest") => Resize::Longest,
        Some("squash") => Resize::Squash,
        Some(_) => return Err(config.wrong("resize_mode", "shortest, longest or squash")),
    };
    let byte = |value: &Value| whole(value).and_then(|value| u8::try_from(value).ok());
    preprocessing.fill = match config.get("fill_color") {
        None | Some(Value::Null) => [0; 3],
        Some(Value::Array(channels)) => {
            let channels: Option<Vec<u8>> = channels.iter().map(byte).collect();
            channels
                .and_then(|channels| channels.try_into().ok())
                .ok_or_else(|| config.wrong("fill_color", "three numbers from 0 to 255"))?
        }
        Some(value) => {
            [byte(value).ok_or_else(|| config.wrong("fill_color", "a number from 0 to 255"))?; 3]
        }
    };
    preprocessing.mean = config.mean("mean", PreprocessConfig::OPENAI_MEAN)?;
    preprocessing.std = config.std("std", PreprocessConfig::OPENAI_STD)?;
    Ok(preprocessing)
}

/// The contents of `open_clip_config.json`. `path` is for errors.
///
/// # Errors
/// A configuration that the format cannot express.
pub(crate) fn describe(path: &Path, config: &ClipConfig) -> Result<Value, Error> {
    let head_width = |(heads, width): (usize, usize)| {
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            let expected = format!("a divisor of {width}");
            return Err(Error::config(path, "heads", expected, heads.to_string()));
        }
        Ok(width / heads)
    };
    let mut vision = encoders::write_open_clip(path, &config.image)?;
    vision.insert("image_size".into(), json!(config.image.image_size()));
    if let Some(attention) = config.image.attention() {
        vision.insert("head_width".into(), json!(head_width(attention)?));
    }
    let text = &config.text;
    head_width((text.heads, text.width))?;
    let mut description = json!({
        "model_cfg": {
            "embed_dim": config.embedding,
            "quick_gelu": config.activation == Activation::QuickGelu,
            "vision_cfg": vision,
            "text_cfg": {
                "context_length": text.context_length,
                "vocab_size": text.vocabulary,
                "width": text.width,
                "heads": text.heads,
                "layers": text.layers,
            },
        },
        "preprocess_cfg": describe_preprocessing(path, config)?,
    });
    if config.preprocessing.crop == CropRounding::Floor {
        description["pinhole"]["crop"] = json!("floor");
    }
    if let Some(scaled) = config.preprocessing.resize_to {
        description["pinhole"]["resize_to"] = json!(scaled);
    }
    if text.form == TextForm::ClipUnmasked {
        description["model_cfg"]["text_cfg"]["no_causal_mask"] = json!(true);
    }
    if let Some(name) = &config.name {
        description["name"] = json!(name);
    }
    Ok(description)
}

fn describe_preprocessing(path: &Path, config: &ClipConfig) -> Result<Value, Error> {
    let preprocessing = &config.preprocessing;
    if preprocessing.size != config.image.image_size() {
        return Err(Error::config(
            path,
            "preprocessing.size",
            format!("{} pixels", config.image.image_size()),
            preprocessing.size.to_string(),
        ));
    }
    let interpolation = match preprocessing.filter {
        Filter::Bicubic => "bicubic",
        Filter::Bilinear => "bilinear",
        other => {
            return Err(Error::config(
                path,
                "preprocessing.filter",
                "bicubic or bilinear, the filters of open_clip",
                format!("{other:?}"),
            ));
        }
    };
    Ok(json!({
        "size": preprocessing.size,
        "mode": "RGB",
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": interpolation,
        "resize_mode": match preprocessing.resize {
            Resize::Shortest => "shortest",
            Resize::Longest => "longest",
            Resize::Squash => "squash",
        },
        "fill_color": preprocessing.fill,
    }))
}
