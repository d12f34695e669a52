"""Writes prompts/tests/golden/tokens.jsonl.gz: texts with the token ids that open_clip gives them.

Each line is [text, [id, ...]], without start and end tokens. The texts cover what is hard: HTML character
references, white space, letter case, normalisation, ligatures, widths, quotes, control characters, contractions,
special tokens, long words. Texts that ftfy takes for wrongly decoded ones and repairs are left out, as Pinhole's
tokenizer has no such repair; so are characters newer than Unicode 14, on which Python 3.11 and Rust differ.
Same versions, same file: see requirements.txt; CPython 3.11 (Unicode 14). Takes no arguments.
"""

import gzip
import html
import html.entities
import json
import random
import re
import unicodedata
from pathlib import Path

import ftfy
from ftfy import badness, chardata
from open_clip.tokenizer import SimpleTokenizer

OUT = Path(__file__).resolve().parents[2] / "prompts/tests/golden/tokens.jsonl.gz"

PLAIN = """a photo of a cat.|A PHOTO OF THE DOG!|  spaces   in    between  |tab\tand\nnew line|
café naïve résumé|Straße GROẞ Ångström|ÉCLAIR ÑANDÚ ŒUVRE|jalapeño El Niño|Łódź Žižek Čapek|İstanbul ıspanak DİYARBAKIR|
ΟΔΥΣΣΕΥΣ Σίσυφος ΑΣ. ΑΣ'Α Σ|привет Москва УКРАЇНА Ёлка|你好,世界|日本語のテキスト カタカナ ひらがな|ﾊﾝｶｸ ｶﾞｷﾞﾊﾟ|
한국어 각 텍스트 각|สวัสดีครับ|नमस्ते दुनिया|مرحبا بالعالم|שלום עולם|ქართული ᲥᲐᲠᲗᲣᲚᲘ|Հայերեն|አማርኛ|Ꭰ ꭰ Ᏸ|𐐀𐐨 𝒥𝓸𝓱𝓷|
😀😃|👨‍👩‍👧‍👦 family|🇫🇷🇩🇪🇯🇵|👍🏽👍🏿|❤️ ☺︎|🏴󠁧󠁢󠁷󠁬󠁳󠁿|1️⃣2️⃣|“quoted” ‘single’ „low“ ‚low‘ ‛x‟|don’t can’t I’M YOU’LL WE’VE|
it's IT'S It'S they're THEY'RE we've WE'VE i'm I'M you'll YOU'LL he'd HE'D can't CAN'T|'s 't 're 've 'm 'll 'd 'x|''s '''ll|rock'n'roll|
'ſ it'ſ|<start_of_text>|a <end_of_text> b|<START_OF_TEXT><End_Of_Text>|.<end_of_text>|<ſtart_of_text>|&lt;end_of_text&gt;|
ﬁﬂﬃﬄﬀﬅﬆ office|ĳ Ĳ ŉ ǆ ǅ Ǆ ǉ ǌ ǳ|Ａｂｃ１２３！？　ｆｕｌｌ|￥￠￡￢￣￤￦|①②③ Ⅷ ⅻ ½ ¼ x² H₂O 10⁻³|٠١٢٣ ०१२ ๑๒|
3.14 1,000,000 -5 +7 1e-9 0x1F|2024-01-31 12:34:56|a1b2c3 123456789|... !!! ??? ?! --- ___ *** ### $$$|C++ C# .NET node.js|
user@example.com https://example.com/a?b=c&d=e#f|snake_case kebab-case camelCase|\\n \\t \\x41|{}[]()<>|`~^|"'"'|
à la mode à quelle às àquele|Ã la mode|voilÃ le travail|â€œquotesâ€\x9d|â€œ lossy â€�|schÃ¶n Ã©tÃ©|Ð¿Ñ€Ð¸Ð²ÐµÑ‚|РїСЂРёРІРµС‚|ã\x83\x84|Ã¢â‚¬â„¢|ÃƒÂ©|
doesnâ€™t|âœ” No problems|l’humanitÃ©|Â£100 Â©2020|ÅŸÄ±ÄŸ|Î±Î²Î³|×©×œ×•×|ä½ å¥½|ðŸ˜€ ðŸ‘\x8d|c’est Ã  lui|Ã€ Ã‰|\x85ellipsis\x85|\x93quoted\x94|
√©t√© na√Øve|├⌐t├⌐|ï»¿bom|Ăˇ|í ½í¸\x8d|À\x80null|À\n|
\x1b[36;44mblue\x1b[0m|\x1b[31|\x1b[;٣m|a\x00b\x07c\x1bd\x7fe|zero\u200bwidth\u200djoin\u2060er|\ufeffbom \ufffcobj|soft\u00adhyphen|
line\u2028sep\u2029para\r\ncr\rlf\x0b\x0c\x1c\x1d\x1e\x1f\x85|nbsp\u00a0thin\u2009ideo\u3000ogham\u1680mvs\u180e|
e\u0301 a\u0308\u0323 q\u0323\u0307 \u1e69 \u0344 \u0958|\u1100\u1161\u11a8 \uac00\u11a8|\u0345 a\u0345 \u1fb3|\u212b \u2126 K|\ufb1d \ufb4f|\U0001d15e|
&amp; &lt;b&gt; &quot;x&quot; &apos;|caf&eacute; &Eacute; &EACUTE; &SZLIG;|&amp;amp;amp;lt;|&amp &lt &copy2020 &notit; &notin; &not|&#8217; &#x2019; &#X2019 &#8217|
&#0; &#128; &#x80; &#x9f; &#129; &#xD800; &#x110000; &#99999999999; &#11; &#13; &#xFFFE; &#59; &#x3b;|&; &#; &#x; &#xg; &&amp; &a; &unknown;|
<p>caf&eacute;</p>|first &eacute;\n<b>\nlater &eacute;|&nbsp;&ensp;&zwj;|&NotEqualTilde; &fjlig; &CounterClockwiseContourIntegral;|P&EACUTE;REZ &NTILDE;|||a"""


def ascii_pairs():
    chars = [chr(c) for c in range(32, 127)]
    return [a + b for a in chars for b in chars]


def long_texts(rng):
    yield "a" * 5000
    yield "antidisestablishmentarianism" * 50
    yield "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(3000))
    yield "!?" * 1000
    yield "&amp;" * 300 + "&" + "amp;" * 20
    yield "Ã©" * 500
    yield "é" + "\u0301\u0323" * 200
    yield " ".join(rng.choice(["cat", "dog", "Straße", "日本", "123"]) for _ in range(800))


def references():
    for name in html.entities.html5:
        yield f"&{name}"
    for number in [*range(0x7E, 0xA2), 0xAD, 0xFDD0, 0xFFFF, 0x1F600, 0x10FFFF, 1 << 70]:
        yield f"x&#{number};y&#x{number:x}z"


class Mix:
    """Random texts out of what the tokenizer treats specially."""

    def __init__(self, rng):
        self.rng = rng
        bmp = [chr(c) for c in range(0x80, 0x10000) if not 0xD800 <= c < 0xE000]
        groups = [*chardata.UTF8_CLUES.values(), *badness.MOJIBAKE_CATEGORIES.values()]
        self.suspects = [[c for c in bmp if re.match(f"[{group}]", c)] for group in groups]
        self.every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
        self.assigned = [c for c in self.every if unicodedata.category(c) not in ("Cn", "Co")]
        self.marks = [c for c in self.assigned if unicodedata.combining(c)]
        self.bases = [c for c in self.assigned if unicodedata.decomposition(c)]
        self.words = re.split(r"[|\n ]+", PLAIN)
        self.entities = list(chardata.HTML_ENTITIES)

    def some(self, chars, most=4):
        return "".join(self.rng.choice(chars) for _ in range(self.rng.randint(1, most)))

    def mojibake(self, text):
        data = bytearray(text.encode())
        if data and self.rng.random() < 0.2:
            data[self.rng.randrange(len(data))] = self.rng.choice(b"\x1a? \xc0\xed\x80\xa0")
        encoding = self.rng.choice(chardata.CHARMAP_ENCODINGS)
        return bytes(data).decode(encoding)

    def cesu8(self):
        units = self.some("😀👍𝒥é").encode("utf-16-be")
        data = b"".join(
            chr(int.from_bytes(units[i : i + 2])).encode("utf-8", "surrogatepass")
            for i in range(0, len(units), 2)
        )
        return data.decode(self.rng.choice(chardata.CHARMAP_ENCODINGS))

    def piece(self):
        rng = self.rng
        return rng.choice(
            [
                lambda: rng.choice(self.words),
                lambda: self.mojibake(rng.choice(self.words)),
                lambda: self.mojibake(self.mojibake(rng.choice(self.words))),
                lambda: self.some(rng.choice(self.suspects)),
                self.cesu8,
                lambda: rng.choice(self.entities)[: rng.choice([99, 99, -1, 5])],
                lambda: f"&#{rng.choice(['', 'x'])}{rng.randrange(99999)}{rng.choice([';', ''])}",
                lambda: rng.choice(self.bases) + self.some(self.marks),
                lambda: self.some(self.assigned),
                lambda: self.some(self.every, 2),
                lambda: self.some("ΣσςΑα.'\u0301ʰA\u00ad", 6),
                lambda: self.some("\x00\t\n\x0b\r\x1b[m\x7f\x85\xa0\u2028\u3000\u200b"),
                lambda: str(rng.randrange(10 ** rng.randint(1, 9))),
            ]
        )()

    def text(self):
        rng = self.rng
        text = "".join(self.piece() + rng.choice(["", " "]) for _ in range(rng.randint(1, 5)))
        return self.mojibake(text) if rng.random() < 0.05 else text


def is_covered(text):
    """Whether Pinhole promises open_clip's tokens for this text."""
    repaired = ftfy.fix_text(text) != ftfy.fix_text(text, fix_encoding=False)
    return not repaired and all(unicodedata.category(c) != "Cn" for c in html.unescape(text))


def main():
    rng = random.Random(20240607)
    mix = Mix(rng)
    texts = PLAIN.replace("|\n", "|").split("|")
    texts += [t.upper() for t in texts] + [t.lower() for t in texts]
    texts += [*ascii_pairs(), *long_texts(rng), *references()]
    texts += [mix.text() for _ in range(9000)]
    tokenizer = SimpleTokenizer()
    lines = [
        json.dumps([text, tokenizer.encode(text)], ensure_ascii=True, separators=(",", ":"))
        for text in filter(is_covered, dict.fromkeys(texts))
    ]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0))
    print(f"{len(lines)} texts, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
