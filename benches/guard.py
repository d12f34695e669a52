"""Compares measurements with guard.json; benches/guard runs it: guard.py frame | guard.py compare FOLDER [--update]

`frame` writes a camera's frame as a PPM file. FOLDER has what the measurements printed. No packages.
"""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECORD = HERE / "guard.json"
# The largest growth of a count with the recorded compiler, and with another one.
GROWTH, GROWTH_OF_COMPILERS = 0.01, 0.05
# A share of the peak may fall by this many times the recorded runs' scatter, and by the least tolerance.
SCATTERS, LEAST_TOLERANCE = 2, 0.05
UPDATE = "benches/guard --update"


def frame():
    """Smooth as a photo, the same on every machine."""
    pixels = bytearray()
    for y in range(480):
        for x in range(640):
            for c in range(3):
                pixels.append(int(128 + 60 * math.sin(x / 64 * (1 + c) + c) + 40 * math.cos(y / 64 * (2 + c))))
    return b"P6\n640 480\n255\n" + bytes(pixels)


def instructions(folder):
    """{what: instructions} from the tables of tests/arm/count."""
    found = {}
    for table in ("kernels", "sample", "frame"):
        for line in (folder / table).read_text().splitlines():
            words = line.split()
            if len(words) >= 4 and words[0].startswith("cortex-"):
                what = f"kernels {words[2]}" if table == "kernels" else f"demo, {table}"
                found[f"{what}, {words[0]}"] = round(float(words[3]) * 1e9)
    return found


def shares(folder):
    """{precision: the share of the peak in each run} of 50 rows, from the reports of throughput.rs; none without a peak."""
    found = {}
    for report in sorted(folder.glob("throughput-*")):
        text = report.read_text()
        peaks = re.search(r"^peak from registers (\S+) GMAC/s in f32, (\S+) in int8", text, re.M).groups()
        for precision, peak in zip(("f32", "int8"), map(float, peaks)):
            reached = float(re.search(rf"^12 blocks {precision} *, m  50: .* (\S+) GMAC/s", text, re.M)[1])
            if not math.isnan(peak):
                found.setdefault(precision, []).append(round(reached / peak, 4))
    return found


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    first = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    return ", ".join(f"{key} {first[key]}" for key in ("model name", "cpu family", "model", "CPU part") if key in first)


def revision():
    output = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, stdout=subprocess.PIPE, text=True)
    return output.stdout.strip()


def compare_counts(recorded, found, compiler):
    """Messages of counts that grew and of those that fell, by more than the limit."""
    limit = GROWTH if compiler == recorded["compiler"] else GROWTH_OF_COMPILERS
    grew, fell = [], []
    if found.keys() != recorded["instructions"].keys():
        grew.append(f"counted {', '.join(found)}; expected {', '.join(recorded['instructions'])}")
    for what in found.keys() & recorded["instructions"].keys():
        before, now = recorded["instructions"][what], found[what]
        text = f"{what}: {before:,} instructions before, {now:,} now, {100 * (now / before - 1):+.1f} %"
        if now > before * (1 + limit):
            grew.append(f"{text}, more than {100 * limit:.0f} % allow")
        elif now < before * (1 - limit):
            fell.append(text)
    return sorted(grew), sorted(fell)


def scatter(runs):
    return 1 - min(runs) / max(runs)


def compare_shares(recorded, found):
    """Messages of shares of the peak that fell by more than the tolerance, and of runs that differ by more than it, as other
    programs disturbed them: they are not compared."""
    worse, disturbed = [], []
    for precision in sorted(found.keys() & recorded.keys()):
        before, now = max(recorded[precision]), max(found[precision])
        tolerance = max(LEAST_TOLERANCE, SCATTERS * scatter(recorded[precision]))
        allowed = f"{100 * tolerance:.0f} % are allowed"
        if scatter(found[precision]) > tolerance:
            disturbed.append(f"{precision}: the runs differ by {100 * scatter(found[precision]):.0f} %, {allowed}: not compared")
        elif now < before * (1 - tolerance):
            share = f"{100 * now:.1f} % of this processor's peak, {100 * before:.1f} % before"
            worse.append(f"{precision}: {share}, {100 * (1 - now / before):.0f} % less, {allowed}")
    return worse, disturbed


def compare(folder, update):
    compiler = (folder / "compiler").read_text().strip()
    counts, found = instructions(folder), shares(folder)
    for what, count in counts.items():
        print(f"{what}: {count:,} instructions")
    for precision, runs in found.items():
        print(f"{precision}: {100 * max(runs):.1f} % of the peak, {100 * min(runs):.1f} % in the worst run")
    if update:
        record = {
            "arm": {"revision": revision(), "compiler": compiler, "instructions": counts},
            "peak": {"revision": revision(), "processor": processor(), "shares": found},
        }
        RECORD.write_text(json.dumps(record, indent=2) + "\n")
        print(f"{RECORD.relative_to(HERE.parent)} written")
        return 0
    recorded = json.loads(RECORD.read_text())
    grew, fell = compare_counts(recorded["arm"], counts, compiler)
    if compiler != recorded["arm"]["compiler"]:
        print(f"note: recorded with {recorded['arm']['compiler']}, compiled with {compiler}")
    if processor() == recorded["peak"]["processor"]:
        worse, disturbed = compare_shares(recorded["peak"]["shares"], found)
        # Not an error: the processor may be shared with other machines' work.
        for message in worse:
            print(f"warning: {message}")
        for message in disturbed:
            print(f"note: {message}")
    else:
        print(f"note: shares of the peak are not compared: recorded on {recorded['peak']['processor']}, this is {processor()}")
    for message in fell:
        print(f"note: {message}: record it with {UPDATE}")
    for message in grew:
        print(f"error: {message}")
    if grew:
        print(f"error: slower than {RECORD.name}, recorded at {recorded['arm']['revision']}; if that is meant: {UPDATE}")
    return 1 if grew else 0


def main():
    match sys.argv[1:]:
        case ["frame"]:
            sys.stdout.buffer.write(frame())
        case ["compare", folder]:
            sys.exit(compare(Path(folder), update=False))
        case ["compare", folder, "--update"]:
            sys.exit(compare(Path(folder), update=True))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
