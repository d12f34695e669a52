//! Recognises text that looks like mojibake, with the character categories and rules of ftfy 6.3.1
//! (its modules `badness` and `chardata`).

use std::sync::LazyLock;

use crate::tables::*;
use crate::unicode::{is_space, within};

/// A set of characters: the union of its parts.
type Class = &'static [Part];

enum Part {
    Category(&'static [(char, char)]),
    Chars(&'static str),
    AsciiLower,
    AsciiUpper,
    Space,
    /// Any character but those of another class.
    Not(Class),
}
use Part::{AsciiLower, AsciiUpper, Category, Chars, Not, Space};

const LATIN: Class = &[AsciiLower, AsciiUpper];
const BAD_CHARS: Class = &[Category(BAD)];
const START: Part = Category(START_PUNCTUATION);
const END: Part = Category(END_PUNCTUATION);
const UPPER: Part = Category(UPPER_ACCENTED);
const LOWER_LETTER: Part = Category(LOWER_ACCENTED);
const MONEY: Part = Category(CURRENCY);
const NUMBER: Part = Category(NUMERIC);
const LINES: Part = Category(BOX);
const LEGAL: Part = Category(LAW);

/// Stray accents, currency and punctuation: whatever makes no sense beside a "bad" character.
const STRAY: Class = &[LOWER_LETTER, UPPER, LINES, START, END, MONEY, NUMBER, LEGAL];
const ARABIC_FIRST: Class = &[Chars("ØÙ")];
const ARABIC_SECOND: Class = &[
    Category(COMMON),
    MONEY,
    Category(BAD),
    NUMBER,
    START,
    Chars("ŸŠ®°µ»"),
];
const CYRILLIC: Class = &[Chars("ВГРС")];
const GREEK: Class = &[Chars("ΒΓΞΟ")];

/// Sequences of characters that people do not write; each text that holds one is suspect.
const RULES: &[&[Class]] = &[
    &[&[Category(C1)]],
    &[STRAY, BAD_CHARS],
    &[BAD_CHARS, BAD_CHARS],
    &[
        LATIN,
        &[Category(LOWER_COMMON), Category(UPPER_COMMON)],
        BAD_CHARS,
    ],
    &[BAD_CHARS, STRAY],
    &[
        &[
            LOWER_LETTER,
            Category(LOWER_COMMON),
            LINES,
            END,
            MONEY,
            NUMBER,
        ],
        &[UPPER],
    ],
    &[&[LINES, END, MONEY, NUMBER], &[LOWER_LETTER]],
    &[&[LOWER_LETTER, LINES, END], &[MONEY]],
    &[&[Space], &[UPPER], &[MONEY]],
    &[&[UPPER, LINES], &[NUMBER, LEGAL]],
    &[
        &[LOWER_LETTER, UPPER, LINES, MONEY, END],
        &[START],
        &[NUMBER],
    ],
    &[
        &[LOWER_LETTER, UPPER, MONEY, NUMBER, LINES, LEGAL],
        &[END],
        &[START],
    ],
    &[&[MONEY, NUMBER, LINES], &[START]],
    &[&[AsciiLower], &[UPPER], &[START, MONEY]],
    &[&[LINES], &[Category(KAOMOJI)]],
    &[
        &[LOWER_LETTER, UPPER, MONEY, NUMBER, START, END, LEGAL],
        &[LINES],
    ],
    &[&[LINES], &[END]],
    &[&[LOWER_LETTER, UPPER], &[START, END], &[Category(WORD)]],
    // The ligature oe before anything but a plain letter.
    &[&[Chars("Œœ")], &[Not(LATIN)]],
    &[&[UPPER], &[Chars("°")]],
    // Windows-1252.
    &[
        &[Chars("ÂÃÎÐ")],
        &[Chars("€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»–—´"), START, END],
    ],
    &[&[Chars("×")], &[Chars("²³")]],
    &[ARABIC_FIRST, ARABIC_SECOND, ARABIC_FIRST, ARABIC_SECOND],
    &[&[Chars("à")], &[Chars("²µ¹¼½¾")]],
    // MacRoman.
    &[&[Chars("√")], &[Chars("±∂†≠®™´≤≥¥µø")]],
    &[&[Chars("≈")], &[Chars("°¢")]],
    &[&[Chars("‚")], &[Chars("Ä")], &[Chars("ìîïòôúùû†°¢π")]],
    &[&[Chars("‚")], &[Chars("âó")], &[Chars("àä°ê")]],
    // Windows-1251.
    &[&[Chars("в")], &[Chars("Ђ")]],
    &[
        CYRILLIC,
        &[Category(C1), Category(BAD), START, END, MONEY, Chars("°µ")],
        CYRILLIC,
    ],
    &[
        &[Chars("Г")],
        &[Chars("ў")],
        &[Chars("В")],
        &[Chars("Ђ")],
        &[Chars("В")],
        &[Not(&[Chars("\n")])],
        &[AsciiLower, AsciiUpper, Chars(" ")],
    ],
    // Windows-1252 forms of a no-break space and of letters that end in its byte.
    &[&[Chars("Ã")], &[Chars("\u{a0}¡")]],
    &[&[AsciiLower], &[Chars("ÃÂ")], &[Chars(" ")]],
    &[&[AsciiLower], &[Space], &[Chars("ÃÂ")], &[Chars(" ")]],
    &[
        &[AsciiLower, Chars(".,?!"), END],
        &[Chars("Â")],
        &[Chars(" "), START, END],
    ],
    // Windows-1253.
    &[&[Chars("β")], &[Chars("€")], &[Chars("™\u{a0}Ά\u{ad}®°")]],
    &[
        GREEK,
        &[Category(C1), Category(BAD), START, END, MONEY, Chars("°")],
        GREEK,
    ],
    // Windows-1257.
    &[&[Chars("ā")], &[Chars("€")]],
];

/// Whether `text` holds a sequence of characters that suggests mojibake.
pub(crate) fn is_bad(text: &[char]) -> bool {
    if let [first, ' ', ..] = text
        && matches!(first, 'Ã' | 'Â')
    {
        return true;
    }
    // All rules advance together, one bit for each class of each rule (the Shift-And algorithm).
    let automaton = &*AUTOMATON;
    let mut state = 0u128;
    text.iter().any(|&c| {
        state = (state << 1 | automaton.starts) & automaton.classes(c);
        state & automaton.ends != 0
    })
}

/// The length of the UTF-8 mojibake at the start of `rest`, a text preceded by `before`; 0 if none.
pub(crate) fn utf8_length(before: Option<char>, rest: &[char]) -> usize {
    if before.is_some_and(|c| within(UTF8_CONTINUATION_STRICT, c)) {
        return 0;
    }
    let mut length = 0;
    loop {
        let rest = &rest[length..];
        let leads = [
            (UTF8_FIRST_OF_2, 2),
            (UTF8_FIRST_OF_3, 3),
            (UTF8_FIRST_OF_4, 4),
        ];
        let sequence = leads.into_iter().find(|&(leads, n)| {
            rest.len() >= n
                && within(leads, rest[0])
                && rest[1..n].iter().all(|&c| within(UTF8_CONTINUATION, c))
        });
        match sequence {
            Some((_, n)) => length += n,
            None => return length,
        }
    }
}

/// Below this code point lie all characters of interest but four.
const DENSE: usize = 0x2700;
const SPARSE: [char; 4] = ['\u{f8ff}', '\u{fb01}', '\u{fb02}', '\u{fffd}'];

struct Automaton {
    /// The first class of each rule, the last class of each rule.
    starts: u128,
    ends: u128,
    /// The classes of each character below `DENSE`, and of each in `SPARSE`.
    dense: Vec<u128>,
    sparse: [u128; 4],
    /// The classes of any other character, and those added if it is a word character or a space.
    other: u128,
    word: u128,
    space: u128,
}

static AUTOMATON: LazyLock<Automaton> = LazyLock::new(|| {
    let classes: Vec<Class> = RULES.iter().flat_map(|rule| rule.iter().copied()).collect();
    debug_assert!(classes.len() <= 128);
    let bits = |test: &dyn Fn(Class) -> bool| {
        classes
            .iter()
            .enumerate()
            .filter(|(_, class)| test(class))
            .fold(0, |set, (i, _)| set | 1u128 << i)
    };
    let (mut starts, mut ends, mut at) = (0, 0, 0);
    for rule in RULES {
        starts |= 1u128 << at;
        at += rule.len();
        ends |= 1u128 << (at - 1);
    }
    let character = |c: char| bits(&|class| contains(class, c));
    let has = |wanted: &dyn Fn(&Part) -> bool| bits(&|class| class.iter().any(wanted));
    Automaton {
        starts,
        ends,
        dense: ('\0'..).take(DENSE).map(character).collect(),
        sparse: SPARSE.map(character),
        other: has(&|part| matches!(part, Not(_))),
        word: has(&|part| matches!(part, Category(ranges) if std::ptr::eq(*ranges, WORD))),
        space: has(&|part| matches!(part, Space)),
    }
});

impl Automaton {
    fn classes(&self, c: char) -> u128 {
        if let Some(&classes) = self.dense.get(c as usize) {
            return classes;
        }
        if let Some(at) = SPARSE.iter().position(|&sparse| sparse == c) {
            return self.sparse[at];
        }
        let mut classes = self.other;
        if within(WORD, c) {
            classes |= self.word;
        }
        if is_space(c) {
            classes |= self.space;
        }
        classes
    }
}

fn contains(class: Class, c: char) -> bool {
    class.iter().any(|part| match part {
        Category(ranges) => within(ranges, c),
        Chars(chars) => chars.contains(c),
        AsciiLower => c.is_ascii_lowercase(),
        AsciiUpper => c.is_ascii_uppercase(),
        Space => is_space(c),
        Not(class) => !contains(class, c),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_of_interest_is_dense_or_sparse() {
        let found = |c: char| (c as usize) < DENSE || SPARSE.contains(&c);
        for part in RULES.iter().copied().flatten().copied().flatten() {
            match part {
                Category(ranges) if !std::ptr::eq(*ranges, WORD) => {
                    assert!(
                        ranges
                            .iter()
                            .all(|&(first, last)| (first..=last).all(found))
                    );
                }
                Chars(chars) => assert!(chars.chars().all(found)),
                _ => {}
            }
        }
        assert!(RULES.iter().map(|rule| rule.len()).sum::<usize>() <= 128);
    }
}
