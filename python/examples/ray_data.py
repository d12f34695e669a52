"""Classifies all images of a folder on a cluster, into Parquet files: ray_data.py BUNDLE FOLDER OUT [WORKERS]

Needs Ray Data (`pip install "ray[data]"`). Each worker is a process that opens the bundle once, with one thread; 2 workers by
default. Images that cannot be decoded have an error instead of a class. The same command continues a job that was
interrupted, and takes images that were added to the folder.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import ray

import pinhole


class Classify:
    def __init__(self, bundle: str) -> None:
        self.classifier = pinhole.Classifier(bundle, threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        names, probabilities, errors = [], [], []
        for data in batch["bytes"]:
            try:
                answer = self.classifier.classify(bytes(data))
            except pinhole.ImageError as error:
                names.append("")
                probabilities.append(float("nan"))
                errors.append(str(error))
                continue
            names.append("unknown" if answer.unknown else answer.best.name)
            probabilities.append(answer.best.probability)
            errors.append("")
        return {
            "path": batch["path"],
            "class": np.array(names),
            "probability": np.array(probabilities, np.float32),
            "error": np.array(errors),
        }


def finished(out: Path) -> set[str]:
    """Images that have a row already. Removes files that an interrupted job left unfinished."""
    paths = set()
    for file in out.glob("*.parquet"):
        try:
            paths.update(pyarrow.parquet.read_table(file, columns=["path"])["path"].to_pylist())
        except pyarrow.ArrowInvalid:
            file.unlink()
    return paths


def main(bundle: str, folder: str, out: str, workers: str = "2") -> None:
    files = {str(file) for file in Path(folder).resolve().rglob("*") if file.is_file()}
    left = sorted(files - finished(Path(out)))
    print(f"{len(files)} images, {len(left)} without an answer")
    if not left:
        return
    ray.init(include_dashboard=False)
    images = ray.data.read_binary_files(left, include_paths=True)
    answers = images.map_batches(
        Classify,
        # Workers have folders of their own.
        fn_constructor_args=(str(Path(bundle).resolve()),),
        concurrency=int(workers),
        # The tasks that read files need processors too: with two processors and two workers nothing would be left.
        num_cpus=0.5,
        batch_size=32,
    )
    answers.write_parquet(out)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
