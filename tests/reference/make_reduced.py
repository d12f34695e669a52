"""Writes preprocessing/tests/golden/reduced.json: JPEG files of golden/decode at a fraction of their size, as Pillow's
`Image.draft` decodes them.

    pip install -r tests/reference/requirements.txt
    python tests/reference/make_reduced.py
"""

import hashlib
import json
from pathlib import Path

from PIL import Image

GOLDEN = Path(__file__).resolve().parents[2] / "preprocessing/tests/golden"
SIDES = [1, 2, 3, 4, 5, 8, 9, 17]


def main():
    cases = []
    for path in sorted((GOLDEN / "decode").glob("*.jpg")):
        if path.name.startswith(("orientation", "turned")):
            continue
        for side in SIDES:
            with Image.open(path) as image:
                image.draft(None, (side, side))
                pixels = image.convert("RGB")
            cases.append(
                {
                    "file": path.name,
                    "side": side,
                    "width": pixels.width,
                    "height": pixels.height,
                    "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
                }
            )
    lines = ",\n".join(json.dumps(case) for case in cases)
    (GOLDEN / "reduced.json").write_text(f"[\n{lines}\n]\n")
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
