"""Streams: smoothing and state as in `pinhole camera`."""

import pytest

import pinhole

from .conftest import ASSETS

HEART = ASSETS / "samples" / "red-heart.png"
SQUARE = ASSETS / "samples" / "blue-square.png"


def test_a_single_frame_does_not_change_the_state(classifier: pinhole.Classifier) -> None:
    stream = pinhole.Stream(classifier)
    assert stream.state is None and stream.classifier is classifier
    answers = [stream.classify(image) for image in [HEART, HEART, SQUARE, HEART, SQUARE, SQUARE, SQUARE]]
    assert [a.state for a in answers[:4]] == [None, "red heart", "red heart", "red heart"]
    assert [a.event for a in answers[:3]] == [None, (None, "red heart"), None]
    assert answers[-1].state == stream.state == "blue square"
    changes = [a.event for a in answers if a.event]
    assert changes == [(None, "red heart"), ("red heart", "blue square")]
    assert classifier.classes[answers[-1].state_index or 0] == "blue square"
    fields = answers[1].to_dict(top=1)
    assert fields["event"]["to"] == "red heart" and fields["event"]["from"] is None
    assert classifier.classes[fields["event"]["to_index"]] == "red heart"
    assert len(fields["top"]) == 1 and fields["top"][0]["class"] == answers[1].best.name
    # The third is smoothed: it lies between the second and an answer without smoothing.
    alone = pinhole.Stream(classifier, smoothing=0.0).classify(SQUARE)
    assert alone.best.name == "blue square" and alone.best.probability > answers[2].best.probability


def test_times_slow_the_state_down(classifier: pinhole.Classifier) -> None:
    options = {"smoothing": 0.0, "hysteresis": 1}
    frames = [HEART, SQUARE, HEART, SQUARE]
    stream = pinhole.Stream(classifier, smoothing=0.0, hysteresis=1)
    assert [stream.classify(f).state for f in frames] == ["red heart", "blue square"] * 2
    stream = pinhole.Stream(classifier, smoothing=0.0, hysteresis=1, cool_down_seconds=3600)
    assert [stream.classify(f).state for f in frames] == ["red heart"] * 4
    stream = pinhole.Stream(classifier, smoothing=0.0, hysteresis=1, hysteresis_seconds=3600)
    assert [stream.classify(f).state for f in frames] == [None] * 4
    for wrong in ({"hysteresis": 0}, {"smoothing": -1.0}, {"margin": 2.0}, {"cool_down_seconds": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pinhole.Stream(classifier, **{**options, **wrong})  # type: ignore[arg-type]
