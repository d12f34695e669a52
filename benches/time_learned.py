"""Compares learned methods with zero-shot classification by time: time_learned.py PINHOLE FOLDER PRECISION...

FOLDER is what benches/learned prepares. In rounds, in turns, each a process of its own. The table has medians over the rounds
and of the rounds' ratios: of tokens, their encode time by that of zero-shot; of a cache, what its head takes more than that of
zero-shot, by the encode time.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "assets" / "samples" / "red-heart.png"
ROUNDS, RUNS, WARM_UP = 7, 10, 3
# Of the encode time.
MOST_TOKENS, MOST_CACHE = 1.03, 0.01


def measure(pinhole, bundle, threads):
    """Medians of `encode` and `head` in milliseconds."""
    command = [pinhole, "classify", "--json", "--threads", str(threads), bundle, *[SAMPLE] * RUNS]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    latencies = [json.loads(line)["latency_ms"] for line in lines[WARM_UP:]]
    return [statistics.median(latency[stage] for latency in latencies) for stage in ("encode", "head")]


def main(pinhole, folder, *precisions):
    failed = False
    print("\n| method | precision | threads | encode ms | head ms | of zero-shot's encode | bar | |\n|---|---|---|---|---|---|---|---|")
    for precision in precisions:
        for threads in (1, 2):
            methods = ["zero-shot", "maple", "promptsrc", "tip-adapter"]
            rounds = [
                {method: measure(pinhole, Path(folder) / f"{method}-{precision}", threads) for method in methods}
                for _ in range(ROUNDS)
            ]
            for method in methods:
                encode, head = (statistics.median(turn[method][i] for turn in rounds) for i in (0, 1))
                if method == "tip-adapter":
                    shares = [(turn[method][1] - turn["zero-shot"][1]) / turn["zero-shot"][0] for turn in rounds]
                    most = MOST_CACHE
                else:
                    shares = [turn[method][0] / turn["zero-shot"][0] for turn in rounds]
                    most = MOST_TOKENS
                share = statistics.median(shares)
                passed = method == "zero-shot" or share <= most
                failed |= not passed
                verdict = "" if method == "zero-shot" else "ok" if passed else "FAILED"
                bar = "" if method == "zero-shot" else most
                print(f"| {method} | {precision} | {threads} | {encode:.2f} | {head:.3f} | {share:.4f} | {bar} | {verdict} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
