"""Prints the class of a webcam or a video file whenever it changes: opencv_video.py BUNDLE 0|FILE

Needs OpenCV (`pip install opencv-python-headless`).
"""

import sys

import cv2

import pinhole


def main(bundle: str, source: str) -> None:
    stream = pinhole.Stream(pinhole.Classifier(bundle))
    video = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not video.isOpened():
        sys.exit(f"{source}: OpenCV cannot open it")
    count = 0
    while True:
        read, frame = video.read()
        if not read:
            break
        count += 1
        answer = stream.classify(frame, order="BGR")
        if answer.event:
            print(f"frame {count}: {answer.state}", flush=True)
    print(f"{count} frames")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
