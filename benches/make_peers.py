"""Writes an image encoder as files for the peers: make_peers.py CHECKPOINT OUT

CHECKPOINT is an open_clip folder. Writes into OUT, with the tools that users of the peers would use:

    f32.onnx                  open_clip's image encoder, by torch.onnx (opset 17; input `pixels` f32 [1, 3, S, S],
                              resized and normalised; output `embedding` f32 [1, D])
    dynamic.onnx              ONNX Runtime's quantize_dynamic: 8-bit weights, one scale per tensor
    dynamic-per-channel.onnx  the same with one scale per channel
    qdq.onnx                  ONNX Runtime's quantize_static: QuantizeLinear and DequantizeLinear, weights per
                              channel, calibrated on assets/samples, all supported operators
    qdq-linear.onnx           the same for MatMul, Gemm and Conv only
    pixels.npy                assets/samples, preprocessed, f32 [N, 3, S, S]
    reference.json            open_clip's own embeddings of them, N lists of D numbers
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

import numpy
import open_clip
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[1] / "assets" / "samples"


class Samples(CalibrationDataReader):
    def __init__(self, pixels):
        self.batches = iter([{"pixels": pixels[i : i + 1]} for i in range(len(pixels))])

    def get_next(self):
        return next(self.batches, None)


def main(checkpoint, out):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{Path(checkpoint).resolve()}")
    encoder = model.visual.eval()
    pixels = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in sorted(SAMPLES.iterdir())])
    with torch.no_grad():
        reference = torch.cat([encoder(pixels[i : i + 1]) for i in range(len(pixels))])
    pixels = pixels.numpy()
    numpy.save(out / "pixels.npy", pixels)
    (out / "reference.json").write_text(json.dumps(reference.tolist()) + "\n")

    example = torch.from_numpy(pixels[:1])
    names = dict(input_names=["pixels"], output_names=["embedding"], opset_version=17)
    torch.onnx.export(encoder, (example,), out / "f32.onnx", dynamo=False, **names)

    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        # Symbolic shape inference fails on this file, and all shapes are fixed.
        quant_pre_process(str(out / "f32.onnx"), prepared, skip_symbolic_shape=True)
        for name, per_channel in [("dynamic", False), ("dynamic-per-channel", True)]:
            quantize_dynamic(prepared, out / f"{name}.onnx", per_channel=per_channel, weight_type=QuantType.QInt8)
        for name, operators in [("qdq", None), ("qdq-linear", ["MatMul", "Gemm", "Conv"])]:
            quantize_static(
                prepared,
                out / f"{name}.onnx",
                Samples(pixels),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=operators,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
