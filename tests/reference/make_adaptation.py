"""Writes tests/golden/adaptation.json: a linear head, Tip-Adapter-F and CLIP-LoRA, trained in PyTorch.

- Linear head: rows w_c + alpha_c t_c and a bias (LP++, Huang et al., CVPR 2024, equation 3), the minimum of mean cross-entropy
  + decay / 2 (|w|^2 + |b|^2 + sum (alpha_c - scale)^2), by torch.optim.LBFGS in f64.
- Tip-Adapter-F: the loop of gaopengcuhk/Tip-Adapter (run_tip_adapter_F in main.py), one batch per epoch, in f32.
- CLIP-LoRA on queries, keys and values of the image encoder: W + alpha / sqrt(r) B A, AdamW and cosine of
  MaxZanella/CLIP-LoRA (lora.py), without dropout, in f32. The image encoder is open_clip's.

The formulas are written here anew. Weights, images and embeddings are not stored; the tests compute them by the same integer
arithmetic.
"""

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import torch
from numbers_by_index import LOGIT_SCALE, uniform, weight
from open_clip.model import CLIP
from torch.nn import functional as F

DIM, CLASSES, IMAGES = 8, 4, 12
LINEAR = {"scale": 20.0, "decays": [0.1, 0.001]}
TIP = {"scale": 20.0, "alpha": 1.5, "beta": 4.0, "epochs": 8, "learning_rate": 0.01}
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 64},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 1},
}
LORA = {"rank": 2, "alpha": 1.5, "learning_rate": 0.02, "updates": 6, "images": 10, "classes": 5}


def unit_rows(name, rows, dim):
    return F.normalize(torch.from_numpy(uniform(name, rows * dim).reshape(rows, dim)), dim=-1)


def linear(decay):
    texts = unit_rows("texts", CLASSES, DIM).double()
    images = unit_rows("images", IMAGES, DIM).double()
    labels = torch.arange(IMAGES) % CLASSES
    w = torch.zeros(CLASSES, DIM, dtype=torch.float64, requires_grad=True)
    change = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, change, bias], max_iter=5000, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe")
    rows = lambda: w + (LINEAR["scale"] + change)[:, None] * texts

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(images @ rows().t() + bias, labels)
        loss = loss + decay / 2 * (w.square().sum() + bias.square().sum() + change.square().sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    return {"decay": decay, "weight": rows().flatten().tolist(), "bias": bias.tolist()}


def tip_adapter_f():
    texts, images = unit_rows("texts", CLASSES, DIM), unit_rows("images", IMAGES, DIM)
    labels = torch.arange(IMAGES) % CLASSES
    values = F.one_hot(labels, CLASSES).float()
    adapter = torch.nn.Linear(DIM, IMAGES, bias=False)
    adapter.weight = torch.nn.Parameter(images.clone())
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=TIP["learning_rate"], eps=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TIP["epochs"])
    losses = []
    for _ in range(TIP["epochs"]):
        affinity = adapter(images)
        cache = ((-1) * (TIP["beta"] - TIP["beta"] * affinity)).exp() @ values
        loss = F.cross_entropy(TIP["scale"] * images @ texts.t() + cache * TIP["alpha"], labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return TIP | {"losses": losses, "keys": adapter.weight.flatten().tolist()}


def lora():
    model = CLIP(**CONFIG, quick_gelu=True).eval()
    frozen = {}
    for name, parameter in model.visual.named_parameters():
        frozen[name] = weight("visual." + name, tuple(parameter.shape))
    count, size = LORA["images"], CONFIG["vision_cfg"]["image_size"]
    pixels = np.floor((uniform("pixels", count * size * size * 3) + 1) * 127.5)
    mean, std = np.array(open_clip.OPENAI_DATASET_MEAN), np.array(open_clip.OPENAI_DATASET_STD)
    images = (pixels.reshape(count, size, size, 3) / 255 - mean) / std
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    labels = torch.arange(count) % LORA["classes"]
    texts = unit_rows("classes", LORA["classes"], CONFIG["embed_dim"])
    width, rank = CONFIG["vision_cfg"]["width"], LORA["rank"]
    factors = []
    for layer in range(CONFIG["vision_cfg"]["layers"]):
        for part in range(3):
            down = torch.from_numpy(uniform(f"down {layer} {part}", rank * width).reshape(rank, width) / 8)
            up = torch.from_numpy(uniform(f"up {layer} {part}", width * rank).reshape(width, rank) / 8)
            factors.append((down.requires_grad_(), up.requires_grad_()))

    def logits():
        changed = dict(frozen)
        for layer in range(CONFIG["vision_cfg"]["layers"]):
            name = f"transformer.resblocks.{layer}.attn.in_proj_weight"
            products = [up @ down for down, up in factors[layer * 3:][:3]]
            changed[name] = frozen[name] + LORA["alpha"] / math.sqrt(rank) * torch.cat(products)
        features = torch.func.functional_call(model.visual, changed, images)
        return math.exp(LOGIT_SCALE) * F.normalize(features, dim=-1) @ texts.t()

    optimizer = torch.optim.AdamW(
        [tensor for pair in factors for tensor in pair], lr=LORA["learning_rate"], weight_decay=1e-2, betas=(0.9, 0.999))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, LORA["updates"], eta_min=1e-6)
    losses = []
    for _ in range(LORA["updates"]):
        loss = F.cross_entropy(logits(), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    norms = [[down.norm().item(), up.norm().item()] for down, up in factors]
    return LORA | {"losses": losses, "norms": norms, "logits": logits().flatten().tolist()}


def main():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    rounded = json.loads(json.dumps({
        "dim": DIM, "classes": CLASSES, "images": IMAGES, "scale": LINEAR["scale"],
        "linear": [linear(decay) for decay in LINEAR["decays"]],
        "tip_adapter_f": tip_adapter_f(),
        "lora": lora(),
    }), parse_float=lambda text: float(f"{float(text):.7g}"))
    path = Path(__file__).parents[1] / "golden" / "adaptation.json"
    path.write_text(json.dumps(rounded, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
