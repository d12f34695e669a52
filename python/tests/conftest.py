from pathlib import Path

import pytest

import pinhole

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@pytest.fixture(scope="session")
def classifier() -> pinhole.Classifier:
    return pinhole.Classifier(ASSETS / "demo", threads=1)


@pytest.fixture
def photo() -> Path:
    return ASSETS / "samples" / "red-heart.png"
