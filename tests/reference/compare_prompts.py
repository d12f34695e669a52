"""Compares learned prompts, exported from a real checkpoint, with the formulas of CoOp and CoCoOp in PyTorch.

    python compare_prompts.py CHECKPOINT CLASSES PROGRAMS IMAGE...
    CHECKPOINT  an open_clip folder, as `pinhole-train clip` writes it
    CLASSES     a file with one class per line
    PROGRAMS    the folder with pinhole and pinhole-export, such as target/release

Covers every class position with unified and class-specific contexts, and CoCoOp. Contexts are the embedding of "a photo
of a" plus noise that exceeds what training changes. They are saved in the reference's format and exported in f32.
Compares logits at scale 100 for pinhole's image embeddings. Fails if one differs by more than 0.002.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file

from make_prompts import SCALE, Prompts, encode

BOUND = 0.002


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


@torch.no_grad()
def main(checkpoint, class_file, programs, images):
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{checkpoint}")
    model.eval()
    classes = [line.strip() for line in Path(class_file).read_text().splitlines() if line.strip()]
    generator = torch.Generator().manual_seed(3)
    width, embedding = model.text_projection.shape
    hidden = max(embedding // 16, 1)

    def random(*shape, scale):
        return scale * torch.randn(shape, generator=generator)

    words = open_clip.SimpleTokenizer().encode("a photo of a")
    start = model.token_embedding(torch.tensor(words))
    deviation = start.std().item()
    worst = 0.0
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        calibration = work / "images"
        calibration.mkdir()
        for i, image in enumerate(images):
            (calibration / f"{i}{Path(image).suffix}").symlink_to(Path(image).resolve())

        def exported(name, state, position):
            torch.save({"state_dict": state, "epoch": 1}, work / f"{name}.pth.tar")
            run(Path(programs) / "pinhole-export", "bundle", "--clip", checkpoint, "--classes", class_file,
                "--prompt-learner", work / f"{name}.pth.tar", "--class-position", position,
                "--calibration", calibration, "--out", work / name)
            return work / name

        features = None
        for kind in ("unified", "class-specific"):
            for position in ("end", "middle", "front"):
                shape = (4, width) if kind == "unified" else (len(classes), 4, width)
                context = start + random(*shape, scale=deviation)
                bundle = exported(f"{kind}-{position}", {"ctx": context}, position)
                if features is None:
                    lines = run(Path(programs) / "pinhole", "embed", "--json", bundle, *images).splitlines()
                    features = torch.tensor([json.loads(line)["embedding"] for line in lines])
                prompts = Prompts(model, 4, classes)
                theirs = SCALE * features @ encode(model, prompts.rows(context, position), prompts.tokens).T
                ours = SCALE * features @ load_file(bundle / "head.safetensors")["class_embeddings"].T
                difference = (theirs - ours).abs().max().item()
                worst = max(worst, difference)
                print(f"{kind}, {position}: largest logit difference {difference:.6f}")

        context = start + random(4, width, scale=deviation)
        net = {
            "meta_net.linear1.weight": random(hidden, embedding, scale=1.0),
            "meta_net.linear1.bias": random(hidden, scale=0.1),
            "meta_net.linear2.weight": random(width, hidden, scale=deviation),
            "meta_net.linear2.bias": random(width, scale=0.1 * deviation),
        }
        bundle = exported("conditional", {"ctx": context, **net}, "end")
        lines = run(Path(programs) / "pinhole", "classify", "--json", "--top", len(classes), bundle, *images)
        prompts = Prompts(model, 4, classes)
        difference = 0.0
        for feature, line in zip(features, lines.splitlines(), strict=True):
            shift = net["meta_net.linear1.weight"] @ feature + net["meta_net.linear1.bias"]
            shift = net["meta_net.linear2.weight"] @ shift.relu() + net["meta_net.linear2.bias"]
            theirs = SCALE * encode(model, prompts.rows(context + shift, "end"), prompts.tokens) @ feature
            found = {top["class"]: SCALE * top["similarity"] for top in json.loads(line)["top"]}
            for name, logit in zip(classes, theirs.tolist(), strict=True):
                difference = max(difference, abs(found[name] - logit))
        worst = max(worst, difference)
        print(f"CoCoOp: largest logit difference {difference:.6f}, {len(images)} images, {len(classes)} classes")
    if not worst <= BOUND:
        sys.exit(f"error: expected at most {BOUND}, found {worst}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
