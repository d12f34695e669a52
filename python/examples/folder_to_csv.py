"""Classifies all images of a folder into a CSV file: folder_to_csv.py BUNDLE FOLDER OUT.csv

Images that cannot be read get a line with the error.
"""

import csv
import sys
from pathlib import Path

import pinhole


def main(bundle: str, folder: str, out: str) -> None:
    classifier = pinhole.Classifier(bundle)
    suffixes = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
    images = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in suffixes)
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "class", "probability", "unknown", "error"])
        for path in images:
            try:
                answer = classifier.classify(path)
            except pinhole.ImageError as error:
                writer.writerow([path, "", "", "", error])
                continue
            writer.writerow([path, answer.best.name, f"{answer.best.probability:.4f}", answer.unknown, ""])
    print(f"{out}: {len(images)} images")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
