"""Makes tests/golden/foreign_convolutions: a small convolutional image encoder, exported and quantised by other programs,
with its embeddings.

The model has the convolutions of the common networks on 32 x 32 pixels, with random weights: dense, strided, grouped,
dilated and depthwise ones of 3 x 3 to 7 x 7, residuals, squeeze-and-excite, and the activation functions ReLU, ReLU6, SiLU,
hard-swish and GELU. golden.json is as make_foreign.py writes it.
"""

from pathlib import Path

import torch
from onnxruntime.quantization import QuantType
from torch import nn

from make_foreign import make, randomized

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
    torch.manual_seed(7)
    make(randomized(Encoder().eval()), OUT, DYNAMIC, STATIC)


if __name__ == "__main__":
    main()
