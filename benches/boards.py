"""Predicts times on boards from instruction counts on emulated cores.

    time = sum over the kinds of code of instructions / (clock x instructions per cycle of that kind)

Instructions per cycle follow from networks that ncnn times on each board on one thread (published.tsv) and whose instructions
benches/ncnn counts in the emulator (instructions/ncnn.tsv), by least squares of the relative error. The error of a row is that
of its prediction from all other rows. A prediction is a range: the times for which the middle 80 % of these errors would give
it. On all threads it is divided by the middle 80 % of the gains of the same publication's rows on that many threads.
"""

import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path

# published.tsv is from https://github.com/Tencent/ncnn/blob/f4e9a782/benchmark/README.md: `min` of the runs without a GPU, on one
# thread and on all cores; `avg` has outliers.
HERE = Path(__file__).resolve().parent
# The kinds of tests/arm/count.c that share a rate.
KINDS = {"float": ("f32", "f16"), "int8": ("sdot", "widening"), "other": ("other",)}
# The share of the errors and of the gains that a range covers.
MIDDLE = 0.8


@dataclass(frozen=True)
class Board:
    name: str
    core: str
    # The processor that the emulator emulates for it.
    emulated: str
    clock_ghz: float
    threads: int


# The clocks at which the published times were measured. The Orin Nano has 1.7 GHz in its "Super" mode, which is newer.
BOARDS = [
    Board("Raspberry Pi 4", "Cortex-A72", "cortex-a72", 1.8, 4),
    Board("Raspberry Pi 5", "Cortex-A76", "cortex-a76", 2.4, 4),
    Board("Jetson Orin Nano", "Cortex-A78AE", "cortex-a76", 1.5, 6),
]
# Arm's times of ViT-B/32 by ExecuTorch and XNNPACK on a Raspberry Pi 5, of which it does not state the threads.
ARM_MILLISECONDS = {"int8": 95.5, "f32": 298.0}


@dataclass(frozen=True)
class Range:
    low: float
    high: float

    def contains(self, value):
        return self.low <= value <= self.high

    def __str__(self):
        return f"{two_digits(self.low)} to {two_digits(self.high)}"


def two_digits(value):
    return f"{float(f'{value:.2g}'):g}"


def percent(share):
    return f"{100 * share:+.0f} %"


def rows(file):
    """The rows of a table with tabs as dicts."""
    head, *lines = (HERE / file).read_text().splitlines()
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]


def by_kind(row):
    """[G instructions of each of KINDS]"""
    return [sum(int(row[kind]) for kind in kinds) / 1e9 for kinds in KINDS.values()]


def solve(matrix, right):
    """Solves a small system of equations by Gauss's elimination; None if it has no single solution."""
    rows = [[*row, value] for row, value in zip(matrix, right)]
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        if abs(rows[i][i]) < 1e-12:
            return None
        for r in range(len(rows)):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i])]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def cycles_per_instruction(samples):
    """Of each kind, not negative, from [(G instructions of each kind, G cycles)], by least squares of the relative error."""
    best, kinds = None, range(len(KINDS))
    scaled = [[n / cycles for n in counts] for counts, cycles in samples]
    for size in range(1, len(KINDS) + 1):
        for used in itertools.combinations(kinds, size):
            matrix = [[sum(row[i] * row[j] for row in scaled) for j in used] for i in used]
            solution = solve(matrix, [sum(row[i] for row in scaled) for i in used])
            if solution is None or min(solution) < 0:
                continue
            rates = [0.0] * len(KINDS)
            for i, rate in zip(used, solution):
                rates[i] = rate
            error = sum((sum(n * rate for n, rate in zip(row, rates)) - 1) ** 2 for row in scaled)
            if best is None or error < best[0]:
                best = error, rates
    return best[1]


def quantile(values, share):
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def middle(values):
    return Range(quantile(values, (1 - MIDDLE) / 2), quantile(values, (1 + MIDDLE) / 2))


class Calibration:
    """What the publication of a board says."""

    def __init__(self, board):
        self.board = board
        counted = {row["network"]: by_kind(row) for row in rows("instructions/ncnn.tsv") if row["cpu"] == board.emulated}
        published = [row for row in rows("published.tsv") if row["board"] == board.name]
        # {network: milliseconds on one thread}, and on all.
        self.published_threads = {row["network"]: float(row["threads_ms"]) for row in published if row["network"] in counted}
        self.published = {row["network"]: float(row["ms"]) for row in published if row["network"] in counted}
        self.gains = middle([float(row["ms"]) / float(row["threads_ms"]) for row in published])
        samples = {name: (counted[name], ms * board.clock_ghz / 1e3) for name, ms in self.published.items()}
        self.rates = cycles_per_instruction(list(samples.values()))
        # {network: relative error of its prediction from the other rows}
        self.errors = {}
        for name, (counts, cycles) in samples.items():
            rates = cycles_per_instruction([sample for other, sample in samples.items() if other != name])
            self.errors[name] = sum(n * rate for n, rate in zip(counts, rates)) / cycles - 1

    def milliseconds(self, counts):
        return 1e3 * sum(n * rate for n, rate in zip(counts, self.rates)) / self.board.clock_ghz

    def one_thread(self, counts):
        return self.around(self.milliseconds(counts))

    def around(self, time):
        errors = middle(self.errors.values())
        return Range(time / (1 + errors.high), time / (1 + errors.low))

    def all_threads(self, one_thread):
        return Range(one_thread.low / self.gains.high, one_thread.high / self.gains.low)

    def inside(self):
        """How many published times on one thread, and on all, lie in the range from the other rows."""
        ones = {name: self.around(ms * (1 + self.errors[name])) for name, ms in self.published.items()}
        return (
            sum(ones[name].contains(ms) for name, ms in self.published.items()),
            sum(self.all_threads(ones[name]).contains(ms) for name, ms in self.published_threads.items()),
        )

    def mean_error(self):
        return statistics.mean(map(abs, self.errors.values()))

    def largest_error(self):
        return max(self.errors.items(), key=lambda item: abs(item[1]))


def table(head, lines):
    """The lines of a Markdown table."""
    return [f"| {' | '.join(map(str, line))} |" for line in (head, ["---"] * len(head), *lines)]


def predictions():
    """[(encoder and precision, board, range on one thread, range on all)] in milliseconds, of what instructions/ has."""
    found = []
    for board in BOARDS:
        calibration = Calibration(board)
        for row in rows("instructions/pinhole.tsv"):
            if row["cpu"] == board.emulated:
                one = calibration.one_thread(by_kind(row))
                found.append((row["network"], board, one, calibration.all_threads(one)))
    return found


def check_with_arm():
    """Rows that compare Arm's times with predictions for the instructions of two programs, which stand for XNNPACK's: precision,
    program, G instructions, Arm's time, the ranges on one thread and on four, and the threads whose range has Arm's time."""
    calibration = Calibration(next(board for board in BOARDS if board.name == "Raspberry Pi 5"))
    for precision, file in (("int8", "dynamic-per-channel"), ("f32", "f32")):
        published = ARM_MILLISECONDS[precision]
        for program, table, network in (("ONNX Runtime", "onnxruntime", file), ("Pinhole", "pinhole", precision)):
            key = (f"ViT-B-32 {network}", calibration.board.emulated)
            for counts in (by_kind(row) for row in rows(f"instructions/{table}.tsv") if (row["network"], row["cpu"]) == key):
                one = calibration.one_thread(counts)
                ranges = {"1": one, "4": calibration.all_threads(one)}
                fits = [threads for threads, times in ranges.items() if times.contains(published)]
                yield precision, program, f"{sum(counts):.3f}", published, *ranges.values(), " or ".join(fits) or "neither"


def section():
    """The lines of docs/latency.md about boards."""
    calibrations = [Calibration(board) for board in BOARDS]
    networks = {name: None for calibration in calibrations for name in calibration.published}
    lines = [
        "## On ARM boards",
        "",
        "G instructions of `pinhole embed` for one image on one thread, without those of opening, by kind of code: blocks with "
        "products of floats, of 8-bit integers, and others (`tests/arm/count --kinds`):",
        "",
        *table(
            ["encoder", "emulated core", *KINDS, "all"],
            (
                [row["network"], row["cpu"], *(f"{count:.4f}" for count in by_kind(row)), f"{sum(by_kind(row)):.4f}"]
                for row in rows("instructions/pinhole.tsv")
            ),
        ),
        "",
        "### Predicted times on boards",
        "",
        "**Predicted, not measured** on a board. ms per image without the head; opening, heat and other programs are not "
        "included (`pinhole bench --seconds 600` on the board measures what it sustains).",
        "",
        *table(
            ["encoder", "board", "1 thread", "all cores"],
            ([name, board.name, one, f"{several} ({board.threads})"] for name, board, one, several in predictions()),
        ),
        "",
        " ".join(__doc__.split("\n\n")[2].split())
        + " In the range: how many published times on one thread, and on all, lie in the range that the other rows give. "
        "A JPEG frame of 640 x 480 needs some 11 M instructions more than these counts, which have a small PNG file. "
        "Commands: `benches/ncnn`, `tests/arm/count --kinds`, then `benches/predict`.",
        "",
        *table(
            ["board", "core, GHz", "rows", *(f"{kind}, per cycle" for kind in KINDS), "mean error", "largest"]
            + ["middle 80 %", "gain of all cores", "in the range"],
            (
                [
                    c.board.name,
                    f"{c.board.core}, {c.board.clock_ghz}",
                    len(c.published),
                    *(f"{1 / rate:.2f}" if rate else "-" for rate in c.rates),
                    f"{100 * c.mean_error():.0f} %",
                    f"{percent(c.largest_error()[1])} ({c.largest_error()[0]})",
                    f"{percent(middle(c.errors.values()).low)} to {percent(middle(c.errors.values()).high)}",
                    f"{c.gains} ({c.board.threads})",
                    "{} and {}".format(*c.inside()),
                ]
                for c in calibrations
            ),
        ),
        "",
        "Check: Arm publishes ViT-B/32 by ExecuTorch and XNNPACK on a Raspberry Pi 5 (8-bit integers with per-channel weights and "
        "dynamic activations; f32), without the number of threads. XNNPACK's instructions are not known; ONNX Runtime's "
        "(`tests/arm/count --peer --kinds`) and Pinhole's for the same network stand for them. The f32 time fits one thread only. "
        "The int8 time fits one thread if XNNPACK needs as few instructions as Pinhole, and four if it needs as many as ONNX "
        "Runtime. No prediction rests on these times.",
        "",
        *table(
            ["precision", "instructions of", "G", "published, ms", "1 thread", "4 threads", "threads that fit"],
            check_with_arm(),
        ),
        "",
        "Published times on one thread, ms (the smallest of ten runs), and the error of the prediction from the other rows:",
        "",
        *table(
            ["network of ncnn", *(c.board.name for c in calibrations)],
            (
                [name, *(f"{c.published[name]:g}, {percent(c.errors[name])}" if name in c.published else "-" for c in calibrations)]
                for name in networks
            ),
        ),
        "",
    ]
    return lines
