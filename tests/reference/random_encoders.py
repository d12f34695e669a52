"""Image encoders with random weights, as open_clip and timm define them. benches/ and tests/conformance/ share them.

`create(NAME)` gives one of NAMES as a PyTorch module with its preprocessing. Weights and biases are random numbers from a
fixed seed, scaled by the number of inputs; the batch norms have the statistics of a few images, so that the values inside
the network have the range of a trained one.
"""

import json
import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy
import open_clip
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "conformance"))

import random_checkpoint  # noqa: E402

# open_clip warns that no pretrained weights are loaded.
logging.disable(logging.WARNING)
SAMPLES = sorted((ROOT / "assets" / "samples").iterdir())


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that random_checkpoint.py writes."""

    family: str


@dataclass(frozen=True)
class OpenClip:
    """A model of open_clip, by its name."""

    name: str


@dataclass(frozen=True)
class Timm:
    """An encoder of timm without a text encoder, for images of this side."""

    name: str
    side: int


SOURCES = {
    "ViT-B-32": Checkpoint("ViT-B-32"),
    "ViT-B-16": Checkpoint("ViT-B-16"),
    "TinyCLIP-8M": Checkpoint("TinyCLIP-8M"),
    "RN50": Checkpoint("RN50"),
    "SigLIP-B-16": OpenClip("ViT-B-16-SigLIP"),
    "MobileCLIP2-S0": OpenClip("MobileCLIP2-S0"),
    "MobileCLIP2-S2": OpenClip("MobileCLIP2-S2"),
    "PE-Core-T-16-384": OpenClip("PE-Core-T-16-384"),
    "EVA02-B-16": OpenClip("EVA02-B-16"),
    "ConvNeXt-B": OpenClip("convnext_base_w"),
    "DINOv2-S": Timm("vit_small_patch14_dinov2", 224),
}
NAMES = list(SOURCES)


class ImageTower(torch.nn.Module):
    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def forward(self, pixels):
        return self.clip.encode_image(pixels)


@dataclass
class Encoder:
    module: torch.nn.Module
    """Normalised pixels f32 [N, 3, S, S] to embeddings [N, D]."""
    side: int
    config: dict
    """As open_clip_config.json; without `model_cfg` for an encoder of timm."""
    clip: torch.nn.Module | None
    """The whole model before train-time branches were merged, for `save_checkpoint`."""

    def pixels(self, images=SAMPLES):
        """Images, preprocessed as the configuration says, f32 [N, 3, S, S]."""
        transform = image_transform_v2(PreprocessCfg(**self.config["preprocess_cfg"]), is_train=False)
        return torch.stack([transform(Image.open(path).convert("RGB")) for path in images])

    def save_config(self, folder):
        """Writes the preprocessing as open_clip_config.json, and returns its path."""
        path = Path(folder) / "open_clip_config.json"
        path.write_text(json.dumps(self.config, indent=2) + "\n")
        return path

    def save_checkpoint(self, folder):
        """Writes open_clip's checkpoint folder."""
        Path(folder).mkdir(parents=True)
        self.save_config(folder)
        tensors = {name: tensor.contiguous() for name, tensor in self.clip.state_dict().items()}
        save_file(tensors, Path(folder) / "open_clip_model.safetensors")


def randomise(module, pixels):
    """Random weights; `pixels` give the statistics of batch norms."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            kind = name.rsplit(".", 1)[-1]
            if not tensor.is_floating_point() or kind in ("running_mean", "running_var", "attn_mask", "logit_scale", "logit_bias"):
                continue
            if "gamma" in kind or "layer_scale" in name:
                tensor.uniform_(0.3, 1.0)
            elif tensor.ndim > 1 and kind in ("weight", "in_proj_weight"):
                tensor.normal_(0, tensor[0].numel() ** -0.5)
            elif kind == "weight":
                tensor.normal_(1, 0.1)
            elif kind == "bias":
                tensor.normal_(0, 0.05)
    norms = [norm for norm in module.modules() if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    if norms:
        module.train()
        with torch.no_grad():
            module(pixels)
    return module.eval()


# Of a timm transformer's block: a layer norm, and the linear layers that read it.
READERS = {
    "norm1.weight": ("attn.qkv.weight", "attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight"),
    "norm2.weight": ("mlp.fc1.weight", "mlp.fc1_g.weight", "mlp.fc1_x.weight"),
}


def add_outliers(module):
    """Gives transformers outlier channels as random_checkpoint.py does: six large gains per layer norm."""
    random = numpy.random.default_rng(20)
    tensors = module.state_dict()
    for name, gain in tensors.items():
        for norm, readers in READERS.items():
            readers = [tensors[name.removesuffix(norm) + reader] for reader in readers if name.removesuffix(norm) + reader in tensors]
            if not name.endswith(f".{norm}") or not readers or any(reader.ndim != 2 for reader in readers):
                continue
            channels = random.choice(len(gain), 6, replace=False)
            factors = torch.from_numpy(random.uniform(20, 60, 6).astype(numpy.float32))
            gain[channels] *= factors
            for reader in readers:
                reader[:, channels] /= factors.sqrt()


def create(name, outliers=False):
    """One of NAMES; with `outliers`, transformers of timm have outlier channels."""
    source = SOURCES[name]
    torch.manual_seed(0)
    if isinstance(source, Checkpoint):
        with tempfile.TemporaryDirectory() as folder:
            random_checkpoint.main(source.family, Path(folder) / "clip")
            clip = open_clip.create_model(f"local-dir:{folder}/clip").eval()
            config = json.loads((Path(folder) / "clip" / "open_clip_config.json").read_text())
        return Encoder(clip.visual, config["preprocess_cfg"]["size"][0], config, clip)
    if isinstance(source, OpenClip):
        clip = open_clip.create_model(source.name, pretrained_hf=False)
        config = {
            "model_cfg": open_clip.get_model_config(source.name),
            "preprocess_cfg": open_clip.get_model_preprocess_cfg(clip),
        }
        side = config["preprocess_cfg"]["size"]
        side = side if isinstance(side, int) else side[0]
        encoder = Encoder(ImageTower(clip), side, config, clip)
    else:
        module = timm.create_model(source.name, num_classes=0, img_size=source.side)
        data = timm.data.resolve_model_data_config(module)
        preprocessing = {
            "size": source.side, "mode": "RGB", "mean": data["mean"], "std": data["std"], "interpolation": "bicubic",
            "resize_mode": "shortest", "fill_color": 0,
        }
        encoder = Encoder(module, source.side, {"preprocess_cfg": preprocessing}, None)
    randomise(encoder.module, encoder.pixels(SAMPLES[:8]))
    if outliers:
        add_outliers(encoder.module)
    # As these models are deployed; nothing in others changes.
    encoder.module = timm.utils.reparameterize_model(encoder.module).eval()
    return encoder


def export(module, side, file, exporter, batch):
    """Writes `file` by torch.onnx's `exporter`, torchscript or dynamo, for one image or any `batch`, 1 or "n"."""
    example = torch.rand(1 if batch == 1 else 2, 3, side, side)
    if exporter == "dynamo":
        shapes = None if batch == 1 else ({0: torch.export.Dim("n", min=1, max=64)},)
        torch.onnx.export(module, (example,), str(file), dynamo=True, dynamic_shapes=shapes, verbose=False)
    else:
        names = {"input_names": ["pixels"], "output_names": ["embedding"]}
        axes = None if batch == 1 else {"pixels": {0: "n"}, "embedding": {0: "n"}}
        torch.onnx.export(module, (example,), str(file), dynamo=False, opset_version=17, dynamic_axes=axes, **names)


def embeddings(module, pixels):
    """Embeddings of each image by itself, f32 [N, D]."""
    with torch.no_grad():
        return numpy.concatenate([module(pixels[i : i + 1]).numpy() for i in range(len(pixels))])

