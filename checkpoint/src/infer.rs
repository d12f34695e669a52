//! The architecture of a model, inferred from the shapes of its tensors.

use std::str::FromStr;

use pinhole_model::{
    Activation, ClipConfig, ImageEncoderConfig, PreprocessConfig, TextEncoderConfig, TextForm,
};

use crate::declared::{Declared, Quantity, VitForm};
use crate::names::{Naming, OPENAI_SETTINGS, Recipe, is_no_parameter};
use crate::shapes::{Shapes, without_leading_ones};
use crate::state_dict::FLOATS;
use crate::{Dtype, Error, StateDict, encoders};

const MAX_IMAGE: u32 = 1 << 14;
/// Tokens of OpenAI's tokenizer.
const OPENAI_VOCABULARY: usize = 49_408;
/// Four times the largest CLIP models.
const MAX_PARAMETERS: u64 = 10_000_000_000;

/// Numbers of attention heads, where they are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// Of the image encoder.
    pub image: Option<usize>,
    /// Of the text encoder.
    pub text: Option<usize>,
}

impl FromStr for Heads {
    type Err = String;

    /// `IMAGE` or `IMAGE,TEXT`, as options of the command lines give them.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse() {
            Ok(heads) if heads > 0 => Ok(Some(heads)),
            _ => Err(format!(
                "expected the heads of the image encoder, or IMAGE,TEXT such as 12,8, found {text:?}"
            )),
        };
        Ok(match text.split_once(',') {
            Some((image, text)) => Heads {
                image: number(image)?,
                text: number(text)?,
            },
            None => Heads {
                image: number(text)?,
                text: None,
            },
        })
    }
}

/// The configuration that the shapes and the configuration file agree on.
///
/// What no file states is assumed, and added to `assumptions`.
pub(crate) fn configuration(
    state: &StateDict,
    naming: Naming,
    declared: Option<&Declared>,
    [activation, text_activation]: [Activation; 2],
    asked: Heads,
    preprocessing: Option<PreprocessConfig>,
    assumptions: &mut Vec<String>,
) -> Result<ClipConfig, Error> {
    let shapes = Shapes {
        state,
        recipe: &|name| naming.recipe(name),
    };
    // OpenAI's loader takes one head per 64 of width; its files have no configuration.
    let by_width = OPENAI_SETTINGS
        .iter()
        .all(|name| state.info(name).is_some());
    let mut heads = |quantity: Quantity, encoder: &str, asked: Option<usize>, width: usize| {
        let declared = declared.and_then(|file| Some((file, file.sizes.get(quantity)?.1)));
        match (asked, declared) {
            (Some(asked), Some((file, heads))) if asked != heads => assumptions.push(format!(
                "{encoder} encoder: {asked} attention heads, as asked for; {} has {heads}",
                file.path.display()
            )),
            _ => {}
        }
        if let Some(heads) = asked.or(declared.map(|(_, heads)| heads)) {
            return heads;
        }
        if !by_width {
            assumptions.push(format!(
                "{encoder} encoder: {} attention heads, one per 64 of width, as no configuration file \
                 states their number",
                width / 64
            ));
        }
        width / 64
    };

    let is_siglip = naming.is_siglip()
        || declared.is_some_and(|file| matches!(file.text_form, TextForm::SigLip { .. }));
    if !is_siglip {
        shapes.check_mlp("transformer")?;
    }
    let [vocabulary, width] = shapes.matrix("token_embedding.weight")?;
    let text = TextEncoderConfig {
        context_length: shapes.matrix("positional_embedding")?[0],
        vocabulary,
        width,
        layers: shapes.layers("transformer.resblocks.", "ln_1.weight")?,
        heads: heads(Quantity::TextHeads, "text", asked.text, width),
        form: match declared {
            _ if is_siglip => TextForm::SigLip {
                mlp: shapes.matrix("transformer.resblocks.0.mlp.c_fc.weight")?[0],
            },
            Some(declared) => declared.text_form,
            None => TextForm::Clip,
        },
    };
    let embedding = shapes.matrix("text_projection")?[1];
    let mut image_heads = |width| heads(Quantity::ImageHeads, "image", asked.image, width);
    // transformers' models have one form only.
    let form = match naming {
        Naming::Transformers => Some(VitForm::CLIP),
        Naming::Native | Naming::CustomText => declared.map(|declared| declared.vit),
        Naming::TimmSigLip | Naming::TransformersSigLip => None,
    };
    let image_size = declared.and_then(|file| Some(file.sizes.get(Quantity::ImageSize)?.1));
    let image = encoders::infer(&shapes, naming, &mut image_heads, form, image_size)?;
    if let Some(declared) = declared
        && let Some((field, found)) = &declared.timm
        && image.is_in_checkpoint()
    {
        let expected = format!("none, as the weights have {image}");
        return Err(Error::config(&declared.path, field, expected, found));
    }
    let side = image.image_size();
    if side > MAX_IMAGE {
        return Err(Error::malformed(
            state.path(),
            format!("expected images of at most {MAX_IMAGE} pixels, found {side}"),
        ));
    }

    if declared.is_none() && !by_width && !naming.is_siglip() {
        assumptions.extend(unstated(naming, &image));
    }
    if !naming.is_siglip() && text.vocabulary > OPENAI_VOCABULARY {
        assumptions.push(format!(
            "tokenizer: OpenAI's, which has {OPENAI_VOCABULARY} of the {} tokens of the text encoder",
            text.vocabulary
        ));
    }
    let preprocessing = preprocessing.unwrap_or_else(|| {
        if naming.is_siglip() {
            assumptions.push(format!(
                "preprocessing: SigLIP's (both sides to {side} pixels, bicubic, mean and std 0.5), as no \
                 configuration file states it"
            ));
            return PreprocessConfig::siglip(side);
        }
        assumptions.push(format!(
            "preprocessing: OpenAI's (short side to {side} pixels, bicubic, centre crop, OpenAI's \
             mean and std), as no configuration file states it"
        ));
        PreprocessConfig::openai(side)
    });
    let config = ClipConfig {
        name: declared.and_then(|declared| declared.name.clone()),
        embedding,
        image,
        text,
        activation,
        text_activation,
        preprocessing,
    };
    if let ImageEncoderConfig::SigLip { width, .. } = config.image
        && width != embedding
    {
        return Err(Error::malformed(
            state.path(),
            format!(
                "expected text embeddings of the image encoder's width {width}, as SigLIP does not project images, found \
                 {embedding}"
            ),
        ));
    }
    check_settings(state, &config)?;
    if let Some(declared) = declared {
        check_declared(declared, asked, &config)?;
    }
    check_heads(state, declared, asked, &config)?;
    Ok(config)
}

/// What the reader assumes about an encoder, without a file that would state it. transformers' `CLIPModel` has no other
/// pooling and mask.
fn unstated(naming: Naming, image: &ImageEncoderConfig) -> Vec<String> {
    let reason = "as no configuration file states it";
    let mut assumptions = vec![];
    if naming != Naming::Transformers {
        if let ImageEncoderConfig::VisionTransformer { input_norm, .. } = image {
            assumptions.push(format!("image encoder: read at the class token, {reason}"));
            if !input_norm {
                assumptions.push(format!(
                    "image encoder: no layer norm before the blocks, as there are no tensors visual.ln_pre, {reason}"
                ));
            }
        }
        assumptions.push(format!(
            "text encoder: causal, read at the end of the text, {reason}"
        ));
    }
    assumptions.push(format!("tokenizer: OpenAI's, {reason}"));
    assumptions
}

/// Compares every size that the configuration file states with the one inferred from the weights.
fn check_declared(declared: &Declared, asked: Heads, config: &ClipConfig) -> Result<(), Error> {
    let text = &config.text;
    for (quantity, field, value) in declared.sizes.iter() {
        // What the caller asks for overrides the file.
        match quantity {
            Quantity::ImageHeads if asked.image.is_some() => continue,
            Quantity::TextHeads if asked.text.is_some() => continue,
            _ => {}
        }
        let inferred = match quantity {
            Quantity::Embedding => Some(config.embedding),
            Quantity::ContextLength => Some(text.context_length),
            Quantity::Vocabulary => Some(text.vocabulary),
            Quantity::TextWidth => Some(text.width),
            Quantity::TextLayers => Some(text.layers),
            Quantity::TextHeads => Some(text.heads),
            Quantity::TextMlp => Some(text.mlp()),
            of_image => encoders::size(&config.image, of_image),
        };
        if inferred != Some(value) {
            let expected = match inferred {
                Some(inferred) => format!("{inferred}, as in the weights"),
                None => format!("the architecture of the weights ({config})"),
            };
            let found = value.to_string();
            return Err(Error::config(&declared.path, field, expected, found));
        }
    }
    Ok(())
}

/// Checks that the numbers of heads, which no shape shows, are possible.
fn check_heads(
    state: &StateDict,
    declared: Option<&Declared>,
    asked: Heads,
    config: &ClipConfig,
) -> Result<(), Error> {
    let text = &config.text;
    let image = (config.image.attention())
        .map(|(heads, width)| ("image", Quantity::ImageHeads, asked.image, heads, width));
    let text = (
        "text",
        Quantity::TextHeads,
        asked.text,
        text.heads,
        text.width,
    );
    for (encoder, quantity, asked, heads, width) in image.into_iter().chain([text]) {
        let stated = declared.and_then(|file| Some((file, file.sizes.get(quantity)?.0)));
        let divides = heads != 0 && width.is_multiple_of(heads);
        let (path, source, possible) = match (asked, stated) {
            (Some(_), _) => (state.path(), "as asked for", divides),
            (None, Some((declared, field))) => (declared.path.as_path(), field, divides),
            (None, None) => (
                state.path(),
                "one per 64 of width, as no configuration file states their number; pass --heads",
                width.is_multiple_of(64),
            ),
        };
        if !possible {
            return Err(Error::config(
                path,
                format!("attention heads of the {encoder} encoder"),
                format!("a divisor of its width, {width}"),
                format!("{heads} ({source})"),
            ));
        }
    }
    Ok(())
}

/// Checks that a file has the tensors of the model and no others, with the right shapes and types.
pub(crate) fn check_tensors(
    state: &StateDict,
    naming: Naming,
    config: &ClipConfig,
    tensors: &[(String, Vec<usize>)],
) -> Result<(), Error> {
    let path = state.path();
    let mut known = std::collections::HashSet::new();
    let mut parameters = 0;
    for (name, shape) in tensors {
        let tensors: Vec<(String, Vec<usize>)> = match naming.recipe(name) {
            Recipe::Same(name) => vec![(name, shape.clone())],
            Recipe::Transposed(name) => vec![(name, shape.iter().rev().copied().collect())],
            Recipe::Rows(parts) => {
                let all: usize = parts.iter().map(|(_, part)| part).sum();
                let expected = |part: usize| {
                    let mut shape = shape.clone();
                    shape
                        .iter_mut()
                        .take(1)
                        .for_each(|rows| *rows = *rows / all * part);
                    shape
                };
                (parts.into_iter().map(|(name, part)| (name, expected(part)))).collect()
            }
        };
        for (name, expected) in tensors {
            let info = match state.checked_info(&name) {
                Err(Error::NoSuchTensor { path, name }) => {
                    return Err(Error::MissingTensor {
                        path,
                        name,
                        expected,
                    });
                }
                info => info?,
            };
            if without_leading_ones(&info.shape, expected.len()) != expected {
                return Err(Error::Shape {
                    path: path.to_owned(),
                    name,
                    expected,
                    found: info.shape.clone(),
                });
            }
            if !matches!(
                info.dtype,
                Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16
            ) {
                let found = info.dtype.to_string();
                return Err(Error::Dtype {
                    path: path.to_owned(),
                    name,
                    expected: FLOATS,
                    found,
                });
            }
            known.insert(name);
        }
        parameters += shape.iter().map(|size| *size as u64).product::<u64>();
    }
    if parameters > MAX_PARAMETERS {
        return Err(Error::malformed(
            path,
            format!("expected at most {MAX_PARAMETERS} parameters, found {parameters}"),
        ));
    }
    match state
        .names()
        .filter(|name| config.image.is_in_checkpoint() || !encoders::timm::is_own(name))
        .find(|name| !known.contains(*name) && !is_no_parameter(name))
    {
        None => Ok(()),
        Some(name) => Err(Error::SurplusTensor {
            path: path.to_owned(),
            name: name.to_owned(),
            shape: state.checked_info(name)?.shape.clone(),
            expected: config.to_string(),
        }),
    }
}

/// Compares the three sizes that OpenAI's archives state with those inferred.
fn check_settings(state: &StateDict, config: &ClipConfig) -> Result<(), Error> {
    let found = [
        config.image.image_size() as usize,
        config.text.context_length,
        config.text.vocabulary,
    ];
    for (name, inferred) in OPENAI_SETTINGS.iter().zip(found) {
        if let Some(stated) = state.integer(name)?
            && usize::try_from(stated) != Ok(inferred)
        {
            return Err(Error::config(
                state.path(),
                *name,
                format!("{inferred}, as in the weights"),
                stated.to_string(),
            ));
        }
    }
    Ok(())
}
