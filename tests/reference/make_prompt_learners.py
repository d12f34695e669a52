"""Makes the prompt learners in tests/golden/prompt_learners, as Dassl's trainers save them.

    python make_prompt_learners.py

Dassl's `save_checkpoint` pickles the state dict together with the state of the optimiser and of the scheduler. The
latter contains Python objects: the warm-up scheduler refers to its successor, which refers to the optimiser. Every value
is a multiple of 1/64, exact in half precision: element i of tensor k is ((7 i + 3 k) % 129 - 64) / 64.
"""

import sys
import types
from collections import OrderedDict
from pathlib import Path

import torch

WIDTH, EMBEDDING, HIDDEN, CLASSES = 24, 16, 2, 3


def values(index, *shape):
    count = torch.Size(shape).numel()
    return (((7 * torch.arange(count) + 3 * index) % 129 - 64) / 64).reshape(shape)


class ConstantWarmupScheduler(torch.optim.lr_scheduler.LRScheduler):
    """Stub of the class with this name in dassl.optim.lr_scheduler."""

    def __init__(self, optimizer, successor):
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self):
        return [1e-5 for _ in self.base_lrs]


def dassl():
    """Registers the stub under Dassl's name, so that the pickle refers to a missing module."""
    ConstantWarmupScheduler.__module__ = "dassl.optim.lr_scheduler"
    for name in ("dassl", "dassl.optim", "dassl.optim.lr_scheduler"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["dassl.optim.lr_scheduler"].ConstantWarmupScheduler = ConstantWarmupScheduler


def checkpoint(state):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.002, momentum=0.9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    scheduler = ConstantWarmupScheduler(optimizer, cosine)
    return {
        "state_dict": OrderedDict(state),
        "epoch": 50,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "val_result": None,
    }


def embedded_names():
    return {
        "token_prefix": values(8, CLASSES, 1, WIDTH),
        "token_suffix": values(9, CLASSES, 11, WIDTH),
    }


def main():
    dassl()
    root = Path(__file__).parent.parent / "golden" / "prompt_learners"
    root.mkdir(parents=True, exist_ok=True)
    coop = {"ctx": values(0, 4, WIDTH), **embedded_names()}
    specific = {"ctx": values(0, CLASSES, 4, WIDTH), **embedded_names()}
    cocoop = {
        "ctx": values(0, 4, WIDTH),
        **embedded_names(),
        "meta_net.linear1.weight": values(1, HIDDEN, EMBEDDING),
        "meta_net.linear1.bias": values(2, HIDDEN),
        "meta_net.linear2.weight": values(3, WIDTH, HIDDEN),
        "meta_net.linear2.bias": values(4, WIDTH),
    }
    half = {name: tensor.half() for name, tensor in coop.items()}
    prefixed = {f"prompt_learner.{name}": tensor for name, tensor in cocoop.items()}
    torch.save(checkpoint(half), root / "coop.pth.tar")
    torch.save(checkpoint(specific), root / "coop-specific.pth.tar")
    torch.save(checkpoint(cocoop), root / "cocoop.pth.tar")
    old = {"_use_new_zipfile_serialization": False}
    torch.save(checkpoint(prefixed), root / "cocoop-legacy.pth.tar", **old)
    # The context is an object of a class that readers do not have.
    opaque = {**coop, "ctx": ConstantWarmupScheduler.__new__(ConstantWarmupScheduler)}
    torch.save(checkpoint(opaque), root / "opaque-context.pth.tar")


if __name__ == "__main__":
    main()
