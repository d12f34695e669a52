"""Prints what a call from Python costs beyond the library's own time: measure.py BUNDLE

A frame of 1920 x 1080 is given as a contiguous array, which must not be copied: a copy alone would take longer than the
bound. Also prints the time to import the package. Fails above 50 microseconds and 50 milliseconds.
"""

import statistics
import subprocess
import sys
import time

import numpy as np

import pinhole

CALL_US = 50.0
IMPORT_MS = 50.0


def overhead(classifier: pinhole.Classifier) -> float:
    """Time of a call beyond the sum of the library's stages, in microseconds: the least of several medians, as other
    programs only add to it."""
    frame = np.zeros((1080, 1920, 3), np.uint8)
    medians = []
    for _ in range(10):
        found = []
        for _ in range(20):
            start = time.perf_counter()
            answer = classifier.classify(frame)
            elapsed = time.perf_counter() - start
            found.append(1e6 * elapsed - 1e3 * answer.latency_ms["total"])
        medians.append(statistics.median(found))
    return min(medians)


def import_time(module: str) -> float:
    """Median time to import a module in a new interpreter, in milliseconds."""
    code = f"import time, numpy; s = time.perf_counter(); import {module}; print(1e3 * (time.perf_counter() - s))"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(9)]
    return statistics.median(float(run.stdout) for run in runs)


def main(bundle: str) -> int:
    frame = np.zeros((1080, 1920, 3), np.uint8)
    copies = []
    for _ in range(50):
        start = time.perf_counter()
        frame.copy()
        copies.append(1e6 * (time.perf_counter() - start))
    call, loaded = overhead(pinhole.Classifier(bundle, threads=1)), import_time("pinhole")
    print(f"a call: {call:.1f} us beyond the library's time (a copy of the frame: {statistics.median(copies):.0f} us)")
    print(f"import, beyond numpy's: {loaded:.1f} ms")
    return int(call > CALL_US or loaded > IMPORT_MS)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
