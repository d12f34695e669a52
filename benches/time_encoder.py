"""Compares our image encoder with ONNX Runtime and OpenVINO: time_encoder.py PINHOLE FOLDER [--quick] [PART...]

FOLDER is what benches/encoder prepares; its name is the encoder's. PART is int8, f32, f16, memory or opening (default: int8
and f32). First each file runs on the sample images: its embeddings are compared with PyTorch's, and its time chooses each
peer's fastest file of the precision. Then ours and these are measured in rounds, in turns, each in a process of its own.
The table has the medians over the rounds, and the median of the rounds' ratios to the peer with the lowest median.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SAMPLES = sorted(str(path) for path in (HERE.parent / "assets" / "samples").iterdir())
# Ours below it is an error. A quantised file of a peer below it is reported and not timed.
MIN_COSINE = {"f32": 0.9999, "f16": 0.999, "int8": 0.98}
MIN_PEER_COSINE = {"f32": 0.9999, "int8": 0.9}
ROUNDS, QUICK_ROUNDS = 7, 3
# Runs per process; the first ones warm up caches and threads and are not counted.
RUNS, QUICK_RUNS, WARM_UP = 24, 12, 4
COMPARED = """
Medians of {rounds} rounds in turns, each of {runs} runs. Pinhole: `encode` of `pinhole classify --json`, from u8 pixels
to the normalised embedding; a peer: its run on normalised f32 pixels. Opening, Pinhole: the whole of `pinhole inspect` with
the start of the process; a peer: creation of its session, without Python and imports.
"""
PEER_FILES = {
    "f32": [("ONNX Runtime", "f32.onnx"), ("OpenVINO", "f32.onnx")],
    # OpenVINO has no MatMulInteger.
    "int8": [
        ("ONNX Runtime", "dynamic.onnx"),
        ("ONNX Runtime", "dynamic-per-channel.onnx"),
        ("ONNX Runtime", "qdq.onnx"),
        ("ONNX Runtime", "qdq-linear.onnx"),
        ("OpenVINO", "qdq.onnx"),
        ("OpenVINO", "qdq-linear.onnx"),
    ],
}


class Bar(NamedTuple):
    """The share of a peer's time to stay within."""

    share: float
    # The peer; None is the fastest.
    peer: str | None = None
    # In place of `share` on a processor without instructions that add 8-bit products up (VNNI).
    without_vnni: float | None = None


TRANSFORMER = {"int8": Bar(0.75, without_vnni=0.90)}
BARS = {
    "ViT-B-32": {"int8": Bar(0.70), "f32": Bar(1.0, peer="ONNX Runtime")},
    "ViT-B-16": TRANSFORMER,
    "SigLIP-B-16": TRANSFORMER,
    "TinyCLIP-8M": TRANSFORMER,
    "MobileCLIP2-S0": {"int8": Bar(0.75), "f32": Bar(1.0)},
    "RN50": {"int8": Bar(0.85), "f32": Bar(1.0)},
}


class Bench:
    def __init__(self, pinhole, folder, rounds, runs):
        self.pinhole, self.folder, self.rounds, self.runs = pinhole, Path(folder), rounds, runs
        self.name = self.folder.resolve().name
        self.precisions = [p for p in MIN_COSINE if Path(self.bundle(p)).exists()]
        # The fastest file of each peer, by precision.
        self.fastest = {}

    def bundle(self, precision):
        return str(self.folder / "bundles" / precision)

    def peer(self, name, file, threads, runs, *embeddings):
        files = self.folder / "files"
        program = name.lower().replace(" ", "")
        command = [sys.executable, HERE / "time_peer.py", program, files / file, files / "pixels.npy"]
        return json.loads(output([*command, str(threads), str(runs), *embeddings]))

    def peer_encode(self, name, file, threads):
        return statistics.median(self.peer(name, file, threads, self.runs)["run_ms"][WARM_UP:])

    def our_encode(self, precision, threads):
        command = [self.pinhole, "classify", "--json", "--threads", str(threads), self.bundle(precision)]
        lines = output([*command, *[SAMPLES[0]] * self.runs]).splitlines()
        return statistics.median(json.loads(line)["latency_ms"]["encode"] for line in lines[WARM_UP:])

    def our_embeddings(self, precision):
        lines = output([self.pinhole, "embed", "--json", self.bundle(precision), *SAMPLES]).splitlines()
        return [json.loads(line)["embedding"] for line in lines]

    def our_opening(self, threads):
        """Milliseconds of `pinhole inspect`, which opens the bundle and runs no image."""
        start = perf_counter()
        output([self.pinhole, "inspect", "--json", "--threads", str(threads), self.bundle("int8")])
        return 1e3 * (perf_counter() - start)

    def our_peak(self):
        """Peak memory in MB of `pinhole classify` on one image with the default number of threads.

        Linux includes the memory of the parent process in a child's peak; this process stays small, as it does not load the
        peers' packages.
        """
        command = [self.pinhole, "classify", self.bundle("int8"), SAMPLES[0]]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"error: {' '.join(command)} failed")
        return usage.ru_maxrss * 1024 / 1e6

    def in_rounds(self, measurements):
        """The values of each measurement, a dictionary of functions, made in turns."""
        values = {name: [] for name in measurements}
        for _ in range(self.rounds):
            for name, measure in measurements.items():
                values[name].append(measure())
        return values

    def encode(self, precision, threads):
        """The times of our bundle and of each peer's fastest file in this precision."""
        measurements = {"Pinhole": lambda: self.our_encode(precision, threads)}
        for name, file in self.fastest[precision].items():
            measurements[f"{name} {file}"] = lambda name=name, file=file: self.peer_encode(name, file, threads)
        return self.in_rounds(measurements)

    def bar(self, precision):
        bar = BARS.get(self.name, {}).get(precision)
        inspection = json.loads(output([self.pinhole, "inspect", "--json", self.bundle(precision)]))
        if bar and bar.without_vnni and "vnni" not in inspection["kernels"]:
            return bar._replace(share=bar.without_vnni)
        return bar


def output(command):
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if child.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} failed")
    return child.stdout


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))


def check(bench, precisions):
    """Compares every file with PyTorch, prints the cosines, and finds the peers' fastest files."""
    reference = json.loads((bench.folder / "files" / "reference.json").read_text())
    print(f"\n| {bench.name}, {len(SAMPLES)} images | mean cosine to PyTorch in f32 | worst | ms, 1 thread |\n|---|---|---|---|")

    def judge(name, precision, embeddings, least, time):
        cosines = [cosine(a, b) for a, b in zip(embeddings, reference, strict=True)]
        print(f"| {name} | {statistics.mean(cosines):.6f} | {min(cosines):.6f} | {time} |", flush=True)
        return min(cosines) >= least[precision]

    apart = []
    for precision in precisions:
        if not judge(f"Pinhole, {precision}", precision, bench.our_embeddings(precision), MIN_COSINE, ""):
            apart.append(f"Pinhole, {precision}: expected a cosine of at least {MIN_COSINE[precision]}")
        times = {}
        for name, file in PEER_FILES.get(precision, []):
            found = bench.peer(name, file, 1, QUICK_RUNS, "embeddings")
            time = statistics.median(found["run_ms"][WARM_UP:])
            if judge(f"{name}, {file}", precision, found["embeddings"], MIN_PEER_COSINE, f"{time:.1f}"):
                times.setdefault(name, {})[file] = time
            elif precision == "f32":
                apart.append(f"{name}, {file}: expected a cosine of at least {MIN_PEER_COSINE[precision]}")
        bench.fastest[precision] = {name: min(files, key=files.get) for name, files in times.items()}
    if apart:
        sys.exit("error: not the same network: " + "; ".join(apart))


def row(what, values, unit, bar):
    """Prints a row of the table. The first of `values` is ours."""
    (_, ours), *peers = values.items()
    if not peers:
        print(f"| {what}, {unit} | {statistics.median(ours):.1f} | none | | |", flush=True)
        return
    compared = [peer for peer in peers if not bar or not bar.peer or peer[0].startswith(bar.peer)]
    name, fastest = min(compared, key=lambda peer: statistics.median(peer[1]))
    ratios = [a / b for a, b in zip(ours, fastest)]
    ratio = statistics.median(ratios)
    others = "; ".join(f"{other} {statistics.median(v):.1f}" for other, v in peers)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(
        f"| {what}, {unit} | {statistics.median(ours):.1f} | {others} | {ratio:.3f} of {name} ({spread}) "
        f"| {verdict(ratio, bar.share, '') if bar else ''} |",
        flush=True,
    )


def verdict(value, most, unit):
    return f"at most {most:g}{unit}: {'met' if value <= most else 'missed'}"


def in_threads(threads):
    return "1 thread" if threads == 1 else f"{threads} threads"


def encoder(bench, precision):
    for threads in (1, 2):
        row(f"{precision}, {in_threads(threads)}", bench.encode(precision, threads), "ms", bench.bar(precision))


def f16(bench):
    measurements = {
        "Pinhole": lambda: bench.our_encode("f16", 1),
        "Pinhole f32": lambda: bench.our_encode("f32", 1),
    }
    row("f16, 1 thread", bench.in_rounds(measurements), "ms", None)


def memory(bench):
    runtime, file = "ONNX Runtime", bench.fastest["int8"]["ONNX Runtime"]
    measurements = {
        "Pinhole": bench.our_peak,
        f"{runtime} {file} in Python": lambda: bench.peer(runtime, file, 2, 1)["peak_bytes"] / 1e6,
    }
    values = bench.in_rounds(measurements)
    (_, ours), (peer, theirs) = values.items()
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    print(
        f"| peak memory of `pinhole classify`, int8, 1 image, MB | {ours:.0f} | {peer} {theirs:.0f} "
        f"| {ours / theirs:.3f} | {verdict(ours, 120, ' MB') if bench.name == 'ViT-B-32' else ''} |",
        flush=True,
    )


def opening(bench):
    runtime, file = "ONNX Runtime", bench.fastest["int8"]["ONNX Runtime"]
    for threads in (1, 2):
        measurements = {
            "Pinhole": lambda: bench.our_opening(threads),
            f"{runtime} {file}": lambda: bench.peer(runtime, file, threads, 0)["open_ms"],
        }
        row(f"opening int8, {in_threads(threads)}", bench.in_rounds(measurements), "ms", Bar(0.5))


class Part(NamedTuple):
    """A part of the table, and the bundles that it needs."""

    measure: object
    precisions: tuple


PARTS = {
    "int8": Part(lambda bench: encoder(bench, "int8"), ("int8",)),
    "f32": Part(lambda bench: encoder(bench, "f32"), ("f32",)),
    "f16": Part(f16, ("f16", "f32")),
    "memory": Part(memory, ("int8",)),
    "opening": Part(opening, ("int8",)),
}
DEFAULT_PARTS = ["int8", "f32"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pinhole")
    parser.add_argument("folder")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} shorter rounds in place of {ROUNDS}")
    parser.add_argument("parts", nargs="*", metavar="PART")
    arguments = parser.parse_intermixed_args()
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"PART: expected one of {', '.join(PARTS)}, found {part}")
    rounds, runs = (QUICK_ROUNDS, QUICK_RUNS) if arguments.quick else (ROUNDS, RUNS)
    bench = Bench(arguments.pinhole, arguments.folder, rounds, runs)
    inspection = json.loads(output([bench.pinhole, "inspect", "--json", bench.bundle("f32")]))
    print(f"\n{bench.name}, kernels: {inspection['kernels']}")
    versions = (HERE / "requirements.txt").read_text().split()
    print(f"peers: {', '.join(v.replace('==', ' ') for v in versions if not v.startswith(('numpy', 'matplotlib')))}")
    parts = {name: PARTS[name] for name in arguments.parts or DEFAULT_PARTS}
    needed = {precision for part in parts.values() for precision in part.precisions}
    check(bench, [p for p in MIN_COSINE if p in needed and p in bench.precisions])
    print(COMPARED.format(rounds=rounds, runs=runs - WARM_UP))
    side = inspection["manifest"]["model"]["image_size"]
    print(f"| {bench.name}, {side} x {side}, batch 1 | Pinhole | peers | ratio (lowest to highest of a round) | bar |")
    print("|---|---|---|---|---|", flush=True)
    for name, part in parts.items():
        missing = [p for p in part.precisions if p not in bench.precisions]
        if missing:
            print(f"| {name} | none: no bundle in {' and '.join(missing)} | | | |", flush=True)
        else:
            part.measure(bench)


if __name__ == "__main__":
    main()
