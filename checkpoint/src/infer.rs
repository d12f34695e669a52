//! The architecture of a model, inferred from the shapes of its tensors.

use pinhole_model::{Activation, ClipConfig, PreprocessConfig, TextEncoderConfig};

use crate::declared::{Declared, Quantity};
use crate::names::{Naming, OPENAI_SETTINGS, Recipe, is_no_parameter};
use crate::shapes::Shapes;
use crate::{Dtype, Error, StateDict, encoders};

const MAX_IMAGE: u32 = 1 << 14;
/// Four times the largest CLIP models.
const MAX_PARAMETERS: u64 = 10_000_000_000;

/// The configuration that the shapes and the configuration file agree on.
///
/// What no file states is assumed, and added to `assumptions`.
pub(crate) fn configuration(
    state: &StateDict,
    naming: Naming,
    declared: Option<&Declared>,
    activation: Activation,
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
    let mut heads = |quantity: Quantity, encoder: &str, width: usize| {
        if let Some((_, heads)) = declared.and_then(|declared| declared.sizes.get(quantity)) {
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

    shapes.check_mlp("transformer")?;
    let [vocabulary, width] = shapes.matrix("token_embedding.weight")?;
    let text = TextEncoderConfig {
        context_length: shapes.matrix("positional_embedding")?[0],
        vocabulary,
        width,
        layers: shapes.layers("transformer.resblocks.", "ln_1.weight")?,
        heads: heads(Quantity::TextHeads, "text", width),
    };
    let embedding = shapes.matrix("text_projection")?[1];
    let mut image_heads = |width| heads(Quantity::ImageHeads, "image", width);
    let image = encoders::infer(&shapes, &mut image_heads)?;
    let side = image.image_size();
    if side > MAX_IMAGE {
        return Err(Error::malformed(
            state.path(),
            format!("expected images of at most {MAX_IMAGE} pixels, found {side}"),
        ));
    }

    let preprocessing = preprocessing.unwrap_or_else(|| {
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
        preprocessing,
    };
    check_settings(state, &config)?;
    if let Some(declared) = declared {
        check_declared(declared, &config)?;
    }
    check_heads(state, declared, &config)?;
    Ok(config)
}

/// Compares every size that the configuration file states with the one inferred from the weights.
fn check_declared(declared: &Declared, config: &ClipConfig) -> Result<(), Error> {
    let text = &config.text;
    for (quantity, field, value) in declared.sizes.iter() {
        let inferred = match quantity {
            Quantity::Embedding => Some(config.embedding),
            Quantity::ContextLength => Some(text.context_length),
            Quantity::Vocabulary => Some(text.vocabulary),
            Quantity::TextWidth => Some(text.width),
            Quantity::TextLayers => Some(text.layers),
            Quantity::TextHeads => Some(text.heads),
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
    config: &ClipConfig,
) -> Result<(), Error> {
    let (image_heads, image_width) = config.image.attention();
    let text = &config.text;
    for (encoder, quantity, heads, width) in [
        ("image", Quantity::ImageHeads, image_heads, image_width),
        ("text", Quantity::TextHeads, text.heads, text.width),
    ] {
        let stated = declared.and_then(|file| Some((file, file.sizes.get(quantity)?.0)));
        let (path, source, possible) = match stated {
            Some((declared, field)) => (
                declared.path.as_path(),
                field,
                heads != 0 && width.is_multiple_of(heads),
            ),
            None => (
                state.path(),
                "one per 64 of width, as no configuration file states their number",
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
        let (names, expected) = match naming.recipe(name) {
            Recipe::Same(name) => (vec![name], shape.clone()),
            Recipe::Transposed(name) => (vec![name], shape.iter().rev().copied().collect()),
            Recipe::Rows(names) => {
                let mut shape = shape.clone();
                shape.iter_mut().take(1).for_each(|rows| *rows /= 3);
                (names.to_vec(), shape)
            }
        };
        for name in names {
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
            // open_clip keeps the scale as a vector of one element on request.
            let scalar = name == "logit_scale" && info.shape == [1];
            if info.shape != expected && !scalar {
                return Err(Error::Shape {
                    path: path.to_owned(),
                    name,
                    expected,
                    found: info.shape.clone(),
                });
            }
            if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let found = info.dtype.to_string();
                return Err(Error::Dtype {
                    path: path.to_owned(),
                    name,
                    expected: "F32, F16 or BF16",
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
