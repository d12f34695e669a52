"""A bundle that is taught from Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import pinhole

from .conftest import ASSETS

SAMPLES = ASSETS / "samples"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ASSETS / "demo", tmp_path / "bundle"))


def test_a_taught_class_is_answered_by_the_next_classifier(bundle: Path) -> None:
    classifier = pinhole.Classifier(bundle)
    classifier.teach("heart", [SAMPLES / "red-heart.png", SAMPLES / "white-heart.png"])
    lesson = classifier.teach("star", [SAMPLES / "red-star.png", SAMPLES / "green-star.png"])
    assert lesson["head"] in {"zero-shot", "prototypes", "cache", "linear"}
    assert 0 <= lesson["accuracy"] <= 1
    assert lesson["classes"][-1]["class"] == "star" and lesson["classes"][-1]["examples"] == 2
    assert "star" not in classifier.classes
    assert pinhole.Classifier(bundle).classes[-2:] == ["heart", "star"]


def test_what_cannot_be_taught_is_an_exception(bundle: Path) -> None:
    classifier = pinhole.Classifier(bundle)
    with pytest.raises(ValueError, match="red heart"):
        classifier.teach("red heart")
    with pytest.raises(pinhole.BundleError, match="--with-text"):
        classifier.teach("mug", text="cup")
    with pytest.raises(pinhole.ImageError, match="missing.png"):
        classifier.teach("mug", ["missing.png"])
    assert pinhole.Classifier(bundle).classes == classifier.classes
