//! Text cleaning as `ftfy.fix_text(text, fix_encoding=False)` of ftfy 6.3.1 does it with its other options at their
//! defaults: HTML character references, C1 control characters, ligatures, character widths, quotes, line breaks,
//! terminal escapes, control characters, NFC.
//!
//! Text is expected to be valid Unicode. ftfy's repair of wrongly decoded text ("mojibake", such as `Ã©` for `é`) is
//! left out: such text is tokenised as it is written.
//!
//! Results equal ftfy's except for text with thousands of nested references (`&amp;amp;amp;...`), on which ftfy takes
//! quadratic time: this implementation stops after a bounded number of passes.

use unicode_normalization::UnicodeNormalization;

use crate::entities::{WINDOWS_1252_C1, unescape_strict};
use crate::unicode::is_decimal_digit;

/// A text without line breaks is cleaned in pieces of this many characters, as in ftfy.
const MAX_SEGMENT: usize = 1_000_000;

/// Cleans `text`, line by line.
pub(crate) fn fix_text(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    // A literal < indicates real HTML: from that line on, references are kept.
    let mut html = false;
    for line in text.split_inclusive(|&c| c == '\n') {
        for segment in line.chunks(MAX_SEGMENT) {
            html |= segment.contains(&'<');
            out.extend(fix_segment(segment, html));
        }
    }
    out
}

/// Applies all steps until the text no longer changes.
fn fix_segment(segment: &[char], html: bool) -> Vec<char> {
    let mut text = segment.to_vec();
    // Characters that further passes may read; keeps the time linear on hostile text.
    let mut budget = (1 << 22) + 16 * segment.len();
    loop {
        let mut fixed = if html {
            text.clone()
        } else {
            unescape_strict(&text)
        };
        fixed = simplify(&fixed);
        fixed = fix_line_breaks(&fixed);
        fixed = remove_terminal_escapes(&fixed);
        fixed.retain(|&c| !is_control(c));
        fixed = fixed.into_iter().nfc().collect();
        budget = budget.saturating_sub(fixed.len() + 16);
        if fixed == text || budget == 0 {
            return fixed;
        }
        text = fixed;
    }
}

/// Replaces C1 control characters by what they are in windows-1252, then ligatures, full-width and half-width forms,
/// and curly quotes.
fn simplify(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    for &c in text {
        match c {
            '\0'..='\x7f' => out.push(c),
            '\u{80}'..='\u{9f}' => simplify_char(WINDOWS_1252_C1[c as usize - 0x80], &mut out),
            _ => match LIGATURES.iter().find(|(ligature, _)| *ligature == c) {
                Some((_, letters)) => letters.chars().for_each(|c| simplify_char(c, &mut out)),
                None => simplify_char(c, &mut out),
            },
        }
    }
    out
}

fn simplify_char(c: char, out: &mut Vec<char>) {
    match c {
        '\u{3000}' | '\u{ff01}'..='\u{ffef}' => out.extend(std::iter::once(c).nfkc()),
        '\u{201c}'..='\u{201f}' => out.push('"'),
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
        _ => out.push(c),
    }
}

/// Latin ligatures and digraphs (`ftfy.chardata.LIGATURES`).
const LIGATURES: [(char, &str); 22] = [
    ('Ĳ', "IJ"),
    ('ĳ', "ij"),
    ('ŉ', "\u{2bc}n"),
    ('Ǆ', "DŽ"),
    ('ǅ', "Dž"),
    ('ǆ', "dž"),
    ('Ǉ', "LJ"),
    ('ǈ', "Lj"),
    ('ǉ', "lj"),
    ('Ǌ', "NJ"),
    ('ǋ', "Nj"),
    ('ǌ', "nj"),
    ('Ǳ', "DZ"),
    ('ǲ', "Dz"),
    ('ǳ', "dz"),
    ('ﬀ', "ff"),
    ('ﬁ', "fi"),
    ('ﬂ', "fl"),
    ('ﬃ', "ffi"),
    ('ﬄ', "ffl"),
    ('ﬅ', "ſt"),
    ('ﬆ', "st"),
];

fn fix_line_breaks(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    for (i, &c) in text.iter().enumerate() {
        match c {
            '\r' if text.get(i + 1) == Some(&'\n') => {}
            '\r' | '\u{2028}' | '\u{2029}' | '\u{85}' => out.push('\n'),
            _ => out.push(c),
        }
    }
    out
}

/// Removes sequences such as ESC [ 3 1 m.
fn remove_terminal_escapes(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if let ['\u{1b}', '[', rest @ ..] = &text[at..] {
            let parameter = |c: &&char| **c == ';' || is_decimal_digit(**c);
            let parameters = rest.iter().take_while(parameter).count();
            if rest.get(parameters).is_some_and(char::is_ascii_alphabetic) {
                at += parameters + 3;
                continue;
            }
        }
        out.push(text[at]);
        at += 1;
    }
    out
}

/// Control characters that have no visible effect.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}')
        || matches!(c, '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(text: &str) -> String {
        fix_text(&text.chars().collect::<Vec<_>>())
            .into_iter()
            .collect()
    }

    /// If this fails, a class name reads differently from the prompts of the CLIP's training.
    #[test]
    fn each_step_equals_ftfy_without_its_repair_of_encodings() {
        for (text, expected) in [
            ("e\u{301}a\u{308}\u{323} \u{1100}\u{1161}\u{11a8}", "éạ̈ 각"),
            (
                "“quoted” ‘single’ don’t ‛x‟",
                "\"quoted\" 'single' don't 'x\"",
            ),
            ("ﬁﬂﬃﬄﬀﬅﬆ Ĳ ŉ ǅ", "fiflffifflffſtst IJ 'n Dž"),
            ("Ａｂｃ１２３！\u{3000}ﾊﾝｶｸ ｶﾞ ￥", "Abc123! ハンカク ガ ¥"),
            ("a\0b\x07c\x1bd\x7fe\u{feff}\u{206a}f", "abcdef"),
            ("\x1b[36;44mblue\x1b[0m \x1b[31", "blue [31"),
            ("\u{93}quoted\u{94} \u{80}", "\"quoted\" €"),
            ("a\r\nb\rc\u{2028}d\u{85}e", "a\nb\nc\nd…e"),
            (
                "&lt;b&gt; caf&eacute; &EACUTE; &amp;amp; &#x2019; &amp",
                "<b> café É & ' &amp",
            ),
            ("<p>caf&eacute;</p>", "<p>caf&eacute;</p>"),
            ("a\u{a0}b\u{2009}c\td  e", "a\u{a0}b\u{2009}c\td  e"),
        ] {
            assert_eq!(fixed(text), expected, "{text:?}");
        }
    }

    /// If this fails, text that happens to resemble wrongly decoded UTF-8 is changed.
    #[test]
    fn wrongly_decoded_text_stays_as_it_is() {
        for text in ["schÃ¶n", "Ã©tÃ©", "Ð¿Ñ€Ð¸Ð²Ð", "voilÃ le travail"] {
            assert_eq!(fixed(text), text);
        }
    }
}
