"""A text side for image encoders without one: random class embeddings. Any serves a comparison of image embeddings."""

from pathlib import Path

import numpy


def save(folder, size):
    """Writes two class embeddings of this size into the folder."""
    rows = numpy.random.default_rng(0).standard_normal((2, size)).astype(numpy.float32)
    numpy.save(Path(folder) / "classes.npy", rows)
    (Path(folder) / "classes.txt").write_text("cat\ndog\n")


def options(folder):
    """The options of pinhole-export for what `save` wrote."""
    return ["--class-embeddings", Path(folder) / "classes.npy", "--classes", Path(folder) / "classes.txt"]
