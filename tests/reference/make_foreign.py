"""Makes tests/golden/foreign: a small random image encoder, exported and quantised by other programs, with its embeddings.

The model is a vision transformer of open_clip (2 layers of width 32, quick GELU, 32 x 32 pixels, 16 embedding
dimensions), exported by torch.onnx and quantised by onnxruntime.quantization in the common forms. golden.json contains
three images (u8 [3, 32, 32, 3]) and, for each file, ONNX Runtime's L2-normalised embeddings of pixels normalised with
OpenAI's mean and standard deviation. Optimisations are off: for QDQ files with zero points they change the answer to a
cosine of 0.9992.
"""

import json
import logging
import tempfile
from pathlib import Path

import numpy
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from open_clip.model import CLIP

from make_models import MEAN, STD, TEXT

OUT = Path(__file__).resolve().parents[1] / "golden" / "foreign"
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
LINEAR = ["MatMul", "Gemm", "Conv"]
DYNAMIC = {
    "dynamic": dict(weight_type=QuantType.QInt8),
    "dynamic-per-channel": dict(weight_type=QuantType.QInt8, per_channel=True),
    "dynamic-u8": dict(weight_type=QuantType.QUInt8),
    "dynamic-u8-per-channel": dict(weight_type=QuantType.QUInt8, per_channel=True),
}
STATIC = {
    "qdq": dict(activation_type=QuantType.QUInt8, per_channel=True),
    "qdq-linear": dict(activation_type=QuantType.QUInt8, per_channel=True, op_types_to_quantize=LINEAR),
    "qdq-per-tensor": dict(activation_type=QuantType.QUInt8),
    "qdq-s8": dict(activation_type=QuantType.QInt8, per_channel=True),
    "qdq-s8-symmetric": dict(activation_type=QuantType.QInt8, extra_options={"ActivationSymmetric": True}),
    "qdq-u8-weights": dict(activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8),
}


class Images(CalibrationDataReader):
    def __init__(self, pixels):
        self.batches = iter([{"pixels": pixels[i : i + 1]} for i in range(len(pixels))])

    def get_next(self):
        return next(self.batches, None)


def normalized(images):
    pixels = (images.astype(numpy.float32) / 255 - numpy.float32(MEAN)) / numpy.float32(STD)
    return numpy.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def randomized(encoder):
    """The encoder with weights that are larger than PyTorch's initial ones, and vectors that are not constant."""
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.copy_(weight * 2 if weight.ndim > 1 else weight + 0.2 * torch.randn_like(weight))
    return encoder


def make(encoder, out, dynamic, static):
    """Writes into `out` the encoder of 32 x 32 pixels in f32 and quantised with each of the options, and golden.json."""
    logging.getLogger().setLevel(logging.ERROR)
    out.mkdir(parents=True, exist_ok=True)
    random = numpy.random.default_rng(7)
    # Squares of 4 x 4 pixels, so that the images differ in more than noise.
    squares = random.integers(0, 256, (19, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    images = (squares * 0.8 + random.integers(0, 52, squares.shape)).astype(numpy.uint8)
    pixels = normalized(images)
    f32 = out / "f32.onnx"
    names = dict(input_names=["pixels"], output_names=["embedding"], opset_version=17)
    torch.onnx.export(encoder, (torch.from_numpy(pixels[:1]),), f32, dynamo=False, **names)
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(str(f32), prepared, skip_symbolic_shape=True)
        for name, options in dynamic.items():
            quantize_dynamic(prepared, out / f"{name}.onnx", **options)
        for name, options in static.items():
            options = {"weight_type": QuantType.QInt8, **options}
            quantize_static(prepared, out / f"{name}.onnx", Images(pixels[3:]), quant_format=QuantFormat.QDQ, **options)
    embeddings = {}
    for path in sorted(out.glob("*.onnx")):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = numpy.concatenate([session.run(None, {"pixels": pixels[i : i + 1]})[0] for i in range(3)])
        found /= numpy.linalg.norm(found, axis=1, keepdims=True)
        embeddings[path.stem] = [[round(float(v), 6) for v in row] for row in found]
    golden = {"images": [image.reshape(-1).tolist() for image in images[:3]], "embeddings": embeddings}
    (out / "golden.json").write_text(json.dumps(golden) + "\n")
    total = sum(path.stat().st_size for path in out.iterdir())
    print(f"{len(embeddings)} files, {total / 1e6:.2f} MB")


def main():
    torch.manual_seed(7)
    encoder = CLIP(embed_dim=16, vision_cfg=VIT, text_cfg=TEXT, quick_gelu=True).visual.eval()
    make(randomized(encoder), OUT, DYNAMIC, STATIC)


if __name__ == "__main__":
    main()
