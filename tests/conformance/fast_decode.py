"""Compares embeddings with and without --fast-decode: fast_decode.py PINHOLE BUNDLE PHOTOS [COUNT].

Photos of data sets are small, so 16 photos of the folder PHOTOS make one picture of 4 x 4 photos, whose pixels have the
detail of photos. Prints the cosine of the two embeddings of each of COUNT pictures, by default 100: mean and worst. Needs
Pillow.
"""

import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PHOTO = (300, 200)


def picture(photos, path):
    out = Image.new("RGB", (4 * PHOTO[0], 4 * PHOTO[1]))
    for i, photo in enumerate(photos):
        with Image.open(photo) as image:
            image = image.convert("RGB")
            # In the middle, at its own resolution; what is too small is surrounded by black.
            left, top = (image.width - PHOTO[0]) // 2, (image.height - PHOTO[1]) // 2
            image = image.crop((left, top, left + PHOTO[0], top + PHOTO[1]))
            out.paste(image, (i % 4 * PHOTO[0], i // 4 * PHOTO[1]))
    out.save(path, quality=90)


def embeddings(pinhole, bundle, files, *options):
    command = [pinhole, "embed", bundle, "--json", *options, *files]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line)["embedding"] for line in lines]


def main(pinhole, bundle, folder, count=100):
    photos = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chosen = random.Random(0)
    with tempfile.TemporaryDirectory() as work:
        files = [str(Path(work) / f"{i:04}.jpg") for i in range(int(count))]
        for file in files:
            picture(chosen.sample(photos, 16), file)
        pairs = zip(embeddings(pinhole, bundle, files), embeddings(pinhole, bundle, files, "--fast-decode"))
        cosines = sorted(cosine(*pair) for pair in pairs)
    print(f"{len(cosines)} pictures: mean cosine {sum(cosines) / len(cosines):.5f}, worst {cosines[0]:.5f}")


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / (math.hypot(*a) * math.hypot(*b))


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("usage: fast_decode.py PINHOLE BUNDLE PHOTOS [COUNT]")
    main(*sys.argv[1:])
