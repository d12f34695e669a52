"""Compares the time outside the encoder from an image file to the answer: time_frame.py BUNDLE IMAGE PROGRAM[,OPTION...]...

Each PROGRAM is a build of `pinhole`, with options of `classify` after commas, such as old/pinhole new/pinhole
new/pinhole,--fast-decode. They classify the image 20 times on one thread, in turns, for 7 rounds. Prints the medians of the
stages in milliseconds, and the ratio of decoding, preprocessing and head to those of the first PROGRAM: the median of the
rounds. The documents' 1080p image is a JPEG file of 1920 x 1080 with 4:2:0 chroma, as cameras write.
"""

import json
import statistics
import subprocess
import sys

ROUNDS, IMAGES = 7, 20
STAGES = ("decode", "preprocess", "encode", "head")


def run(program, bundle, image):
    command = [program[0], "classify", bundle, "--threads", "1", "--json", *program[1:], *[image] * IMAGES]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    # The first images fill caches.
    times = [json.loads(line)["latency_ms"] for line in lines[2:]]
    return {stage: statistics.median(time[stage] for time in times) for stage in STAGES}


def outside(stages):
    return stages["decode"] + stages["preprocess"] + stages["head"]


def main(bundle, image, *programs):
    programs = [program.split(",") for program in programs]
    rounds = [[run(program, bundle, image) for program in programs] for _ in range(ROUNDS)]
    for i, program in enumerate(programs):
        stages = {stage: statistics.median(found[i][stage] for found in rounds) for stage in STAGES}
        ratio = statistics.median(outside(found[i]) / outside(found[0]) for found in rounds)
        print(" ".join(program), ", ".join(f"{stage} {ms:.2f}" for stage, ms in stages.items()), f"outside the encoder {ratio:.2f}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
