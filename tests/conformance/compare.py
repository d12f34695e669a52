"""Compares ONNX Runtime with pinhole on bundles: compare.py PINHOLE IMAGE IMAGE IMAGE -- BUNDLE...

Each bundle's image_encoder.onnx must pass onnx.checker (full check). ONNX Runtime's embeddings of the three images,
one by one and as one batch, must have a cosine of at least 0.99999 with those of `pinhole embed`. For int8 the bound is
0.9999, because another order of f32 sums changes how ties are rounded, or the bundle's own cosine with f32 if that is
lower, as with random weights. ONNX Runtime gets the pixels that `pinhole preprocess` writes. If the weights are in a
separate file, the peak memory of opening the bundle must be below twice the encoder's size.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import onnx
import onnxruntime
from PIL import Image

MIN_COSINE, MIN_COSINE_INT8 = 0.99999, 0.9999
MAX_MEMORY = 2.0


def pinhole_embeddings(pinhole, bundle, images):
    lines = subprocess.run([pinhole, "embed", bundle, "--json", *images], check=True, capture_output=True, text=True)
    return numpy.array([json.loads(line)["embedding"] for line in lines.stdout.splitlines()], dtype=numpy.float64)


def pixels(pinhole, bundle, images):
    with tempfile.TemporaryDirectory() as folder:
        crops = []
        for i, image in enumerate(images):
            crop = Path(folder) / f"{i}.png"
            subprocess.run([pinhole, "preprocess", bundle, image, "--out", crop], check=True)
            crops.append(numpy.asarray(Image.open(crop)))
    return numpy.stack(crops)


def cosines(a, b):
    """The cosine of each row of `a` with that of `b`."""
    assert a.shape == b.shape, f"expected embeddings {a.shape}, found {b.shape}"
    return (a * b).sum(-1) / (numpy.linalg.norm(a, axis=-1) * numpy.linalg.norm(b, axis=-1))


def worst_cosine(a, b):
    return float(cosines(a, b).min())


def opening(pinhole, bundle):
    """Seconds and peak memory in bytes of `pinhole inspect`, which only opens the bundle.

    Linux includes the memory of the parent process in the child's peak: call this before loading any model.
    """
    start = time.monotonic()
    child = subprocess.Popen([pinhole, "inspect", bundle, "--json"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, f"pinhole inspect {bundle} failed"
    return time.monotonic() - start, usage.ru_maxrss * 1024


def main(pinhole, images, bundles):
    failed = 0
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    openings = [opening(pinhole, bundle) for bundle in bundles]
    for bundle, (seconds, memory) in zip(bundles, openings):
        path = Path(bundle) / "image_encoder.onnx"
        onnx.checker.check_model(str(path), full_check=True)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        ours = pinhole_embeddings(pinhole, bundle, images)
        batch = pixels(pinhole, bundle, images)
        singles = numpy.concatenate([session.run(None, {"pixels": batch[i : i + 1]})[0] for i in range(len(batch))])
        together = session.run(None, {"pixels": batch})[0]
        worst = [worst_cosine(ours, theirs.astype(numpy.float64)) for theirs in (singles, together)]
        size = sum(file.stat().st_size for file in Path(bundle).glob("image_encoder.*"))
        external = (Path(bundle) / "image_encoder.weights").exists()
        manifest = json.loads((Path(bundle) / "manifest.json").read_text())
        bound = MIN_COSINE
        if manifest["precision"] == "int8":
            bound = min(MIN_COSINE_INT8, manifest["fidelity"]["worst_cosine"])
        passed = min(worst) >= bound and not (external and memory >= MAX_MEMORY * size)
        failed += not passed
        verdict = "ok" if passed else "FAILED"
        print(
            f"{verdict:7} worst cosine: batch 1 {worst[0]:.7f}, batch {len(batch)} {worst[1]:.7f}; "
            f"opened in {seconds:.2f} s with {memory / 1e6:.0f} MB, {memory / size:.2f} x {size / 1e6:.0f} MB  "
            f"{Path(bundle).name}"
        )
    print(f"{len(bundles) - failed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    if sys.argv.count("--") != 1:
        sys.exit(__doc__)
    split = sys.argv.index("--")
    sys.exit(1 if main(sys.argv[1], sys.argv[2:split], sys.argv[split + 1 :]) else 0)
