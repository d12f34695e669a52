//! Names, shapes and initial values of a model's tensors.

use pinhole_model::{ClipConfig, ImageEncoderConfig};

use crate::{Error, Result, shapes::Dice};

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with this standard deviation.
    Normal(f32),
    /// All the same value.
    Constant(f32),
    /// Sines and cosines of a patch's column and row at geometrically spaced frequencies, in the
    /// rows after the first (the class token's), which is 0.
    Grid,
}

/// Name, shape and start of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Canonical name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
}

/// All tensors of a CLIP model with a vision transformer. The standard deviations are those of
/// OpenAI's `CLIP.initialize_parameters` (github.com/openai/CLIP, clip/model.py), its text
/// transformer's being used for both towers; the convolution's is that of PyTorch's `Conv2d`. The
/// image tower's positions start as sines and cosines of the place instead of noise (Beyer et al.,
/// "Better plain ViT baselines for ImageNet-1k"): a small model finds shapes far sooner.
///
/// # Errors
/// [`Error::Config`] for a ModifiedResNet.
pub fn tensor_specs(config: &ClipConfig) -> Result<Vec<TensorSpec>> {
    let ImageEncoderConfig::VisionTransformer {
        image_size,
        patch_size,
        width,
        layers,
        ..
    } = config.image
    else {
        return Err(Error::Config(
            "only vision transformers can be trained from the start".into(),
        ));
    };
    if patch_size == 0 || !image_size.is_multiple_of(patch_size) {
        return Err(Error::Config(format!(
            "patches of {patch_size} pixels do not tile images of {image_size}"
        )));
    }
    let patch = patch_size as usize;
    let tokens = (image_size as usize / patch).pow(2) + 1;
    let embedding = config.embedding;
    let mut specs = Vec::new();
    let mut add = |name: String, shape: &[usize], init: Init| {
        let shape = shape.to_vec();
        specs.push(TensorSpec { name, shape, init });
    };
    let scale = |width: usize| Init::Normal((width as f32).powf(-0.5));

    add(
        "logit_scale".into(),
        &[],
        Init::Constant((1.0f32 / 0.07).ln()),
    );
    add(
        "visual.conv1.weight".into(),
        &[width, 3, patch, patch],
        scale(9 * patch * patch),
    );
    add("visual.class_embedding".into(), &[width], scale(width));
    add(
        "visual.positional_embedding".into(),
        &[tokens, width],
        Init::Grid,
    );
    norm(&mut add, "visual.ln_pre", width);
    blocks(&mut add, "visual.transformer", width, layers);
    norm(&mut add, "visual.ln_post", width);
    add("visual.proj".into(), &[width, embedding], scale(width));

    let text = &config.text;
    let (vocabulary, width) = (text.vocabulary, text.width);
    add(
        "token_embedding.weight".into(),
        &[vocabulary, width],
        Init::Normal(0.02),
    );
    add(
        "positional_embedding".into(),
        &[text.context_length, width],
        Init::Normal(0.01),
    );
    blocks(&mut add, "transformer", width, text.layers);
    norm(&mut add, "ln_final", width);
    add("text_projection".into(), &[width, embedding], scale(width));
    Ok(specs)
}

fn norm(add: &mut impl FnMut(String, &[usize], Init), name: &str, width: usize) {
    add(format!("{name}.weight"), &[width], Init::Constant(1.0));
    add(format!("{name}.bias"), &[width], Init::Constant(0.0));
}

fn blocks(add: &mut impl FnMut(String, &[usize], Init), prefix: &str, width: usize, layers: usize) {
    let attention = Init::Normal((width as f32).powf(-0.5));
    let output = Init::Normal((width as f32).powf(-0.5) * (2.0 * layers as f32).powf(-0.5));
    let hidden = Init::Normal((2.0 * width as f32).powf(-0.5));
    let zero = Init::Constant(0.0);
    for layer in 0..layers {
        let name = |part: &str| format!("{prefix}.resblocks.{layer}.{part}");
        norm(add, &name("ln_1"), width);
        add(name("attn.in_proj_weight"), &[3 * width, width], attention);
        add(name("attn.in_proj_bias"), &[3 * width], zero);
        add(name("attn.out_proj.weight"), &[width, width], output);
        add(name("attn.out_proj.bias"), &[width], zero);
        norm(add, &name("ln_2"), width);
        add(name("mlp.c_fc.weight"), &[4 * width, width], hidden);
        add(name("mlp.c_fc.bias"), &[4 * width], zero);
        add(name("mlp.c_proj.weight"), &[width, 4 * width], output);
        add(name("mlp.c_proj.bias"), &[width], zero);
    }
}

/// The first values of a tensor; `rows` picks rows of its first axis, each of which has a random
/// stream of its own, so that a part of a large table equals that part of the whole.
pub fn initial(spec: &TensorSpec, seed: u64, rows: impl IntoIterator<Item = usize>) -> Vec<f32> {
    // FNV-1a of the name: tensors of one seed must not start alike.
    let family = spec.name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    let length: usize = spec.shape.iter().skip(1).product();
    let mut values = Vec::new();
    for row in rows {
        match spec.init {
            Init::Constant(value) => values.extend(std::iter::repeat_n(value, length)),
            Init::Normal(deviation) => {
                let mut dice = Dice::new(seed ^ family, row as u64);
                values.extend((0..length).map(|_| dice.normal() * deviation));
            }
            Init::Grid => values.extend((0..length).map(|i| grid(row, i, length, &spec.shape))),
        }
    }
    values
}

/// Value `i` of `length` of the position embedding in row `row`.
fn grid(row: usize, i: usize, length: usize, shape: &[usize]) -> f32 {
    let Some(place) = row.checked_sub(1) else {
        return 0.0;
    };
    let patches = shape
        .first()
        .map_or(1, |tokens| tokens.saturating_sub(1))
        .max(1);
    let side = (patches as f64).sqrt().round() as usize;
    let quarter = (length / 4).max(1);
    let at = if i / quarter % 4 < 2 {
        place % side
    } else {
        place / side
    };
    // From 1 to 1/50 radians a patch.
    let frequency = 50f64.powf(-((i % quarter) as f64) / quarter as f64);
    let angle = at as f64 * frequency;
    (0.5 * if (i / quarter).is_multiple_of(2) {
        angle.sin()
    } else {
        angle.cos()
    }) as f32
}
