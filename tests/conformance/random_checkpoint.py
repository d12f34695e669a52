"""Writes an open_clip checkpoint folder with random weights: random_checkpoint.py FAMILY[-outliers] OUT

FAMILY is vit-quickgelu, vit-gelu, vit-average or resnet (small, for conformance), or ViT-B-32, ViT-B-16, TinyCLIP-8M or
RN50 (full size, for time and memory). The weights come from a fixed seed; their variance keeps the activations of every
layer in the range of trained models.

FAMILY-outliers, for a ViT, gives the image encoder outlier channels as in trained CLIP models: six gains of each layer
norm are 20 to 60 times larger, and the weights of these channels in the next linear layer are smaller by the square root
of that factor.
"""

import json
import sys
from pathlib import Path

import numpy
from safetensors.numpy import save_file

VOCABULARY = 49408
CONTEXT = 77
FAMILIES = {
    "vit-quickgelu": dict(embed=64, image=48, vision=dict(layers=3, width=128, patch=16), text=(64, 2), quick=True),
    "vit-gelu": dict(embed=64, image=72, vision=dict(layers=2, width=64, patch=8), text=(64, 2), quick=False),
    "vit-average": dict(
        embed=64, image=48, vision=dict(layers=2, width=64, patch=16), text=(64, 2), quick=False,
        form=dict(pool_type="avg", no_ln_pre=True, mlp_ratio=2.5),
    ),
    "resnet": dict(embed=64, image=64, vision=dict(layers=[1, 2, 1, 1], width=16), text=(64, 2), quick=True),
    "ViT-B-32": dict(embed=512, image=224, vision=dict(layers=12, width=768, patch=32), text=(512, 12), quick=True),
    "ViT-B-16": dict(embed=512, image=224, vision=dict(layers=12, width=768, patch=16), text=(512, 12), quick=True),
    "TinyCLIP-8M": dict(embed=512, image=224, vision=dict(layers=10, width=256, patch=16), text=(256, 3), quick=False),
    "RN50": dict(embed=1024, image=224, vision=dict(layers=[3, 4, 6, 3], width=64), text=(512, 12), quick=True),
}


class Weights:
    def __init__(self):
        self.random = numpy.random.default_rng(20)
        self.tensors = {}

    def normal(self, name, *shape, std):
        self.tensors[name] = (self.random.standard_normal(shape, dtype=numpy.float32) * std).astype(numpy.float32)

    def around_one(self, name, width):
        self.tensors[name] = (1 + 0.1 * self.random.standard_normal(width)).astype(numpy.float32)

    def norm(self, name, width):
        self.around_one(f"{name}.weight", width)
        self.normal(f"{name}.bias", width, std=0.1)

    def linear(self, name, outputs, inputs):
        self.normal(f"{name}.weight", outputs, inputs, std=inputs**-0.5)
        self.normal(f"{name}.bias", outputs, std=0.05)

    def blocks(self, prefix, layers, width, mlp_ratio=4):
        for i in range(layers):
            block = f"{prefix}transformer.resblocks.{i}"
            self.norm(f"{block}.ln_1", width)
            self.normal(f"{block}.attn.in_proj_weight", 3 * width, width, std=width**-0.5)
            self.normal(f"{block}.attn.in_proj_bias", 3 * width, std=0.05)
            self.linear(f"{block}.attn.out_proj", width, width)
            self.norm(f"{block}.ln_2", width)
            mlp = int(width * mlp_ratio)
            self.linear(f"{block}.mlp.c_fc", mlp, width)
            self.linear(f"{block}.mlp.c_proj", width, mlp)

    def convolution(self, name, norm, outputs, inputs, kernel):
        self.normal(f"{name}.weight", outputs, inputs, kernel, kernel, std=(2 / (inputs * kernel**2)) ** 0.5)
        self.norm(norm, outputs)
        self.normal(f"{norm}.running_mean", outputs, std=0.1)
        self.around_one(f"{norm}.running_var", outputs)
        self.tensors[f"{norm}.num_batches_tracked"] = numpy.array(1, dtype=numpy.int64)


def vision_transformer(w, spec):
    width, patch = spec["vision"]["width"], spec["vision"]["patch"]
    w.normal("visual.conv1.weight", width, 3, patch, patch, std=(3 * patch * patch) ** -0.5)
    w.normal("visual.class_embedding", width, std=0.5)
    w.normal("visual.positional_embedding", (spec["image"] // patch) ** 2 + 1, width, std=0.3)
    form = spec.get("form", {})
    if not form.get("no_ln_pre"):
        w.norm("visual.ln_pre", width)
    w.blocks("visual.", spec["vision"]["layers"], width, form.get("mlp_ratio", 4))
    w.norm("visual.ln_post", width)
    w.normal("visual.proj", width, spec["embed"], std=width**-0.5)


def outliers(w, spec):
    for i in range(spec["vision"]["layers"]):
        block = f"visual.transformer.resblocks.{i}"
        for norm, linear in (("ln_1", "attn.in_proj_weight"), ("ln_2", "mlp.c_fc.weight")):
            channels = w.random.choice(spec["vision"]["width"], 6, replace=False)
            factors = w.random.uniform(20, 60, 6).astype(numpy.float32)
            w.tensors[f"{block}.{norm}.weight"][channels] *= factors
            w.tensors[f"{block}.{linear}"][:, channels] /= numpy.sqrt(factors)


def modified_resnet(w, spec):
    width, layers = spec["vision"]["width"], spec["vision"]["layers"]
    w.convolution("visual.conv1", "visual.bn1", width // 2, 3, 3)
    w.convolution("visual.conv2", "visual.bn2", width // 2, width // 2, 3)
    w.convolution("visual.conv3", "visual.bn3", width, width // 2, 3)
    channels = width
    for stage, blocks in enumerate(layers, 1):
        planes = width << (stage - 1)
        for i in range(blocks):
            block = f"visual.layer{stage}.{i}"
            w.convolution(f"{block}.conv1", f"{block}.bn1", planes, channels, 1)
            w.convolution(f"{block}.conv2", f"{block}.bn2", planes, planes, 3)
            w.convolution(f"{block}.conv3", f"{block}.bn3", planes * 4, planes, 1)
            # A trained block changes its input little, and open_clip begins training with zeros here. With gains of 1 rounding
            # errors grow from block to block.
            w.tensors[f"{block}.bn3.weight"] *= 0.25
            if i == 0:
                w.convolution(f"{block}.downsample.0", f"{block}.downsample.1", planes * 4, channels, 1)
            channels = planes * 4
    w.normal("visual.attnpool.positional_embedding", (spec["image"] // 32) ** 2 + 1, channels, std=0.1)
    for part in "qkv":
        w.linear(f"visual.attnpool.{part}_proj", channels, channels)
    w.linear("visual.attnpool.c_proj", spec["embed"], channels)


def main(family, out):
    spec = FAMILIES[family.removesuffix("-outliers")]
    w = Weights()
    (vision_transformer if "patch" in spec["vision"] else modified_resnet)(w, spec)
    if family.endswith("-outliers"):
        outliers(w, spec)
    width, layers = spec["text"]
    w.normal("token_embedding.weight", VOCABULARY, width, std=0.02)
    w.normal("positional_embedding", CONTEXT, width, std=0.01)
    w.blocks("", layers, width)
    w.norm("ln_final", width)
    w.normal("text_projection", width, spec["embed"], std=width**-0.5)
    w.tensors["logit_scale"] = numpy.array(numpy.log(100), dtype=numpy.float32)

    vision = {"image_size": spec["image"], "layers": spec["vision"]["layers"], "width": spec["vision"]["width"]}
    if "patch" in spec["vision"]:
        vision["patch_size"] = spec["vision"]["patch"]
    vision |= spec.get("form", {})
    config = {
        "model_cfg": {
            "embed_dim": spec["embed"],
            "quick_gelu": spec["quick"],
            "vision_cfg": vision,
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": VOCABULARY,
                "width": width,
                "heads": width // 64,
                "layers": layers,
            },
        },
        "preprocess_cfg": {
            "size": [spec["image"]] * 2,
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    out = Path(out)
    out.mkdir(parents=True)
    save_file(w.tensors, out / "open_clip_model.safetensors")
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in [*FAMILIES, *(f"{f}-outliers" for f in FAMILIES if f.lower().startswith("vit"))]:
        sys.exit(__doc__)
    main(*sys.argv[1:])
