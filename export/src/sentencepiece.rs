//! SentencePiece's file of a unigram model (`spiece.model`) as a tokenizer of the Hugging Face library, after
//! `SpmConverter` in transformers' convert_slow_tokenizer.py. The messages are those of sentencepiece_model.proto.

use anyhow::{Context, Result, ensure};
use pinhole::internal::catch_panic;
use prost::Message;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{NormalizerWrapper, Tokenizer};

/// Largest file: mT5's vocabulary of 250,000 pieces, which SigLIP's multilingual models have, takes 4.3 MB.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

/// Most bytes of a piece; SentencePiece's own default is 16 characters.
const MAX_PIECE: usize = 256;
/// Most different beginnings of pieces: the crate has a node for each, of 340 to 360 bytes with its
/// key.
const MAX_BEGINNINGS: usize = 2 << 20;

/// `ModelProto`.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

/// `SentencePiece`.
#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

/// `TrainerSpec`.
#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    eos_id: Option<i32>,
}

/// `NormalizerSpec`.
#[derive(Clone, PartialEq, Message)]
struct Normalizer {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
}

/// `ModelType::UNIGRAM`, the default.
const UNIGRAM: i32 = 1;
/// `SentencePiece::Type`s; the default is a normal one.
const UNKNOWN: i32 = 2;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// The tokenizer that `bytes` describe, and the ID of the piece that ends texts, which it does not add.
///
/// # Errors
/// A file that is malformed, of another model than a unigram one, or with pieces that the caller defined.
pub(crate) fn tokenizer(bytes: &[u8]) -> Result<(Tokenizer, u32)> {
    let model = Model::decode(bytes).context("expected a file of SentencePiece")?;
    let trainer = model.trainer.unwrap_or_default();
    let kind = trainer.model_type.unwrap_or(UNIGRAM);
    ensure!(
        kind == UNIGRAM,
        "trainer_spec.model_type: expected {UNIGRAM} (unigram, as SigLIP's), found {kind}; use the model's tokenizer.json"
    );
    let mut vocabulary = Vec::with_capacity(model.pieces.len());
    let (mut unknown, mut bytes_as_pieces) = (None, false);
    for (id, piece) in model.pieces.into_iter().enumerate() {
        let text = piece.piece.unwrap_or_default();
        let score = piece.score.unwrap_or(0.0);
        ensure!(
            (1..=MAX_PIECE).contains(&text.len()) && score.is_finite(),
            "pieces[{id}]: expected 1 to {MAX_PIECE} bytes and a finite score, found {} bytes and {score}",
            text.len()
        );
        match piece.kind {
            Some(UNKNOWN) => unknown = Some(id),
            Some(BYTE) => bytes_as_pieces = true,
            kind => ensure!(
                kind != Some(USER_DEFINED),
                "pieces[{id}]: expected no piece that the caller defined, found {text:?}; use the model's tokenizer.json"
            ),
        }
        vocabulary.push((text, f64::from(score)));
    }
    let found = beginnings(&vocabulary);
    ensure!(
        found <= MAX_BEGINNINGS,
        "pieces: expected at most {MAX_BEGINNINGS} different beginnings of pieces, found {found}"
    );
    ensure!(
        unknown.is_some(),
        "pieces: expected one of the type unknown, found none of {}",
        vocabulary.len()
    );
    // The message's default is 2.
    let end = trainer.eos_id.unwrap_or(2);
    let end = u32::try_from(end)
        .ok()
        .filter(|end| (*end as usize) < vocabulary.len());
    let end = end.context("trainer_spec.eos_id: expected a piece that ends texts, found none")?;

    let failed = |error: tokenizers::Error| anyhow::anyhow!("expected a tokenizer: {error}");
    let unigram = Unigram::from(vocabulary, unknown, bytes_as_pieces).map_err(failed)?;
    let mut tokenizer = Tokenizer::new(unigram);
    let normalizer = model.normalizer.unwrap_or_default();
    let mut steps: Vec<NormalizerWrapper> = vec![];
    let map = normalizer.precompiled_charsmap.unwrap_or_default();
    if !map.is_empty() {
        // The crate panics on some damaged maps.
        let map = catch_panic(|| Precompiled::from(&map).map_err(|error| error.to_string()));
        let map = map.unwrap_or_else(Err).map_err(|reason| {
            anyhow::anyhow!("normalizer_spec.precompiled_charsmap: expected a map, found {reason}")
        })?;
        steps.push(map.into());
    }
    if normalizer.remove_extra_whitespaces.unwrap_or(true) {
        steps.push(Strip::new(true, true).into());
        let spaces = ReplacePattern::Regex(" {2,}".into());
        steps.push(Replace::new(spaces, " ").map_err(failed)?.into());
    }
    if !steps.is_empty() {
        (tokenizer.with_normalizer(Some(Sequence::new(steps)))).map_err(failed)?;
    }
    let prepend = match normalizer.add_dummy_prefix.unwrap_or(true) {
        true => PrependScheme::Always,
        false => PrependScheme::Never,
    };
    tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', prepend, true)));
    Ok((tokenizer, end))
}

/// The number of different beginnings, of any length, of the pieces.
fn beginnings(vocabulary: &[(String, f64)]) -> usize {
    let mut pieces: Vec<&[u8]> = vocabulary.iter().map(|(text, _)| text.as_bytes()).collect();
    pieces.sort_unstable();
    let before = std::iter::once(&[][..]).chain(pieces.iter().copied());
    (pieces.iter().zip(before))
        .map(|(piece, before)| {
            let same = piece.iter().zip(before).take_while(|(a, b)| a == b);
            piece.len() - same.count()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of these pieces, with their types.
    fn file(pieces: &[(&str, i32)], model_type: i32) -> Vec<u8> {
        let piece = |&(text, kind): &(&str, i32)| Piece {
            piece: Some(text.into()),
            score: Some(-1.0),
            kind: Some(kind),
        };
        let model = Model {
            pieces: pieces.iter().map(piece).collect(),
            trainer: Some(Trainer {
                model_type: Some(model_type),
                eos_id: Some(1),
            }),
            normalizer: None,
        };
        model.encode_to_vec()
    }

    #[test]
    fn files_that_are_not_read_say_why() {
        let good = [("<unk>", UNKNOWN), ("</s>", 3), ("▁a", 1)];
        assert_eq!(tokenizer(&file(&good, UNIGRAM)).unwrap().1, 1);
        let long = "a".repeat(MAX_PIECE + 1);
        for (pieces, model_type, expected) in [
            (&good[..], 2, "trainer_spec.model_type: expected 1"),
            (&good[1..], UNIGRAM, "one of the type unknown"),
            (&good[..1], UNIGRAM, "trainer_spec.eos_id"),
            (&[("▁cat", USER_DEFINED)], UNIGRAM, "found \"▁cat\""),
            (&[(&long, 1)], UNIGRAM, "found 257 bytes"),
            (&[("", 1)], UNIGRAM, "found 0 bytes"),
        ] {
            let error = tokenizer(&file(pieces, model_type)).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn beginnings_are_counted_once() {
        let count = |pieces: &[&str]| {
            let pieces: Vec<_> = pieces.iter().map(|text| (text.to_string(), 0.0)).collect();
            beginnings(&pieces)
        };
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&["abc", "abd", "ab", "abc"]), 4);
        assert_eq!(count(&["b", "a"]), 2);
    }
}
