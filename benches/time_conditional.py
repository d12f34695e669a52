"""Compares the time of CoCoOp's text prompts for one image in PyTorch with ours: time_conditional.py [RUNS].

The reference is KaiyangZhou/CoOp's forward pass: for each image the context vectors are shifted and inserted between the
embedded SOT and names, and the text encoder of ViT-B encodes all 100 prompts with 77 positions. Ours is
prompts/examples/conditional.rs. Both run with 2 threads, in turns, so that other load on the machine affects both. Prints the
medians.
"""

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import open_clip
import torch

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ["cargo", "run", "--quiet", "--release", "-p", "pinhole-prompts", "--example", "conditional", "--"]
THREADS, CLASSES, N_CTX, WIDTH, EMBEDDING, HIDDEN = 2, 100, 4, 512, 512, 32


class Reference:
    def __init__(self):
        text = {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 8, "layers": 12}
        vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
        self.clip = open_clip.model.CLIP(EMBEDDING, vision, text, quick_gelu=True).eval()
        adjectives = "red blue green dark light small big old wild tame".split()
        nouns = "cat dog bird fish car boat tree house road bear".split()
        tokenizer = open_clip.SimpleTokenizer()
        self.tokens = tokenizer([f"X X X X {a} {b}." for a in adjectives for b in nouns])
        assert len(self.tokens) == CLASSES
        rows = self.clip.token_embedding(self.tokens)
        self.prefix, self.suffix = rows[:, :1], rows[:, 1 + N_CTX :]
        self.context = 0.02 * torch.randn(N_CTX, WIDTH)
        self.meta_net = torch.nn.Sequential(
            torch.nn.Linear(EMBEDDING, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, WIDTH)
        )

    def __call__(self, feature):
        context = (self.context + self.meta_net(feature)).expand(CLASSES, -1, -1)
        x = torch.cat([self.prefix, context, self.suffix], 1) + self.clip.positional_embedding
        x = self.clip.transformer(x, attn_mask=self.clip.attn_mask)
        x = self.clip.ln_final(x)
        x = x[torch.arange(CLASSES), self.tokens.argmax(-1)] @ self.clip.text_projection
        return (x / x.norm(dim=-1, keepdim=True)) @ feature


@torch.no_grad()
def main(runs):
    torch.set_num_threads(THREADS)
    reference = Reference()
    feature = torch.nn.functional.normalize(torch.randn(EMBEDDING), dim=0)
    reference(feature)
    subprocess.run([*EXAMPLE, "1", "1"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    theirs, ours = [], {}
    for _ in range(runs):
        start = time.perf_counter()
        reference(feature)
        theirs.append(1e3 * (time.perf_counter() - start))
        command = [*EXAMPLE, str(THREADS), "5"]
        output = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
        for name, value in re.findall(r"^(.*\d.*): ([\d.]+)$", output, re.MULTILINE):
            ours.setdefault(name, []).append(float(value))
    theirs = statistics.median(theirs)
    print(f"torch {torch.__version__}, {THREADS} threads, medians of {runs} runs, milliseconds per image")
    print(f"PyTorch, {CLASSES} classes: {theirs:.0f}")
    for name, values in ours.items():
        value = statistics.median(values)
        ratio = f" (1/{theirs / value:.0f} of PyTorch's time)" if name == f"exact, {CLASSES} classes" else ""
        print(f"Pinhole, {name}: {value:.3g}{ratio}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
