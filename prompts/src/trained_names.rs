//! What the file of a prompt learner tells of its training: the CLIP, and the order of the classes.

use pinhole_model::{EmbeddedNames, PromptLearner};

use crate::bpe::decode;
use crate::encoder::{SAME_ROW, is_same_row, until_end};
use crate::error::{Error, excerpt};
use crate::layout::check_learner;
use crate::{Classes, EOT, SOT, TextEncoder, Tokenizer};

/// Checks that a prompt learner was trained with the token embedding of `encoder`, and for class-specific contexts that it
/// was trained on `classes` in their order. `names` are what its file has of both; a context for all classes may be used
/// with any.
///
/// # Errors
/// [`Error::PromptLearner`] with what would fit; [`Error::UnknownToken`] for an encoder of another vocabulary.
pub fn check_trained_names(
    encoder: &TextEncoder,
    tokenizer: &Tokenizer,
    classes: &Classes,
    learner: &PromptLearner,
    names: &EmbeddedNames,
) -> Result<(), Error> {
    check_learner(encoder, learner, classes.names().len())?;
    let width = learner.width();
    let start = encoder.token_rows(&[SOT])?;
    let prefixes = names.prefix.data.chunks_exact(width);
    let differs = |row: &[f32]| !is_same_row(&start, row);
    if let Some(class) = prefixes.clone().position(differs) {
        return Err(other_clip("token_prefix", class));
    }
    if learner.class_specific().is_none() {
        return Ok(());
    }
    if prefixes.len() != classes.names().len() {
        return Err(Error::PromptLearner {
            field: "token_prefix",
            found: format!("the names of {} classes", prefixes.len()),
            expected: format!("{}, as in --classes", classes.names().len()),
        });
    }
    let rows = names.suffix.data.len() / prefixes.len() / width;
    let trained = names.suffix.data.chunks_exact((rows * width).max(1));
    for (class, (name, trained)) in classes.names().iter().zip(trained).enumerate() {
        let words = tokenizer.tokens(&format!("X {}.", name.replace('_', " ")), usize::MAX)?;
        let own = encoder.token_rows(until_end(&words[2..]))?;
        let mut pairs = own.chunks_exact(width).zip(trained.chunks_exact(width));
        if pairs.all(|(own, trained)| is_same_row(own, trained)) {
            continue;
        }
        let mut ids = vec![];
        for row in trained.chunks_exact(width) {
            let (id, distance) = encoder.nearest_token(row);
            if distance > SAME_ROW {
                return Err(other_clip("token_suffix", class));
            }
            if id == EOT {
                break;
            }
            ids.push(id);
        }
        let spelled = decode(&ids);
        let spelled = spelled.strip_suffix(" .").unwrap_or(&spelled);
        return Err(Error::PromptLearner {
            field: "class-specific contexts",
            found: format!("{:?} as class {}", excerpt(spelled), class + 1),
            expected: format!(
                "{:?} as in --classes: pass the classes of the training in their order",
                excerpt(name)
            ),
        });
    }
    Ok(())
}

fn other_clip(field: &'static str, class: usize) -> Error {
    Error::PromptLearner {
        field,
        found: format!("in row {class} another embedding of a token"),
        expected: "those of this checkpoint: pass the CLIP that it was trained with".into(),
    }
}
