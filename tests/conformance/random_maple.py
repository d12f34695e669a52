"""Writes the file that MaPLe would save for a checkpoint of random_checkpoint.py: random_maple.py CHECKPOINT OUT

Random tokens in the first blocks of both encoders, two in two by default, beside the checkpoint's own encoders; as
safetensors.
"""

import sys
from pathlib import Path

import numpy
from safetensors.numpy import load_file, save_file


def encoders(clip):
    """The checkpoint's own encoders under the names of the reference implementations."""
    tensors = {}
    for name, value in clip.items():
        if name.startswith("visual."):
            tensors["image_encoder." + name.removeprefix("visual.")] = value
        elif name == "logit_scale":
            tensors[name] = value
        elif name != "token_embedding.weight":
            tensors["text_encoder." + name] = value
    return tensors


def main(checkpoint, out, n_ctx=2, depth=2):
    random = numpy.random.default_rng(7)
    clip = load_file(Path(checkpoint) / "open_clip_model.safetensors")
    width, image_width = clip["ln_final.weight"].shape[0], clip["visual.class_embedding"].shape[0]

    def normal(*shape, std):
        return (std * random.standard_normal(shape)).astype(numpy.float32)

    learned = {"ctx": normal(n_ctx, width, std=0.02)}
    for i in range(depth - 1):
        learned[f"compound_prompts_text.{i}"] = normal(n_ctx, width, std=0.5)
    for name in ["proj", *(f"compound_prompt_projections.{i}" for i in range(depth - 1))]:
        learned[f"{name}.weight"] = normal(image_width, width, std=width**-0.5)
        learned[f"{name}.bias"] = normal(image_width, std=0.3)
    tensors = {f"prompt_learner.{name}": value for name, value in learned.items()}
    save_file({**tensors, **encoders(clip)}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
