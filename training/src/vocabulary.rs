//! Texts as tokens of a reduced vocabulary.

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use pinhole_prompts::{EOT, SOT, Tokenizer};

use crate::{Error, Result};

/// The token ids in use, ascending. Only their rows of the embedding table are trained: the other rows of
/// a table of 49,408 would take most of the memory and of the optimiser's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    ids: Vec<u32>,
}

/// A text as indices into a [`Vocabulary`], with start and end of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens(pub Vec<u32>);

impl Vocabulary {
    /// The tokens of some texts, with start and end of text.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let tokenizer = Tokenizer::new();
        let mut ids = BTreeSet::from([SOT, EOT]);
        for text in texts {
            ids.extend(tokenizer.encode(text));
        }
        Self {
            ids: ids.into_iter().collect(),
        }
    }

    /// The ids, ascending; a token's index is its position here.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// A text between start and end of text, truncated to `context_length` (the end is kept).
    ///
    /// # Errors
    /// [`Error::Config`] for a token that is not in the vocabulary.
    pub fn tokens(&self, text: &str, context_length: usize) -> Result<Tokens> {
        let mut ids = vec![SOT];
        ids.extend(Tokenizer::new().encode(text));
        ids.truncate(context_length.saturating_sub(1).max(1));
        ids.push(EOT);
        let index = |id: &u32| {
            let found = self.ids.binary_search(id).map_err(|_| {
                Error::Config(format!("token {id} of {text:?} is not in the vocabulary"))
            })?;
            Ok(found as u32)
        };
        Ok(Tokens(ids.iter().map(index).collect::<Result<_>>()?))
    }
}

/// Texts as one tensor of indices [texts, longest], padded with index 0, and the position of the end of
/// each. The padding has no effect: attention is causal and the output is read at the end.
///
/// # Errors
/// For no texts.
pub fn stack(texts: &[Tokens]) -> Result<(Tensor, Vec<u32>)> {
    let longest = texts.iter().map(|t| t.0.len()).max().unwrap_or(0);
    let mut ids = Vec::with_capacity(texts.len() * longest);
    let mut ends = Vec::with_capacity(texts.len());
    for Tokens(tokens) in texts {
        ends.push(tokens.len().saturating_sub(1) as u32);
        ids.extend(tokens);
        ids.extend(std::iter::repeat_n(0, longest - tokens.len()));
    }
    Ok((
        Tensor::from_vec(ids, (texts.len(), longest), &Device::Cpu)?,
        ends,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_indices_into_the_vocabulary() {
        let vocabulary = Vocabulary::of(["a red circle", "a blue ring."]);
        let ids = vocabulary.ids();
        assert!(ids.is_sorted() && ids.ends_with(&[SOT, EOT]));
        let Tokens(tokens) = vocabulary.tokens("a red ring", 32).unwrap();
        let back: Vec<u32> = tokens.iter().map(|&t| ids[t as usize]).collect();
        let expected = Tokenizer::new().encode("a red ring");
        assert_eq!(back[1..back.len() - 1], expected);
        assert_eq!((back[0], back[back.len() - 1]), (SOT, EOT));
        assert!(vocabulary.tokens("a green ring", 32).is_err());
    }

    #[test]
    fn truncation_keeps_the_end_of_text() {
        let vocabulary = Vocabulary::of(["red red red red"]);
        let Tokens(tokens) = vocabulary.tokens("red red red red", 4).unwrap();
        let end = vocabulary.ids().len() as u32 - 1;
        assert_eq!((tokens.len(), tokens[3]), (4, end));
    }

    #[test]
    fn stack_pads_to_the_longest_text() {
        let texts = [Tokens(vec![3, 1, 4]), Tokens(vec![3, 4])];
        let (ids, ends) = stack(&texts).unwrap();
        assert_eq!(ids.to_vec2::<u32>().unwrap(), [[3, 1, 4], [3, 4, 0]]);
        assert_eq!(ends, [2, 1]);
    }
}
