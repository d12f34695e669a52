"""Compares the time of Pillow's bicubic resize with ours: time_preprocessing.py [RUNS].

Both resize the same sizes in turns on one thread, the short side to 224. Pillow's time is Image.resize of the whole image;
ours includes the crop. Prints the medians.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, __version__

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ["cargo", "run", "--quiet", "--release", "-p", "pinhole-preprocessing", "--example", "resize_time", "--"]
SIZE = 224


def pillow(image, size):
    start = time.perf_counter()
    image.resize(size, Image.Resampling.BICUBIC)
    return time.perf_counter() - start


def main(runs):
    subprocess.run([*EXAMPLE, "8", "8", "8", "1"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    print(f"Pillow {__version__}, median of {runs} runs, milliseconds")
    for width, height in [(640, 480), (1920, 1080), (4000, 3000)]:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        short = min(width, height)
        size = (SIZE * width // short, SIZE * height // short)
        theirs, ours = [], []
        # In turns, so that other load on the machine affects both.
        for _ in range(5):
            theirs += [pillow(image, size) for _ in range(runs // 5)]
            arguments = [str(v) for v in (width, height, SIZE, runs // 5)]
            output = subprocess.run([*EXAMPLE, *arguments], check=True, cwd=ROOT, capture_output=True, text=True)
            ours += [float(line) for line in output.stdout.split()]
        theirs, ours = statistics.median(theirs) * 1e3, statistics.median(ours) * 1e3
        print(f"{width} x {height}: Pillow {theirs:.2f}, Pinhole {ours:.2f}, ratio {theirs / ours:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
