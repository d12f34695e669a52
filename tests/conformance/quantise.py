"""Quantises an ONNX file with ONNX Runtime's tools, as their users do."""

import tempfile
from pathlib import Path

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

# Name of the file without extension, and the arguments.
DYNAMIC = {"dynamic": dict(per_channel=False), "dynamic-per-channel": dict(per_channel=True)}
QDQ = {"qdq": dict(op_types_to_quantize=None), "qdq-linear": dict(op_types_to_quantize=["MatMul", "Gemm", "Conv"])}


class Batches(CalibrationDataReader):
    def __init__(self, name, pixels):
        self.batches = iter([{name: pixels[i : i + 1]} for i in range(len(pixels))])

    def get_next(self):
        return next(self.batches, None)


def quantise(file, folder, name, pixels, dynamic=DYNAMIC, qdq=QDQ):
    """Writes folder/NAME.onnx for each entry. `name` is the input, `pixels` [N, ...] what QDQ files are calibrated on."""
    with tempfile.TemporaryDirectory() as work:
        prepared = str(Path(work) / "prepared.onnx")
        # Symbolic shape inference fails on some encoders, and the shapes are fixed but for the batch.
        quant_pre_process(str(file), prepared, skip_symbolic_shape=True)
        for out, arguments in dynamic.items():
            quantize_dynamic(prepared, Path(folder) / f"{out}.onnx", weight_type=QuantType.QInt8, **arguments)
        for out, arguments in qdq.items():
            quantize_static(
                prepared,
                Path(folder) / f"{out}.onnx",
                Batches(name, pixels),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                **arguments,
            )
