"""Makes prompts/tests/golden/learned.json and learned.safetensors: learned prompts of CoOp and CoCoOp.

    python make_prompts.py

A small random text encoder (open_clip's modules, 77 positions) with random contexts. Class embeddings and logits follow
KaiyangZhou/CoOp (trainers/coop.py, trainers/cocoop.py): the tokens of "X X X X name." with the embeddings of the X's
replaced, run through the encoder at all 77 positions, and read at the highest token ID. learned.safetensors contains only
the token embeddings in use. Deterministic with the versions in requirements.txt.
"""

import json
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parents[2] / "prompts/tests/golden"
EMBEDDING, WIDTH, HEADS, LAYERS, HIDDEN = 24, 32, 4, 3, 6
SCALE = 100.0
CLASSES = ["cat", "polar_bear", "Boeing 747-400", "great white shark", "cat!", "St. Bernard dog", "forest"]
IMAGES = 5


def random_model(generator):
    """A CLIP model with random weights, larger than at initialisation so that attention and MLPs matter."""
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": HEADS, "layers": LAYERS}
    model = CLIP(EMBEDDING, vision, text, quick_gelu=True).eval()
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name == "token_embedding.weight":
            value = 0.3 * noise
        elif parameter.ndim == 2:
            value = noise / parameter.shape[-1] ** 0.5
        elif "ln_" in name and name.endswith("weight"):
            value = 1 + 0.1 * noise
        else:
            value = 0.1 * noise
        parameter.data = value
    return model


class Prompts:
    """CoOp's PromptLearner for one list of classes."""

    def __init__(self, model, n_ctx, classes=CLASSES):
        names = [name.replace("_", " ") for name in classes]
        texts = [" ".join(["X"] * n_ctx) + " " + name + "." for name in names]
        tokenizer = open_clip.SimpleTokenizer()
        self.name_lens = [len(tokenizer.encode(name)) for name in names]
        self.tokens = tokenizer(texts, context_length=len(model.positional_embedding))
        self.n_ctx = n_ctx
        rows = model.token_embedding(self.tokens)
        self.prefix, self.suffix = rows[:, :1], rows[:, 1 + n_ctx :]

    def rows(self, context, position):
        """[classes, 77, width] for a context [n_ctx, width] or [classes, n_ctx, width]."""
        if context.ndim == 2:
            context = context.expand(len(self.tokens), -1, -1)
        if position == "end":
            return torch.cat([self.prefix, context, self.suffix], 1)
        half = self.n_ctx // 2 if position == "middle" else 0
        prompts = []
        for i, length in enumerate(self.name_lens):
            name, rest = self.suffix[i, :length], self.suffix[i, length:]
            parts = [self.prefix[i], context[i, :half], name, context[i, half:], rest]
            prompts.append(torch.cat(parts))
        return torch.stack(prompts)


def encode(model, rows, tokens):
    """CoOp's TextEncoder with L2-normalised output."""
    x = rows + model.positional_embedding
    x = model.transformer(x, attn_mask=model.attn_mask)
    x = model.ln_final(x)
    x = x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection
    return x / x.norm(dim=-1, keepdim=True)


@torch.no_grad()
def main():
    generator = torch.Generator().manual_seed(7)
    model = random_model(generator)

    def random(*shape, scale):
        return scale * torch.randn(shape, generator=generator)

    features = random(IMAGES, EMBEDDING, scale=1.0)
    features /= features.norm(dim=-1, keepdim=True)
    weights = {
        "unified": random(5, WIDTH, scale=0.3),
        "specific": random(len(CLASSES), 5, WIDTH, scale=0.3),
        "conditional": random(4, WIDTH, scale=0.3),
        "meta_net.linear1.weight": random(HIDDEN, EMBEDDING, scale=1.0),
        "meta_net.linear1.bias": random(HIDDEN, scale=0.1),
        "meta_net.linear2.weight": random(WIDTH, HIDDEN, scale=0.2),
        "meta_net.linear2.bias": random(WIDTH, scale=0.1),
    }
    logits = {}
    coop = Prompts(model, 5)
    for context in ["unified", "specific"]:
        for position in ["end", "middle", "front"]:
            text = encode(model, coop.rows(weights[context], position), coop.tokens)
            logits[f"{context}-{position}"] = SCALE * features @ text.T

    cocoop = Prompts(model, 4)
    logits["conditional"] = []
    for feature in features:
        hidden = weights["meta_net.linear1.weight"] @ feature + weights["meta_net.linear1.bias"]
        shift = weights["meta_net.linear2.weight"] @ hidden.relu() + weights["meta_net.linear2.bias"]
        text = encode(model, cocoop.rows(weights["conditional"] + shift, "end"), cocoop.tokens)
        logits["conditional"].append(SCALE * text @ feature)

    ids = sorted(set(coop.tokens.flatten().tolist()) - {0})
    text_encoder = {k: v for k, v in model.state_dict().items() if not k.startswith(("visual.", "logit_", "attn_mask"))}
    text_encoder["token_embedding.weight"] = text_encoder["token_embedding.weight"][ids]
    weights |= {name: value.contiguous() for name, value in text_encoder.items()}
    save_file(weights, GOLDEN / "learned.safetensors")
    golden = {
        "made_by": f"open_clip {open_clip.__version__}, torch {torch.__version__}",
        "classes": CLASSES, "token_ids": ids, "layers": LAYERS, "heads": HEADS, "embedding": EMBEDDING,
        "logit_scale": SCALE, "features": features.tolist(),
        "logits": {name: [list(map(float, row)) for row in rows] for name, rows in logits.items()},
    }
    (GOLDEN / "learned.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
