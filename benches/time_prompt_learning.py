"""Compares a training step of CoOp and of CoCoOp in PyTorch with ours: time_prompt_learning.py [RUNS].

With the text encoder of ViT-B/32 (12 layers, width 512, 8 heads), random weights, the classes of CIFAR-100, 2 threads and f32.
CoOp: a batch of 32 images, 16 context vectors. CoCoOp: one image, 4 context vectors. A step starts with the images'
embeddings and ends with the updated context: in PyTorch as the reference does it (77 tokens per class, weights without
gradients), ours in training/examples/prompt_step.rs. They run in turns, so that other load on the machine affects both.
Prints the medians.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from open_clip.transformer import QuickGELU, Transformer
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ["cargo", "run", "--quiet", "--release", "-p", "pinhole-training", "--example", "prompt_step", "--"]
# As pinhole-train sets it.
ENVIRONMENT = {
    "RAYON_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "8589934592", "MALLOC_TOP_PAD_": "67108864",
}
THREADS, WIDTH, EMBEDDING, TOKENS = 2, 512, 512, 77
NAMES = """apple,aquarium fish,baby,bear,beaver,bed,bee,beetle,bicycle,bottle,bowl,boy,bridge,bus,butterfly,camel,
can,castle,caterpillar,cattle,chair,chimpanzee,clock,cloud,cockroach,couch,crab,crocodile,cup,dinosaur,dolphin,
elephant,flatfish,forest,fox,girl,hamster,house,kangaroo,keyboard,lamp,lawn mower,leopard,lion,lizard,lobster,man,
maple tree,motorcycle,mountain,mouse,mushroom,oak tree,orange,orchid,otter,palm tree,pear,pickup truck,pine tree,
plain,plate,poppy,porcupine,possum,rabbit,raccoon,ray,road,rocket,rose,sea,seal,shark,shrew,skunk,skyscraper,snail,
snake,spider,squirrel,streetcar,sunflower,sweet pepper,table,tank,telephone,television,tiger,tractor,train,trout,
tulip,turtle,wardrobe,whale,willow tree,wolf,woman,worm""".replace("\n", "").split(",")


class Reference:
    """The formulas of KaiyangZhou/CoOp on a text encoder with random weights."""

    def __init__(self):
        torch.manual_seed(0)
        self.encoder = Transformer(width=WIDTH, layers=12, heads=8, act_layer=QuickGELU)
        self.norm = torch.nn.LayerNorm(WIDTH)
        for parameter in [*self.encoder.parameters(), *self.norm.parameters()]:
            parameter.requires_grad_(False)
        self.projection = torch.randn(WIDTH, EMBEDDING) * WIDTH**-0.5
        self.positions = torch.randn(TOKENS, WIDTH) * 0.01
        self.mask = torch.full((TOKENS, TOKENS), float("-inf")).triu_(1)

    def text(self, context):
        count = len(NAMES)
        rest = self.rest[:, : TOKENS - 1 - len(context)]
        rows = torch.cat([self.prefix, context.expand(count, -1, -1), rest], dim=1)
        x = self.norm(self.encoder(rows + self.positions, attn_mask=self.mask))
        x = x[torch.arange(count), self.ends] @ self.projection
        return x / x.norm(dim=-1, keepdim=True)

    def prepare(self, method):
        count, n_ctx = len(NAMES), 16 if method == "coop" else 4
        self.prefix = torch.randn(count, 1, WIDTH) * 0.02
        self.rest = torch.randn(count, TOKENS, WIDTH) * 0.02
        self.ends = torch.full((count,), n_ctx + 4)
        learned = [torch.nn.Parameter(torch.randn(n_ctx, WIDTH) * 0.02)]
        if method == "cocoop":
            self.meta_net = torch.nn.Sequential(
                torch.nn.Linear(EMBEDDING, EMBEDDING // 16), torch.nn.ReLU(),
                torch.nn.Linear(EMBEDDING // 16, WIDTH))
            learned += list(self.meta_net.parameters())
        self.context = learned[0]
        self.optimizer = torch.optim.SGD(learned, lr=0.002, momentum=0.9, weight_decay=5e-4)
        self.images = F.normalize(torch.randn(32 if method == "coop" else 1, EMBEDDING), dim=-1)
        self.labels = torch.arange(len(self.images)) % count

    def update(self, method):
        start = time.perf_counter()
        if method == "coop":
            logits = 100 * self.images @ self.text(self.context).t()
        else:
            shift = self.meta_net(self.images)
            logits = 100 * self.images @ self.text(self.context + shift).t()
        loss = F.cross_entropy(logits, self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def ours(method, names, runs):
    command = [*EXAMPLE, method, names, str(runs), str(THREADS)]
    output = subprocess.run(
        command, check=True, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT})
    return [float(line) for line in output.stdout.split()]


def main(runs):
    torch.set_num_threads(THREADS)
    reference = Reference()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as names:
        names.write("\n".join(NAMES))
        names.flush()
        ours("coop", names.name, 1)
        print(f"PyTorch {torch.__version__}, {THREADS} threads, {len(NAMES)} classes, median of {runs} steps, seconds")
        for method in ("coop", "cocoop"):
            reference.prepare(method)
            theirs, mine = [], []
            for _ in range(runs):
                theirs.append(reference.update(method))
                # Without the first step, which touches memory for the first time.
                mine += ours(method, names.name, 3)[1:]
            theirs, mine = statistics.median(theirs), statistics.median(mine)
            print(f"{method}: PyTorch {theirs:.2f}, Pinhole {mine:.3f}, ratio {theirs / mine:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
