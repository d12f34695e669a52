"""Compares image encoders of other families with ONNX Runtime: encoders.py PINHOLE PINHOLE_EXPORT [NAME...]

Makes each encoder with random weights (open_clip, timm), exports it with both exporters of torch.onnx in f32, converts the
file with `pinhole-export onnx`, and prints a table of the worst cosine between `pinhole embed` and ONNX Runtime on three
samples. NAME is a part of the names below; default: all. Fails below a cosine of 0.9999.

Needs the packages of tests/reference/requirements.txt with timm and onnxscript, and 6 GB of memory. About 15 minutes with a
dev build on two cores.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy
import onnxruntime
import open_clip
import timm
import torch

from compare import pinhole_embeddings, pixels, worst_cosine

MIN_COSINE = 0.9999
SAMPLES = sorted(str(path) for path in (Path(__file__).resolve().parents[2] / "assets" / "samples").iterdir())[:3]
# Name, and image size of the encoders that are timm's alone.
ENCODERS = {
    "MobileCLIP2-S0": None,
    "MobileCLIP2-S2": None,
    "PE-Core-T-16-384": None,
    "EVA02-B-16": None,
    "convnext_base_w": None,
    "vit_small_patch14_dinov2": 224,
    "ViT-B-16-SigLIP": None,
}


class ImageEncoder(torch.nn.Module):
    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def forward(self, pixels):
        return self.clip.encode_image(pixels)


def encoder(name):
    """The module and its image size. Weights that are initialised to constants become random too."""
    torch.manual_seed(0)
    if ENCODERS[name]:
        module, side = timm.create_model(name, num_classes=0, img_size=ENCODERS[name]), ENCODERS[name]
    else:
        clip = open_clip.create_model(name, pretrained_hf=False)
        side = clip.visual.image_size
        side = side if isinstance(side, int) else side[0]
        module = ImageEncoder(clip)
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if "gamma" in key or "layer_scale" in key or key.endswith("running_var"):
                tensor.uniform_(0.3, 1.0)
            elif key.endswith("running_mean"):
                tensor.normal_(0, 0.1)
            elif tensor.ndim == 1 and tensor.is_floating_point():
                tensor += 0.1 * torch.randn_like(tensor)
    # As MobileCLIP is deployed; nothing in others changes.
    return timm.utils.reparameterize_model(module.eval()).eval(), side


def text_side(folder, side, size):
    """Class embeddings and preprocessing, as options: any text side serves the comparison."""
    numpy.save(folder / "classes.npy", numpy.random.default_rng(0).standard_normal((2, size)).astype(numpy.float32))
    (folder / "classes.txt").write_text("cat\ndog\n")
    config = {"size": {"shortest_edge": side}, "crop_size": side, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    options = {"class-embeddings": "classes.npy", "classes": "classes.txt", "preprocessing": "preprocessor_config.json"}
    return [argument for name, file in options.items() for argument in (f"--{name}", folder / file)]


def export(module, side, file, exporter):
    example = torch.rand(2, 3, side, side)
    if exporter == "dynamo":
        dynamic = ({0: torch.export.Dim("n", min=1, max=64)},)
        torch.onnx.export(module, (example,), str(file), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    else:
        names = {"input_names": ["pixels"], "output_names": ["embedding"]}
        axes = {"pixels": {0: "n"}, "embedding": {0: "n"}}
        torch.onnx.export(module, (example,), str(file), dynamo=False, opset_version=17, dynamic_axes=axes, **names)


def compare(pinhole, exporter, file, options, work):
    """The worst cosine to ONNX Runtime, or an error message."""
    bundle = work / "bundle"
    command = [exporter, "onnx", "--encoder", file, *options, "--out", bundle]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    preprocessing = json.loads((bundle / "manifest.json").read_text())["preprocessing"]
    crops = pixels(pinhole, bundle, SAMPLES).astype(numpy.float32) / 255
    crops = (crops - numpy.float32(preprocessing["mean"])) / numpy.float32(preprocessing["std"])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    crops = numpy.ascontiguousarray(crops.transpose(0, 3, 1, 2))
    reference = numpy.concatenate([session.run(None, {name: crop[None]})[0] for crop in crops]).astype(numpy.float64)
    return worst_cosine(pinhole_embeddings(pinhole, bundle, SAMPLES), reference)


def main(pinhole, exporter, parts):
    warnings.filterwarnings("ignore")
    failed = 0
    print("| encoder | exporter | size | embedding | worst cosine to ONNX Runtime |\n|---|---|---|---|---|")
    for name in ENCODERS:
        if parts and not any(part in name for part in parts):
            continue
        module, side = encoder(name)
        with torch.no_grad():
            size = module(torch.rand(1, 3, side, side)).shape[-1]
        for kind in ("torchscript", "dynamo"):
            with tempfile.TemporaryDirectory() as work:
                work = Path(work)
                options = text_side(work, side, size)
                file = work / "encoder.onnx"
                try:
                    export(module, side, file, kind)
                except Exception as error:
                    # What the exporter itself cannot do is no fault of the conversion.
                    found, verdict = f"torch.onnx.export: {type(error).__name__}: {str(error).splitlines()[0]}", "not exported"
                else:
                    found = compare(pinhole, exporter, file, options, work)
                    passed = isinstance(found, float) and found >= MIN_COSINE
                    failed += not passed
                    verdict = "ok" if passed else "FAILED"
                found = f"{found:.7f}" if isinstance(found, float) else found
                print(f"| {name} | {kind} | {side} | {size} | {found} {verdict} |", flush=True)
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(1 if main(*sys.argv[1:3], sys.argv[3:]) else 0)
