"""Makes the small random models under tests/golden/text_sides: open_clip's models with image encoders of timm, of which
Pinhole reads the text side.

    python make_text_sides.py

ConvNeXt's form (CLIP), MobileCLIP's (CustomTextCLIP, a text encoder without a causal mask) and PE-Core's (CustomTextCLIP, an
image encoder with attention pooling as SigLIP's). Each folder has the files as on the hub, and golden.json: open_clip's
L2-normalised float32 embeddings of token IDs.
"""

import json
from pathlib import Path

import open_clip
import timm
import torch
from make_models import PREPROCESS, TEXT, exact_weights, inputs, unit
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.convnext import _create_convnext
from timm.models.vision_transformer import _create_vision_transformer


@register_model
def convnext_small_random(pretrained=False, **kwargs):
    return _create_convnext("convnext_small_random", pretrained=False, depths=(1, 1, 1, 1), dims=(4, 4, 4, 8), **kwargs)


@register_model
def vit_small_random(pretrained=False, **kwargs):
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2, "global_pool": "map"}
    return _create_vision_transformer("vit_small_random", pretrained=False, **{**sizes, **kwargs})


def vision(name, pool, projection):
    return {
        "image_size": 32, "timm_model_name": name, "timm_model_pretrained": False, "timm_pool": pool,
        "timm_proj": projection, "timm_drop": 0.0, "timm_drop_path": 0.1,
    }


MODELS = {
    "convnext": (CLIP, {"vision_cfg": vision("convnext_small_random", "", "linear"), "text_cfg": TEXT}),
    "mobileclip": (
        CustomTextCLIP,
        {"vision_cfg": vision("convnext_small_random", "avg", None), "text_cfg": {**TEXT, "no_causal_mask": True}},
    ),
    "pe-core": (CustomTextCLIP, {"vision_cfg": vision("vit_small_random", "map", None), "text_cfg": TEXT}),
}


def main():
    root = Path(__file__).resolve().parents[1] / "golden" / "text_sides"
    print(f"open_clip {open_clip.__version__}, timm {timm.__version__}, torch {torch.__version__}")
    for seed, (name, (make, config)) in enumerate(MODELS.items()):
        model = exact_weights(make(embed_dim=16, **config), seed)
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        config = {"embed_dim": 16, **config, **({"custom_text": True} if make is CustomTextCLIP else {})}
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS}, indent=2) + "\n"
        )
        state = model.state_dict()
        tensors = {n: (t.half() if t.is_floating_point() else t).contiguous() for n, t in state.items() if not n.endswith("attn_mask")}
        save_file(tensors, folder / "open_clip_model.safetensors")
        _, texts = inputs(32)
        with torch.no_grad():
            golden = {"texts": texts, "text_embeddings": unit(model.encode_text(torch.tensor(texts)))}
        (folder / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
