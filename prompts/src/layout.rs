//! Learned prompts as input rows of the text encoder.

use pinhole_kernels::l2_normalize;
use pinhole_model::{
    ClassPosition, DeepPrompts, EmbeddedNames, PromptLearner, PromptRow, Tail, Tensor, TextForm,
};

use crate::encoder::{is_same_row, until_end};
use crate::error::{Error, excerpt};
use crate::{ClassEmbeddings, Classes, SOT, TextEncoder, Tokenizer};

/// The input rows of a class's prompt, from start of text to the row whose output is the embedding, laid out as by CoOp's
/// `PromptLearner`: `_` in the name becomes a space, a full stop follows the name, and `context` learned vectors are
/// before, around or after it.
///
/// The reference replaces the tokens of `context` words before the name by the vectors, and reads the output at that
/// text's first end-of-text token, whatever the position of the name. This function does the same, also for names whose
/// last character the tokenizer merges with the full stop.
///
/// # Errors
/// [`Error::ContextTooLong`] if these are more than `context_length` rows.
pub fn prompt_rows(
    tokenizer: &Tokenizer,
    class: &str,
    context: usize,
    position: ClassPosition,
    context_length: usize,
) -> Result<Vec<PromptRow>, Error> {
    let name = class.replace('_', " ");
    // The reference's placeholder words have one token each; the vectors replace them.
    let words = tokenizer.tokens(&format!("X {name}."), usize::MAX)?;
    let behind = &words[2..];
    let rows = 1usize.saturating_add(context).saturating_add(behind.len());
    if rows > context_length {
        return Err(Error::ContextTooLong {
            class: excerpt(class),
            context,
            rows,
            context_length,
        });
    }
    let name_tokens = tokenizer.encode(&name).len().min(behind.len());
    let (name, rest) = behind.split_at(name_tokens);
    let token = |ids: &[u32]| {
        ids.iter()
            .map(|&id| PromptRow::Token(id))
            .collect::<Vec<_>>()
    };
    let vectors = |from, to| (from..to).map(PromptRow::Context).collect::<Vec<_>>();
    let half = context / 2;
    let mut rows = match position {
        ClassPosition::End => [vectors(0, context), token(behind)].concat(),
        ClassPosition::Middle => [
            vectors(0, half),
            token(name),
            vectors(half, context),
            token(rest),
        ]
        .concat(),
        ClassPosition::Front => [token(name), vectors(0, context), token(rest)].concat(),
    };
    rows.insert(0, PromptRow::Token(SOT));
    rows.truncate(1 + context + until_end(behind).len());
    Ok(rows)
}

/// The class embeddings of a CoOp prompt learner of any form: what it learned becomes one vector a
/// class, so that it costs nothing where images are classified. `progress` is called with the number
/// of classes done and the number of all, first at 0.
///
/// # Errors
/// [`Error::PromptLearner`] for a context of another width than the encoder's, class-specific contexts
/// for another number of classes, or a meta-net, which makes the prompts depend on the image; those
/// of [`prompt_rows`], before anything is computed; [`Error::UnknownToken`], [`Error::Degenerate`].
pub fn learned_embeddings(
    encoder: &TextEncoder,
    tokenizer: &Tokenizer,
    classes: &Classes,
    learner: &PromptLearner,
    position: ClassPosition,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ClassEmbeddings, Error> {
    let names = classes.names();
    check_learner(encoder, learner, names.len())?;
    let layout = |name: &String| {
        let context_length = encoder.config().context_length;
        prompt_rows(tokenizer, name, learner.n_ctx(), position, context_length)
    };
    let layouts = names.iter().map(layout).collect::<Result<_, _>>()?;
    embed_layouts(encoder, names, learner, layouts, &[], progress)
}

/// [`learned_embeddings`] for prompts that continue inside of the text encoder. `trained_names` are what the learner's file
/// has of its training; they show which of the initial words stand before the class names.
///
/// # Errors
/// As [`learned_embeddings`]; [`Error::Input`] and [`Error::PromptLearner`] for tokens and layers that do not fit the text
/// encoder.
pub fn deep_embeddings(
    encoder: &TextEncoder,
    tokenizer: &Tokenizer,
    classes: &Classes,
    learner: &PromptLearner,
    deep: &DeepPrompts,
    trained_names: Option<&EmbeddedNames>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ClassEmbeddings, Error> {
    let names = classes.names();
    check_learner(encoder, learner, names.len())?;
    let words = remaining_words(encoder, tokenizer, learner, deep, trained_names)?;
    let layout = |name: &String| {
        let (context, end) = (learner.n_ctx(), ClassPosition::End);
        let text = format!("{words}{name}");
        prompt_rows(
            tokenizer,
            &text,
            context,
            end,
            encoder.config().context_length,
        )
    };
    let layouts = names.iter().map(layout).collect::<Result<_, _>>()?;
    let mut embeddings = embed_layouts(encoder, names, learner, layouts, &deep.tokens, progress)?;
    if let Some(tail) = &deep.tail {
        let size = encoder.embedding();
        if tail.down.shape.get(1) != Some(&size) || tail.up.shape.first() != Some(&size) {
            return Err(Error::PromptLearner {
                field: "layers behind the text encoder",
                found: format!("{:?} and {:?}", tail.down.shape, tail.up.shape),
                expected: format!("{size}, the length of this checkpoint's embeddings"),
            });
        }
        for (embedding, name) in embeddings.data.chunks_exact_mut(size).zip(names) {
            apply_tail(tail, embedding);
            l2_normalize(embedding);
            if !embedding.iter().all(|value| value.is_finite()) {
                return Err(degenerate(name));
            }
        }
    }
    Ok(embeddings)
}

/// The initial words that stand between the context and the class names, each with a space behind it. The trainers replace
/// the first tokens of the words, and save what stands behind them.
fn remaining_words(
    encoder: &TextEncoder,
    tokenizer: &Tokenizer,
    learner: &PromptLearner,
    deep: &DeepPrompts,
    trained_names: Option<&EmbeddedNames>,
) -> Result<String, Error> {
    // Each of these words is one token.
    let words = deep.initial_words.split_whitespace();
    let words: String = words
        .skip(learner.n_ctx())
        .flat_map(|word| [word, " "])
        .collect();
    let Some(trained) = trained_names else {
        return Ok(words);
    };
    let own = encoder.token_rows(&tokenizer.encode(&words))?;
    let texts = trained.suffix.shape.first().copied().unwrap_or(0).max(1);
    let mut texts = trained
        .suffix
        .data
        .chunks_exact(trained.suffix.data.len() / texts);
    let begins = |text: &[f32]| {
        let mut pairs = own
            .chunks_exact(learner.width())
            .zip(text.chunks_exact(learner.width()));
        own.len() <= text.len() && pairs.all(|(own, trained)| is_same_row(own, trained))
    };
    Ok(if texts.all(begins) {
        words
    } else {
        String::new()
    })
}

/// Replaces t by share g(t) + (1 - share) t. As g(c t) = c g(t) for c > 0, t may be normalised before.
fn apply_tail(tail: &Tail, embedding: &mut [f32]) {
    let relu = |matrix: &Tensor, x: &[f32]| -> Vec<f32> {
        let rows = matrix.data.chunks_exact(x.len().max(1));
        let product = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>().max(0.0);
        rows.map(product).collect()
    };
    let added = relu(&tail.up, &relu(&tail.down, embedding));
    for (value, added) in embedding.iter_mut().zip(added) {
        *value = tail.share * added + (1.0 - tail.share) * *value;
    }
}

/// The embeddings of prompts whose rows are given for each class.
fn embed_layouts(
    encoder: &TextEncoder,
    names: &[String],
    learner: &PromptLearner,
    layouts: Vec<Vec<PromptRow>>,
    replaced: &[Tensor],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ClassEmbeddings, Error> {
    if learner.meta_net.is_some() {
        return Err(Error::PromptLearner {
            field: "meta_net",
            found: "a meta-net".into(),
            expected: "none: with a meta-net the class embeddings depend on the image".into(),
        });
    }
    let width = learner.width();
    let mut data = Vec::with_capacity(names.len() * encoder.embedding());
    for (class, layout) in layouts.iter().enumerate() {
        progress(class, names.len());
        let own = learner.class_specific().map_or(0, |_| class);
        let context = &learner.context.data[own * learner.n_ctx() * width..];
        let mut rows = Vec::with_capacity(layout.len() * width);
        for row in layout {
            match *row {
                PromptRow::Token(id) => rows.extend(encoder.token_rows(&[id])?),
                PromptRow::Context(i) => rows.extend_from_slice(&context[i * width..][..width]),
            }
        }
        let embedding = encoder.embed_replaced(&rows, replaced);
        data.extend(embedding.map_err(|error| match error {
            Error::DegenerateText { .. } => degenerate(&names[class]),
            other => other,
        })?);
    }
    progress(names.len(), names.len());
    Ok(ClassEmbeddings {
        classes: names.to_vec(),
        dim: encoder.embedding(),
        data,
    })
}

fn degenerate(class: &str) -> Error {
    Error::Degenerate {
        text: format!("class {:?}", excerpt(class)),
    }
}

/// Checks that a prompt learner fits the text encoder and the number of classes.
///
/// # Errors
/// [`Error::PromptLearner`] with the value that would fit.
pub(crate) fn check_learner(
    encoder: &TextEncoder,
    learner: &PromptLearner,
    classes: usize,
) -> Result<(), Error> {
    let wrong = |field, found: String, expected: String| {
        Err(Error::PromptLearner {
            field,
            found,
            expected,
        })
    };
    if encoder.config().form != TextForm::Clip {
        return wrong(
            "text encoder",
            "one without a causal mask (SigLIP's, MobileCLIP's)".into(),
            "CLIP's: the context vectors of CoOp and CoCoOp belong to its tokens, and CoCoOp's prompts share what a causal \
             text encoder has computed; use templates"
                .into(),
        );
    }
    if learner.width() != encoder.config().width {
        let backbones = match learner.width() {
            512 => " (512 is RN50's, RN101's, ViT-B/32's and ViT-B/16's)",
            768 => " (768 is ViT-L/14's)",
            640 => " (640 is RN50x4's)",
            1024 => " (1024 is ViT-H/14's)",
            _ => "",
        };
        return wrong(
            "width of the context",
            format!("{}{backbones}", learner.width()),
            format!(
                "{}, the width of this checkpoint's text encoder",
                encoder.config().width
            ),
        );
    }
    if let Some(found) = learner.class_specific()
        && found != classes
    {
        return wrong(
            "class-specific contexts",
            format!("{found}"),
            format!("{classes}, one per class: pass the classes of the training in their order"),
        );
    }
    if let Some(net) = &learner.meta_net
        && net.linear1_weight.shape.get(1) != Some(&encoder.embedding())
    {
        return wrong(
            "input of the meta-net",
            format!("{:?}", net.linear1_weight.shape.get(1)),
            format!(
                "{}, the length of this checkpoint's embeddings",
                encoder.embedding()
            ),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(class: &str, context: usize, position: ClassPosition) -> String {
        let rows = prompt_rows(&Tokenizer::new(), class, context, position, 77).unwrap();
        let name = |row: &PromptRow| match *row {
            PromptRow::Context(i) => format!("c{i}"),
            PromptRow::Token(SOT) => "<".into(),
            PromptRow::Token(crate::EOT) => ">".into(),
            PromptRow::Token(id) => id.to_string(),
        };
        rows.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_name_has_the_position_of_the_training() {
        use ClassPosition::{End, Front, Middle};
        // "polar" 12214, "bear" 4298, "." 269 in CLIP's vocabulary.
        assert_eq!(rows("polar_bear", 3, End), "< c0 c1 c2 12214 4298 269 >");
        assert_eq!(rows("polar_bear", 3, Middle), "< c0 12214 4298 c1 c2 269 >");
        assert_eq!(rows("polar bear", 3, Front), "< 12214 4298 c0 c1 c2 269 >");
    }

    #[test]
    fn characters_merged_with_the_full_stop_stay_with_the_name() {
        // "!." is one token, and the reference counts the name's tokens without the full stop.
        let id = Tokenizer::new().encode("cat!.")[1];
        let middle = rows("cat!", 2, ClassPosition::Middle);
        assert_eq!(middle, format!("< c0 2368 {id} c1 >"));
    }

    #[test]
    fn the_prompt_ends_at_the_first_end_of_text() {
        let named = rows("cat <end&#95;of&#95;text> dog", 2, ClassPosition::End);
        assert_eq!(named, "< c0 c1 2368 >");
    }

    #[test]
    fn a_context_that_does_not_fit_is_reported_with_its_class() {
        let fits = |context| {
            prompt_rows(
                &Tokenizer::new(),
                "polar bear",
                context,
                ClassPosition::End,
                12,
            )
        };
        assert_eq!(fits(7).unwrap().len(), 12);
        let error = fits(8).unwrap_err().to_string();
        assert!(
            error.contains("polar bear") && error.contains("13"),
            "{error}"
        );
        assert!(fits(usize::MAX).is_err());
    }
}
