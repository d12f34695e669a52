//! Character classes, lower case and NFC exactly as the Python behind open_clip's tokenizer has them.
//!
//! The standard library follows another Unicode version, which changes with the compiler; token ids
//! must not.

use crate::tables;

/// Whether `c` lies in one of the sorted, disjoint `ranges` (both ends included).
pub(crate) fn within(ranges: &[(char, char)], c: char) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= c);
    after > 0 && c <= ranges[after - 1].1
}

/// The entry of a table sorted by its key.
pub(crate) fn lookup<T: Copy>(table: &[(char, T)], c: char) -> Option<T> {
    let at = table.binary_search_by_key(&c, |&(key, _)| key).ok()?;
    Some(table[at].1)
}

/// General category L.
pub(crate) fn is_letter(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphabetic()
    } else {
        within(tables::LETTERS, c)
    }
}

/// General category N.
pub(crate) fn is_number(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_digit()
    } else {
        within(tables::NUMBERS, c)
    }
}

/// White space as `str.split` and `str.strip` of Python see it.
pub(crate) fn is_space(c: char) -> bool {
    matches!(c, '\t'..='\r' | '\u{1c}'..='\u{20}' | '\u{85}' | '\u{a0}' | '\u{1680}')
        || matches!(
            c,
            '\u{2000}'
                ..='\u{200a}' | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
        )
}

/// Python's `str.lower`: full mappings, with the final form of sigma at the end of words.
pub(crate) fn lower(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    for (i, &c) in text.iter().enumerate() {
        match c {
            'Σ' if ends_word(text, i) => out.push('ς'),
            'İ' => out.extend(['i', '\u{307}']),
            _ if c.is_ascii() => out.push(c.to_ascii_lowercase()),
            _ => out.push(lookup(tables::LOWER, c).unwrap_or(c)),
        }
    }
    out
}

/// The Final_Sigma condition (Unicode, section 3.13): a cased letter before, none after, whatever
/// is case-ignorable left out.
fn ends_word(text: &[char], sigma: usize) -> bool {
    let significant = |c: &&char| !within(tables::CASE_IGNORABLE, **c);
    let cased = |c: &char| within(tables::CASED, *c);
    text[..sigma]
        .iter()
        .rev()
        .find(significant)
        .is_some_and(cased)
        && !text[sigma + 1..]
            .iter()
            .find(significant)
            .is_some_and(cased)
}

// Hangul syllables are composed by arithmetic (Unicode, section 3.12).
const L_BASE: u32 = 0x1100;
const V_BASE: u32 = 0x1161;
const T_BASE: u32 = 0x11a7;
const S_BASE: u32 = 0xac00;
const L_COUNT: u32 = 19;
const V_COUNT: u32 = 21;
const T_COUNT: u32 = 28;

/// Normalization form C (Unicode Standard Annex 15).
pub(crate) fn nfc(text: &[char]) -> Vec<char> {
    // No character below U+0300 changes or combines.
    if text.iter().all(|&c| c < '\u{300}') {
        return text.to_vec();
    }
    let mut decomposed = Vec::with_capacity(text.len());
    for &c in text {
        decompose(c, &mut decomposed);
    }
    let mut start = 0;
    while start < decomposed.len() {
        let marks = decomposed[start..]
            .iter()
            .take_while(|(_, class)| *class != 0)
            .count();
        decomposed[start..start + marks].sort_by_key(|&(_, class)| class);
        start += marks.max(1);
    }
    compose(&decomposed)
}

/// Appends the full canonical decomposition of `c`, each character with its combining class.
fn decompose(c: char, out: &mut Vec<(char, u8)>) {
    let syllable = (c as u32).wrapping_sub(S_BASE);
    if syllable < L_COUNT * V_COUNT * T_COUNT {
        let parts = [
            L_BASE + syllable / (V_COUNT * T_COUNT),
            V_BASE + syllable / T_COUNT % V_COUNT,
            T_BASE + syllable % T_COUNT,
        ];
        let parts = &parts[..if parts[2] == T_BASE { 2 } else { 3 }];
        out.extend(
            parts
                .iter()
                .filter_map(|&part| char::from_u32(part))
                .map(|part| (part, 0)),
        );
    } else if let Some(parts) = lookup(tables::DECOMPOSITION, c) {
        parts.chars().for_each(|part| decompose(part, out));
    } else {
        out.push((c, combining_class(c)));
    }
}

fn combining_class(c: char) -> u8 {
    let table = tables::COMBINING_CLASS;
    let after = table.partition_point(|&(first, ..)| first <= c);
    match after.checked_sub(1).map(|at| table[at]) {
        Some((_, last, class)) if c <= last => class,
        _ => 0,
    }
}

/// The canonical composition algorithm: each character joins the last starter unless a character
/// between them blocks it.
fn compose(decomposed: &[(char, u8)]) -> Vec<char> {
    let mut out: Vec<char> = Vec::with_capacity(decomposed.len());
    let mut starter = None;
    let mut last_class = 0;
    for &(c, class) in decomposed {
        if let Some(at) = starter {
            let adjacent = at + 1 == out.len();
            if (adjacent || last_class < class)
                && let Some(joined) = compose_pair(out[at], c)
            {
                out[at] = joined;
                continue;
            }
        }
        if class == 0 {
            starter = Some(out.len());
        }
        last_class = class;
        out.push(c);
    }
    out
}

fn compose_pair(first: char, second: char) -> Option<char> {
    let l = (first as u32).wrapping_sub(L_BASE);
    let v = (second as u32).wrapping_sub(V_BASE);
    if l < L_COUNT && v < V_COUNT {
        return char::from_u32(S_BASE + (l * V_COUNT + v) * T_COUNT);
    }
    let syllable = (first as u32).wrapping_sub(S_BASE);
    let t = (second as u32).wrapping_sub(T_BASE);
    if syllable < L_COUNT * V_COUNT * T_COUNT
        && syllable.is_multiple_of(T_COUNT)
        && 0 < t
        && t < T_COUNT
    {
        return char::from_u32(first as u32 + t);
    }
    let table = tables::COMPOSITION;
    let at = table
        .binary_search_by_key(&(first, second), |&(a, b, _)| (a, b))
        .ok()?;
    Some(table[at].2)
}
