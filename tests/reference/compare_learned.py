"""Compares learned methods that change the encoders with their formulas in PyTorch, for a full-size ViT-B/16.

    python compare_learned.py PROGRAMS IMAGE...
    PROGRAMS  the folder with pinhole and pinhole-export, such as target/release

Makes a ViT-B/16 with random weights (tests/conformance/random_checkpoint.py), and files as MaPLe, PromptSRC and CLIP-LoRA
save them in half precision with their default sizes: 2 and 4 tokens in the first 9 blocks of both encoders; rank 2 in
queries, keys and values of both. PromptSRC's file has other encoders than the CLIP, as its averaging leaves them. Exports
each in f32, and compares the logits of `pinhole classify` at scale 100 for the pixels of `pinhole preprocess`. Fails if
one differs by more than 0.002. Prints the image encoder's multiplications relative to zero-shot's.

Needs the packages of requirements.txt and Pillow, and 6 GB of memory.
"""

import copy
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import deep_prompts
import open_clip
import torch
from deep_prompts import unit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conformance"))

from compare import pixels  # noqa: E402

BOUND, SCALE = 0.002, 100
DEPTH, N_MAPLE, N_PROMPTSRC, RANK, ALPHA = 9, 2, 4, 2, 1
CLASSES = ["tabby cat", "polar bear", "great white shark", "espresso", "school bus", "lighthouse", "acoustic guitar", "volcano"]
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def half(value):
    return value.half().float()


def lora(model, random):
    """The file of CLIP-LoRA (loralib/utils.py); changes the model."""
    weights = {}
    for i, block in enumerate([*model.transformer.resblocks, *model.visual.transformer.resblocks]):
        matrix = block.attn.in_proj_weight
        width = matrix.shape[1]
        weights[f"layer_{i}"] = {}
        for part, name in enumerate(["q_proj", "k_proj", "v_proj"]):
            down, up = half(random(RANK, width, scale=width**-0.5)), half(random(width, RANK, scale=0.3))
            weights[f"layer_{i}"][name] = {"w_lora_A": down.half(), "w_lora_B": up.half()}
            matrix[part * width : (part + 1) * width] += ALPHA / RANK**0.5 * (up @ down)
    metadata = {"r": RANK, "alpha": ALPHA, "encoder": "both", "params": ["q", "k", "v"], "position": "all"}
    return {"weights": weights, "metadata": metadata}


def macs(tokens, width=768, layers=12, patches=196, patch=16, embedding=512):
    """Multiplications of ViT-B/16 with the class token, the patches' and `tokens` constant ones."""
    t = 1 + patches + tokens
    block = 12 * t * width * width + 2 * t * t * width
    # The last block is computed for the class token alone, but for the keys and values.
    last = 2 * t * width * width + 10 * width * width + 2 * t * width
    return 3 * patch**2 * patches * width + (layers - 1) * block + last + width * embedding


@torch.no_grad()
def main(programs, images):
    generator = torch.Generator().manual_seed(9)
    programs = Path(programs)

    def random(*shape, scale=1.0):
        return scale * torch.randn(shape, generator=generator)

    def learned(name, *shape):
        scale = shape[-1] ** -0.5 if name.endswith("weight") else 0.3
        return half(random(*shape, scale=scale))

    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        clip, classes = work / "clip", work / "classes.txt"
        subprocess.run([sys.executable, Path(__file__).parents[1] / "conformance/random_checkpoint.py", "ViT-B-16", clip], check=True)
        classes.write_text("\n".join(CLASSES))
        original, _, _ = open_clip.create_model_and_transforms(f"local-dir:{clip}")
        original.eval()
        templates = [f"a photo of a {name}." for name in CLASSES]

        def zero_shot(model, x):
            text = model.encode_text(open_clip.SimpleTokenizer()(templates))
            return SCALE * unit(model.encode_image(x)) @ unit(text).T

        def deep(name, prompts, drift):
            """The file, and its logits as a function of the images."""
            model = copy.deepcopy(original)
            for tensor in deep_prompts.encoders(model).values():
                tensor.copy_(half(tensor * (1 + random(*tensor.shape, scale=drift))))
            state, image, text = prompts(model)
            tokens, around = deep_prompts.names(model, len(text[0]), CLASSES)
            learner = {f"prompt_learner.{key}": rows for key, rows in around.items()}
            state |= learner | deep_prompts.encoders(model)
            if name == "PromptSRC":
                state["prompt_learner.ZS_image_encoder.proj"] = original.visual.proj
            torch.save({"state_dict": {key: value.half() for key, value in state.items()}, "epoch": 5}, work / "learned")

            def logits(x):
                t = deep_prompts.text_features(model, text[0], text[1:], tokens, around)
                return SCALE * unit(deep_prompts.image_features(model, x, image)) @ unit(t).T

            return logits

        def clip_lora():
            model = copy.deepcopy(original)
            torch.save(lora(model, random), work / "learned")
            return lambda x: zero_shot(model, x)

        methods = [
            ("zero-shot", 0, None),
            ("MaPLe", N_MAPLE, lambda: deep("MaPLe", lambda m: deep_prompts.maple(m, learned, N_MAPLE, DEPTH), 0.0)),
            (
                "PromptSRC",
                N_PROMPTSRC,
                lambda: deep("PromptSRC", lambda m: deep_prompts.ivlp(m, learned, N_PROMPTSRC, N_PROMPTSRC, DEPTH), 0.01),
            ),
            ("CLIP-LoRA", 0, clip_lora),
        ]
        x, worst = None, 0.0
        for name, tokens, make in methods:
            bundle = work / name
            logits = make() if make else lambda x: zero_shot(original, x)
            command = [programs / "pinhole-export", "bundle", "--clip", clip, "--classes", classes, "--out", bundle]
            subprocess.run(command + (["--learned", work / "learned"] if make else []), check=True)
            manifest = json.loads((bundle / "manifest.json").read_text())
            assert manifest.get("method") == (name if make else None), manifest.get("method")
            if x is None:
                batch = torch.from_numpy(pixels(programs / "pinhole", bundle, images)).float() / 255
                x = ((batch - MEAN) / STD).permute(0, 3, 1, 2)
            command = [programs / "pinhole", "classify", "--json", "--top", str(len(CLASSES)), bundle, *images]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            difference = 0.0
            for line, expected in zip(lines, logits(x).tolist(), strict=True):
                found = {top["class"]: SCALE * top["similarity"] for top in json.loads(line)["top"]}
                difference = max(difference, *(abs(found[key] - value) for key, value in zip(CLASSES, expected, strict=True)))
            worst = max(worst, difference)
            print(f"{name}: largest logit difference {difference:.6f}, {macs(tokens) / macs(0):.4f} x the multiplications", flush=True)
            shutil.rmtree(bundle)
    if not worst <= BOUND:
        sys.exit(f"error: expected at most {BOUND}, found {worst}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
