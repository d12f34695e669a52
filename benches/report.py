"""Writes the latency report; benches/report runs it: report.py PINHOLE --out FILE.md [OPTIONS] BUNDLE...

Measurements are made in rounds, those that are compared in turns, each in a process of its own. A figure is the median over
the rounds, a ratio the median of the rounds' ratios.
"""

import argparse
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy
from PIL import Image

import boards

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent
ROUNDS, SECONDS = 3, 2
QUICK_ROUNDS, QUICK_SECONDS = 2, 1
# Runs per process of a peer; the first ones warm up and are not counted.
RUNS, WARM_UP = 24, 4
MODES = ["exact", "shortlist", "linear", "auto"]
MIN_COSINE = {"f32": 0.9999, "int8": 0.99}
# Each peer's fastest file in the precision.
PEER_FILES = {
    "f32": {"ONNX Runtime": "f32.onnx", "OpenVINO": "f32.onnx", "tract": "f32.onnx", "rten": "f32.onnx"},
    "int8": {"ONNX Runtime": "dynamic.onnx", "OpenVINO": "qdq-linear.onnx", "tract": "dynamic.onnx", "rten": "dynamic.onnx"},
}
IN_PYTHON = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


def output(command, required=True):
    child = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if child.returncode == 0:
        return child.stdout
    if required:
        sys.exit(f"error: {' '.join(map(str, command))} failed")
    return None


def note(text):
    print(text, file=sys.stderr, flush=True)


def cosine(a, b):
    return float(numpy.dot(a, b) / math.sqrt(numpy.dot(a, a) * numpy.dot(b, b)))


def in_threads(threads):
    return "1 thread" if threads == 1 else f"{threads} threads"


def photo(path):
    """Writes a JPEG file of 640 x 480, smooth as a photo, the same on every machine."""
    y, x = numpy.mgrid[0:480, 0:640] / 64
    channels = [128 + 60 * numpy.sin(x * (1 + c) + c) + 40 * numpy.cos(y * (2 + c)) for c in range(3)]
    picture = io.BytesIO()
    Image.fromarray(numpy.stack(channels, axis=2).astype(numpy.uint8)).save(picture, "JPEG", quality=90)
    path.write_bytes(picture.getvalue())


class Bundle:
    def __init__(self, pinhole, folder):
        inspection = json.loads(output([pinhole, "inspect", "--json", folder]))
        self.folder = folder
        self.name = Path(folder).name
        self.kernels = inspection["kernels"]
        self.manifest = inspection["manifest"]
        self.precision = self.manifest["precision"]
        self.side = self.manifest["model"]["image_size"]
        self.modes = MODES if self.manifest.get("conditional") else [None]
        encoder = [f["bytes"] for f in self.manifest["files"] if f["path"].startswith("image_encoder")]
        self.weight_bytes = sum(encoder)

    def title(self):
        return f"{self.name} ({self.manifest['model']['name']}, {self.side} x {self.side})"


class Report:
    def __init__(self, arguments, work):
        self.arguments, self.work = arguments, Path(work)
        self.rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
        self.seconds = QUICK_SECONDS if arguments.quick else SECONDS
        processors = len(os.sched_getaffinity(0))
        self.threads = [t for t in (1, 2, 4) if t < processors] + [processors]
        self.image = self.work / "photo.jpg"
        photo(self.image)
        self.bundles = [Bundle(arguments.pinhole, folder) for folder in arguments.bundles]
        self.missing = []
        self.lines = []

    def bench(self, bundle, threads, mode=None):
        command = [self.arguments.pinhole, "bench", bundle.folder, "--json", "--seconds", self.seconds]
        command += ["--threads", threads, "--image", self.image]
        if mode:
            command += ["--conditional", mode]
        return json.loads(output(command))

    def peer(self, name, file, pixels, threads, runs, *embeddings):
        program = [sys.executable, HERE / "time_peer.py", IN_PYTHON.get(name)]
        if name not in IN_PYTHON:
            program = [self.arguments.peer_program, name]
        text = output([*program, file, pixels, threads, runs, *embeddings], required=False)
        return text and json.loads(text)

    def in_turns(self, measurements):
        """The values of each measurement, {key: function}, round by round."""
        values = {key: [] for key in measurements}
        for number in range(self.rounds):
            note(f"round {number + 1} of {self.rounds}: {len(measurements)} measurements")
            for key, measure in measurements.items():
                values[key].append(measure())
        return values

    def write(self, *lines):
        self.lines += lines

    def end_to_end(self):
        """Measures every bundle, number of threads and head."""
        measurements = {}
        for bundle in self.bundles:
            for threads in self.threads:
                for mode in bundle.modes:
                    measure = lambda bundle=bundle, threads=threads, mode=mode: self.bench(bundle, threads, mode)
                    measurements[bundle, threads, mode] = measure
        results = self.in_turns(measurements)
        self.write(
            "## From a JPEG file to the result",
            "",
            f"`pinhole bench BUNDLE --threads N --seconds {self.seconds} --image photo.jpg [--conditional HEAD] --json`, "
            f"in turns, medians of {self.rounds} rounds. The photo is a JPEG file of 640 x 480. Times in ms, except in the last three columns.",
            "",
            "| bundle | precision | threads | head | p50 | p90 | p99 | mean | min | decode | preprocess | encode | head "
            "| frames/s | load, ms | peak, MB |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        )
        for (bundle, threads, mode), found in results.items():
            # A percentile of too few images is null.
            def median(get):
                values = [get(result) for result in found]
                return None if None in values else statistics.median(values)

            show = lambda t: "-" if t is None else f"{t:.3g}" if t < 1 else f"{t:.2f}"
            times = [median(lambda r: r["latency_ms"][key]) for key in ("p50", "p90", "p99", "mean", "min")]
            times += [median(lambda r: r["stages_ms"][s]["p50"]) for s in ("decode", "preprocess", "encode", "head")]
            classes = len(bundle.manifest["classes"])
            head = f"{mode or 'static'}, {classes} {'class' if classes == 1 else 'classes'}"
            cells = [bundle.name, bundle.precision, threads, head, *map(show, times)]
            cells += [f"{median(lambda r: r['frames_per_second']):.1f}", f"{median(lambda r: r['load_ms']):.0f}"]
            peak = [result["peak_rss_bytes"] for result in found]
            cells += ["" if None in peak else f"{statistics.median(peak) / 1e6:.0f}"]
            self.write("| " + " | ".join(map(str, cells)) + " |")
        self.write("")

    def encoders(self):
        """Pairs of a bundle and the peers' files of the same network: [(bundle, {peer: file}, pixels)]."""
        files = self.arguments.files
        if files:
            for bundle in self.bundles:
                if bundle.name in PEER_FILES:
                    own = {name: Path(files) / file for name, file in PEER_FILES[bundle.name].items()}
                    if not self.arguments.peer_program:
                        own = {name: file for name, file in own.items() if name in IN_PYTHON}
                    yield bundle, own, Path(files) / "pixels.npy"
            return
        for bundle in self.bundles:
            pixels = self.work / f"{bundle.name}.npy"
            random = numpy.random.default_rng(1)
            numpy.save(pixels, random.integers(0, 256, (1, bundle.side, bundle.side, 3), dtype=numpy.uint8))
            yield bundle, {"ONNX Runtime": Path(bundle.folder) / "image_encoder.onnx"}, pixels

    def same_network(self, encoders):
        """Skips files that do not run or give other embeddings than open_clip."""
        if not self.arguments.files:
            return encoders
        reference = json.loads((Path(self.arguments.files) / "reference.json").read_text())
        kept = []
        for bundle, own, pixels in encoders:
            right = {}
            for name, file in own.items():
                found = self.peer(name, file, pixels, 1, 0, "embeddings")
                if not found:
                    self.missing.append(f"{name}, {file.name}: does not run")
                    continue
                worst = min(cosine(a, b) for a, b in zip(found["embeddings"], reference, strict=True))
                if worst < MIN_COSINE[bundle.precision]:
                    self.missing.append(f"{name}, {file.name}: cosine of {worst:.4f} with open_clip's f32, so not the same network")
                    continue
                right[name] = file
            kept.append((bundle, right, pixels))
        return kept

    def compare_with_peers(self):
        encoders = self.same_network(list(self.encoders()))
        measurements = {}
        for bundle, own, pixels in encoders:
            for threads in self.threads:
                measurements[bundle, threads, "Pinhole"] = lambda bundle=bundle, threads=threads: self.bench(bundle, threads)[
                    "stages_ms"
                ]["encode"]["p50"]
                for name, file in own.items():
                    if name == "tract" and threads > 1:
                        continue

                    def measure(name=name, file=file, pixels=pixels, threads=threads):
                        return statistics.median(self.peer(name, file, pixels, threads, RUNS)["run_ms"][WARM_UP:])

                    measurements[bundle, threads, name] = measure
        results = self.in_turns(measurements)
        self.write(
            "## The image encoder compared with other programs",
            "",
            "ms per image; ratio: our time divided by the peer's (below 1: ours is faster). Pinhole: `encode` of `pinhole bench`, "
            "from u8 pixels to the normalised embedding; a peer: its run on normalised pixels"
            + ("" if self.arguments.files else ", here of the bundle's own image_encoder.onnx")
            + f"; in turns, medians of {self.rounds} rounds. tract runs on one thread, its default.",
            "",
            "| bundle | threads | Pinhole | peer | its file | its time | ratio | lowest to highest of a round |",
            "|---|---|---|---|---|---|---|---|",
        )
        for bundle, own, _ in encoders:
            for threads in self.threads:
                ours = results[bundle, threads, "Pinhole"]
                for name, file in own.items():
                    theirs = results.get((bundle, threads, name))
                    if not theirs:
                        continue
                    ratios = [a / b for a, b in zip(ours, theirs)]
                    self.write(
                        f"| {bundle.name} | {threads} | {statistics.median(ours):.1f} | {name} | {file.name} "
                        f"| {statistics.median(theirs):.1f} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
                    )
        self.write("")
        self.write(*[f"Skipped: {reason}." for reason in self.missing], *[""] * bool(self.missing))
        return {key: statistics.median(values) for key, values in results.items()}

    def plot(self, path, pairs):
        """Draws bars of the encoder's and the peers' times, and from the lowest to the highest predicted time on boards."""
        panels = [panel for panel in (self.peer_bars(pairs), self.board_bars()) if panel[1]]
        # For a reproducible file.
        plt.rcParams.update({"svg.hashsalt": "pinhole", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
        rows = max(len(bars) for _, bars in panels)
        figure, axes = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 0.9 + 0.26 * rows), squeeze=False)
        for axis, (title, bars) in zip(axes[0], panels):
            labels, times, ours = zip(*bars)
            colours = ["#1b6ca8" if own else "#b8c4ce" for own in ours]
            widths = [time.high - time.low for time in times]
            drawn = axis.barh(range(len(bars)), widths, left=[time.low for time in times], color=colours)
            axis.bar_label(drawn, [str(time) if time.low else f"{time.high:.3g}" for time in times], padding=3)
            axis.set_yticks(range(len(bars)), labels)
            axis.invert_yaxis()
            axis.set_xscale("log")
            axis.set_xlim(min(time.low or time.high for time in times) / 2, max(time.high for time in times) * 4)
            axis.set_xlabel("ms per image (logarithmic; less is better)")
            axis.set_title(title, loc="left", fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})

    def peer_bars(self, pairs):
        bars = [
            (f"{bundle.name}, {in_threads(t)}: {name}", boards.Range(0, value), name == "Pinhole")
            for (bundle, t, name), value in pairs.items()
        ]
        return "Image encoder, measured here", bars

    def board_bars(self):
        bars = [(f"{board.name}, {name}", one, True) for name, board, one, _ in boards.predictions()]
        return "On boards, predicted, 1 thread", bars


def lines(path):
    return Path(path).read_text().splitlines() if path else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pinhole")
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--out", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--files", help="folder of the peers' files of the network of the bundles f32 and int8")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--peer-program", help="program that times peers in Rust")
    parser.add_argument("--provenance", required=True)
    arguments = parser.parse_args()
    out = Path(arguments.out)
    with tempfile.TemporaryDirectory() as work:
        report = Report(arguments, work)
        machine, processors, date, commit = lines(arguments.provenance)
        versions = (HERE / "requirements.txt").read_text().split()
        peers = [v.replace("==", " ") for v in versions if not v.startswith(("numpy", "matplotlib"))]
        command = "benches/report" if arguments.files else f"benches/report {' '.join(arguments.bundles)}"
        report.write(
            "# Latency",
            "",
            f"Made by `{command}{' --quick' * arguments.quick}` on {date}, {commit}. Machine: {machine}; {processors}; kernels "
            f"{report.bundles[0].kernels}."
            + (f" Peers: {', '.join(peers)}, tract 0.23.9, rten 0.27.0." if arguments.peers else ""),
            "",
            *(f"- {bundle.title()}: {bundle.precision}, image encoder of {bundle.weight_bytes / 1e6:.1f} MB" for bundle in report.bundles),
            "",
        )
        if arguments.files:
            report.write("ViT-B/32 has random weights, which do not affect the times; the demo is trained.", "")
        body = len(report.lines)
        report.end_to_end()
        pairs = report.compare_with_peers() if arguments.peers else {}
        report.write(*boards.section())
        picture = out.with_suffix(".svg")
        report.plot(picture, pairs)
        report.lines[body:body] = [f"![Time of the image encoder]({picture.name})", ""]
        partial = out.with_suffix(".partial")
        partial.write_text("\n".join(report.lines).rstrip() + "\n")
        partial.replace(out)
        note(f"{out} written")


if __name__ == "__main__":
    main()
