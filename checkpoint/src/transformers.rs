//! transformers' `config.json` and `preprocessor_config.json`.

use std::path::Path;

use pinhole_model::{Activation, CropRounding, Filter, PreprocessConfig, Resize, TextForm};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::declared::{Declared, Quantity, Sizes, VitForm};
use crate::json::{Object, whole};

/// Reads transformers' `config.json` of a `CLIPModel`.
pub(crate) fn read(path: &Path) -> Result<Declared, Error> {
    let root = Object::read(path)?;
    if let Some(found) = root.text("model_type")?
        && found != "clip"
    {
        return Err(Error::unsupported(path, format!("a model of type {found}")));
    }
    let encoder = |name: &str, defaults: &Map<String, Value>| -> Result<Object, Error> {
        let mut encoder = root
            .object(name)?
            .unwrap_or_else(|| root.child(name, Map::new()));
        // The first versions of transformers wrote a second object. It takes precedence, with the defaults of the
        // fields that it lacks (CLIPConfig in configuration_clip.py).
        if let Some(more) = root.object(&format!("{name}_dict"))? {
            encoder.extend(root.child(name, defaults.clone()));
            encoder.extend(more);
        }
        for (field, expected) in [("num_channels", 3.0), ("layer_norm_eps", 1e-5)] {
            if let Some(found) = encoder.get(field)
                && found.as_f64() != Some(expected)
            {
                let found = format!("{} = {found}", encoder.dotted(field));
                return Err(Error::unsupported(path, found));
            }
        }
        Ok(encoder)
    };
    let vision = encoder(
        "vision_config",
        &fields(json!({
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        })),
    )?;
    let text = encoder(
        "text_config",
        &fields(json!({
            "vocab_size": 49_408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
            "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
            "eos_token_id": 49_407,
        })),
    )?;
    check_end_of_text(&text)?;
    check_tokenizer_class(&root)?;
    let activation = |encoder: &Object| match encoder.text("hidden_act")? {
        // transformers' default.
        None | Some("quick_gelu") => Ok(Activation::QuickGelu),
        Some("gelu") => Ok(Activation::Gelu),
        Some(found) => Err(Error::unsupported(
            path,
            format!("{} = {found}", encoder.dotted("hidden_act")),
        )),
    };
    let both = (activation(&vision)?, activation(&text)?);
    if both.0 != both.1 {
        return Err(Error::unsupported(
            path,
            format!(
                "{} in the image encoder with {} in the text encoder",
                both.0, both.1
            ),
        ));
    }

    let mut sizes = Sizes::default();
    sizes.add(Quantity::Embedding, &root, "projection_dim")?;
    sizes.add(Quantity::ImageSize, &vision, "image_size")?;
    sizes.add(Quantity::PatchSize, &vision, "patch_size")?;
    sizes.add(Quantity::ImageWidth, &vision, "hidden_size")?;
    sizes.add(Quantity::ImageLayers, &vision, "num_hidden_layers")?;
    sizes.add(Quantity::ImageMlp, &vision, "intermediate_size")?;
    sizes.add_or(Quantity::ImageHeads, &vision, "num_attention_heads", 12)?;
    sizes.add(Quantity::ContextLength, &text, "max_position_embeddings")?;
    sizes.add(Quantity::Vocabulary, &text, "vocab_size")?;
    sizes.add(Quantity::TextWidth, &text, "hidden_size")?;
    sizes.add(Quantity::TextLayers, &text, "num_hidden_layers")?;
    sizes.add_or(Quantity::TextHeads, &text, "num_attention_heads", 8)?;
    let name = root.text("_name_or_path")?.filter(|name| !name.is_empty());
    Ok(Declared {
        path: path.to_owned(),
        name: name.map(str::to_owned),
        activation: both.0,
        vit: VitForm::CLIP,
        text_activation: both.1,
        text_form: TextForm::Clip,
        timm: None,
        sizes,
    })
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Refuses another end of text than the highest token id, at which CLIP's text encoder is read. 2 is what the first
/// versions of transformers wrote, and stands for the same (CLIPTextTransformer in modeling_clip.py).
fn check_end_of_text(text: &Object) -> Result<(), Error> {
    let end = text.number("eos_token_id")?;
    let vocabulary = text.number("vocab_size")?.unwrap_or(49_408);
    match end {
        None | Some(2) => Ok(()),
        Some(end) if end.checked_add(1) == Some(vocabulary) => Ok(()),
        Some(_) => {
            let expected = format!("2 or {}, the last token", vocabulary.saturating_sub(1));
            Err(text.wrong("eos_token_id", &expected))
        }
    }
}

/// The names of CLIP's tokenizer, and those of tokenizers that only their own file describes.
const TOKENIZERS: [&str; 4] = [
    "CLIPTokenizer",
    "CLIPTokenizerFast",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
];

/// Refuses a tokenizer that is not CLIP's, in `config.json` or `tokenizer_config.json`.
fn check_tokenizer_class(root: &Object) -> Result<(), Error> {
    match root.text("tokenizer_class")? {
        Some(found) if !TOKENIZERS.contains(&found) => {
            Err(root.wrong("tokenizer_class", "CLIPTokenizer, CLIP's own"))
        }
        _ => Ok(()),
    }
}

/// Reads `tokenizer_config.json`, of which only the kind of tokenizer is checked: Pinhole has CLIP's built in.
pub(crate) fn check_tokenizer(path: &Path) -> Result<(), Error> {
    check_tokenizer_class(&Object::read(path)?)
}

/// Reads transformers' `preprocessor_config.json`, or the same inside `processor_config.json`.
pub(crate) fn read_preprocessing(path: &Path) -> Result<PreprocessConfig, Error> {
    let root = Object::read(path)?;
    let config = root.object("image_processor")?.unwrap_or(root);
    if config.flag("do_resize")? == Some(false) {
        return Err(config.wrong("do_resize", "true"));
    }
    if config.flag("do_rescale")? == Some(false) {
        return Err(config.wrong("do_rescale", "true"));
    }
    if let Some(factor) = config.get("rescale_factor")
        && !factor
            .as_f64()
            .is_some_and(|factor| (factor * 255.0 - 1.0).abs() < 1e-6)
    {
        return Err(config.wrong("rescale_factor", "1 / 255"));
    }
    let crop = config.flag("do_center_crop")?.unwrap_or(true);
    let expected = "a number, {shortest_edge} or a square {height, width}";
    let wrong = || config.wrong("size", expected);
    let (resize, size) = match config.get("size") {
        None | Some(Value::Null) => (Resize::Shortest, 224),
        Some(Value::Object(size)) => {
            let field = |name: &str| size.get(name).and_then(whole);
            match (field("shortest_edge"), field("height"), field("width")) {
                (Some(edge), None, None) => (Resize::Shortest, edge),
                (None, Some(height), Some(width)) if height == width => (Resize::Squash, height),
                _ => return Err(wrong()),
            }
        }
        Some(size) => (Resize::Shortest, whole(size).ok_or_else(wrong)?),
    };
    let cropped = config.square("crop_size")?.unwrap_or(size);
    if resize == Resize::Shortest && !crop {
        return Err(config.wrong("do_center_crop", "true: the encoder takes squares"));
    }
    let scaled = config.pixels("size", size)?;
    let side = if crop {
        config.pixels("crop_size", cropped)?
    } else {
        scaled
    };
    if side > scaled {
        return Err(config.wrong("crop_size", &format!("at most {scaled}, the size")));
    }
    let mut preprocessing = PreprocessConfig::openai(side);
    preprocessing.resize = resize;
    preprocessing.resize_to = Some(scaled).filter(|scaled| *scaled != side);
    preprocessing.crop = CropRounding::Floor;
    // Pillow's numbers.
    preprocessing.filter = match config.get("resample").filter(|value| !value.is_null()) {
        None => Filter::Bicubic,
        Some(number) => match number.as_u64() {
            Some(0) => Filter::Nearest,
            Some(1) => Filter::Lanczos,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            Some(4) => Filter::Box,
            Some(5) => Filter::Hamming,
            _ => return Err(config.wrong("resample", "one of Pillow's filters, 0 to 5")),
        },
    };
    if config.flag("do_normalize")? == Some(false) {
        (preprocessing.mean, preprocessing.std) = ([0.0; 3], [1.0; 3]);
    } else {
        preprocessing.mean = config.mean("image_mean", PreprocessConfig::OPENAI_MEAN)?;
        preprocessing.std = config.std("image_std", PreprocessConfig::OPENAI_STD)?;
    }
    Ok(preprocessing)
}
