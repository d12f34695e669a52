"""Writes a CoCoOp prompt learner with random weights for ViT-B's text encoder: make_prompt_learner.py OUT.safetensors

Four context vectors, and a meta-net of 32 hidden units on embeddings of 512, as in the reference for ViT-B.
"""

import sys

import numpy
from safetensors.numpy import save_file

EMBEDDING, WIDTH, HIDDEN, CONTEXT = 512, 512, 32, 4


def main(out):
    random = numpy.random.default_rng(21)

    def normal(*shape, std):
        return (random.standard_normal(shape) * std).astype(numpy.float32)

    save_file(
        {
            "ctx": normal(CONTEXT, WIDTH, std=0.02),
            "meta_net.linear1.weight": normal(HIDDEN, EMBEDDING, std=EMBEDDING**-0.5),
            "meta_net.linear1.bias": normal(HIDDEN, std=0.05),
            "meta_net.linear2.weight": normal(WIDTH, HIDDEN, std=0.02 * HIDDEN**-0.5),
            "meta_net.linear2.bias": normal(WIDTH, std=0.002),
        },
        out,
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
