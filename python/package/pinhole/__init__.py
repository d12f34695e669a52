"""Offline image classification with CLIP and learned prompts on small boards.

    import pinhole

    classifier = pinhole.Classifier("path/to/bundle")
    answer = classifier.classify("photo.jpg")
    print(answer.best.name, answer.best.probability)

A bundle is the folder that `pinhole-export` writes on a workstation. Images are paths, the bytes of files, numpy arrays
uint8 [height, width, 3] or PIL images. Results equal those of the command `pinhole`, bit for bit.
"""

from ._pinhole import (
    BundleError,
    Classification,
    Classifier,
    ImageError,
    PinholeError,
    Ranked,
    Stream,
    StreamAnswer,
    __version__,
    set_classes,
)

__all__ = [
    "BundleError",
    "Classification",
    "Classifier",
    "ImageError",
    "PinholeError",
    "Ranked",
    "Stream",
    "StreamAnswer",
    "__version__",
    "set_classes",
]
