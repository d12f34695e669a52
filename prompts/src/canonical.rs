//! SigLIP's cleaning of texts.

use crate::clean::fix_text;
use crate::entities::unescape;
use crate::unicode::is_space;

/// The text as SigLIP's tokenizers take it: as open_clip 3.3.0 does with `clean: canonicalize` (tokenizer.py, after
/// big_vision's prompt_engineering.py). It is mended as CLIP's texts are, `_` becomes a space, ASCII punctuation is
/// removed, letters become lower case, and white space is collapsed.
pub fn canonicalize(text: &str) -> String {
    let text: Vec<char> = text.chars().collect();
    let text = unescape(&unescape(&fix_text(&text)));
    let kept = text.iter().filter_map(|&c| match c {
        '_' => Some(' '),
        c if c.is_ascii_punctuation() => None,
        c => Some(c),
    });
    let lower = kept.collect::<String>().to_lowercase();
    let words = lower.split(is_space).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By open_clip 3.3.0: `get_clean_fn("canonicalize")`.
    #[test]
    fn texts_are_cleaned_as_open_clip_does() {
        for (text, expected) in [
            ("A photo of a polar_bear.", "a photo of a polar bear"),
            ("  What's  THIS?!  (Really)\t\n", "whats this really"),
            ("caf&eacute; &amp;amp; Été #1", "café été 1"),
            ("\u{201c}quoted\u{201d} ﬁsh — dash", "quoted fish — dash"),
            ("...", ""),
        ] {
            assert_eq!(canonicalize(text), expected, "{text:?}");
        }
    }
}
