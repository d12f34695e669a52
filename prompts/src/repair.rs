//! Mends broken text as `ftfy.fix_text` 6.3.1 does with its default options: mojibake, character
//! references, terminal escapes, ligatures, widths, quotes, line breaks, control characters, NFC.
//!
//! Results equal ftfy's unless a text is made to be repaired over and over (say, `&amp;amp;amp;...`
//! thousands of levels deep): ftfy then takes quadratic time, this stops after a bounded effort.

use crate::entities::unescape_strict;
use crate::mojibake::{is_bad, utf8_length};
use crate::tables;
use crate::unicode::{lookup, nfc, within};

/// A text without line breaks is repaired in pieces of this many characters.
const MAX_SEGMENT: usize = 1_000_000;

/// How deep repairs of parts of repairs may nest. Real text stays below 3.
const MAX_DEPTH: usize = 32;

/// Mends `text`, line by line.
pub(crate) fn fix_text(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    // A literal < shows that the text is real HTML; from there on its references are kept.
    let mut html = false;
    for line in text.split_inclusive(|&c| c == '\n') {
        for segment in line.chunks(MAX_SEGMENT) {
            html |= segment.contains(&'<');
            out.extend(fix_segment(segment, html));
        }
    }
    out
}

fn fix_segment(segment: &[char], html: bool) -> Vec<char> {
    let mut effort = Effort::new(segment.len());
    let mut text = segment.to_vec();
    loop {
        let mut fixed = if html {
            text.clone()
        } else {
            unescape_strict(&text)
        };
        fixed = fix_encoding(fixed, &mut effort, 0);
        fixed = simplify(&fixed);
        fixed = fix_line_breaks(&fixed);
        fixed = remove_terminal_escapes(&fixed);
        fixed.retain(|&c| !is_control(c));
        fixed = nfc(&fixed);
        if fixed == text || !effort.spend(fixed.len()) {
            return fixed;
        }
        text = fixed;
    }
}

/// The characters that repairs may still read: repeated passes are to end, also over hostile text.
struct Effort(usize);

impl Effort {
    fn new(length: usize) -> Self {
        Effort((1 << 22) + 16 * length)
    }

    /// Takes one pass over `length` characters; false if nothing is left.
    fn spend(&mut self, length: usize) -> bool {
        self.0 = self.0.saturating_sub(length + 16);
        self.0 > 0
    }
}

/// Replaces control characters of C1, ligatures, width variants and curly quotes, in this order.
fn simplify(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    for &c in text {
        if c < '\u{80}' {
            out.push(c);
            continue;
        }
        expand(tables::LIGATURES, windows_1252_for_c1(c), &mut |c| {
            expand(tables::WIDTH, c, &mut |c| {
                out.push(match c {
                    '\u{201c}'..='\u{201f}' => '"',
                    '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
                    _ => c,
                });
            });
        });
    }
    out
}

fn expand(table: &[(char, &str)], c: char, emit: &mut dyn FnMut(char)) {
    match lookup(table, c) {
        Some(replacement) => replacement.chars().for_each(emit),
        None => emit(c),
    }
}

fn windows_1252_for_c1(c: char) -> char {
    match c {
        '\u{80}'..='\u{9f}' => tables::WINDOWS_1252[c as usize - 0x80],
        _ => c,
    }
}

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

/// Drops sequences such as ESC [ 3 1 m.
fn remove_terminal_escapes(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if let ['\u{1b}', '[', rest @ ..] = &text[at..] {
            let parameter = |c: &&char| **c == ';' || within(tables::DECIMAL, **c);
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

/// Control characters without any displayed effect.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}')
        || matches!(c, '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

/// Undoes the decoding of bytes in wrong encodings until the text stays as it is.
fn fix_encoding(mut text: Vec<char>, effort: &mut Effort, depth: usize) -> Vec<char> {
    if depth == MAX_DEPTH {
        return text;
    }
    while effort.spend(text.len())
        && let Some(fixed) = fix_encoding_once(&text, effort, depth)
        && fixed != text
    {
        text = fixed;
    }
    text
}

fn fix_encoding_once(text: &[char], effort: &mut Effort, depth: usize) -> Option<Vec<char>> {
    if text.iter().all(char::is_ascii) || !is_bad(text) {
        return None;
    }
    // UTF-8 read as one of the single-byte encodings?
    for encoding in &ENCODINGS {
        let Some(mut bytes) = encoding.encode(text) else {
            continue;
        };
        // In MacRoman an en dash and a space would look like an altered sequence.
        if encoding.restores_a0 && (0..bytes.len()).any(|i| altered_length(&bytes[i..]) > 0) {
            bytes = restore_byte_a0(&bytes);
        }
        if encoding.sloppy {
            bytes = replace_lossy_sequences(&bytes);
        }
        if let Some(fixed) = decode_utf8_variants(&bytes) {
            return Some(fixed);
        }
    }
    // Parts in UTF-8 read wrongly, amid other text?
    let fixed = decode_inconsistent_utf8(text, effort, depth);
    if fixed != text {
        return Some(fixed);
    }
    // Windows-1252 read as Latin-1? If some byte means nothing in it, the same is done letter by
    // letter.
    text.iter()
        .any(|c| matches!(c, '\u{80}'..='\u{9f}'))
        .then(|| text.iter().map(|&c| windows_1252_for_c1(c)).collect())
}

fn decode_inconsistent_utf8(text: &[char], effort: &mut Effort, depth: usize) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let length = utf8_length(at.checked_sub(1).map(|before| text[before]), &text[at..]);
        let part = &text[at..at + length];
        if length == 0 {
            out.push(text[at]);
        } else if length < text.len() && is_bad(part) {
            out.extend(fix_encoding(part.to_vec(), effort, depth + 1));
        } else {
            out.extend_from_slice(part);
        }
        at += length.max(1);
    }
    out
}

/// A single-byte encoding that extends ASCII.
struct Encoding {
    /// The characters of bytes 0x80..=0xff; none for Latin-1, where they are U+0080..=U+00FF.
    upper: &'static [char],
    /// Byte 0x1a stands for U+FFFD, a character that was lost.
    sloppy: bool,
    restores_a0: bool,
}

/// In the order in which they are tried.
const ENCODINGS: [Encoding; 10] = [
    Encoding {
        upper: &[],
        sloppy: false,
        restores_a0: true,
    },
    Encoding {
        upper: tables::WINDOWS_1252,
        sloppy: true,
        restores_a0: true,
    },
    Encoding {
        upper: tables::WINDOWS_1251,
        sloppy: true,
        restores_a0: true,
    },
    Encoding {
        upper: tables::WINDOWS_1250,
        sloppy: true,
        restores_a0: true,
    },
    Encoding {
        upper: tables::WINDOWS_1253,
        sloppy: true,
        restores_a0: true,
    },
    Encoding {
        upper: tables::WINDOWS_1254,
        sloppy: true,
        restores_a0: true,
    },
    Encoding {
        upper: tables::WINDOWS_1257,
        sloppy: true,
        restores_a0: true,
    },
    Encoding {
        upper: tables::ISO_8859_2,
        sloppy: false,
        restores_a0: true,
    },
    Encoding {
        upper: tables::MACROMAN,
        sloppy: false,
        restores_a0: false,
    },
    Encoding {
        upper: tables::CP437,
        sloppy: false,
        restores_a0: true,
    },
];

impl Encoding {
    /// The bytes of `text`, if the encoding has all its characters.
    fn encode(&self, text: &[char]) -> Option<Vec<u8>> {
        text.iter().map(|&c| self.encode_char(c)).collect()
    }

    fn encode_char(&self, c: char) -> Option<u8> {
        match c {
            '\u{1a}' if self.sloppy => None,
            '\u{fffd}' if self.sloppy => Some(0x1a),
            '\0'..='\u{7f}' => Some(c as u8),
            _ if self.upper.is_empty() => u8::try_from(c as u32).ok(),
            _ => {
                let at = self.upper.iter().position(|&upper| upper == c)?;
                Some(at as u8 + 0x80)
            }
        }
    }
}

fn is_continuation(byte: u8) -> bool {
    matches!(byte, 0x80..=0xbf)
}

/// The length of the UTF-8 sequence at the start of `bytes` in which a space replaces byte 0xa0; 0
/// if there is none. Only lead bytes that make this likely count.
fn altered_length(bytes: &[u8]) -> usize {
    let middle = |byte: u8| is_continuation(byte) && byte != 0x85 && byte != 0xa0;
    match *bytes {
        [0xc2 | 0xc3 | 0xc5 | 0xce | 0xd0 | 0xd9, b' ', ..] => 2,
        [0xe2 | 0xe3, b' ', b, ..] if middle(b) => 3,
        [0xe0..=0xe3, a, b' ', ..] if middle(a) => 3,
        [0xf0, a, b, c, ..] => {
            let spaces = [a, b, c].iter().filter(|&&byte| byte == b' ').count();
            let rest = [a, b, c]
                .iter()
                .filter(|&&byte| is_continuation(byte))
                .count();
            if spaces == 1 && rest == 2 { 4 } else { 0 }
        }
        _ => 0,
    }
}

/// Puts back 0xa0 where a space replaces it inside UTF-8.
fn restore_byte_a0(bytes: &[u8]) -> Vec<u8> {
    // "à" as a word of its own keeps the space after it, but for the Portuguese words that begin so.
    let joined: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut spaced = Vec::with_capacity(bytes.len());
    for (i, &byte) in bytes.iter().enumerate() {
        spaced.push(byte);
        if let [0xc3, b' ', rest @ ..] = &bytes[i..]
            && !joined.iter().any(|word| rest.starts_with(word))
        {
            spaced.push(0xa0);
        }
    }
    let mut at = 0;
    while at < spaced.len() {
        let length = altered_length(&spaced[at..]);
        for byte in &mut spaced[at..at + length] {
            if *byte == b' ' {
                *byte = 0xa0;
            }
        }
        at += length.max(1);
    }
    spaced
}

/// Replaces UTF-8 sequences of which bytes were lost by U+FFFD.
fn replace_lossy_sequences(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = lossy_length(&bytes[at..]);
        if length == 0 {
            out.push(bytes[at]);
        } else {
            out.extend("\u{fffd}".bytes());
        }
        at += length.max(1);
    }
    out
}

/// The length of the sequence at the start of `bytes` that lost bytes to 0x1a, or one to `?`; 0 if
/// there is none.
fn lossy_length(bytes: &[u8]) -> usize {
    let lost = |byte: u8| matches!(byte, 0x1a | b'?');
    let kept = |byte: u8| byte == 0x1a || is_continuation(byte);
    let pattern = |rest: &[u8]| {
        (0..rest.len()).any(|hole| {
            rest.iter()
                .enumerate()
                .all(|(i, &b)| if i == hole { lost(b) } else { kept(b) })
        })
    };
    match *bytes {
        [0xc2..=0xdf, 0x1a, ..] | [0xc2 | 0xc3, b'?', ..] => 2,
        // A surrogate pair, each half in three bytes.
        [0xed, 0xa0..=0xaf, a, 0xed, 0xb0..=0xbf, b, ..]
            if lost(a) && (lost(b) || kept(b)) || lost(b) && (lost(a) || kept(a)) =>
        {
            6
        }
        [0xe0..=0xef, a, b, ..] if pattern(&[a, b]) => 3,
        [0xf0..=0xf4, a, b, c, ..] if pattern(&[a, b, c]) => 4,
        [0x1a, ..] => 1,
        _ => 0,
    }
}

/// Decodes UTF-8, CESU-8 (surrogate pairs of three bytes each) and Java's long form of U+0000.
fn decode_utf8_variants(bytes: &[u8]) -> Option<Vec<char>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut plain = 0;
    let mut at = 0;
    while at < bytes.len() {
        let (c, length) = match bytes[at..] {
            // ftfy's patterns end in `$`, which in Python also matches before a last line break.
            [0xc0, 0x80, ..] | [0xc0, b'\n'] => ('\0', 2),
            [0xed, a @ 0xa0..=0xaf, b, 0xed, c @ 0xb0..=0xbf, d, ..]
                if is_continuation(b)
                    && (is_continuation(d) || d == b'\n' && at + 6 == bytes.len()) =>
            {
                let bits = |byte: u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
                let code =
                    bits(a, 0xf, 16) + bits(b, 0x3f, 10) + bits(c, 0xf, 6) + bits(d, 0x3f, 0);
                (char::from_u32(code + 0x10000)?, 6)
            }
            _ => {
                at += 1;
                continue;
            }
        };
        out.extend(std::str::from_utf8(&bytes[plain..at]).ok()?.chars());
        out.push(c);
        at += length;
        plain = at;
    }
    out.extend(std::str::from_utf8(&bytes[plain..]).ok()?.chars());
    Some(out)
}
