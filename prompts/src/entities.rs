//! HTML character references: Python's `html.unescape`, and ftfy's stricter reading of them.

use crate::tables;

/// Python's `html.unescape`, which follows the HTML5 rules: the semicolon is optional for some names,
/// the longest known prefix of a name counts, and unfit numbers are mended or dropped.
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
        (2..=name.len()).rev().find_map(|prefix| {
            let value = find(tables::ENTITIES, &name[..prefix])?;
            Some((value.chars().collect(), prefix))
        })
    })
}

/// ftfy's `unescape_html`: only references that end in a semicolon, and also some names in capitals.
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
            // A reference to the semicolon itself looks to ftfy as if it had not been read whole.
            let (value, read) = numeric(rest)?;
            return (read == length && value != Some(';'))
                .then(|| (value.into_iter().collect(), length));
        }
        let name: String = rest[..length].iter().collect();
        let value =
            find(tables::ENTITIES, &name).or_else(|| find(tables::CAPITAL_ENTITIES, &name))?;
        Some((value.chars().collect(), length))
    })
}

/// Copies `text`, replacing each `&` for which `read`, given what follows it, returns a value and
/// the number of characters that it stands for.
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

fn find(table: &'static [(&str, &str)], name: &str) -> Option<&'static str> {
    let at = table.binary_search_by_key(&name, |&(key, _)| key).ok()?;
    Some(table[at].1)
}

/// Reads `#123;` or `#x1f;`, semicolon optional: the character, if the number stands for one, and
/// the length of the reference.
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
        0x80..=0x9f => Some(tables::NUMERIC_C1[number as usize - 0x80]),
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if number <= 0x10ffff && number & 0xfffe == 0xfffe => None,
        _ => Some(char::from_u32(number).unwrap_or('\u{fffd}')),
    };
    Some((value, end))
}
