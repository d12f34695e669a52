//! Names, shapes and initial values of a model's tensors.

use pinhole_model::{ClipConfig, ImageEncoderConfig, VitPooling};

use crate::{Error, Result, fingerprint::Fingerprint, random::SeededRng};

/// How a tensor is initialised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialisation {
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// All the same value.
    Constant(f32),
    /// 2-D sine-cosine position embeddings of the patches; the first row (the class token's) is 0.
    SinCos2d,
}

/// Name, shape and initialisation of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Canonical name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Its initial values.
    pub init: Initialisation,
}

/// All tensors of a CLIP model with a vision transformer. The standard deviations are those of OpenAI's
/// `CLIP.initialize_parameters` (github.com/openai/CLIP, clip/model.py), with the text transformer's for
/// both encoders; the convolution's is that of PyTorch's `Conv2d`. The image encoder's position
/// embeddings start as 2-D sines and cosines instead of noise (Beyer et al., "Better plain ViT baselines
/// for ImageNet-1k"): a small model then learns shapes much sooner.
///
/// # Errors
/// [`Error::Config`] for a ModifiedResNet.
pub fn tensor_specs(config: &ClipConfig) -> Result<Vec<TensorSpec>> {
    let ImageEncoderConfig::VisionTransformer {
        image_size,
        patch_size,
        width,
        layers,
        mlp,
        input_norm: true,
        pooling: VitPooling::ClassToken,
        ..
    } = config.image
    else {
        return Err(Error::Config(format!(
            "image encoder: expected CLIP's vision transformer, found a {}, which cannot be pre-trained",
            config.image
        )));
    };
    if mlp != 4 * width {
        return Err(Error::Config(format!(
            "image encoder: expected an MLP of 4 times its width {width}, found {mlp}, which cannot be pre-trained"
        )));
    }
    if patch_size == 0 || !image_size.is_multiple_of(patch_size) {
        return Err(Error::Config(format!(
            "patches of {patch_size} pixels do not tile images of {image_size}"
        )));
    }
    let patch = patch_size as usize;
    let tokens = (image_size as usize / patch).pow(2) + 1;
    let embedding = config.embedding;
    let mut specs = Vec::new();
    let mut add = |name: String, shape: &[usize], init: Initialisation| {
        let shape = shape.to_vec();
        specs.push(TensorSpec { name, shape, init });
    };
    let scale = |width: usize| Initialisation::Normal((width as f32).powf(-0.5));

    add(
        "logit_scale".into(),
        &[],
        Initialisation::Constant((1.0f32 / 0.07).ln()),
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
        Initialisation::SinCos2d,
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
        Initialisation::Normal(0.02),
    );
    add(
        "positional_embedding".into(),
        &[text.context_length, width],
        Initialisation::Normal(0.01),
    );
    blocks(&mut add, "transformer", width, text.layers);
    norm(&mut add, "ln_final", width);
    add("text_projection".into(), &[width, embedding], scale(width));
    Ok(specs)
}

fn norm(add: &mut impl FnMut(String, &[usize], Initialisation), name: &str, width: usize) {
    add(
        format!("{name}.weight"),
        &[width],
        Initialisation::Constant(1.0),
    );
    add(
        format!("{name}.bias"),
        &[width],
        Initialisation::Constant(0.0),
    );
}

fn blocks(
    add: &mut impl FnMut(String, &[usize], Initialisation),
    prefix: &str,
    width: usize,
    layers: usize,
) {
    let attention = Initialisation::Normal((width as f32).powf(-0.5));
    let output =
        Initialisation::Normal((width as f32).powf(-0.5) * (2.0 * layers as f32).powf(-0.5));
    let hidden = Initialisation::Normal((2.0 * width as f32).powf(-0.5));
    let zero = Initialisation::Constant(0.0);
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

/// Initial values of the given rows of a tensor's first axis. Each row has a random stream of its own, so
/// some rows of a large table equal the same rows of the whole.
pub fn initial_values(
    spec: &TensorSpec,
    seed: u64,
    rows: impl IntoIterator<Item = usize>,
) -> Vec<f32> {
    // Tensors of one seed must differ.
    let mut name = Fingerprint::new();
    name.bytes(spec.name.as_bytes());
    let name = name.value();
    let length: usize = spec.shape.iter().skip(1).product();
    let mut values = Vec::new();
    for row in rows {
        match spec.init {
            Initialisation::Constant(value) => values.extend(std::iter::repeat_n(value, length)),
            Initialisation::Normal(deviation) => {
                let mut rng = SeededRng::new(seed ^ name, row as u64);
                values.extend((0..length).map(|_| rng.normal() * deviation));
            }
            Initialisation::SinCos2d => {
                values.extend((0..length).map(|i| sin_cos(row, i, length, &spec.shape)))
            }
        }
    }
    values
}

/// Value `i` of `length` of the position embedding of token `row`.
fn sin_cos(row: usize, i: usize, length: usize, shape: &[usize]) -> f32 {
    let Some(patch) = row.checked_sub(1) else {
        return 0.0;
    };
    let patches = shape
        .first()
        .map_or(1, |tokens| tokens.saturating_sub(1))
        .max(1);
    let side = (patches as f64).sqrt().round() as usize;
    let quarter = (length / 4).max(1);
    let coordinate = if i / quarter % 4 < 2 {
        patch % side
    } else {
        patch / side
    };
    // From 1 to 1/50 radians per patch.
    let frequency = 50f64.powf(-((i % quarter) as f64) / quarter as f64);
    let angle = coordinate as f64 * frequency;
    (0.5 * if (i / quarter).is_multiple_of(2) {
        angle.sin()
    } else {
        angle.cos()
    }) as f32
}
