"""Makes tests/golden/foreign_convolutions: a small convolutional image encoder, exported and quantised by other programs,
with its embeddings.

The model has the convolutions of the common networks on 32 x 32 pixels, with random weights: dense, strided, grouped,
dilated and depthwise ones of 3 x 3 to 7 x 7, residuals, squeeze-and-excite, and the activation functions ReLU, ReLU6, SiLU,
hard-swish and GELU. golden.json is as make_foreign.py writes it.
"""

import json
import logging
import tempfile
from pathlib import Path

import numpy
import onnxruntime
import torch
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from make_foreign import Images, normalized

OUT = Path(__file__).resolve().parents[1] / "golden" / "foreign_convolutions"
DYNAMIC = {
    "dynamic": dict(weight_type=QuantType.QInt8),
    "dynamic-u8": dict(weight_type=QuantType.QUInt8),
}
STATIC = {
    "qdq": dict(activation_type=QuantType.QUInt8, per_channel=True),
    "qdq-s8": dict(activation_type=QuantType.QInt8, per_channel=True),
    "qdq-u8-weights": dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8),
}


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 20, 3, stride=2, padding=1), nn.ReLU())
        self.first = nn.Sequential(
            nn.Conv2d(20, 20, 3, padding=1, groups=20), nn.Hardswish(), nn.Conv2d(20, 20, 1), nn.ReLU6()
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.second = nn.Sequential(
            nn.Conv2d(20, 40, 7, padding=3, groups=20), nn.SiLU(), nn.Conv2d(40, 24, 3, padding=2, dilation=2, groups=4)
        )
        self.short = nn.Conv2d(20, 24, 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 6, 1), nn.ReLU(), nn.Conv2d(6, 24, 1), nn.Sigmoid()
        )
        self.third = nn.Sequential(
            nn.Conv2d(24, 24, 5, stride=2, padding=2, groups=24), nn.GELU(), nn.Conv2d(24, 32, (1, 3), padding=(0, 1))
        )
        self.head = nn.Linear(32, 16)

    def forward(self, x):
        x = self.stem(x)
        x = self.pool(x + self.first(x))
        x = torch.relu(self.second(x) + self.short(x))
        x = x * self.gate(x)
        return self.head(self.third(x).mean((2, 3)))


def main():
    logging.getLogger().setLevel(logging.ERROR)
    OUT.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    encoder = Encoder().eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.copy_(weight * 2 if weight.ndim > 1 else weight + 0.2 * torch.randn_like(weight))
    random = numpy.random.default_rng(7)
    squares = random.integers(0, 256, (19, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    images = (squares * 0.8 + random.integers(0, 52, squares.shape)).astype(numpy.uint8)
    pixels = normalized(images)
    f32 = OUT / "f32.onnx"
    names = dict(input_names=["pixels"], output_names=["embedding"], opset_version=17)
    torch.onnx.export(encoder, (torch.from_numpy(pixels[:1]),), f32, dynamo=False, **names)
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(str(f32), prepared, skip_symbolic_shape=True)
        for name, options in DYNAMIC.items():
            quantize_dynamic(prepared, OUT / f"{name}.onnx", **options)
        for name, options in STATIC.items():
            options = {"weight_type": QuantType.QInt8, **options}
            quantize_static(prepared, OUT / f"{name}.onnx", Images(pixels[3:]), quant_format=QuantFormat.QDQ, **options)
    embeddings = {}
    for path in sorted(OUT.glob("*.onnx")):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = numpy.concatenate([session.run(None, {"pixels": pixels[i : i + 1]})[0] for i in range(3)])
        found /= numpy.linalg.norm(found, axis=1, keepdims=True)
        embeddings[path.stem] = [[round(float(v), 6) for v in row] for row in found]
    golden = {"images": [image.reshape(-1).tolist() for image in images[:3]], "embeddings": embeddings}
    (OUT / "golden.json").write_text(json.dumps(golden) + "\n")
    total = sum(path.stat().st_size for path in OUT.iterdir())
    print(f"{len(embeddings)} files, {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
