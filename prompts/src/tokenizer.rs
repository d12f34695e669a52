//! CLIP's tokenizer, equal to `SimpleTokenizer` of open_clip.

use crate::bpe::encode_word;
use crate::clean::fix_text;
use crate::entities::unescape;
use crate::error::{Error, excerpt};
use crate::unicode::{is_letter, is_number, is_space};

/// The token that begins every text.
pub const SOT: u32 = 49406;
/// The token that ends every text; the text encoder reads its row.
pub const EOT: u32 = 49407;

/// Turns a text into the tokens that a text encoder takes.
pub trait TextTokenizer {
    /// The ids of `text` with what the model puts around it, padded if its text encoder reads the last position.
    ///
    /// # Errors
    /// [`Error::TooLong`] if these are more than `context_length` without padding; [`Error::Tokenizer`].
    fn tokens(&self, text: &str, context_length: usize) -> Result<Vec<u32>, Error>;
}

impl TextTokenizer for Tokenizer {
    fn tokens(&self, text: &str, context_length: usize) -> Result<Vec<u32>, Error> {
        Tokenizer::tokens(self, text, context_length)
    }
}

/// Turns text into token ids below 49408 as `SimpleTokenizer` of open_clip 3.3.0 does with its default cleaning
/// (`ftfy.fix_text`, `html.unescape` twice, white space collapsed, lower case; then byte-level byte-pair encoding),
/// except that ftfy's repair of wrongly decoded text is left out: text is expected to be valid Unicode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tokenizer(());

impl Tokenizer {
    /// The tokenizer of CLIP's vocabulary, which is unpacked once in a process, on first use.
    pub fn new() -> Self {
        Tokenizer(())
    }

    /// The ids of `text`, without [`SOT`] and [`EOT`] around them. Takes nearly linear time.
    ///
    /// As in the original, `<start_of_text>` and `<end_of_text>` written out in a text are those
    /// tokens.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let text = clean(text);
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut word = String::new();
        let mut rest = &text[..];
        while let Some(&first) = rest.first() {
            let length = word_length(rest);
            if length > 0 {
                word.clear();
                word.extend(&rest[..length]);
                match word.as_str() {
                    START_OF_TEXT => ids.push(SOT),
                    END_OF_TEXT => ids.push(EOT),
                    _ => encode_word(word.as_bytes(), &mut ids),
                }
            } else {
                debug_assert!(is_skipped(first));
            }
            rest = &rest[length.max(1)..];
        }
        ids
    }

    /// `[SOT, ids.., EOT]`, without padding.
    ///
    /// # Errors
    /// [`Error::TooLong`] if these are more than `context_length`.
    pub fn tokens(&self, text: &str, context_length: usize) -> Result<Vec<u32>, Error> {
        fitting(text, self.with_ends(text), context_length)
    }

    /// As [`Tokenizer::tokens`], but what is too long is cut, and [`EOT`] takes the last place, as
    /// open_clip does it.
    pub fn tokens_truncated(&self, text: &str, context_length: usize) -> Vec<u32> {
        let mut tokens = self.with_ends(text);
        if tokens.len() > context_length {
            tokens.truncate(context_length);
            if let Some(last) = tokens.last_mut() {
                *last = EOT;
            }
        }
        tokens
    }

    fn with_ends(&self, text: &str) -> Vec<u32> {
        let mut tokens = vec![SOT];
        tokens.extend(self.encode(text));
        tokens.push(EOT);
        tokens
    }
}

/// The tokens of `text`, if they are at most `context_length`.
///
/// # Errors
/// [`Error::TooLong`] if they are more.
pub fn fitting(text: &str, tokens: Vec<u32>, context_length: usize) -> Result<Vec<u32>, Error> {
    if tokens.len() > context_length {
        let (text, tokens) = (excerpt(text), tokens.len());
        return Err(Error::TooLong {
            text,
            tokens,
            context_length,
        });
    }
    Ok(tokens)
}

const START_OF_TEXT: &str = "<start_of_text>";
const END_OF_TEXT: &str = "<end_of_text>";

/// The text as it is cut into words: mended, unescaped, single spaces, lower case.
fn clean(text: &str) -> Vec<char> {
    let text: Vec<char> = text.chars().collect();
    let text = unescape(&unescape(&fix_text(&text)));
    let words = text.split(|&c| is_space(c)).filter(|word| !word.is_empty());
    let text: String = words.collect::<Vec<_>>().join(&' ').into_iter().collect();
    text.to_lowercase().chars().collect()
}

/// The length of the word at the start of `text`, after the pattern
/// `<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+`, which
/// ignores case; 0 at what no part of it matches: white space, and the combining iota below. (The
/// upper case of that mark is a letter, so with case ignored the last set excludes it.)
fn word_length(text: &[char]) -> usize {
    let fixed = [
        START_OF_TEXT,
        END_OF_TEXT,
        "'s",
        "'t",
        "'re",
        "'ve",
        "'m",
        "'ll",
        "'d",
    ];
    let found = if matches!(text[0], '<' | '\'') {
        fixed.into_iter().find(|word| starts_with(text, word))
    } else {
        None
    };
    if let Some(word) = found {
        return word.len();
    }
    if is_number(text[0]) {
        return 1;
    }
    let same: fn(&&char) -> bool = if is_letter(text[0]) {
        |c| is_letter(**c)
    } else {
        |c| !is_skipped(**c) && !is_letter(**c) && !is_number(**c)
    };
    text.iter().take_while(same).count()
}

/// Whether `c` lies between words.
fn is_skipped(c: char) -> bool {
    is_space(c) || c == '\u{345}'
}

/// Whether lower-case `text` starts with `word`; the long s is another lower case of S.
fn starts_with(text: &[char], word: &str) -> bool {
    let mut chars = text.iter();
    word.chars().all(|w| {
        chars
            .next()
            .is_some_and(|&c| c == w || w == 's' && c == 'ſ')
    })
}
