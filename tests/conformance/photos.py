"""Prepares Caltech-101 for a photo model and for fidelity.py: photos.py CALTECH OUT [FOLDER...]

CALTECH contains the photos in images/ and CoOp's split in split_zhou_Caltech101.json. Each FOLDER contains additional
training photos, one sub-folder per class. Creates the folder OUT with photos.tsv (the training photos with four captions
each, for `pinhole-train clip --data`), classes.txt (the class names), and calibration/ and val/ (copies of every eighth
training photo and of all validation photos, one sub-folder per class). The photo model and its figure, in 45 minutes on
two processors:

    python3 tests/conformance/photos.py CALTECH photos CLOTHES
    pinhole-train clip --data photos/photos.tsv --crop 0.4 --width 192 --steps 2500 --out clip-photos
    pinhole-train evaluate --model clip-photos/checkpoint --images photos/val
    fidelity.py BINARIES photo=clip-photos/checkpoint,photos/classes.txt,photos/calibration,photos/val
"""

import json
import shutil
import sys
from pathlib import Path

SPLIT = "split_zhou_Caltech101.json"
CAPTIONS = ["a photo of a {}.", "a picture of a {}.", "a photo of the {}.", "{}."]


def copy(photos, out):
    for path, name in photos:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    caltech, out, *folders = map(Path, sys.argv[1:])
    try:
        split = json.loads((caltech / SPLIT).read_text())
        train, val = ([(caltech / "images" / file, name) for file, _, name in split[part]] for part in ("train", "val"))
    except (OSError, ValueError, KeyError, TypeError) as e:
        sys.exit(f"error: {caltech / SPLIT}: expected CoOp's split with the lists train and val, found: {e!r}")
    missing = [path for path, _ in train + val if not path.is_file()]
    if missing:
        sys.exit(f"error: {missing[0]}: expected a photo of the split, found none; {len(missing)} photos are missing")
    additional = []
    for folder in folders:
        photos = [(path, path.parent.name) for path in sorted(folder.glob("*/*.jpg"))]
        if not photos:
            sys.exit(f"error: {folder}: expected one sub-folder of .jpg files per class, found none")
        additional += photos
    try:
        out.mkdir(parents=True)
    except OSError as e:
        sys.exit(f"error: {out}: cannot create the folder: {e}")
    lines = ["filepath\ttitle"]
    lines += [f"{path.resolve()}\t{text.format(name)}" for path, name in train + additional for text in CAPTIONS]
    (out / "photos.tsv").write_text("\n".join(lines) + "\n")
    names = sorted({name for _, name in train})
    (out / "classes.txt").write_text("\n".join(names) + "\n")
    copy(sorted(train)[::8], out / "calibration")
    copy(val, out / "val")
    print(f"{out}: {len(train) + len(additional)} training photos, {len(val)} validation photos, {len(names)} classes")


if __name__ == "__main__":
    main()
