"""Writes prompts/data/merges.bin: the merges of CLIP's byte-pair encoding, from open_clip's vocabulary file.

Each merge is a pair of token ids, u16 little-endian; merge i makes token 512 + i. Run with the versions in
requirements.txt; takes no arguments.
"""

import gzip
import struct
from pathlib import Path

from open_clip.tokenizer import bytes_to_unicode, default_bpe

OUT = Path(__file__).resolve().parents[2] / "prompts/data/merges.bin"


def merges():
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


if __name__ == "__main__":
    OUT.write_bytes(merges())
