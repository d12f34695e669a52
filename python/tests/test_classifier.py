"""The package against itself: every kind of image gives the same answer, and what is wrong is named."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pinhole

from .conftest import ASSETS

SAMPLES = sorted((ASSETS / "samples").iterdir())


def rgb(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_ranking_has_every_class_once(classifier: pinhole.Classifier, photo: Path) -> None:
    answer = classifier.classify(photo)
    assert answer.best.name == "red heart"
    assert answer.best == answer.ranking[0] == answer.top(1)[0]
    assert answer.best != answer.ranking[1]
    assert sorted(c.index for c in answer.ranking) == list(range(len(classifier.classes)))
    assert all(classifier.classes[c.index] == c.name for c in answer.ranking)
    assert abs(sum(c.probability for c in answer.ranking) - 1) < 1e-5
    assert [c.similarity for c in answer.ranking] == sorted((c.similarity for c in answer.ranking), reverse=True)
    fields = answer.to_dict(top=2)
    assert fields["top"] == [c.to_dict() for c in answer.top(2)]
    assert fields["top"][0]["class"] == "red heart"
    assert fields["score"] == answer.score == "softmax"
    assert fields["unknown"] is answer.unknown is False
    latency = answer.latency_ms
    assert set(latency) == {"decode", "preprocess", "encode", "head", "total"}
    assert latency["total"] > latency["encode"] > 0 and latency["decode"] > 0
    assert "red heart" in repr(answer) and "64 classes" in repr(classifier)


def test_every_kind_of_image_gives_the_same_embedding(classifier: pinhole.Classifier) -> None:
    for path in SAMPLES:
        expected = classifier.embed(path)
        assert expected.dtype == np.float32 and expected.shape == (classifier.embedding_size,)
        assert abs(np.linalg.norm(expected) - 1) < 1e-5
        array = rgb(path)
        padded = np.zeros((array.shape[0] + 2, array.shape[1] + 5, 3), np.uint8)
        padded[1:-1, 2:-3] = array
        frozen = array.copy()
        frozen.flags.writeable = False
        images: list[Any] = [
            str(path),
            path.read_bytes(),
            bytearray(path.read_bytes()),
            Image.open(path),
            Image.open(path).convert("RGBA"),
            array,
            frozen,
            padded[1:-1, 2:-3],
            np.asfortranarray(array),
            array[::-1][::-1],
            array[:, ::-1][:, ::-1],
        ]
        for image in images:
            assert np.array_equal(classifier.embed(image), expected), type(image)
        for bgr in (array[..., ::-1], np.ascontiguousarray(array[..., ::-1])):
            assert np.array_equal(classifier.embed(bgr, order="BGR"), expected)
        assert not np.array_equal(classifier.embed(array[..., ::-1]), expected)


def test_preprocessing_of_an_array_equals_that_of_the_file(classifier: pinhole.Classifier) -> None:
    side = classifier.image_size
    for path in SAMPLES:
        pixels = classifier.preprocess(path)
        assert pixels.shape == (side, side, 3) and pixels.dtype == np.uint8
        assert np.array_equal(classifier.preprocess(rgb(path)), pixels)


def test_a_batch_is_its_images(classifier: pinhole.Classifier) -> None:
    answers = classifier.classify_batch(SAMPLES)
    single = [classifier.classify(path) for path in SAMPLES]
    assert [a.ranking for a in answers] == [a.ranking for a in single]
    embeddings = classifier.embed_batch(iter(SAMPLES))
    assert embeddings.shape == (len(SAMPLES), classifier.embedding_size)
    assert np.array_equal(embeddings, np.stack([classifier.embed(path) for path in SAMPLES]))
    frames = np.stack([classifier.preprocess(path) for path in SAMPLES])
    assert np.array_equal(classifier.embed_batch(frames), np.stack([classifier.embed(frame) for frame in frames]))
    assert classifier.embed_batch([]).shape == (0, classifier.embedding_size)
    assert classifier.classify_batch([]) == []
    with pytest.raises(pinhole.ImageError) as error:
        classifier.classify_batch([SAMPLES[0], b"no image"])
    assert getattr(error.value, "__notes__", ["image 1 of the batch"]) == ["image 1 of the batch"]


def test_similarities_are_those_of_the_ranking(classifier: pinhole.Classifier, photo: Path) -> None:
    similarities = classifier.similarities(classifier.embed(photo))
    assert similarities.dtype == np.float32
    assert [similarities[c.index] for c in classifier.classify(photo).ranking] == sorted(similarities, reverse=True)
    with pytest.raises(pinhole.PinholeError, match="expected 128 values|expected .* values, found 3"):
        classifier.similarities(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (None, TypeError, "expected a path, bytes, a numpy array"),
        (3, TypeError, "found int"),
        ("no/such.png", pinhole.ImageError, "no/such.png"),
        (b"", pinhole.ImageError, "empty"),
        (b"\0\0\0\x20ftypheic", pinhole.ImageError, "HEIC"),
        (np.zeros((4, 4, 3), np.float32), ValueError, r"found float32 \[4, 4, 3\].*astype"),
        (np.zeros((4, 4, 3), np.int8), ValueError, "found int8"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, "fourth channel"),
        (np.zeros((3, 4, 4), np.uint8), ValueError, "transpose"),
        (np.zeros((4, 4), np.uint8), ValueError, "grey"),
        (np.zeros((1, 4, 4, 3), np.uint8), ValueError, "classify_batch"),
        (np.zeros((0, 4, 3), np.uint8), pinhole.ImageError, "0"),
        (np.zeros((4, 4, 3), object), ValueError, "found object"),
    ],
)
def test_what_is_no_image_is_named(
    classifier: pinhole.Classifier, image: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        classifier.classify(image)


def test_wrong_options_are_named(tmp_path: Path, classifier: pinhole.Classifier, photo: Path) -> None:
    demo = ASSETS / "demo"
    for options, text in [
        ({"threads": 0}, "threads: expected 1 to"),
        ({"threads": 100_000}, "threads: expected 1 to"),
        ({"min_similarity": 1.5}, "min_similarity: expected -1 to 1, found 1.5"),
        ({"min_margin": float("nan")}, "min_margin"),
        ({"conditional": "fast"}, "conditional: expected .* found 'fast'"),
        ({"conditional": -1.0}, "conditional"),
    ]:
        with pytest.raises(ValueError, match=text):
            pinhole.Classifier(demo, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="order: expected"):
        classifier.classify(photo, order="RGBA")  # type: ignore[arg-type]
    with pytest.raises(pinhole.BundleError, match="manifest.json"):
        pinhole.Classifier(tmp_path)
    shutil.copytree(demo, tmp_path / "demo")
    head = tmp_path / "demo" / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1])
    with pytest.raises(pinhole.BundleError, match="head.safetensors"):
        pinhole.Classifier(tmp_path / "demo")
    assert issubclass(pinhole.BundleError, pinhole.PinholeError)
    with pytest.raises(pinhole.ImageError, match="needs"):
        pinhole.Classifier(demo, max_image_memory=1000).classify(photo.read_bytes())


def test_thresholds_decide_what_is_unknown(photo: Path) -> None:
    demo = ASSETS / "demo"
    assert pinhole.Classifier(demo, min_similarity=1.0).classify(photo).unknown
    assert pinhole.Classifier(demo, min_margin=2.0).classify(photo).unknown
    assert not pinhole.Classifier(demo, min_similarity=-1.0, min_margin=0.0).classify(photo).unknown


def test_threads_share_a_classifier_and_run_python_meanwhile(classifier: pinhole.Classifier) -> None:
    expected = [classifier.embed(path) for path in SAMPLES]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: [classifier.embed(path) for path in SAMPLES], range(4)):
            assert all(map(np.array_equal, found, expected))
    # While a batch runs, another thread of Python goes on.
    counted = 0
    done = threading.Event()

    def run() -> None:
        classifier.embed_batch(SAMPLES * 10)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not done.is_set():
        counted += 1
        time.sleep(0.0005)
    thread.join()
    assert counted > 10


def test_ctrl_c_ends_a_batch(classifier: pinhole.Classifier, photo: Path) -> None:
    def endless() -> Any:
        while True:
            yield photo

    # A shell starts jobs in the background with this signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        classifier.classify_batch(endless())
    assert time.monotonic() - start < 5


def test_an_interrupted_path_stays_interrupted(classifier: pinhole.Classifier) -> None:
    class Interrupted:
        def __fspath__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier.classify(Interrupted())


def classify_in_child(classifier: pinhole.Classifier, photo: Path, results: Any) -> None:
    try:
        results.put(classifier.classify(photo).best.name)
    except pinhole.PinholeError as error:
        results.put(str(error))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_forked_process_is_told_to_open_its_own(
    classifier: pinhole.Classifier, photo: Path, method: str
) -> None:
    """A fork has no threads: without the check it would wait for ever. A spawned process opens the bundle again."""
    context: Any = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=classify_in_child, args=(classifier, photo, results))
    child.start()
    found = results.get(timeout=60)
    child.join()
    assert found == "red heart" if method == "spawn" else "forked" in found


def test_a_pickled_classifier_has_its_options(photo: Path) -> None:
    strict = pinhole.Classifier(ASSETS / "demo", threads=1, min_similarity=1.0)
    copy = pickle.loads(pickle.dumps(strict))
    assert copy.threads == 1 and copy.classify(photo).unknown


def test_the_manifest_is_a_dict(classifier: pinhole.Classifier) -> None:
    manifest = classifier.manifest
    assert manifest["classes"] == classifier.classes
    assert manifest["model"]["image_size"] == classifier.image_size
    assert classifier.kernels in {"avx512vnni", "avxvnni", "avx512", "avx2", "scalar", "neon", "dotprod", "i8mm", "fp16"}


def test_a_bundle_without_text_encoder_takes_no_classes() -> None:
    with pytest.raises(pinhole.BundleError, match="--with-text"):
        pinhole.set_classes(ASSETS / "demo", ["cat"])
    with pytest.raises(ValueError, match="unknown"):
        pinhole.set_classes(ASSETS / "demo", ["unknown"])
