"""Writes prompts/src/tables.rs and prompts/data/merges.bin.

The tables are the character facts behind open_clip's tokenizer: Unicode properties as the Python
that runs this script (and its `regex` module) knows them, the HTML5 character references, the
single-byte encodings, and ftfy's character categories. Run with CPython 3.11 (Unicode 14) and the
versions in requirements.txt; takes no arguments.
"""

import gzip
import html
import html.entities
import re
import struct
import unicodedata
from pathlib import Path

import regex
from ftfy import badness, chardata
from open_clip.tokenizer import bytes_to_unicode, default_bpe

OUT = Path(__file__).resolve().parents[2] / "prompts"
CHARS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def ranges(test):
    """Ranges of code points, both ends included, whose character passes `test`."""
    found = []
    for char in CHARS:
        if test(char):
            code = ord(char)
            if found and found[-1][1] == code - 1:
                found[-1][1] = code
            else:
                found.append([code, code])
    return found


def char_literal(code):
    return f"'\\u{{{code:x}}}'"


def string_literal(text):
    return '"' + "".join(c if c.isascii() and c.isalnum() else f"\\u{{{ord(c):x}}}" for c in text) + '"'


def rows(items, width=99):
    """Joins items with commas, as many on a line as fit."""
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > width:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join(lines + [line])


def table(out, name, kind, items, doc):
    out.append(f"/// {doc}\npub(crate) const {name}: &[{kind}] = &[\n{rows(items)}\n];\n")


def range_table(out, name, test, doc):
    items = [f"({char_literal(a)}, {char_literal(b)})" for a, b in ranges(test)]
    table(out, name, "(char, char)", items, doc)


def unicode_tables(out):
    range_table(out, "LETTERS", regex.compile(r"\p{L}").match, "General category L.")
    range_table(out, "NUMBERS", regex.compile(r"\p{N}").match, "General category N.")
    range_table(out, "WORD", re.compile(r"\w").match, r"Python's `\w`.")
    range_table(out, "DECIMAL", re.compile(r"\d").match, r"Python's `\d`.")
    # Python does not export these two properties, but its lower-casing of capital sigma shows them.
    range_table(
        out,
        "CASED",
        lambda c: (c + "Σ").lower()[-1] == "ς",
        "Cased characters that are not case-ignorable.",
    )
    range_table(
        out,
        "CASE_IGNORABLE",
        lambda c: ("aΣ" + c + "a").lower()[1] == "σ" and ("aΣ" + c).lower()[1] == "ς",
        "Case-ignorable characters.",
    )
    lower = [(c, c.lower()) for c in CHARS if c.lower() != c]
    assert [c for c, to in lower if len(to) != 1] == ["İ"]
    items = [f"({char_literal(ord(c))}, {char_literal(ord(to))})" for c, to in lower if len(to) == 1]
    table(out, "LOWER", "(char, char)", items, "Lower case where it is one other character.")

    combining = []
    for char in CHARS:
        value = unicodedata.combining(char)
        if value:
            code = ord(char)
            if combining and combining[-1][1] == code - 1 and combining[-1][2] == value:
                combining[-1][1] = code
            else:
                combining.append([code, code, value])
    items = [f"({char_literal(a)}, {char_literal(b)}, {v})" for a, b, v in combining]
    table(out, "COMBINING_CLASS", "(char, char, u8)", items, "Non-zero canonical combining classes.")
    decomposed, composed = [], []
    for char in CHARS:
        parts = unicodedata.decomposition(char)
        if not parts or parts.startswith("<"):
            continue
        parts = [chr(int(p, 16)) for p in parts.split()]
        assert len(parts) <= 2
        decomposed.append(f'({char_literal(ord(char))}, {string_literal("".join(parts))})')
        if len(parts) == 2 and unicodedata.normalize("NFC", "".join(parts)) == char:
            composed.append((*map(ord, parts), ord(char)))
    table(out, "DECOMPOSITION", "(char, &str)", decomposed, "Canonical decompositions, one step, without Hangul.")
    items = [f"({char_literal(a)}, {char_literal(b)}, {char_literal(c)})" for a, b, c in sorted(composed)]
    table(out, "COMPOSITION", "(char, char, char)", items, "Canonical compositions, without Hangul.")


def entity_tables(out):
    items = [f'("{name}", {string_literal(text)})' for name, text in sorted(html.entities.html5.items())]
    table(out, "ENTITIES", "(&str, &str)", items, "HTML5 named character references, by name without the ampersand.")
    extra = sorted(
        (name[1:], text)
        for name, text in chardata.HTML_ENTITIES.items()
        if html.entities.html5.get(name[1:]) != text
    )
    assert not {name for name, _ in extra} & set(html.entities.html5)
    items = [f'("{name}", {string_literal(text)})' for name, text in extra]
    table(out, "CAPITAL_ENTITIES", "(&str, &str)", items, "References in capitals that HTML5 lacks and ftfy accepts.")
    # 0x80..0x9f as browsers read them; the other special numbers are ranges, written out in entities.rs.
    items = [char_literal(ord(html.unescape(f"&#{n};"))) for n in range(0x80, 0xA0)]
    table(out, "NUMERIC_C1", "char", items, "What numeric references 0x80..=0x9f mean.")


def repair_tables(out):
    items = [f"({char_literal(c)}, {string_literal(t)})" for c, t in sorted(chardata.WIDTH_MAP.items())]
    table(out, "WIDTH", "(char, &str)", items, "Full-width and half-width forms.")
    items = [f"({char_literal(c)}, {string_literal(t)})" for c, t in sorted(chardata.LIGATURES.items())]
    table(out, "LIGATURES", "(char, &str)", items, "Latin ligatures and digraphs.")
    for encoding in chardata.CHARMAP_ENCODINGS[1:]:
        name = encoding.replace("sloppy-", "").replace("-", "_").upper()
        items = [char_literal(ord(c)) for c in bytes(range(0x80, 0x100)).decode(encoding)]
        table(out, name, "char", items, f"Bytes 0x80..=0xff of {encoding.replace('sloppy-', '')}; unassigned bytes are themselves.")
    for name, chars in chardata.UTF8_CLUES.items():
        test = re.compile(f"[{chars}]").match
        range_table(out, name.upper(), test, f"ftfy's character class {name}.")
    for name, chars in badness.MOJIBAKE_CATEGORIES.items():
        test = re.compile(f"[{chars}]").match
        range_table(out, name.upper(), test, f"ftfy's character category {name}.")


def merges():
    """The merges as pairs of token ids, u16 little-endian; merge i makes token 512 + i."""
    lines = gzip.open(default_bpe()).read().decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    singles = list(bytes_to_unicode().values())
    ids = {token: i for i, token in enumerate(singles + [s + "</w>" for s in singles])}
    pairs = []
    for line in lines:
        left, right = line.split()
        assert left + right not in ids, "a token with two merges would need string keys"
        pairs.append((ids[left], ids[right]))
        ids[left + right] = len(ids)
    return b"".join(struct.pack("<HH", *pair) for pair in pairs)


def main():
    out = [
        f"//! Character tables, written by tests/reference/make_text_tables.py: Unicode {unicodedata.unidata_version}\n"
        "//! (letters and numbers as the Python module `regex` has them), HTML5, single-byte encodings, ftfy 6.3.1.\n"
    ]
    unicode_tables(out)
    entity_tables(out)
    repair_tables(out)
    (OUT / "src/tables.rs").write_text("\n".join(out), encoding="utf-8")
    (OUT / "data/merges.bin").write_bytes(merges())


if __name__ == "__main__":
    main()
