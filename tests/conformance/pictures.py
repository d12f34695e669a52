"""Generated pictures for calibration and comparison, the same on every machine."""

import numpy
from PIL import Image, ImageDraw


def picture(seed):
    """A picture with noise of all sizes, as photos have it, and some shapes."""
    noise = numpy.random.default_rng(seed)
    width, height = 320, 240
    total = numpy.zeros((height, width, 3))
    for cells in (3, 6, 12, 24, 48, 96):
        coarse = Image.fromarray(noise.integers(0, 256, (cells, cells, 3), dtype=numpy.uint8))
        total += (numpy.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) - 127.5) * 2 / cells**0.7
    tint = noise.uniform(40, 216, 3)
    image = Image.fromarray((total * noise.uniform(0.3, 1.2) + tint).clip(0, 255).astype(numpy.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(noise.integers(0, 6)):
        x, y = noise.integers(0, width), noise.integers(0, height)
        w, h = noise.integers(10, 160, 2)
        shape = draw.ellipse if noise.random() < 0.5 else draw.rectangle
        shape((x - w // 2, y - h // 2, x + w // 2, y + h // 2), fill=tuple(noise.integers(0, 256, 3).tolist()))
    return image
