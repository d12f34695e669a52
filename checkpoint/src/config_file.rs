//! The configuration files that lie beside weights: open_clip's `open_clip_config.json`,
//! transformers' `config.json` and `preprocessor_config.json`.

use std::path::{Path, PathBuf};

use pinhole_model::{
    Activation, ClipConfig, CropRounding, Filter, ImageEncoderConfig, PreprocessConfig, Resize,
};
use serde_json::{Map, Value};

use crate::Error;
use crate::storage::Source;

const MAX_BYTES: u64 = 4 << 20;

/// A size that a configuration file may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantity {
    Embedding,
    ImageSize,
    PatchSize,
    ImageWidth,
    ImageLayers,
    /// Blocks in one stage of a ModifiedResNet.
    Stage(usize),
    ImageHeads,
    ContextLength,
    Vocabulary,
    TextWidth,
    TextLayers,
    TextHeads,
}

/// What a configuration file says about the model.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) path: PathBuf,
    pub(crate) name: Option<String>,
    pub(crate) activation: Option<Activation>,
    sizes: Vec<(Quantity, String, usize)>,
}

impl Declared {
    /// A size and the field that says it.
    pub(crate) fn get(&self, quantity: Quantity) -> Option<(&str, usize)> {
        self.sizes
            .iter()
            .find(|(which, ..)| *which == quantity)
            .map(|(_, field, value)| (field.as_str(), *value))
    }

    /// Compares every size with the one inferred from the weights.
    pub(crate) fn check(&self, config: &ClipConfig) -> Result<(), Error> {
        for (quantity, field, declared) in &self.sizes {
            let inferred = inferred(config, *quantity);
            if inferred != Some(*declared) {
                let expected = match inferred {
                    Some(inferred) => format!("{inferred}, as the weights have it"),
                    None => format!("the architecture of the weights ({config})"),
                };
                return Err(Error::config(
                    &self.path,
                    field,
                    expected,
                    declared.to_string(),
                ));
            }
        }
        Ok(())
    }
}

fn inferred(config: &ClipConfig, quantity: Quantity) -> Option<usize> {
    let text = &config.text;
    Some(match (quantity, &config.image) {
        (Quantity::Embedding, _) => config.embedding,
        (Quantity::ContextLength, _) => text.context_length,
        (Quantity::Vocabulary, _) => text.vocabulary,
        (Quantity::TextWidth, _) => text.width,
        (Quantity::TextLayers, _) => text.layers,
        (Quantity::TextHeads, _) => text.heads,
        (Quantity::ImageSize, image) => image.image_size() as usize,
        (
            Quantity::ImageWidth,
            ImageEncoderConfig::VisionTransformer { width, .. }
            | ImageEncoderConfig::ModifiedResNet { width, .. },
        ) => *width,
        (
            Quantity::ImageHeads,
            ImageEncoderConfig::VisionTransformer { heads, .. }
            | ImageEncoderConfig::ModifiedResNet { heads, .. },
        ) => *heads,
        (Quantity::PatchSize, ImageEncoderConfig::VisionTransformer { patch_size, .. }) => {
            *patch_size as usize
        }
        (Quantity::ImageLayers, ImageEncoderConfig::VisionTransformer { layers, .. }) => *layers,
        (Quantity::Stage(stage), ImageEncoderConfig::ModifiedResNet { layers, .. }) => {
            layers.get(stage).copied()?
        }
        _ => return None,
    })
}

/// Reads `open_clip_config.json`: `model_cfg`, and `preprocess_cfg` if it is there.
///
/// Written after open_clip's `CLIPVisionCfg`, `CLIPTextCfg` (model.py) and `PreprocessCfg`
/// (transform.py), which also have the defaults.
pub(crate) fn read_open_clip(path: &Path) -> Result<(Declared, Option<PreprocessConfig>), Error> {
    let root = Object::read(path)?;
    let model = root.object("model_cfg")?.ok_or_else(|| {
        Error::config(
            path,
            "model_cfg",
            "open_clip's model configuration",
            "nothing",
        )
    })?;
    let vision = model.object("vision_cfg")?.ok_or_else(|| {
        Error::config(
            path,
            "model_cfg.vision_cfg",
            "open_clip's image tower",
            "nothing",
        )
    })?;
    let text = model.object("text_cfg")?.ok_or_else(|| {
        Error::config(
            path,
            "model_cfg.text_cfg",
            "open_clip's text tower",
            "nothing",
        )
    })?;

    // Settings that change no embedding of a CLIP model, or that the shapes of the weights show.
    model.only(
        &[
            "embed_dim",
            "vision_cfg",
            "text_cfg",
            "quick_gelu",
            "custom_text",
            "init_logit_scale",
            "nonscalar_logit_scale",
            "cast_dtype",
            "output_dict",
            "model_type",
        ],
        &[],
    )?;
    vision.only(
        &[
            "image_size",
            "layers",
            "width",
            "head_width",
            "patch_size",
            "mlp_ratio",
            "patch_dropout",
            "output_tokens",
        ],
        &[
            ("pool_type", "tok".into()),
            ("pos_embed_type", "learnable".into()),
            ("timm_pool", "avg".into()),
            ("timm_proj", "linear".into()),
            ("timm_drop", 0.0.into()),
            ("attn_pooler_queries", 256.into()),
            ("attn_pooler_heads", 8.into()),
        ],
    )?;
    text.only(
        &[
            "context_length",
            "vocab_size",
            "width",
            "heads",
            "layers",
            "mlp_ratio",
            "tokenizer_kwargs",
            "hf_tokenizer_name",
            "output_tokens",
            "pad_id",
            "eos_id",
        ],
        &[
            ("pool_type", "argmax".into()),
            ("proj_type", "linear".into()),
            ("hf_model_pretrained", true.into()),
            ("hf_proj_type", "mlp".into()),
            ("hf_pooler_type", "mean_pooler".into()),
        ],
    )?;

    let mut sizes = Sizes(Vec::new());
    sizes.add(Quantity::Embedding, &model, "embed_dim")?;
    sizes.add_square(Quantity::ImageSize, &vision, "image_size")?;
    sizes.add(Quantity::ImageWidth, &vision, "width")?;
    let head_width = vision.number("head_width")?.unwrap_or(64);
    if head_width == 0 {
        return Err(vision.wrong("head_width", "a number above zero"));
    }
    let image_width = match vision.0.get("layers") {
        Some(Value::Array(stages)) => {
            for (stage, blocks) in stages.iter().enumerate() {
                let field = format!("{}.layers[{stage}]", vision.1.field);
                let blocks =
                    whole(blocks).ok_or_else(|| vision.wrong("layers", "whole numbers"))?;
                sizes.0.push((Quantity::Stage(stage), field, blocks));
            }
            vision
                .number("width")?
                .and_then(|width| width.checked_mul(32))
        }
        _ => {
            sizes.add(Quantity::ImageLayers, &vision, "layers")?;
            sizes.add(Quantity::PatchSize, &vision, "patch_size")?;
            vision.number("width")?
        }
    };
    let image_heads = image_width.map(|width| width / head_width);
    if let Some(heads) = image_heads {
        let field = format!("{}.head_width", vision.1.field);
        sizes.0.push((Quantity::ImageHeads, field, heads));
    }
    sizes.add(Quantity::ContextLength, &text, "context_length")?;
    sizes.add(Quantity::Vocabulary, &text, "vocab_size")?;
    sizes.add(Quantity::TextWidth, &text, "width")?;
    sizes.add(Quantity::TextLayers, &text, "layers")?;
    sizes.add_or(Quantity::TextHeads, &text, "heads", 8)?;

    let quick = match model.0.get("quick_gelu") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(quick)) => *quick,
        Some(_) => return Err(model.wrong("quick_gelu", "true or false")),
    };
    let declared = Declared {
        path: path.to_owned(),
        name: root.text("name")?.map(str::to_owned),
        activation: Some(if quick {
            Activation::QuickGelu
        } else {
            Activation::Gelu
        }),
        sizes: sizes.0,
    };
    let size = declared.get(Quantity::ImageSize).map(|(_, size)| size);
    let preprocessing = match root.object("preprocess_cfg")? {
        Some(rule) => {
            let mut rule = open_clip_preprocessing(&rule, size)?;
            // What our writer adds because open_clip has no word for it.
            if let Some(ours) = root.object("pinhole")? {
                rule.crop = match ours.text("crop")? {
                    None | Some("half-even") => CropRounding::HalfEven,
                    Some("floor") => CropRounding::Floor,
                    Some(_) => return Err(ours.wrong("crop", "half-even or floor")),
                };
            }
            Some(rule)
        }
        None => None,
    };
    Ok((declared, preprocessing))
}

/// open_clip's `PreprocessCfg`, with its defaults.
fn open_clip_preprocessing(rule: &Object, size: Option<usize>) -> Result<PreprocessConfig, Error> {
    rule.only(
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
    let size = rule.square("size")?.or(size).unwrap_or(224);
    let mut preprocessing = PreprocessConfig::openai(rule.pixels("size", size)?);
    preprocessing.filter = match rule.text("interpolation")? {
        // open_clip resizes with bicubic at inference where training drew one at random.
        None | Some("bicubic" | "random") => Filter::Bicubic,
        Some("bilinear") => Filter::Bilinear,
        Some(_) => return Err(rule.wrong("interpolation", "bicubic, bilinear or random")),
    };
    preprocessing.resize = match rule.text("resize_mode")? {
        None | Some("shortest") => Resize::Shortest,
        Some("longest") => Resize::Longest,
        Some("squash") => Resize::Squash,
        Some(_) => return Err(rule.wrong("resize_mode", "shortest, longest or squash")),
    };
    let byte = |value: &Value| whole(value).and_then(|value| u8::try_from(value).ok());
    preprocessing.fill = match rule.0.get("fill_color") {
        None | Some(Value::Null) => [0; 3],
        Some(Value::Array(channels)) => {
            let channels: Option<Vec<u8>> = channels.iter().map(byte).collect();
            channels
                .and_then(|channels| channels.try_into().ok())
                .ok_or_else(|| rule.wrong("fill_color", "three numbers from 0 to 255"))?
        }
        Some(value) => {
            [byte(value).ok_or_else(|| rule.wrong("fill_color", "a number from 0 to 255"))?; 3]
        }
    };
    preprocessing.mean = rule.mean("mean", PreprocessConfig::OPENAI_MEAN)?;
    preprocessing.std = rule.std("std", PreprocessConfig::OPENAI_STD)?;
    Ok(preprocessing)
}

/// Reads transformers' `config.json` of a `CLIPModel`.
pub(crate) fn read_transformers(path: &Path) -> Result<Declared, Error> {
    let root = Object::read(path)?;
    if let Some(found) = root.text("model_type")?
        && found != "clip"
    {
        return Err(Error::unsupported(path, format!("a model of type {found}")));
    }
    let tower = |name: &str| -> Result<Object, Error> {
        let mut tower = root
            .object(name)?
            .unwrap_or_else(|| root.child(name, Map::new()));
        // Files of the first transformers versions say the same, or more, a second time; the
        // second wins there.
        if let Some(more) = root.object(&format!("{name}_dict"))? {
            tower.0.extend(more.0);
        }
        for (field, expected) in [("num_channels", 3.0), ("layer_norm_eps", 1e-5)] {
            if let Some(found) = tower.0.get(field)
                && found.as_f64() != Some(expected)
            {
                let found = format!("{}.{field} = {found}", tower.1.field);
                return Err(Error::unsupported(path, found));
            }
        }
        Ok(tower)
    };
    let (vision, text) = (tower("vision_config")?, tower("text_config")?);
    let activation = |tower: &Object| match tower.text("hidden_act")? {
        // What transformers takes if nothing is said.
        None | Some("quick_gelu") => Ok(Activation::QuickGelu),
        Some("gelu") => Ok(Activation::Gelu),
        Some(found) => Err(Error::unsupported(
            path,
            format!("{}.hidden_act = {found}", tower.1.field),
        )),
    };
    let both = (activation(&vision)?, activation(&text)?);
    if both.0 != both.1 {
        return Err(Error::unsupported(
            path,
            format!(
                "{} in the image tower with {} in the text tower",
                both.0, both.1
            ),
        ));
    }

    let mut sizes = Sizes(Vec::new());
    sizes.add(Quantity::Embedding, &root, "projection_dim")?;
    sizes.add(Quantity::ImageSize, &vision, "image_size")?;
    sizes.add(Quantity::PatchSize, &vision, "patch_size")?;
    sizes.add(Quantity::ImageWidth, &vision, "hidden_size")?;
    sizes.add(Quantity::ImageLayers, &vision, "num_hidden_layers")?;
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
        activation: Some(both.0),
        sizes: sizes.0,
    })
}

/// Reads transformers' `preprocessor_config.json`, or the same inside `processor_config.json`.
pub(crate) fn read_transformers_preprocessing(path: &Path) -> Result<PreprocessConfig, Error> {
    let root = Object::read(path)?;
    let rule = root.object("image_processor")?.unwrap_or(root);
    if rule.flag("do_resize")? == Some(false) {
        return Err(rule.wrong("do_resize", "true"));
    }
    if rule.flag("do_rescale")? == Some(false) {
        return Err(rule.wrong("do_rescale", "true"));
    }
    if let Some(factor) = rule.0.get("rescale_factor")
        && !factor
            .as_f64()
            .is_some_and(|factor| (factor * 255.0 - 1.0).abs() < 1e-6)
    {
        return Err(rule.wrong("rescale_factor", "1 / 255"));
    }
    let crop = rule.flag("do_center_crop")?.unwrap_or(true);
    let expected = "a number, {shortest_edge} or a square {height, width}";
    let wrong = || rule.wrong("size", expected);
    let (resize, size) = match rule.0.get("size") {
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
    let cropped = rule.square("crop_size")?.unwrap_or(size);
    if resize == Resize::Shortest && !crop {
        return Err(rule.wrong("do_center_crop", "true, for the encoder takes squares"));
    }
    if crop && cropped != size {
        return Err(rule.wrong("crop_size", &format!("{size}, as size has it")));
    }
    let mut preprocessing = PreprocessConfig::openai(rule.pixels("size", size)?);
    preprocessing.resize = resize;
    preprocessing.crop = CropRounding::Floor;
    // Pillow's numbers.
    preprocessing.filter = match rule.0.get("resample").filter(|value| !value.is_null()) {
        None => Filter::Bicubic,
        Some(number) => match number.as_u64() {
            Some(0) => Filter::Nearest,
            Some(1) => Filter::Lanczos,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            Some(4) => Filter::Box,
            Some(5) => Filter::Hamming,
            _ => return Err(rule.wrong("resample", "one of Pillow's filters, 0 to 5")),
        },
    };
    if rule.flag("do_normalize")? == Some(false) {
        (preprocessing.mean, preprocessing.std) = ([0.0; 3], [1.0; 3]);
    } else {
        preprocessing.mean = rule.mean("image_mean", PreprocessConfig::OPENAI_MEAN)?;
        preprocessing.std = rule.std("image_std", PreprocessConfig::OPENAI_STD)?;
    }
    Ok(preprocessing)
}

struct Sizes(Vec<(Quantity, String, usize)>);

impl Sizes {
    fn add(&mut self, quantity: Quantity, object: &Object, field: &str) -> Result<(), Error> {
        if let Some(value) = object.number(field)? {
            self.0.push((quantity, object.field(field), value));
        }
        Ok(())
    }

    fn add_or(
        &mut self,
        quantity: Quantity,
        object: &Object,
        field: &str,
        default: usize,
    ) -> Result<(), Error> {
        let value = object.number(field)?.unwrap_or(default);
        self.0.push((quantity, object.field(field), value));
        Ok(())
    }

    fn add_square(
        &mut self,
        quantity: Quantity,
        object: &Object,
        field: &str,
    ) -> Result<(), Error> {
        if let Some(value) = object.square(field)? {
            self.0.push((quantity, object.field(field), value));
        }
        Ok(())
    }
}

/// A JSON object and where it stands, so that errors can say so.
struct Object(Map<String, Value>, Place);

#[derive(Clone)]
struct Place {
    path: PathBuf,
    field: String,
}

impl Object {
    fn read(path: &Path) -> Result<Object, Error> {
        let source = Source::open(path)?;
        if source.length() > MAX_BYTES {
            return Err(Error::malformed(
                path,
                format!(
                    "expected at most {MAX_BYTES} bytes of JSON, found {}",
                    source.length()
                ),
            ));
        }
        let value = serde_json::from_slice(&source.bytes(0, MAX_BYTES)?)
            .map_err(|error| Error::malformed(path, format!("expected a JSON object: {error}")))?;
        Ok(Object(
            value,
            Place {
                path: path.to_owned(),
                field: String::new(),
            },
        ))
    }

    fn child(&self, name: &str, map: Map<String, Value>) -> Object {
        Object(
            map,
            Place {
                path: self.1.path.clone(),
                field: self.field(name),
            },
        )
    }

    fn field(&self, name: &str) -> String {
        if self.1.field.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.1.field)
        }
    }

    fn wrong(&self, name: &str, expected: &str) -> Error {
        let found = self
            .0
            .get(name)
            .map_or_else(|| "nothing".to_owned(), Value::to_string);
        Error::config(&self.1.path, self.field(name), expected, found)
    }

    fn object(&self, name: &str) -> Result<Option<Object>, Error> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(self.child(name, map.clone()))),
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "text")),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<usize>, Error> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match whole(value) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(name, "a whole number")),
            },
        }
    }

    /// The side of a square, said as a number, as [height, width] or as {height, width}.
    fn square(&self, name: &str) -> Result<Option<usize>, Error> {
        let side = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(sides)) => match sides.as_slice() {
                [height, width] if height == width => whole(height),
                _ => None,
            },
            Some(Value::Object(sides)) => match (sides.get("height"), sides.get("width")) {
                (Some(height), Some(width)) if height == width => whole(height),
                _ => None,
            },
            Some(value) => whole(value),
        };
        side.map(Some)
            .ok_or_else(|| self.wrong(name, "the side of a square"))
    }

    fn pixels(&self, name: &str, size: usize) -> Result<u32, Error> {
        u32::try_from(size)
            .ok()
            .filter(|size| (1..=1 << 14).contains(size))
            .ok_or_else(|| self.wrong(name, "1 to 16384 pixels"))
    }

    fn mean(&self, name: &str, default: [f32; 3]) -> Result<[f32; 3], Error> {
        self.channels(name, default, "three finite numbers", f32::is_finite)
    }

    fn std(&self, name: &str, default: [f32; 3]) -> Result<[f32; 3], Error> {
        self.channels(name, default, "three numbers above zero", |std| {
            std.is_finite() && std > 0.0
        })
    }

    fn channels(
        &self,
        name: &str,
        default: [f32; 3],
        expected: &str,
        good: impl Fn(f32) -> bool,
    ) -> Result<[f32; 3], Error> {
        let channels = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(default),
            Some(Value::Array(channels)) => channels
                .iter()
                .map(|value| {
                    value
                        .as_f64()
                        .map(|value| value as f32)
                        .filter(|v| good(*v))
                })
                .collect::<Option<Vec<f32>>>(),
            Some(_) => None,
        };
        channels
            .and_then(|channels| channels.try_into().ok())
            .ok_or_else(|| self.wrong(name, expected))
    }

    /// Refuses fields that would change the model: all but the known ones, those that have the
    /// given value, and those that are off.
    fn only(&self, known: &[&str], fixed: &[(&str, Value)]) -> Result<(), Error> {
        for (field, value) in &self.0 {
            let off = matches!(value, Value::Null | Value::Bool(false));
            let same = fixed
                .iter()
                .any(|(name, expected)| name == field && value == expected);
            if !off && !same && !known.contains(&field.as_str()) {
                let found = format!("{} = {value}", self.field(field));
                return Err(Error::unsupported(&self.1.path, found));
            }
        }
        Ok(())
    }
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|value| usize::try_from(value).ok())
}
