"""Writes tests/golden/prompt_training.json: the losses of CoOp and CoCoOp in PyTorch.

Formulas of KaiyangZhou/CoOp (trainers/coop.py and cocoop.py) with Dassl's SGD and learning rate schedule, in f32. The
text encoder is open_clip's, run on all tokens of the context length. Weights and image embeddings are not stored; the
tests compute them by the same integer arithmetic.
"""

import json
from pathlib import Path

import open_clip
import torch
from numbers_by_index import LOGIT_SCALE, uniform, weight
from open_clip.model import CLIP
from torch.nn import functional as F

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 64},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3},
}
CLASSES = ["red circle", "polar_bear", "cat", "red ring", "Grandfather's clock", "Été 3D"]
IMAGES, BATCH, STEPS, EPOCHS, N_CTX = 13, 4, 20, 9, 5
LEARNING_RATE, WARM_UP_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.001, 0.9, 5e-4


def build(quick_gelu):
    model = CLIP(**CONFIG, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, tuple(parameter.shape)))
            parameter.requires_grad_(False)
    return model


def encode_text(model, prompts, tokens):
    """TextEncoder of trainers/coop.py."""
    x = prompts + model.positional_embedding
    x = model.transformer(x, attn_mask=model.attn_mask)
    x = model.ln_final(x)
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection


class Prompts:
    """The fixed rows of the prompts, and their layout around a context."""

    def __init__(self, model, position):
        tokenizer = open_clip.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])
        names = [name.replace("_", " ") for name in CLASSES]
        self.lengths = [len(tokenizer.encode(name)) for name in names]
        self.tokens = tokenizer([" ".join(["X"] * N_CTX) + " " + name + "." for name in names])
        rows = model.token_embedding(self.tokens)
        self.prefix, self.suffix = rows[:, :1], rows[:, 1 + N_CTX :]
        self.position = position

    def rows(self, context):
        if context.dim() == 2:
            context = context.expand(len(CLASSES), -1, -1)
        half = N_CTX // 2
        rows = []
        for prefix, suffix, own, length in zip(self.prefix, self.suffix, context, self.lengths):
            name, rest = suffix[:length], suffix[length:]
            rows.append(torch.cat({
                "end": [prefix, own, suffix],
                "middle": [prefix, own[:half], name, own[half:], rest],
                "front": [prefix, name, own, rest],
            }[self.position]))
        return torch.stack(rows)


def parameters(method, class_specific):
    width, embedding = CONFIG["text_cfg"]["width"], CONFIG["embed_dim"]
    hidden = embedding // 16
    shape = (len(CLASSES), N_CTX, width) if class_specific else (N_CTX, width)
    shapes = {"ctx": shape}
    if method == "cocoop":
        shapes |= {
            "meta_net.linear1.weight": (hidden, embedding), "meta_net.linear1.bias": (hidden,),
            "meta_net.linear2.weight": (width, hidden), "meta_net.linear2.bias": (width,),
        }
    return {name: weight(name, shape).clone().requires_grad_() for name, shape in shapes.items()}


def learning_rates(steps_per_epoch):
    """Learning rate of each step: one epoch of Dassl's constant warm-up, then PyTorch's cosine schedule."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LEARNING_RATE)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, float(EPOCHS))
    epochs = [WARM_UP_RATE]
    for _ in range(EPOCHS - 1):
        epochs.append(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    return [rate for rate in epochs for _ in range(steps_per_epoch)]


def train(case):
    model = build(case["activation"] == "quickgelu")
    prompts = Prompts(model, case["position"])
    learned = parameters(case["method"], case["class_specific"])
    features = torch.from_numpy(uniform("features", IMAGES * CONFIG["embed_dim"]).reshape(IMAGES, -1))
    features = features / features.norm(dim=-1, keepdim=True)
    labels = torch.tensor([image % len(CLASSES) for image in range(IMAGES)])
    optimizer = torch.optim.SGD(
        learned.values(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    scale = model.logit_scale.exp()

    def logits(image_features):
        if case["method"] == "coop":
            text = encode_text(model, prompts.rows(learned["ctx"]), prompts.tokens)
            text = text / text.norm(dim=-1, keepdim=True)
            return scale * image_features @ text.t()
        rows = []
        for image in image_features:
            hidden = F.relu(F.linear(image, learned["meta_net.linear1.weight"], learned["meta_net.linear1.bias"]))
            shift = F.linear(hidden, learned["meta_net.linear2.weight"], learned["meta_net.linear2.bias"])
            text = encode_text(model, prompts.rows(learned["ctx"] + shift), prompts.tokens)
            text = text / text.norm(dim=-1, keepdim=True)
            rows.append(scale * image @ text.t())
        return torch.stack(rows)

    size = case["batch_size"]
    rates = learning_rates(IMAGES // size)
    losses, batches, lengths = [], [], {}
    for step in range(STEPS):
        batch = [(step * size + i * 5) % IMAGES for i in range(size)]
        loss = F.cross_entropy(logits(features[batch]), labels[batch])
        optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            lengths = {name: tensor.grad.norm().item() for name, tensor in learned.items()}
        optimizer.step()
        losses.append(loss.item())
        batches.append(batch)
    final = {name: tensor.norm().item() for name, tensor in learned.items()}
    return {**case, "batches": batches, "losses": losses, "gradient_lengths": lengths, "final_lengths": final}


def main():
    torch.manual_seed(0)
    case = {"method": "coop", "position": "end", "class_specific": False, "activation": "quickgelu", "batch_size": BATCH}
    cases = [
        case,
        {**case, "activation": "gelu"},
        {**case, "class_specific": True},
        {**case, "position": "middle"},
        {**case, "position": "front"},
        {**case, "position": "middle", "class_specific": True},
        {**case, "method": "cocoop", "batch_size": 1},
        {**case, "method": "cocoop", "batch_size": 3},
    ]
    golden = {
        "classes": CLASSES, "images": IMAGES, "epochs": EPOCHS, "n_ctx": N_CTX, "logit_scale": LOGIT_SCALE,
        "learning_rate": LEARNING_RATE, "warm_up_rate": WARM_UP_RATE, "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY, "cases": [train(case) for case in cases],
    }
    for case in golden["cases"]:
        print({k: v for k, v in case.items() if isinstance(v, (str, bool))}, case["losses"][0], case["losses"][-1])
    path = Path(__file__).resolve().parents[1] / "golden" / "prompt_training.json"
    path.write_text(json.dumps(golden, indent=None, separators=(",", ":"), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
