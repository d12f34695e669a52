"""Writes random learned methods for a checkpoint of random_checkpoint.py: make_learned.py CHECKPOINT FOLDER

maple.safetensors and promptsrc.safetensors have as many tokens in as many blocks as the papers' recipes on ViT-B/16, and
tip-adapter.safetensors has 16 examples of each of 100 classes.
"""

import sys
from pathlib import Path

import numpy
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "conformance"))
import random_maple

# MaPLe's N_CTX and PROMPT_DEPTH, and PromptSRC's N_CTX_VISION and PROMPT_DEPTH_VISION, in their recipes for ViT-B/16.
MAPLE_TOKENS, PROMPTSRC_TOKENS, DEPTH = 2, 4, 9
CLASSES, SHOTS = 100, 16


def promptsrc(checkpoint, out):
    clip = load_file(Path(checkpoint) / "open_clip_model.safetensors")
    random = numpy.random.default_rng(8)
    tensors = random_maple.encoders(clip)
    for encoder, width in [("image_encoder", "visual.class_embedding"), ("text_encoder", "ln_final.weight")]:
        for i in range(DEPTH):
            tokens = (0.5 * random.standard_normal((PROMPTSRC_TOKENS, clip[width].shape[0]))).astype(numpy.float32)
            first = "image_encoder.VPT" if encoder == "image_encoder" else "prompt_learner.ctx"
            name = first if i == 0 else f"{encoder}.transformer.resblocks.{i}.VPT_shallow"
            tensors[name] = tokens
    save_file(tensors, out)


def tip_adapter(checkpoint, out):
    size = load_file(Path(checkpoint) / "open_clip_model.safetensors")["text_projection"].shape[1]
    keys = numpy.random.default_rng(9).standard_normal((size, CLASSES * SHOTS)).astype(numpy.float32)
    values = numpy.repeat(numpy.eye(CLASSES, dtype=numpy.float32), SHOTS, axis=0)
    one = numpy.ones(1, numpy.float32)
    save_file({"keys": keys / numpy.linalg.norm(keys, axis=0), "values": values, "alpha": one, "beta": 5 * one}, out)


def main(checkpoint, folder):
    folder = Path(folder)
    random_maple.main(checkpoint, folder / "maple.safetensors", MAPLE_TOKENS, DEPTH)
    promptsrc(checkpoint, folder / "promptsrc.safetensors")
    tip_adapter(checkpoint, folder / "tip-adapter.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
