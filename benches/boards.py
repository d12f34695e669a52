"""Predicts times on boards from instruction counts on emulated cores.

    time = instructions / (clock x instructions per cycle), divided among threads, and at least the time to read the
    weights from memory

Instructions per cycle of a whole encoder on the Cortex-A76 follow from the only published times of the same network on it:
Arm's ViT-B/32 by ExecuTorch and XNNPACK on a Raspberry Pi 5, 95.5 ms in 8-bit integers (per-channel weights, dynamic
activations) and about 298 ms in f32. XNNPACK's instruction count is taken from ONNX Runtime's aarch64 build for the same
network in the same emulator: both use SDOT and FMLA by lane. The publication is assumed to mean one thread, as with four
it would reach less than a third of one core's peak.

Cortex-A72: the same instructions per cycle, multiplied by the ratio that LLVM's models of the two cores (Cortex-A57 and
Neoverse N1) give for the kernels' inner loops. Cortex-A78AE: as the Cortex-A76; its wider front end is ignored.
"""

from dataclasses import dataclass

# Published milliseconds on a Cortex-A76 of 2.4 GHz, and G instructions of ONNX Runtime 1.32 for the same network.
PUBLISHED = {"int8": (95.5, 0.550), "f32": (298.0, 1.447)}
PUBLISHED_CLOCK = 2.4


@dataclass(frozen=True)
class Board:
    name: str
    core: str
    # The processor that the emulator emulates for it.
    emulated: str
    clock_ghz: float
    cores: int
    # The memory bus's nominal speed in 1e9 bytes per second, of which half is assumed.
    memory_gigabytes: float


# Clocks and buses by their vendors: 32 bits of LPDDR4-3200 (Raspberry Pi 4) and of LPDDR4X-4267 (Pi 5,
# https://www.raspberrypi.com/products/raspberry-pi-5/), 128 bits of LPDDR5 (Orin Nano's data sheet; its "Super" mode of
# JetPack 6.1 and later has 1.7 GHz and 102 GB/s).
BOARDS = [
    Board("Raspberry Pi 4", "Cortex-A72", "cortex-a72", 1.8, 4, 12.8),
    Board("Raspberry Pi 5", "Cortex-A76", "cortex-a76", 2.4, 4, 17.1),
    Board("Jetson Orin Nano", "Cortex-A78AE", "cortex-a76", 1.5, 6, 68.0),
]


def a76_instructions_per_cycle(precision):
    """Of whole encoders, from the published times; for f16, without a publication, that of f32: the same instructions on
    twice the lanes."""
    milliseconds, billions = PUBLISHED["int8" if precision == "int8" else "f32"]
    return billions / (PUBLISHED_CLOCK * milliseconds / 1e3)


def held_out_error():
    """The larger relative error of predicting each published time from the other one."""
    errors = []
    for precision, other in (("int8", "f32"), ("f32", "int8")):
        milliseconds, billions = PUBLISHED[precision]
        expected = 1e3 * billions / (PUBLISHED_CLOCK * a76_instructions_per_cycle(other))
        errors.append(abs(expected / milliseconds - 1))
    return max(errors)


def instructions_per_cycle(board, precision, loops):
    """`loops`: instructions per cycle of inner loops by LLVM's models, {(kernel, core): number}."""
    whole = a76_instructions_per_cycle(precision)
    if board.emulated != "cortex-a72":
        return whole
    # Without f16 arithmetic the weights are widened to f32.
    ours, its = ("neon", "dotprod") if precision == "int8" else ("f32", "f32")
    return whole * loops[ours, "cortex-a57"] / loops[its, "neoverse-n1"]


def milliseconds(board, precision, billions, weight_bytes, threads, serial_share, loops):
    """`serial_share`: the share of one thread's time that more threads do not shorten (Amdahl)."""
    one = 1e3 * billions / (board.clock_ghz * instructions_per_cycle(board, precision, loops))
    shared = one * (serial_share + (1 - serial_share) / threads)
    return max(shared, 1e3 * weight_bytes / (0.5e9 * board.memory_gigabytes))


def serial_share(one, several, threads):
    """The serial share, from the times of one thread and of several on the same machine."""
    return min(1.0, max(0.0, (several / one - 1 / threads) / (1 - 1 / threads)))
