"""Compares two ways to classify many images: measure_ray.py BUNDLE FOLDER [IMAGES]

In turns, one process with two threads (`classify_batch`) and the job of examples/ray_data.py: two workers with one thread each,
which write Parquet. Starting Ray takes seconds, however many images there are: jobs of IMAGES (100 by default) and of three times
as many are timed, and the throughput is that of the images between. Prints the median of three rounds.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import pinhole

EXAMPLE = Path(__file__).parent / "examples" / "ray_data.py"
ROUNDS = 3
SUFFIXES = {".jpg", ".jpeg", ".png"}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(bundle: str, folder: str, images: str = "100") -> None:
    found = sorted(file for file in Path(folder).resolve().rglob("*") if file.suffix.lower() in SUFFIXES)
    if not found:
        sys.exit(f"error: {folder}: expected images ({', '.join(sorted(SUFFIXES))})")
    counts = [int(images), 3 * int(images)]
    with tempfile.TemporaryDirectory() as work:
        folders = [Path(work) / str(count) for count in counts]
        for of_job, count in zip(folders, counts, strict=True):
            of_job.mkdir()
            for index, file in enumerate(islice(cycle(found), count)):
                shutil.copy(file, of_job / f"{index:06}{file.suffix}")
        classifier = pinhole.Classifier(bundle, threads=2)
        lists = [sorted(str(file) for file in of_job.iterdir()) for of_job in folders]
        out = Path(work) / "answers"

        def job(of_job: Path) -> None:
            shutil.rmtree(out, ignore_errors=True)
            subprocess.run([sys.executable, EXAMPLE, bundle, of_job, out], check=True, capture_output=True)

        rates: dict[str, list[float]] = {"process": [], "ray": []}
        starts = []
        for _ in range(ROUNDS):
            times = [seconds(partial(classifier.classify_batch, paths)) for paths in lists]
            rates["process"].append((counts[1] - counts[0]) / (times[1] - times[0]))
            times = [seconds(partial(job, of_job)) for of_job in folders]
            rate = (counts[1] - counts[0]) / (times[1] - times[0])
            rates["ray"].append(rate)
            starts.append(times[0] - counts[0] / rate)
    one, two = (statistics.median(rates[way]) for way in ("process", "ray"))
    print(f"one process with two threads: {one:.1f} images a second")
    print(f"Ray, two workers with one thread each: {two:.1f} images a second, {statistics.median(starts):.1f} s to start a job")
    print(f"ratio {two / one:.2f}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
