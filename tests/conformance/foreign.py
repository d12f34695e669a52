"""Compares quantised files of other programs in pinhole and ONNX Runtime: foreign.py PINHOLE PINHOLE_EXPORT CLIP FILE.onnx...

CLIP is the checkpoint of the text encoder (benches/make_peers.py makes quantised files of a checkpoint). The checkpoint
must be trained for a few steps: with random weights, one value that is rounded differently changes the answer as much as
the quantisation does, even between two optimisation levels of ONNX Runtime. A suitable ViT-B/32, in about 10 minutes:

    pinhole-train clip --data shapes --image-size 224 --patch-size 32 --width 768 --layers 12 --embedding 512 \\
        --batch-size 16 --steps 35 --warm-up 20 --learning-rate 0.0003 --test-images 1 --out FOLDER

Prints for each file the worst cosine between the two on assets/samples, and the median time per image with 1 and 2
threads, measured in turns. Fails below a cosine of 0.999 to ONNX Runtime without optimisations (which change its own
answers for QDQ files with zero points), below 0.9999 to the exported file in ONNX Runtime, or if pinhole is slower. Use
a release build.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import onnxruntime

from compare import pinhole_embeddings, pixels, worst_cosine

SAMPLES = sorted(str(path) for path in (Path(__file__).resolve().parents[2] / "assets" / "samples").iterdir())


def encode_times(pinhole, bundle, threads):
    command = [pinhole, "classify", bundle, "--json", "--threads", str(threads), *SAMPLES]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    # The first image also warms up.
    return [json.loads(line)["latency_ms"]["encode"] for line in lines[1:]]


def session(file, threads, optimized=True):
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def main(pinhole, export, clip, files):
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        classes = Path(work) / "classes.txt"
        classes.write_text("cat\ndog\n")
        for file in files:
            bundle = str(Path(work) / Path(file).stem)
            command = [export, "onnx", "--encoder", file, "--clip", clip, "--classes", str(classes), "--out", bundle]
            subprocess.run(command, check=True, capture_output=True)
            manifest = json.loads((Path(bundle) / "manifest.json").read_text())
            preprocessing = manifest["preprocessing"]
            u8 = pixels(pinhole, bundle, SAMPLES)
            crops = u8.astype(numpy.float32) / 255
            crops = (crops - numpy.float32(preprocessing["mean"])) / numpy.float32(preprocessing["std"])
            crops = numpy.ascontiguousarray(crops.transpose(0, 3, 1, 2))
            optimized_session = session(file, 1)
            name = optimized_session.get_inputs()[0].name
            exact_session = session(file, 1, optimized=False)
            embeddings = [
                numpy.concatenate([s.run(None, {name: crop[None]})[0] for crop in crops]).astype(numpy.float64)
                for s in (exact_session, optimized_session)
            ]
            found = pinhole_embeddings(pinhole, bundle, SAMPLES)
            worst = worst_cosine(found, embeddings[0])
            exported = session(str(Path(bundle) / "image_encoder.onnx"), 1)
            exported = numpy.concatenate([exported.run(None, {"pixels": crop[None]})[0] for crop in u8])
            exported = worst_cosine(found, exported.astype(numpy.float64))
            optimized, own = worst_cosine(found, embeddings[1]), worst_cosine(*embeddings)
            ratios = []
            for threads in (1, 2):
                runtime = session(file, threads)
                runtime.run(None, {name: crops[:1]})
                ours, other = [], []
                for _ in range(3):
                    ours += encode_times(pinhole, bundle, threads)
                    for crop in crops:
                        start = time.perf_counter()
                        runtime.run(None, {name: crop[None]})
                        other.append(1000 * (time.perf_counter() - start))
                ratios.append((statistics.median(ours), statistics.median(other)))
            passed = worst >= 0.999 and exported >= 0.9999 and all(ours < other for ours, other in ratios)
            failed += not passed
            times = "; ".join(
                f"{threads} thread{'s' * (threads > 1)} {ours:.1f} ms, {ours / other:.2f} x ONNX Runtime's {other:.1f}"
                for threads, (ours, other) in zip((1, 2), ratios)
            )
            verdict = "ok" if passed else "FAILED"
            print(
                f"{verdict:7} {Path(file).name}: {manifest['precision']}, worst cosine {worst:.6f} to ONNX Runtime without its optimisations, "
                f"{optimized:.6f} with them (cosine between the two {own:.6f}), {exported:.6f} to the exported file in ONNX "
                f"Runtime; {times}",
                flush=True,
            )
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    sys.exit(1 if main(*sys.argv[1:4], sys.argv[4:]) else 0)
