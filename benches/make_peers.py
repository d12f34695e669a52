"""Writes an image encoder with random weights as files for the peers: make_peers.py ENCODER OUT

ENCODER is one of tests/reference/random_encoders.py. Writes into OUT, with the tools that users of the peers would use:

    f32.onnx                  the encoder by torch.onnx (opset 17; input `pixels` f32 [1, 3, S, S], resized and
                              normalised; output `embedding` f32 [1, D])
    dynamic.onnx              ONNX Runtime's quantize_dynamic: 8-bit weights, one scale per tensor
    dynamic-per-channel.onnx  the same with one scale per channel
    qdq.onnx                  ONNX Runtime's quantize_static: QuantizeLinear and DequantizeLinear, weights per
                              channel, calibrated on assets/samples, all supported operators
    qdq-linear.onnx           the same for MatMul, Gemm and Conv only
    pixels.npy                assets/samples, preprocessed, f32 [N, 3, S, S]
    reference.json            PyTorch's embeddings of them, N lists of D numbers

and what pinhole-export takes:

    clip/                     the checkpoint, if pinhole-export reads its family without ONNX
    open_clip_config.json     the preprocessing
    classes.npy, classes.txt  class embeddings: any text side serves
"""

import json
import sys
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reference"))

import random_encoders  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "conformance"))

import given_text  # noqa: E402
from quantise import quantise  # noqa: E402

# pinhole-export compiles the others from f32.onnx; RN50 too, whose checkpoint has no int8.
FROM_CHECKPOINT = {"ViT-B-32", "ViT-B-16", "TinyCLIP-8M", "SigLIP-B-16"}


def main(name, out):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    encoder = random_encoders.create(name)
    pixels = encoder.pixels()
    reference = random_encoders.embeddings(encoder.module, pixels)
    numpy.save(out / "pixels.npy", pixels.numpy())
    (out / "reference.json").write_text(json.dumps(reference.tolist()) + "\n")
    random_encoders.export(encoder.module, encoder.side, out / "f32.onnx", "torchscript", 1)
    quantise(out / "f32.onnx", out, "pixels", pixels.numpy())

    if name in FROM_CHECKPOINT:
        encoder.save_checkpoint(out / "clip")
    encoder.save_config(out)
    given_text.save(out, reference.shape[1])


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in random_encoders.NAMES:
        sys.exit(f"{__doc__}\nENCODER: {', '.join(random_encoders.NAMES)}")
    main(*sys.argv[1:])
