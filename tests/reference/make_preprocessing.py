"""Writes preprocessing/tests/golden/: what Pillow, torchvision, open_clip and transformers make of images.

resize.json holds, for images drawn by a formula that the Rust tests repeat (`draw`), the rule and the
SHA-256 of the resulting pixels. decode/ holds small files of every mode, decode.json the SHA-256 of
the RGB pixels that Pillow reads from them. Takes no arguments; versions in requirements.txt.
"""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
from open_clip.transform import CenterCropOrPad, MaybeConvertMode, ResizeKeepRatio, image_transform
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import preprocessing_files

OUT = Path(__file__).resolve().parents[2] / "preprocessing" / "tests" / "golden"
FILTERS = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


def draw(width, height, seed):
    """An RGB image from integer arithmetic alone: noise, gradients, edges, and mixtures."""
    y, x, c = np.meshgrid(
        np.arange(height, dtype=np.uint32),
        np.arange(width, dtype=np.uint32),
        np.arange(3, dtype=np.uint32),
        indexing="ij",
    )
    u32 = np.uint32
    noise = (x * u32(0x9E3779B1)) ^ (y * u32(0x85EBCA77)) ^ (c * u32(0xC2B2AE3D))
    noise ^= u32(seed * 0x27D4EB2F & 0xFFFFFFFF)
    noise = (noise ^ (noise >> u32(15))) * u32(0x2C1B3C6D)
    noise = (noise ^ (noise >> u32(12))) * u32(0x297A2D39)
    noise = (noise ^ (noise >> u32(15))) & u32(255)
    gradient = (x * u32(255) // u32(width) * (c + u32(1)) + y * u32(255) // u32(height)) & u32(255)
    edges = (((x // u32(7)) ^ (y // u32(5)) ^ c) & u32(1)) * u32(255)
    values = [
        noise,
        gradient,
        edges,
        (gradient * u32(3) + noise) // u32(4),
        np.where((x + y) % u32(97) < u32(40), noise, edges),
    ][seed % 5]
    return Image.fromarray(values.astype(np.uint8))


def reference(image, case):
    """`image` through the transform that a user of the rule would have used in Python."""
    size, mode, interpolation = case["size"], case["resize"], InterpolationMode(case["filter"])
    fill = tuple(case["fill"])
    if case["crop"] == "floor":
        assert mode == "shortest"
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            resample=Image.Resampling[case["filter"].upper()],
            do_rescale=False,
            do_normalize=False,
        )
        # A channel axis of 1 or 3 pixels would be guessed wrongly from the array alone.
        pixels = processor(image, return_tensors="np")["pixel_values"][0]
        return pixels.astype(np.uint8).transpose(1, 2, 0)
    if case["filter"] in ("bilinear", "bicubic"):
        steps = image_transform(
            size, is_train=False, resize_mode=mode, interpolation=case["filter"], fill_color=fill
        ).transforms
        steps = steps[: [type(step) for step in steps].index(MaybeConvertMode)]
    elif mode == "shortest":
        steps = [Resize(size, interpolation=interpolation), CenterCrop(size)]
    elif mode == "longest":
        steps = [ResizeKeepRatio(size, interpolation=interpolation, longest=1), CenterCropOrPad(size, fill=fill)]
    else:
        steps = [Resize((size, size), interpolation=interpolation)]
    for step in steps:
        image = step(image)
    return np.asarray(image)


def cases():
    """Sizes and rules: every mode with every filter, odd sizes, both orientations, few huge ones."""
    rng = random.Random(1)
    modes = [("shortest", "half-even"), ("shortest", "floor"), ("longest", "half-even"), ("squash", "half-even")]
    all_rules = [(mode, crop, name) for mode, crop in modes for name in FILTERS]

    def side(limit):
        return max(1, int(limit ** rng.random()))

    sizes = []
    for mode, crop, name in all_rules:
        # Downscaled, upscaled, of any shape, and odd crops.
        sizes += [
            (rng.randint(225, 700), rng.randint(225, 700), 224, mode, crop, name),
            (rng.randint(3, 223), rng.randint(3, 223), 224, mode, crop, name),
            (rng.randint(40, 300), rng.randint(40, 300), rng.randint(1, 99), mode, crop, name),
            (side(900), side(900), rng.randint(1, 64), mode, crop, name),
            (side(400), side(400), rng.randint(7, 160), mode, crop, name),
            (rng.randint(17, 120), rng.randint(17, 120), rng.choice([31, 32, 33, 64, 65]), mode, crop, name),
            (1, 1, rng.choice([1, 2, 7, 32]), mode, crop, name),
            (2, 3, rng.choice([1, 5, 16]), mode, crop, name),
            (rng.randint(1, 3), rng.randint(90, 250), rng.randint(5, 40), mode, crop, name),
            (rng.randint(90, 250), rng.randint(1, 3), rng.randint(5, 40), mode, crop, name),
        ]
    for mode, crop in modes:
        sizes += [
            (224, 224, 224, mode, crop, "bicubic"),
            (224, 225, 224, mode, crop, "bicubic"),
            (227, 224, 224, mode, crop, "bicubic"),
            (223, 224, 224, mode, crop, "bicubic"),
            (640, 480, 224, mode, crop, "bicubic"),
            (480, 640, 224, mode, crop, "bicubic"),
            (1920, 1080, 224, mode, crop, "bicubic"),
            (1080, 1920, 256, mode, crop, "bilinear"),
            (1, 4000, 16, mode, crop, "bicubic"),
            (4000, 1, 16, mode, crop, "lanczos"),
            (640, 480, 336, mode, crop, "bicubic"),
            (333, 500, 384, mode, crop, "lanczos"),
        ]
    sizes += [
        (4000, 3000, 224, "shortest", "half-even", "bicubic"),
        (3000, 4000, 224, "longest", "half-even", "bicubic"),
        (4000, 3000, 224, "squash", "half-even", "lanczos"),
        (3999, 2999, 233, "shortest", "floor", "nearest"),
    ]
    for seed, (width, height, size, mode, crop, name) in enumerate(sizes):
        fill = [rng.randrange(256) for _ in range(3)] if mode == "longest" else [0, 0, 0]
        yield {
            "width": width,
            "height": height,
            "seed": seed,
            "size": size,
            "resize": mode,
            "filter": name,
            "crop": crop,
            "fill": fill,
        }


def too_thin(case):
    """Whether open_clip's `longest` would leave no pixel of the short side."""
    longest = max(case["width"], case["height"]) / case["size"]
    return case["resize"] == "longest" and round(min(case["width"], case["height"]) / longest) == 0


def resize_golden():
    golden = []
    for case in cases():
        image = draw(case["width"], case["height"], case["seed"])
        if too_thin(case):
            case["error"] = True
        else:
            pixels = np.ascontiguousarray(reference(image, case))
            assert pixels.shape == (case["size"], case["size"], 3) and pixels.dtype == np.uint8, case
            case["sha256"] = hashlib.sha256(pixels.tobytes()).hexdigest()
            if case["size"] <= 7:
                # Whole results of the smallest, to see where a difference begins.
                case["pixels"] = pixels.tobytes().hex()
        golden.append(case)
    lines = ",\n".join(json.dumps(case) for case in golden)
    (OUT / "resize.json").write_text(f"[\n{lines}\n]\n")
    print(f"resize.json: {len(golden)} cases, {sum('error' in case for case in golden)} of them errors")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    resize_golden()
    preprocessing_files.write(OUT)
