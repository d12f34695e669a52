"""Compares random SigLIP models in the shapes of the published ones with open_clip.

    python tests/reference/make_siglip.py --full DIR
    cargo build --release -p pinhole-cli -p pinhole-export
    python tests/conformance/siglip.py DIR target/release

For each model: the embeddings of texts and of image files by pinhole-export and pinhole, in f32, and of the images in int8,
against open_clip's in golden.json. Fails below a cosine of 0.99999 in f32 and 0.98 in int8.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

LEAST = {"f32": 0.99999, "int8": 0.98}


def cosine(a, b):
    return math.fsum(x * y for x, y in zip(a, b)) / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def embeddings(*command):
    lines = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    return [json.loads(line)["embedding"] for line in lines.splitlines()]


def main():
    root, programs = Path(sys.argv[1]), Path(sys.argv[2])
    worst = []
    for model in sorted(path.parent for path in root.glob("*/golden.json")):
        golden = json.loads((model / "golden.json").read_text())

        def compare(what, found, expected, least):
            cosines = [cosine(a, b) for a, b in zip(found, expected, strict=True)]
            print(f"{model.name}  {what}: least cosine {min(cosines):.7f} of {len(cosines)}")
            worst.append(min(cosines) >= least)

        export = programs / "pinhole-export"
        found = embeddings(export, "text", "--clip", model, "--json", *golden["texts"])
        compare("texts, f32", found, golden["text_embeddings"], LEAST["f32"])
        images = sorted(model.glob("*.png"))
        for precision, least in LEAST.items():
            with tempfile.TemporaryDirectory() as folder:
                classes = Path(folder, "classes.txt")
                classes.write_text("cat\ndog\n")
                bundle = Path(folder, "bundle")
                # Judged below instead of at export.
                bounds = ["--min-cosine", "0", "--min-agreement", "0"]
                command = [export, "bundle", "--clip", model, "--classes", classes, "--precision", precision, *bounds]
                subprocess.run([*map(str, command), "--out", str(bundle)], check=True, stdout=subprocess.DEVNULL)
                found = embeddings(programs / "pinhole", "embed", bundle, *images, "--json")
                compare(f"images, {precision}", found, golden["image_embeddings"], least)
    if not worst or not all(worst):
        sys.exit("expected models, and no cosine below the bounds")


if __name__ == "__main__":
    main()
