"""Judges quantised files of ONNX Runtime in pinhole: foreign.py PINHOLE PINHOLE_EXPORT FOLDER [IMAGE...]

FOLDER has f32.onnx, the preprocessing (open_clip_config.json or preprocessor_config.json), classes.npy and classes.txt, and
the quantised files dynamic*.onnx and qdq*.onnx: `benches/encoder` leaves such folders in target/peers/ENCODER/files (random
weights), `tests/conformance/trained` in target/trained (trained ones). IMAGE: default assets/samples.

Fidelity is the cosine to f32.onnx in ONNX Runtime. Each file fails if Pinhole's mean fidelity is below that of ONNX Runtime
without optimisations, which computes the graph exactly (its optimisations change the answer, on processors without VNNI by
much), if the exported file in ONNX Runtime differs from Pinhole, or if Pinhole is slower. Use a release build on an idle
machine. With random weights a value that is rounded differently changes the answer as much as the quantisation does, so
that the fidelities differ by chance, within the tolerance.
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

import given_text
from compare import cosines, pinhole_embeddings, pixels

SAMPLES = sorted(str(path) for path in (Path(__file__).resolve().parents[2] / "assets" / "samples").iterdir())
# By how much the loss of fidelity may exceed that of the exact graph.
TOLERANCE = 1.05
MIN_EXPORTED = 0.9999
PREPROCESSING = ("open_clip_config.json", "preprocessor_config.json")


def encode_times(pinhole, bundle, threads, images):
    command = [pinhole, "classify", bundle, "--json", "--threads", str(threads), *images]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    # The first image also warms up.
    return [json.loads(line)["latency_ms"]["encode"] for line in lines[1:]]


def session(file, threads, optimized=True):
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run(session, crops):
    """Embeddings of each crop by itself, f64 [N, D]."""
    name = session.get_inputs()[0].name
    return numpy.concatenate([session.run(None, {name: crop[None]})[0] for crop in crops]).astype(numpy.float64)


def normalised(u8, bundle, session):
    """What the file takes, f32, in its layout, from the pixels u8 [N, S, S, 3]."""
    preprocessing = json.loads((Path(bundle) / "manifest.json").read_text())["preprocessing"]
    crops = u8.astype(numpy.float32) / 255
    crops = (crops - numpy.float32(preprocessing["mean"])) / numpy.float32(preprocessing["std"])
    channels_last = session.get_inputs()[0].shape[-1] == 3
    return crops if channels_last else numpy.ascontiguousarray(crops.transpose(0, 3, 1, 2))


class ExportError(Exception):
    """The message of pinhole-export."""


def export(export, folder, file, out, *options):
    """Exports an ONNX file of the folder with its preprocessing and class embeddings.

    Raises ExportError.
    """
    config = next(Path(folder) / name for name in PREPROCESSING if (Path(folder) / name).exists())
    command = [export, "onnx", "--encoder", file, "--preprocessing", config, *given_text.options(folder), *options]
    done = subprocess.run([*map(str, command), "--out", str(out)], capture_output=True, text=True)
    if done.returncode:
        raise ExportError(done.stderr.strip().splitlines()[-1])


def ratios(pinhole, bundle, file, crops, images, rounds=3):
    """Median times of Pinhole and of ONNX Runtime in ms, for 1 and 2 threads."""
    found = []
    for threads in (1, 2):
        runtime = session(file, threads)
        name = runtime.get_inputs()[0].name
        runtime.run(None, {name: crops[:1]})
        ours, other = [], []
        for _ in range(rounds):
            ours += encode_times(pinhole, bundle, threads, images)
            for crop in crops:
                start = time.perf_counter()
                runtime.run(None, {name: crop[None]})
                other.append(1000 * (time.perf_counter() - start))
        found.append((statistics.median(ours), statistics.median(other)))
    return found


def main(pinhole, exporter, folder, images):
    failed = 0
    reference = session(Path(folder) / "f32.onnx", 2)
    files = sorted([*Path(folder).glob("dynamic*.onnx"), *Path(folder).glob("qdq*.onnx")])
    if not files:
        sys.exit(f"error: {folder}: expected dynamic*.onnx or qdq*.onnx, found none")
    print(
        "| file | fidelity, mean and worst: Pinhole | the exact graph | ONNX Runtime | to the exported file, worst "
        "| time of ONNX Runtime's, 1 and 2 threads | |\n|---|---|---|---|---|---|---|"
    )
    for file in files:
        with tempfile.TemporaryDirectory() as work:
            bundle = str(Path(work) / "bundle")
            try:
                export(exporter, folder, file, bundle)
            except ExportError as error:
                failed += 1
                print(f"| {file.stem} | {error} | | | | | FAILED |", flush=True)
                continue
            u8 = pixels(pinhole, bundle, images)
            crops = normalised(u8, bundle, reference)
            expected = run(reference, crops)
            found = pinhole_embeddings(pinhole, bundle, images)
            exact, optimised = (run(session(file, 1, optimized), crops) for optimized in (False, True))
            ours, exact, optimised = (cosines(a, expected) for a in (found, exact, optimised))
            exported = cosines(found, run(session(Path(bundle) / "image_encoder.onnx", 1), u8)).min()
            times = ratios(pinhole, bundle, file, crops[:12], images[:12])
        least = 1 - TOLERANCE * (1 - exact.mean())
        # Two programs that round differently are no closer to each other than the quantised network is to f32.
        passed = ours.mean() >= least and exported >= min(MIN_EXPORTED, ours.mean()) and all(a < b for a, b in times)
        failed += not passed
        shares = ", ".join(f"{a / b:.2f} ({a:.1f} of {b:.1f} ms)" for a, b in times)
        fidelity = " | ".join(f"{c.mean():.5f}, {c.min():.5f}" for c in (ours, exact, optimised))
        print(f"| {file.stem} | {fidelity} | {exported:.6f} | {shares} | {'ok' if passed else 'FAILED'} |", flush=True)
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(1 if main(*sys.argv[1:4], sys.argv[4:] or SAMPLES) else 0)
