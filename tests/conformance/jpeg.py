"""Compares decoded JPEG files with djpeg's pixels: jpeg.py FOLDER intact|all DECODER...

DECODER is preprocessing/examples/decode.rs, perhaps in an emulator. The files are made by cjpeg (every sampling, coding,
scan script and restart interval), by editing markers as cameras and webcams do, and by damage. An intact file must give
djpeg's pixels; CMYK, which djpeg does not convert as Pillow does, gives Pillow's. With `all`, a damaged file must give
djpeg's pixels or an error.

libjpeg-turbo has several answers for coefficients beyond the range of 8-bit samples, as only damaged files have: its C code
wraps, and its SIMD code saturates, on ARM otherwise than on x86. All damaged files must therefore give what djpeg gives with
SIMD, or all what it gives without, as DECODER was built; intact files must give what both give.
"""

import hashlib
import io
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(1, 1), (7, 5), (33, 17), (64, 48), (65, 31)]
SAMPLINGS = [
    *["1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x4", "4x4", "3x1", "1x3", "3x2", "3x3,1x1,1x1"],
    *["2x2,1x2,2x1", "2x2,2x1,1x2", "1x1,2x2,2x2", "1x1,2x1,1x2", "2x1,2x1,1x1", "1x2,1x2,1x1", "2x2,2x2,1x1"],
    *["2x2,1x1,2x2", "4x2,2x2,1x1", "4x4,2x1,1x2", "2x2,2x2,2x2"],
]
SCRIPTS = {
    "apart": "0;\n1;\n2;\n",
    "two": "0;\n1 2;\n",
    "reversed": "2;\n0 1;\n",
    "spectral": "0: 0-0,0,1;\n1: 0-0,0,0;\n2: 0-0,0,0;\n0: 1-63,0,2;\n1: 1-63,0,0;\n2: 1-63,0,0;\n"
    "0: 1-63,2,1;\n0: 0-0,1,0;\n0: 1-63,1,0;\n",
}
CODINGS = {
    "baseline": [],
    "optimised": ["-optimize"],
    "progressive": ["-progressive"],
    "arithmetic": ["-arithmetic"],
    "arithmetic-progressive": ["-arithmetic", "-progressive"],
}
RESTARTS = {"none": [], "1": ["-restart", "1B"], "3": ["-restart", "3B"], "row": ["-restart", "1"]}


def picture(width, height, seed):
    """Gradients with blocks of noise, u8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), x * y % 256], -1)
    noise = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3)).repeat(6, 0).repeat(6, 1)[:height, :width]
    return ((smooth + noise) // 2).astype(np.uint8)


def cjpeg(pixels, *options):
    header = b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0])
    run = subprocess.run(["cjpeg", "-quality", "85", *options], input=header + pixels.tobytes(), capture_output=True)
    # Some combinations are not possible, such as more than 10 blocks in a unit.
    return run.stdout if run.returncode == 0 else None


def segments(data):
    """Offsets of the marker segments before the first scan's data: (marker, start, end)."""
    at = 2
    while True:
        marker = data[at + 1]
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, end
        if marker == 0xDA:
            return
        at = end


def without(data, marker):
    """`data` without the segments of that marker before the first scan."""
    out = bytearray(data[:2])
    end = 2
    for found, start, end in segments(data):
        if found != marker:
            out += data[start:end]
    return bytes(out) + data[end:]


def inserted(data, segment):
    return data[:2] + segment + data[2:]


def adobe(transform):
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


def with_ids(data, ids):
    """The components named `ids` instead of 1, 2, 3."""
    data = bytearray(data)
    for marker, start, _ in segments(bytes(data)):
        first, step = {0xC0: (start + 10, 3), 0xC1: (start + 10, 3), 0xDA: (start + 5, 2)}.get(marker, (0, 0))
        for i in range(3 if first else 0):
            data[first + i * step] = ids[i]
    return bytes(data)


def intact(scripts):
    """Names and bytes of files that must decode."""
    for width, height in SIZES:
        pixels = picture(width, height, width)
        for coding, options in {**CODINGS, **{name: ["-scans", path] for name, path in scripts.items()}}.items():
            for restart, interval in RESTARTS.items():
                for sampling in SAMPLINGS:
                    name = f"{width}x{height}-{coding}-{restart}-{sampling.replace(',', '_')}"
                    yield name, cjpeg(pixels, "-sample", sampling, *options, *interval)
                    if restart in ("none", "1"):
                        yield f"{name}-rgb", cjpeg(pixels, "-rgb", "-sample", sampling, *options, *interval)
                if coding in CODINGS:
                    yield f"{width}x{height}-{coding}-{restart}-grey", cjpeg(pixels, "-grayscale", *options, *interval)
        for subsampling in range(3):
            for progressive in (False, True):
                file = io.BytesIO()
                image = Image.fromarray(pixels).convert("CMYK")
                image.save(file, "JPEG", quality=80, progressive=progressive, subsampling=subsampling)
                yield f"{width}x{height}-{subsampling}-{progressive}-cmyk", file.getvalue()
    # As cameras, webcams and programs vary the markers of one baseline file.
    base = cjpeg(picture(41, 29, 1), "-sample", "2x1")
    plain = without(base, 0xE0)
    no_tables = without(base, 0xC4)
    yield "no-tables", no_tables
    yield "no-tables-no-jfif", without(no_tables, 0xE0)
    yield "no-tables-avi1", inserted(without(no_tables, 0xE0), b"\xff\xe0\0\x10AVI1" + bytes(10))
    yield "no-tables-avi1-short", inserted(without(no_tables, 0xE0), b"\xff\xe0\0\x06AVI1")
    for transform in range(4):
        for ids in ((1, 2, 3), (0, 1, 2), (82, 71, 66), (1, 34, 35), (5, 6, 7)):
            for name, data in (("jfif", base), ("plain", plain)):
                yield f"adobe{transform}-{ids[0]}-{ids[1]}-{name}", with_ids(inserted(data, adobe(transform)), ids)
                if transform == 0:
                    yield f"ids{ids[0]}-{ids[1]}-{name}", with_ids(data, ids)
    yield "adobe-behind-jfif", base[:20] + adobe(0) + base[20:]
    yield "adobe-short", inserted(base, b"\xff\xee\0\x05Ado")
    yield "app0-empty", inserted(base, b"\xff\xe0\0\x02")
    yield "app1-damaged", inserted(base, b"\xff\xe1\0\x0aExif\0\0II")
    yield "app2-icc-part", inserted(base, b"\xff\xe2\0\x12ICC_PROFILE\0\x03\x07\0\0")
    yield "app13-app15", inserted(base, b"\xff\xed\0\x04ab\xff\xef\0\x03c")
    yield "comment-with-markers", inserted(base, b"\xff\xfe\0\x08\xff\xd8\xff\xd9\xff\xda")
    yield "jfif-2", base[:11] + b"\x02" + base[12:]
    yield "fill-bytes", base[:20] + b"\xff\xff\xff" + base[20:]
    yield "stray-bytes", base[:20] + bytes(7) + base[20:]
    yield "behind-the-end", base + b"anything \xff\xd8\xff\xda"
    yield "zeros-for-end", base[:-2] + bytes(2)
    yield "many-zeros-for-end", base[:-2] + bytes(500)
    yield "no-end", base[:-2]


def damaged(files):
    """Damage to some of the intact files."""
    rng = random.Random(1)
    for name, data in files:
        scan = max(end for *_, end in segments(data))
        for kind in range(6):
            at = rng.randrange(scan, max(len(data) - 2, scan + 1))
            if kind == 0:
                yield f"{name}-half-with-end", data[: (scan + len(data)) // 2] + b"\xff\xd9"
            elif kind == 1:
                yield f"{name}-cut-{at}", data[:at]
            elif kind == 2:
                yield f"{name}-flipped-{at}", data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            elif kind == 3:
                yield f"{name}-lost-{at}", data[:at] + data[at + 1 + rng.randrange(20) :]
            elif kind == 4:
                at = rng.randrange(2, scan)
                yield f"{name}-header-{at}", data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            else:
                marks = [i for i in range(scan, len(data) - 1) if data[i] == 255 and 0xD0 <= data[i + 1] <= 0xD7]
                if marks:
                    at = rng.choice(marks)
                    yield f"{name}-lost-restart", data[:at] + data[at + 2 :]
                    yield f"{name}-wrong-restart", data[: at + 1] + bytes([0xD0 + rng.randrange(8)]) + data[at + 2 :]


def reference(path, simd):
    """djpeg's or, for CMYK, Pillow's pixels in the decoder's form; None if it refuses the file."""
    if "cmyk" in path.name:
        try:
            image = Image.open(path).convert("RGB")
        except Exception:
            return None
    else:
        environment = os.environ if simd else {**os.environ, "JSIMD_FORCENONE": "1"}
        run = subprocess.run(["djpeg", "-rgb", str(path)], capture_output=True, env=environment)
        # 2: with warnings.
        if run.returncode not in (0, 2) or not run.stdout.startswith(b"P6"):
            return None
        image = Image.open(io.BytesIO(run.stdout))
    return f"{image.width} {image.height} {hashlib.sha256(image.tobytes()).hexdigest()}"


def check(decoder, kind, paths):
    """Prints the counts for both of djpeg's answers; the number of files that are wrong."""
    run = subprocess.run(decoder, input="\n".join(map(str, paths)), capture_output=True, text=True)
    results = dict(line.split("\t", 1) for line in run.stdout.splitlines())
    if run.returncode or len(results) != len(paths) or run.stderr:
        sys.exit(f"error: the decoder ended with {run.returncode} after {len(results)} of {len(paths)} files: {run.stderr}")
    all_wrong = []
    for simd in (True, False):
        counts = Counter()
        wrong = []
        with ThreadPoolExecutor(4) as pool:
            for path, expected in zip(paths, pool.map(lambda path: reference(path, simd), paths)):
                found = results[str(path)]
                refused = found.startswith("error: ")
                outcome = "refused" if refused else "equal" if found == expected else "wrong"
                counts[outcome] += 1
                if outcome == "wrong" or (refused and kind == "intact"):
                    wrong.append(f"{path.name}: {found}, expected {expected}")
        against = f"against djpeg {'with' if simd else 'without'} SIMD"
        outcomes = f"{counts['equal']} equal, {counts['refused']} refused, {counts['wrong']} wrong"
        print(f"{kind}, {against}: {len(paths)} files, {outcomes}")
        all_wrong.append(wrong)
    # The decoder has one of the two answers for damaged files.
    wrong = max(all_wrong, key=len) if kind == "intact" else min(all_wrong, key=len)
    for line in wrong[:20]:
        print(f"  {line}")
    return len(wrong)


def main():
    folder, kinds, decoder = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    scripts = {}
    for name, text in SCRIPTS.items():
        scripts[name] = str(folder / f"{name}.txt")
        Path(scripts[name]).write_text(text)

    def write(kind, files):
        (folder / kind).mkdir()
        for name, data in files:
            path = folder / kind / f"{name}.jpg"
            path.write_bytes(data)
            yield path

    files = [(name, data) for name, data in intact(scripts) if data]
    wrong = check(decoder, "intact", list(write("intact", files)))
    if kinds == "all":
        wrong += check(decoder, "damaged", list(write("damaged", damaged(random.Random(2).sample(files, 700)))))
    if wrong:
        sys.exit(f"error: {wrong} files")


main()
