"""Prints what the Raspberry Pi's camera sees, whenever that changes: pi_camera.py BUNDLE [FRAMES]

Needs picamera2, which Raspberry Pi OS has (`sudo apt install python3-picamera2`, and a virtual environment made with
`--system-site-packages`). Where it is missing, the sample images of this repository stand for the camera.
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import pinhole

try:
    from picamera2 import Picamera2
except ImportError:
    Picamera2 = None


def camera_frames() -> Iterator[Any]:
    camera = Picamera2()
    # libcamera names formats by the order in a little-endian word: this is B, G, R in memory.
    camera.configure(camera.create_video_configuration({"format": "RGB888", "size": (640, 480)}))
    camera.start()
    try:
        while True:
            yield camera.capture_array()
    finally:
        camera.stop()


def sample_frames(classifier: pinhole.Classifier) -> Iterator[Any]:
    samples = sorted((Path(__file__).resolve().parents[2] / "assets" / "samples").iterdir())
    for path in itertools.cycle(samples):
        frame = np.ascontiguousarray(classifier.preprocess(path)[..., ::-1])
        yield from [frame] * 3


def main(bundle: str, most: str = "") -> None:
    classifier = pinhole.Classifier(bundle)
    stream = pinhole.Stream(classifier)
    if Picamera2 is None:
        print("picamera2 is not installed: sample images stand for the camera", file=sys.stderr)
    frames = camera_frames() if Picamera2 else sample_frames(classifier)
    for frame in itertools.islice(frames, int(most) if most else None):
        answer = stream.classify(frame, order="BGR")
        if answer.event:
            print(f"{answer.state}  ({answer.latency_ms['total']:.0f} ms)", flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
