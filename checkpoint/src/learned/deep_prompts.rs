//! The files of methods that learn tokens inside of both encoders: MaPLe, IVLP and their followers save the encoders too.

use std::sync::Arc;

use pinhole_model::{
    ClassPosition, ClipConfig, DeepPrompts, ImageEncoderConfig, Learned, LearnedClasses, Tensor,
};

use super::method::{LearnedTensors, TensorSpec};
use super::prompts::read_context;
use crate::Error;

/// The encoders in the file; which tensors they have depends on the CLIP.
const IMAGE_ENCODER: &str = "image_encoder.*";
const TEXT_ENCODER: &str = "text_encoder.*";
const LOGIT_SCALE: &str = "logit_scale";
pub(super) const ENCODERS: [TensorSpec; 3] = [
    TensorSpec::optional(IMAGE_ENCODER, &[]),
    TensorSpec::optional(TEXT_ENCODER, &[]),
    TensorSpec::optional(LOGIT_SCALE, &[]),
];
/// What is learned has its own module beside the encoders.
pub(super) const ALIASES: &[(&str, &str)] = &[("prompt_learner.*", "*")];
/// Not in the files of these methods: it is the CLIP's.
const TOKENS: &str = "token_embedding.weight";
/// What the reference implementations' configurations begin with (CTX_INIT).
const INITIAL_WORDS: &str = "a photo of a";

/// Context vectors, the encoders, and tokens inside of them: `image` as [`Learned::image_tokens`], `text` as
/// [`DeepPrompts::tokens`].
pub(super) fn learned(
    tensors: &LearnedTensors,
    image: Vec<Tensor>,
    text: Vec<Tensor>,
) -> Result<Learned, Error> {
    let mut learned = with_image_tokens(tensors, image, read_context(tensors)?)?;
    // The first of the text encoder is the context.
    check_blocks(tensors, "text", 1 + text.len(), tensors.clip()?.text.layers)?;
    if let LearnedClasses::Prompts { learner, .. } = &mut learned.classes {
        // The rows behind the start of text are replaced.
        learner.class_position = Some(ClassPosition::End);
    }
    learned.deep_prompts = Some(DeepPrompts {
        tokens: text,
        initial_words: INITIAL_WORDS,
        tail: None,
    });
    Ok(learned)
}

/// `learned` with the file's encoders and tokens inside of its image encoder, as [`Learned::image_tokens`].
pub(super) fn with_image_tokens(
    tensors: &LearnedTensors,
    image: Vec<Tensor>,
    learned: Learned,
) -> Result<Learned, Error> {
    let clip = tensors.clip()?;
    let encoders = encoders(tensors, clip)?;
    check_blocks(tensors, "image", image.len(), clip.image.layers())?;
    Ok(Learned {
        encoders,
        image_tokens: image,
        ..learned
    })
}

fn check_blocks(
    tensors: &LearnedTensors,
    encoder: &str,
    found: usize,
    layers: usize,
) -> Result<(), Error> {
    if found <= layers {
        return Ok(());
    }
    let expected = format!("those of at most {layers} blocks, as in this CLIP");
    let field = format!("tokens in the {encoder} encoder");
    Err(tensors.wrong(&field, expected, format!("those of {found}")))
}

/// The names of tensors that are numbered from `first` on without a gap, by the pattern that they have.
///
/// # Errors
/// A number that is missing, or no number.
pub(super) fn numbered(
    tensors: &LearnedTensors,
    pattern: &str,
    first: usize,
) -> Result<Vec<String>, Error> {
    let count = tensors.places(pattern).count();
    let names = (first..first + count).map(|i| pattern.replace('*', &i.to_string()));
    names
        .map(|name| match tensors.shape(&name) {
            Some(_) => Ok(name),
            None => {
                let expected =
                    format!("a tensor, as the file has {count} of {pattern}, from {first} on");
                Err(tensors.wrong(&name, expected, "none".into()))
            }
        })
        .collect()
}

/// Both encoders but the token embedding, by the names of the CLIP's tensors.
fn encoders(
    tensors: &LearnedTensors,
    clip: &ClipConfig,
) -> Result<Vec<(String, Arc<Tensor>)>, Error> {
    if !matches!(clip.image, ImageEncoderConfig::VisionTransformer { .. }) {
        let expected = format!(
            "a CLIP with a vision transformer, which {} adds tokens to",
            tensors.method.name
        );
        return Err(tensors.wrong(IMAGE_ENCODER, expected, clip.image.family().into()));
    }
    let of_clip = clip.tensors();
    let known: Vec<(String, &str, &[usize])> = (of_clip.iter())
        .filter(|(name, _)| name != TOKENS)
        .map(|(name, shape)| (in_file(name), name.as_str(), shape.as_slice()))
        .collect();
    let own = |name: &str| {
        let specs = tensors.method.tensors.iter();
        specs
            .filter(|spec| !spec.shapes.is_empty())
            .any(|spec| spec.fits(name))
    };
    for pattern in [IMAGE_ENCODER, TEXT_ENCODER] {
        for place in tensors.places(pattern) {
            let name = pattern.replace('*', place);
            if !own(&name) && !known.iter().any(|(known, ..)| *known == name) {
                return Err(Error::SurplusTensor {
                    path: tensors.path().to_owned(),
                    shape: tensors.shape(&name).map_or(vec![], <[usize]>::to_vec),
                    name,
                    expected: format!("this CLIP ({clip})"),
                });
            }
        }
    }
    let mut found = vec![];
    for (in_file, name, shape) in known {
        let expected = || {
            format!(
                "shape {shape:?} as of this CLIP's {name}: pass the CLIP that {} was trained with",
                tensors.method.name
            )
        };
        match tensors.shape(&in_file) {
            Some(found) if found == shape => {}
            Some(found) => {
                return Err(tensors.wrong(&in_file, expected(), format!("shape {found:?}")));
            }
            None => return Err(tensors.wrong(&in_file, expected(), "none".into())),
        }
        found.push((name.to_owned(), Arc::new(tensors.tensor(&in_file)?)));
    }
    Ok(found)
}

/// The name in the file of a tensor of CLIP.
fn in_file(name: &str) -> String {
    match name.strip_prefix("visual.") {
        Some(rest) => IMAGE_ENCODER.replace('*', rest),
        None if name == LOGIT_SCALE => name.to_owned(),
        None => TEXT_ENCODER.replace('*', name),
    }
}
