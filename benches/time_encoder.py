"""Compares our image encoder with ONNX Runtime and OpenVINO: time_encoder.py PINHOLE PEERS [--quick] [PART...]

PEERS is the folder that benches/encoder prepares; PART is int8, f32, f16, memory or opening (default: all). First the
embeddings of the sample images by each file are compared with open_clip's, and a file of another network is an error. Then the
measurements are made in rounds, ours and each peer in turns, each in a process of its own. The table has the medians over the
rounds, and the median of the rounds' ratios to the peer with the lowest median.
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

HERE = Path(__file__).resolve().parent
SAMPLES = sorted(str(path) for path in (HERE.parent / "assets" / "samples").iterdir())
MIN_COSINE = {"f32": 0.9999, "f16": 0.9999, "int8": 0.99}
ROUNDS, QUICK_ROUNDS = 7, 3
# Runs per process; the first ones warm up caches and threads and are not counted.
RUNS, WARM_UP = 24, 4
COMPARED = """
Medians of {rounds} rounds in turns, each of {runs} runs. Pinhole: `encode` of `pinhole classify --json`, from u8 pixels
to the normalised embedding; a peer: its run on normalised f32 pixels. Opening, Pinhole: the whole of `pinhole inspect` with
the start of the process; a peer: creation of its session, without Python and imports.
"""
PEER_FILES = {
    "f32": [("ONNX Runtime", "f32.onnx"), ("OpenVINO", "f32.onnx")],
    # Not timed, as slower than OpenVINO with qdq-linear.onnx: qdq.onnx in OpenVINO, and both in ONNX Runtime.
    "int8": [
        ("ONNX Runtime", "dynamic.onnx"),
        ("ONNX Runtime", "dynamic-per-channel.onnx"),
        ("OpenVINO", "qdq-linear.onnx"),
    ],
}


class Bench:
    def __init__(self, pinhole, folder, rounds):
        self.pinhole, self.folder, self.rounds = pinhole, Path(folder), rounds

    def bundle(self, precision):
        return str(self.folder / "bundles" / precision)

    def peer(self, name, file, threads, runs, *embeddings):
        files = self.folder / "files"
        program = name.lower().replace(" ", "")
        command = [sys.executable, HERE / "time_peer.py", program, files / file, files / "pixels.npy"]
        return json.loads(output([*command, str(threads), str(runs), *embeddings]))

    def peer_encode(self, name, file, threads):
        return statistics.median(self.peer(name, file, threads, RUNS)["run_ms"][WARM_UP:])

    def our_encode(self, precision, threads):
        command = [self.pinhole, "classify", "--json", "--threads", str(threads), self.bundle(precision)]
        lines = output([*command, *[SAMPLES[0]] * RUNS]).splitlines()
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


def output(command):
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if child.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} failed")
    return child.stdout


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))


def check_cosines(bench):
    """Prints the cosines of each file's embeddings with open_clip's; exits if one is too low."""
    reference = json.loads((bench.folder / "files" / "reference.json").read_text())
    answers = {("Pinhole", p, p): bench.our_embeddings(p) for p in MIN_COSINE}
    for precision, files in PEER_FILES.items():
        for name, file in files:
            answers[name, file, precision] = bench.peer(name, file, 2, 0, "embeddings")["embeddings"]
    print(f"\n| cosine with open_clip in f32, {len(SAMPLES)} images | mean | worst |\n|---|---|---|")
    apart = []
    for (name, file, precision), embeddings in answers.items():
        cosines = [cosine(a, b) for a, b in zip(embeddings, reference, strict=True)]
        print(f"| {name}, {file} | {statistics.mean(cosines):.6f} | {min(cosines):.6f} |", flush=True)
        if min(cosines) < MIN_COSINE[precision]:
            apart.append(f"{name}, {file}: expected a cosine of at least {MIN_COSINE[precision]}")
    if apart:
        sys.exit("error: not the same network: " + "; ".join(apart))


def row(what, values, unit, bar):
    """Prints a row of the table. The first of `values` is ours."""
    (_, ours), *peers = values.items()
    name, fastest = min(peers, key=lambda peer: statistics.median(peer[1]))
    ratios = [a / b for a, b in zip(ours, fastest)]
    ratio = statistics.median(ratios)
    others = "; ".join(f"{other} {statistics.median(v):.1f}" for other, v in peers)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(
        f"| {what}, {unit} | {statistics.median(ours):.1f} | {others} | {ratio:.3f} of {name} ({spread}) "
        f"| {verdict(ratio, bar, '')} |",
        flush=True,
    )


def verdict(value, bar, unit):
    if bar is None:
        return ""
    return f"at most {bar:g}{unit}: {'met' if value <= bar else 'missed'}"


def in_threads(threads):
    return "1 thread" if threads == 1 else f"{threads} threads"


def encode(bench, precision, threads):
    """The times of our bundle and of each peer's file in this precision."""
    measurements = {"Pinhole": lambda: bench.our_encode(precision, threads)}
    for name, file in PEER_FILES[precision]:
        measurements[f"{name} {file}"] = lambda name=name, file=file: bench.peer_encode(name, file, threads)
    return bench.in_rounds(measurements)


def int8(bench):
    for threads in (1, 2):
        row(f"int8, {in_threads(threads)}", encode(bench, "int8", threads), "ms", 0.70)


def f32(bench):
    values = encode(bench, "f32", 1)
    beside = values.pop("OpenVINO f32.onnx")
    row("f32, 1 thread", values, "ms", 1.0)
    row("f32, 1 thread", {"Pinhole": values["Pinhole"], "OpenVINO f32.onnx": beside}, "ms", None)


def f16(bench):
    measurements = {
        "Pinhole": lambda: bench.our_encode("f16", 1),
        "Pinhole f32": lambda: bench.our_encode("f32", 1),
    }
    row("f16, 1 thread", bench.in_rounds(measurements), "ms", None)


def memory(bench):
    runtime, file = PEER_FILES["int8"][0]
    measurements = {
        "Pinhole": bench.our_peak,
        f"{runtime} {file} in Python": lambda: bench.peer(runtime, file, 2, 1)["peak_bytes"] / 1e6,
    }
    values = bench.in_rounds(measurements)
    (_, ours), (peer, theirs) = values.items()
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    print(
        f"| peak memory of `pinhole classify`, int8, 1 image, MB | {ours:.0f} | {peer} {theirs:.0f} "
        f"| {ours / theirs:.3f} | {verdict(ours, 120, ' MB')} |",
        flush=True,
    )


def opening(bench):
    runtime, file = PEER_FILES["int8"][0]
    for threads in (1, 2):
        measurements = {
            "Pinhole": lambda: bench.our_opening(threads),
            f"{runtime} {file}": lambda: bench.peer(runtime, file, threads, 0)["open_ms"],
        }
        row(f"opening int8, {in_threads(threads)}", bench.in_rounds(measurements), "ms", 0.5)


PARTS = {"int8": int8, "f32": f32, "f16": f16, "memory": memory, "opening": opening}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pinhole")
    parser.add_argument("peers")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds in place of {ROUNDS}")
    parser.add_argument("parts", nargs="*", metavar="PART")
    arguments = parser.parse_intermixed_args()
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"PART: expected one of {', '.join(PARTS)}, found {part}")
    bench = Bench(arguments.pinhole, arguments.peers, QUICK_ROUNDS if arguments.quick else ROUNDS)
    inspection = json.loads(output([bench.pinhole, "inspect", "--json", bench.bundle("int8")]))
    print(f"kernels: {inspection['kernels']}")
    versions = (HERE / "requirements.txt").read_text().split()
    print(f"peers: {', '.join(v.replace('==', ' ') for v in versions if not v.startswith('numpy'))}")
    check_cosines(bench)
    print(COMPARED.format(rounds=bench.rounds, runs=RUNS - WARM_UP))
    print("| ViT-B/32, 224 x 224, batch 1 | Pinhole | peers | ratio (lowest to highest of a round) | bar |")
    print("|---|---|---|---|---|", flush=True)
    for part in arguments.parts or PARTS:
        PARTS[part](bench)


if __name__ == "__main__":
    main()
