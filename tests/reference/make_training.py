"""Makes tests/golden/training.json: contrastive CLIP training in PyTorch.

    python make_training.py

A few AdamW updates of the small random open_clip model in tests/golden/models/vit-quickgelu on two image-text pairs:
the norm of each tensor's gradient before the first update, and the loss before each update. The loss is open_clip's
ClipLoss. As in open_clip_train/main.py, tensors with fewer than two axes have no weight decay, and gradients are clipped
by torch.nn.utils.clip_grad_norm_.
"""

import json
from pathlib import Path

import open_clip
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from safetensors.torch import load_file

from make_models import FAMILIES, inputs, normalised

GOLDEN = Path(__file__).parent.parent / "golden"
LEARNING_RATE, BETAS, EPSILON, DECAY, LIMIT, UPDATES = 1e-3, (0.9, 0.98), 1e-6, 0.1, 1.0, 6


def main():
    config = FAMILIES["vit-quickgelu"]
    model = CLIP(**config)
    model.load_state_dict(load_file(GOLDEN / "models/vit-quickgelu/open-clip/open_clip_model.safetensors"))
    images, texts = inputs(config["vision_cfg"]["image_size"])
    images, texts = normalised(images), torch.tensor(texts[:2])
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
            {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": DECAY},
        ],
        lr=LEARNING_RATE, betas=BETAS, eps=EPSILON,
    )
    losses, gradients = [], {}
    for update in range(UPDATES):
        optimizer.zero_grad()
        image = model.encode_image(images, normalize=True)
        text = model.encode_text(texts, normalize=True)
        loss = ClipLoss()(image, text, model.logit_scale.exp())
        loss.backward()
        if update == 0:
            gradients = {name: p.grad.norm().item() for name, p in named}
        losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
        optimizer.step()
    golden = {
        "made_by": f"open_clip {open_clip.__version__}, torch {torch.__version__}",
        "learning_rate": LEARNING_RATE, "beta1": BETAS[0], "beta2": BETAS[1], "epsilon": EPSILON,
        "weight_decay": DECAY, "clip_gradient": LIMIT,
        "losses": losses,
        "gradient_lengths": gradients,
    }
    (GOLDEN / "training.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
