"""Pseudo-random numbers that the tests of pinhole-training compute by the same integer arithmetic (training/tests/common/numbers.rs)."""

import math

import numpy as np
import torch

LOGIT_SCALE = 3.0


def uniform(name, count):
    """`count` values in -1..1, a function of the tensor's name and the index."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 % 2**32
    x = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return (x >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)


def weight(name, shape):
    """A tensor of CLIP."""
    values = uniform(name, math.prod(shape))
    if name == "logit_scale":
        values = np.full(1, LOGIT_SCALE, np.float32)
    elif ".ln_" in name or name.startswith("ln_"):
        values = values * np.float32(0.125) + np.float32(name.endswith("weight"))
    else:
        values = values * np.float32(0.125 if len(shape) < 2 or "embedding" in name else 0.25)
    return torch.from_numpy(values.reshape(shape))
