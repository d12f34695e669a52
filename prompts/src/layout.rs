//! Learned prompts as input rows of the text encoder.

use pinhole_model::{ClassPosition, PromptLearner, PromptRow, TextForm};

use crate::error::{Error, excerpt};
use crate::{ClassEmbeddings, Classes, SOT, TextEncoder, Tokenizer, encoder::until_end};

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
    check_learner(encoder, learner, classes.names().len())?;
    if learner.meta_net.is_some() {
        return Err(Error::PromptLearner {
            field: "meta_net",
            found: "a meta-net".into(),
            expected: "none: with a meta-net the class embeddings depend on the image".into(),
        });
    }
    let (names, width) = (classes.names(), learner.width());
    let layouts = names
        .iter()
        .map(|name| {
            let context_length = encoder.config().context_length;
            prompt_rows(tokenizer, name, learner.n_ctx(), position, context_length)
        })
        .collect::<Result<Vec<_>, _>>()?;
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
        let embedding = encoder.embed_rows(&rows).map_err(|error| match error {
            Error::DegenerateText { .. } => Error::Degenerate {
                text: format!("class {:?}", excerpt(&names[class])),
            },
            other => other,
        })?;
        data.extend(embedding);
    }
    progress(names.len(), names.len());
    Ok(ClassEmbeddings {
        classes: names.to_vec(),
        dim: encoder.embedding(),
        data,
    })
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
