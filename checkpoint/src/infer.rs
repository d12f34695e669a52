//! The architecture of a model, told from the shapes of its tensors.

use pinhole_model::{
    Activation, ClipConfig, ImageEncoderConfig, PreprocessConfig, TextEncoderConfig,
};

use crate::config_file::{Declared, Quantity};
use crate::names::{Naming, OPENAI_SETTINGS, Recipe, is_no_parameter};
use crate::{Dtype, Error, StateDict};

/// Far above any model, far below what overflows when multiplied.
const MAX_DIMENSION: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 10;
const MAX_IMAGE: usize = 1 << 14;
/// Four times the largest CLIP models.
const MAX_PARAMETERS: u64 = 10_000_000_000;

/// The configuration that the shapes and the configuration file agree on.
///
/// Whatever no file says is assumed, and added to `assumptions`.
pub(crate) fn configuration(
    state: &StateDict,
    naming: Naming,
    declared: Option<&Declared>,
    activation: Activation,
    preprocessing: Option<PreprocessConfig>,
    assumptions: &mut Vec<String>,
) -> Result<ClipConfig, Error> {
    let shapes = Shapes { state, naming };
    // OpenAI's loader takes one head for every 64 of width; its files bring no configuration.
    let by_width = OPENAI_SETTINGS
        .iter()
        .all(|name| state.info(name).is_some());
    let mut heads = |quantity: Quantity, tower: &str, width: usize| {
        if let Some((_, heads)) = declared.and_then(|declared| declared.get(quantity)) {
            return heads;
        }
        if !by_width {
            assumptions.push(format!(
                "{tower} tower: {} attention heads, one for every 64 of width, as no configuration \
                 file says how many",
                width / 64
            ));
        }
        width / 64
    };

    for tower in ["visual.transformer", "transformer"] {
        shapes.check_mlp(tower)?;
    }
    let [_, text_width] = shapes.matrix("token_embedding.weight")?;
    let text = TextEncoderConfig {
        context_length: shapes.matrix("positional_embedding")?[0],
        vocabulary: shapes.matrix("token_embedding.weight")?[0],
        width: text_width,
        layers: shapes.layers("transformer.resblocks.")?,
        heads: heads(Quantity::TextHeads, "text", text_width),
    };
    let embedding = shapes.matrix("text_projection")?[1];
    let (image, side) = if shapes.is_resnet() {
        let [width, _, _, _] = shapes.dimensions("visual.conv3.weight")?;
        let [rows, pooled] = shapes.matrix("visual.attnpool.positional_embedding")?;
        let side = shapes.grid(rows, "visual.attnpool.positional_embedding")? * 32;
        let mut layers = [0; 4];
        for (stage, layers) in layers.iter_mut().enumerate() {
            *layers = shapes.layers(&format!("visual.layer{}.", stage + 1))?;
        }
        let heads = heads(Quantity::ImageHeads, "image", pooled);
        (
            ImageEncoderConfig::ModifiedResNet {
                image_size: side as u32,
                layers,
                width,
                heads,
            },
            side,
        )
    } else {
        let [width, _, patch, _] = shapes.dimensions("visual.conv1.weight")?;
        let [rows, _] = shapes.matrix("visual.positional_embedding")?;
        let side = shapes
            .grid(rows, "visual.positional_embedding")?
            .saturating_mul(patch);
        let layers = shapes.layers("visual.transformer.resblocks.")?;
        let heads = heads(Quantity::ImageHeads, "image", width);
        let tower = ImageEncoderConfig::VisionTransformer {
            image_size: side.min(MAX_IMAGE) as u32,
            patch_size: patch as u32,
            width,
            layers,
            heads,
        };
        (tower, side)
    };
    if side > MAX_IMAGE {
        return Err(Error::malformed(
            state.path(),
            format!("expected images of at most {MAX_IMAGE} pixels, found {side}"),
        ));
    }

    let preprocessing = preprocessing.unwrap_or_else(|| {
        assumptions.push(format!(
            "preprocessing: OpenAI's (short side to {side} pixels, bicubic, centre crop, OpenAI's \
             mean and std), as no configuration file says it"
        ));
        PreprocessConfig::openai(side as u32)
    });
    let name = declared.and_then(|declared| declared.name.clone());
    let config = ClipConfig {
        name,
        embedding,
        image,
        text,
        activation,
        preprocessing,
    };
    check_settings(state, &config)?;
    if let Some(declared) = declared {
        declared.check(&config)?;
    }
    check_heads(state, declared, &config)?;
    Ok(config)
}

/// Heads are in no shape, so what is said or assumed about them must at least be possible.
fn check_heads(
    state: &StateDict,
    declared: Option<&Declared>,
    config: &ClipConfig,
) -> Result<(), Error> {
    let (image_heads, image_width) = match &config.image {
        ImageEncoderConfig::VisionTransformer { heads, width, .. } => (*heads, *width),
        ImageEncoderConfig::ModifiedResNet { heads, width, .. } => (*heads, 32 * width),
    };
    for (tower, quantity, heads, width) in [
        ("image", Quantity::ImageHeads, image_heads, image_width),
        (
            "text",
            Quantity::TextHeads,
            config.text.heads,
            config.text.width,
        ),
    ] {
        let said = declared.and_then(|declared| Some((declared, declared.get(quantity)?.0)));
        let (path, source, possible) = match said {
            Some((declared, field)) => (
                declared.path.as_path(),
                field,
                heads != 0 && width.is_multiple_of(heads),
            ),
            None => (
                state.path(),
                "one for every 64 of width, as no configuration file says",
                width.is_multiple_of(64),
            ),
        };
        if !possible {
            return Err(Error::config(
                path,
                format!("attention heads of the {tower} tower"),
                format!("a divisor of its width, {width}"),
                format!("{heads} ({source})"),
            ));
        }
    }
    Ok(())
}

/// Compares the file's tensors with those of the model: all there, none more, shapes and types.
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

/// OpenAI's archives say three sizes that the shapes say too.
fn check_settings(state: &StateDict, config: &ClipConfig) -> Result<(), Error> {
    let found = [
        config.image.image_size() as usize,
        config.text.context_length,
        config.text.vocabulary,
    ];
    for (name, inferred) in OPENAI_SETTINGS.iter().zip(found) {
        if let Some(said) = state.integer(name)?
            && usize::try_from(said) != Ok(inferred)
        {
            return Err(Error::config(
                state.path(),
                *name,
                format!("{inferred}, as the shapes of the weights say"),
                said.to_string(),
            ));
        }
    }
    Ok(())
}

struct Shapes<'a> {
    state: &'a StateDict,
    naming: Naming,
}

impl Shapes<'_> {
    fn is_resnet(&self) -> bool {
        let any = |prefix| self.state.names().any(|name| name.starts_with(prefix));
        !any("visual.transformer.") && (any("visual.layer1.") || any("visual.attnpool."))
    }

    /// The canonical shape of a tensor with `N` dimensions, each of sensible size.
    fn dimensions<const N: usize>(&self, name: &str) -> Result<[usize; N], Error> {
        let path = self.state.path();
        let (name, transposed) = match self.naming.recipe(name) {
            Recipe::Transposed(name) => (name, true),
            Recipe::Same(name) | Recipe::Rows([name, ..]) => (name, false),
        };
        let info = match self.state.checked_info(&name) {
            // Nothing is known yet, so nothing but the number of dimensions can be expected.
            Err(Error::NoSuchTensor { .. }) => {
                return Err(Error::malformed(
                    path,
                    format!("tensor {name} is missing, expected {N} dimensions"),
                ));
            }
            info => info?,
        };
        let wrong = |expected: String| {
            Error::malformed(
                path,
                format!(
                    "tensor {name}: expected {expected}, found shape {:?}",
                    info.shape
                ),
            )
        };
        let mut shape: [usize; N] = info
            .shape
            .as_slice()
            .try_into()
            .map_err(|_| wrong(format!("{N} dimensions")))?;
        if shape.iter().any(|size| !(1..=MAX_DIMENSION).contains(size)) {
            return Err(wrong(format!("dimensions of 1 to {MAX_DIMENSION}")));
        }
        if transposed {
            shape.reverse();
        }
        Ok(shape)
    }

    fn matrix(&self, name: &str) -> Result<[usize; 2], Error> {
        self.dimensions(name)
    }

    /// Side of the square grid that has `rows` positions, one of them for the class or the mean.
    fn grid(&self, rows: usize, name: &str) -> Result<usize, Error> {
        let side = (rows - 1).isqrt();
        if side == 0 || side * side != rows - 1 {
            return Err(Error::malformed(
                self.state.path(),
                format!("tensor {name}: expected a square number of rows and one, found {rows}"),
            ));
        }
        Ok(side)
    }

    /// open_clip's giants have MLPs of another width than 4 x the tower's.
    fn check_mlp(&self, tower: &str) -> Result<(), Error> {
        let shape = |part: &str| match self
            .naming
            .recipe(&format!("{tower}.resblocks.0.mlp.{part}.weight"))
        {
            Recipe::Same(name) => self.state.info(&name).map(|info| info.shape.as_slice()),
            _ => None,
        };
        match (shape("c_fc"), shape("c_proj")) {
            (Some([inner, width]), Some([back, again]))
                if (inner, width) == (again, back) && *inner != width.saturating_mul(4) =>
            {
                let found = format!("an MLP of {inner} in a tower of width {width} (not 4 times)");
                Err(Error::unsupported(self.state.path(), found))
            }
            _ => Ok(()),
        }
    }

    /// One more than the highest number after a canonical prefix, so that a missing layer in the
    /// middle is found out.
    fn layers(&self, prefix: &str) -> Result<usize, Error> {
        let prefix = match self.naming {
            Naming::Transformers if prefix.starts_with("visual.") => "vision_model.encoder.layers.",
            Naming::Transformers => "text_model.encoder.layers.",
            Naming::CustomText if !prefix.starts_with("visual.") => "text.transformer.resblocks.",
            _ => prefix,
        };
        let layers = self
            .state
            .names()
            .filter_map(|name| {
                name.strip_prefix(prefix)?
                    .split('.')
                    .next()?
                    .parse::<usize>()
                    .ok()
            })
            .max()
            .map_or(0, |last| last.saturating_add(1));
        if !(1..=MAX_LAYERS).contains(&layers) {
            return Err(Error::malformed(
                self.state.path(),
                format!("expected 1 to {MAX_LAYERS} layers named {prefix}*, found {layers}"),
            ));
        }
        Ok(layers)
    }
}
