//! HTML character references: Python's `html.unescape`, and ftfy's stricter form.

use html_escape::NAMED_ENTITIES;

/// Python's `html.unescape`, which follows the HTML5 rules: the semicolon is optional for [`LEGACY`] names, the longest
/// known prefix of a name counts, and invalid numbers are replaced or dropped.
pub(crate) fn unescape(text: &[char]) -> Vec<char> {
    replace_references(text, |rest| {
        if let Some((value, length)) = numeric(rest) {
            return Some((value.into_iter().collect(), length));
        }
        let ends = |c: &char| matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
        let mut length = rest.iter().take(32).take_while(|c| !ends(c)).count();
        if length > 0 && rest.get(length) == Some(&';') {
            length += 1;
        }
        let name: String = rest[..length].iter().take_while(|c| c.is_ascii()).collect();
        let (value, length) = longest_prefix(&name)?;
        Some((value.chars().collect(), length))
    })
}

/// ftfy's `unescape_html`: only references that end in a semicolon, and also names in upper case (`&EACUTE;`) that
/// HTML5 knows in lower case alone.
pub(crate) fn unescape_strict(text: &[char]) -> Vec<char> {
    replace_references(text, |rest| {
        let hash = usize::from(rest.first() == Some(&'#'));
        let body = rest[hash..]
            .iter()
            .take_while(|c| c.is_ascii_alphanumeric())
            .take(25)
            .count();
        let length = hash + body + 1;
        if !(1..=24).contains(&body) || rest.get(length - 1) != Some(&';') {
            return None;
        }
        if hash == 1 {
            // ftfy takes a result that ends in a semicolon for an incomplete reference.
            let (value, read) = numeric(rest)?;
            return (read == length && value != Some(';'))
                .then(|| (value.into_iter().collect(), length));
        }
        let name: String = rest[..length].iter().collect();
        let value = named(&name)
            .map(str::to_owned)
            .or_else(|| upper_case(&name))?;
        Some((value.chars().collect(), length))
    })
}

/// Copies `text`. Where `read`, given the characters after an `&`, returns a value and a length, the value replaces the
/// `&` and that many characters.
fn replace_references(
    text: &[char],
    read: impl Fn(&[char]) -> Option<(Vec<char>, usize)>,
) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&c) = text.get(at) {
        at += 1;
        match if c == '&' { read(&text[at..]) } else { None } {
            Some((value, length)) => {
                out.extend(value);
                at += length;
            }
            None => out.push(c),
        }
    }
    out
}

/// The value of the longest prefix of `name` that is the name of a reference, and the prefix's length.
fn longest_prefix(name: &str) -> Option<(&'static str, usize)> {
    (2..=name.len())
        .rev()
        .find_map(|length| Some((named(&name[..length])?, length)))
}

/// The value of a reference by its name: "eacute;", or "eacute" for [`LEGACY`] names.
fn named(name: &str) -> Option<&'static str> {
    let stem = match name.strip_suffix(';') {
        Some(stem) => stem,
        None => LEGACY[LEGACY.binary_search(&name).ok()?],
    };
    let at = NAMED_ENTITIES
        .binary_search_by_key(&stem.as_bytes(), |&(key, _)| key)
        .ok()?;
    Some(NAMED_ENTITIES[at].1)
}

/// The value of a reference whose name is in upper case, where that is not ambiguous (`ftfy.chardata.HTML_ENTITIES`).
fn upper_case(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if name != name.to_ascii_uppercase() || name == lower || longest_prefix(name).is_some() {
        return None;
    }
    Some(named(&lower)?.to_uppercase())
}

/// The named references whose semicolon is optional in HTML5.
#[rustfmt::skip]
const LEGACY: [&str; 106] = [
    "AElig", "AMP", "Aacute", "Acirc", "Agrave", "Aring", "Atilde", "Auml", "COPY", "Ccedil",
    "ETH", "Eacute", "Ecirc", "Egrave", "Euml", "GT", "Iacute", "Icirc", "Igrave", "Iuml", "LT",
    "Ntilde", "Oacute", "Ocirc", "Ograve", "Oslash", "Otilde", "Ouml", "QUOT", "REG", "THORN",
    "Uacute", "Ucirc", "Ugrave", "Uuml", "Yacute", "aacute", "acirc", "acute", "aelig", "agrave",
    "amp", "aring", "atilde", "auml", "brvbar", "ccedil", "cedil", "cent", "copy", "curren", "deg",
    "divide", "eacute", "ecirc", "egrave", "eth", "euml", "frac12", "frac14", "frac34", "gt",
    "iacute", "icirc", "iexcl", "igrave", "iquest", "iuml", "laquo", "lt", "macr", "micro",
    "middot", "nbsp", "not", "ntilde", "oacute", "ocirc", "ograve", "ordf", "ordm", "oslash",
    "otilde", "ouml", "para", "plusmn", "pound", "quot", "raquo", "reg", "sect", "shy", "sup1",
    "sup2", "sup3", "szlig", "thorn", "times", "uacute", "ucirc", "ugrave", "uml", "uuml",
    "yacute", "yen", "yuml",
];

/// Bytes 0x80..=0x9f in windows-1252; unassigned bytes are themselves. Numeric references to this range mean these
/// characters, too.
#[rustfmt::skip]
pub(crate) const WINDOWS_1252_C1: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Reads `#123;` or `#x1f;`, semicolon optional: the character, `None` where the number is dropped, and the length of
/// the reference.
fn numeric(rest: &[char]) -> Option<(Option<char>, usize)> {
    if rest.first() != Some(&'#') {
        return None;
    }
    let (radix, start) = match rest.get(1) {
        Some('x' | 'X') => (16, 2),
        _ => (10, 1),
    };
    let mut number = 0u32;
    let mut end = start;
    while let Some(digit) = rest.get(end).and_then(|c| c.to_digit(radix)) {
        number = number.saturating_mul(radix).saturating_add(digit);
        end += 1;
    }
    if end == start {
        return None;
    }
    if rest.get(end) == Some(&';') {
        end += 1;
    }
    let value = match number {
        0 => Some('\u{fffd}'),
        0x80..=0x9f => Some(WINDOWS_1252_C1[number as usize - 0x80]),
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if number <= 0x10ffff && number & 0xfffe == 0xfffe => None,
        _ => Some(char::from_u32(number).unwrap_or('\u{fffd}')),
    };
    Some((value, end))
}
