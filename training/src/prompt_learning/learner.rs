//! Initial weights of a training, and its prompts.

use std::{collections::BTreeSet, path::Path};

use pinhole_checkpoint::{Checkpoint, LearnedOptions, read_learned, read_prompt_learner};
use pinhole_model::{PromptLearner, PromptRow};
use pinhole_prompts::{EOT, SOT, Tokenizer, prompt_rows};

use super::{
    methods::Method, options::PromptOptions, text_encoder::FrozenTextEncoder,
    text_model::TextModel, weight::Weight,
};
use crate::{Error, Result, random::SeededRng};

/// The text side for some classes, and the initial weights, the context vectors first.
pub(super) fn initialise(
    clip: &Checkpoint,
    classes: &[String],
    options: &PromptOptions,
) -> Result<(TextModel, Vec<Weight>)> {
    let tokenizer = Tokenizer::new();
    check_classes(&tokenizer, classes)?;
    let given = options
        .init
        .as_deref()
        .map(|path| read_init(path, clip, classes, options));
    let given = given.transpose()?;
    let words = match &options.words {
        Some(words) if given.is_none() => tokenizer.encode(&words.replace('_', " ")),
        _ => Vec::new(),
    };
    let n_ctx = match (&given, &options.words) {
        (Some(learner), _) => learner.n_ctx(),
        (None, Some(text)) if words.is_empty() => {
            return Err(Error::Options(format!(
                "--words {text:?}: expected at least one word"
            )));
        }
        (None, Some(_)) => words.len(),
        (None, None) => options.n_ctx,
    };
    let prompts = layouts(&tokenizer, clip, classes, n_ctx, options)?;
    let mut tokens: BTreeSet<u32> = words.iter().copied().collect();
    for row in prompts.iter().flatten() {
        if let PromptRow::Token(id) = row {
            tokens.insert(*id);
        }
    }
    let encoder = FrozenTextEncoder::load(clip, &tokens)?;
    let weights = match given {
        Some(learner) => options.method.implementation().to_weights(learner),
        None => new_weights(&encoder, &words, n_ctx, classes.len(), options)?,
    };
    let own = options.class_specific;
    let context = |class, i| if own { class * n_ctx + i } else { i };
    let scale = clip.logit_scale();
    let text = TextModel::new(encoder, &prompts, options.memory, scale, context)?;
    Ok((text, weights))
}

fn check_classes(tokenizer: &Tokenizer, classes: &[String]) -> Result<()> {
    if let Some(at) = classes.iter().position(|class| class.trim().is_empty()) {
        return Err(Error::Config(format!("class {at} has an empty name")));
    }
    for class in classes {
        let ids = tokenizer.encode(&class.replace('_', " "));
        if ids.contains(&SOT) || ids.contains(&EOT) {
            return Err(Error::Config(format!(
                "class {class:?} contains the token that starts or ends a text; rename it"
            )));
        }
    }
    if classes.len() < 2 {
        let found = classes.len();
        return Err(Error::Config(format!(
            "expected at least two classes, found {found}"
        )));
    }
    Ok(())
}

/// The prompts of all classes. If any are too long, the error names the longest.
fn layouts(
    tokenizer: &Tokenizer,
    clip: &Checkpoint,
    classes: &[String],
    n_ctx: usize,
    options: &PromptOptions,
) -> Result<Vec<Vec<PromptRow>>> {
    let max_length = clip.config().text.context_length;
    let mut prompts = Vec::with_capacity(classes.len());
    let mut worst: Option<(usize, pinhole_prompts::Error)> = None;
    for class in classes {
        match prompt_rows(tokenizer, class, n_ctx, options.class_position, max_length) {
            Ok(rows) => prompts.push(rows),
            Err(error) => {
                let rows = match &error {
                    pinhole_prompts::Error::ContextTooLong { rows, .. } => *rows,
                    _ => usize::MAX,
                };
                if worst.as_ref().is_none_or(|(most, _)| rows > *most) {
                    worst = Some((rows, error));
                }
            }
        }
    }
    match worst {
        Some((_, error)) => Err(error.into()),
        None => Ok(prompts),
    }
}

/// A prompt learner to start from, checked against the model, the classes and the method.
fn read_init(
    path: &Path,
    clip: &Checkpoint,
    classes: &[String],
    options: &PromptOptions,
) -> Result<PromptLearner> {
    let learner = read_prompt_learner(path)?;
    let wrong = |what: String| {
        Err(Error::State {
            path: path.into(),
            problem: what,
        })
    };
    let learned = read_learned(path, &LearnedOptions::default())?;
    if let Err(problem) = learned.check_classes(classes) {
        return wrong(problem);
    }
    let (width, embedding) = (clip.config().text.width, clip.config().embedding);
    if learner.width() != width {
        let found = learner.width();
        return wrong(format!(
            "context vectors: expected the text encoder's width {width}, found {found}"
        ));
    }
    let expected = options.class_specific.then_some(classes.len());
    if learner.class_specific() != expected {
        let contexts = |classes: Option<usize>| match classes {
            Some(count) => format!("class-specific contexts of {count} classes"),
            None => "one context for all classes".into(),
        };
        return wrong(format!(
            "expected {}, found {}; see --class-specific",
            contexts(expected),
            contexts(learner.class_specific())
        ));
    }
    let (method, found) = (options.method, Method::of(&learner));
    if found != Some(method) {
        return wrong(format!(
            "expected a prompt learner of {}, found one of {}",
            method.name(),
            found.map_or("another method", Method::name)
        ));
    }
    if let Err(problem) = method.implementation().check_learner(&learner, embedding) {
        return wrong(problem);
    }
    match learner.class_position {
        Some(found) if found != options.class_position => wrong(format!(
            "class position: expected {}, found {found}; see --class-position",
            options.class_position
        )),
        _ => Ok(learner),
    }
}

/// Context vectors that are normal with standard deviation 0.02 or the embeddings of words, and what else
/// the method learns.
fn new_weights(
    encoder: &FrozenTextEncoder,
    words: &[u32],
    n_ctx: usize,
    classes: usize,
    options: &PromptOptions,
) -> Result<Vec<Weight>> {
    let (width, embedding) = (encoder.width(), encoder.embedding());
    let rng = |stream: u64| SeededRng::new(options.seed ^ 0x70_726f_6d70_7400, stream);
    let shape = if options.class_specific {
        vec![classes, n_ctx, width]
    } else {
        vec![n_ctx, width]
    };
    let context = if words.is_empty() {
        let mut rng = rng(0);
        let count: usize = shape.iter().product();
        (0..count).map(|_| 0.02 * rng.normal()).collect()
    } else {
        let rows = words.iter().map(|&id| encoder.token(id));
        rows.collect::<Result<Vec<_>>>()?.concat()
    };
    let mut weights = vec![Weight::new("ctx", &shape, context)];
    let method = options.method.implementation();
    weights.extend(method.extra_weights(width, embedding, &rng));
    Ok(weights)
}
