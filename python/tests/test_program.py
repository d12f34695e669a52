"""The package against the command `pinhole`, whose path is in PINHOLE."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pinhole

from .conftest import ASSETS

PROGRAM = os.environ.get("PINHOLE")


@pytest.mark.skipif(not PROGRAM, reason="PINHOLE: the path of the command, which `python/test` sets")
def test_embeddings_and_rankings_are_those_of_the_command(classifier: pinhole.Classifier, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(50):
        width, height = rng.integers(20, 700, 2)
        small = rng.integers(0, 256, (7, 9, 3), np.uint8)
        image = Image.fromarray(small).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        name = tmp_path / f"{number:02}.{('jpg', 'png', 'webp')[number % 3]}"
        image.save(name)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 50

    def run(command: str, *options: str) -> list[str]:
        arguments = [str(PROGRAM), command, str(ASSETS / "demo"), *map(str, paths), "--threads", "1", *options]
        return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.splitlines()

    # A path, a tab, and the values.
    expected = [np.array(line.split("\t")[1].split(), np.float32) for line in run("embed")]
    assert len(expected) == 50
    assert np.array_equal(classifier.embed_batch(paths), np.stack(expected))
    lines = map(json.loads, run("classify", "--json", "--top", "64"))
    for line, answer in zip(lines, classifier.classify_batch(paths)):
        fields = answer.to_dict()
        assert (fields["unknown"], fields["score"]) == (line["unknown"], line["score"])
        found = [(c["class"], c["index"], np.float32(c["probability"])) for c in fields["top"]]
        assert found == [(c["class"], c["index"], np.float32(c["probability"])) for c in line["top"]]
