"""Makes the files of learned methods in tests/golden/learned, and the logits that they should give.

    python make_learned.py

The CLIP is the small one of export/tests/common: its weights are pseudo-random numbers of the tensors' names, which this
script computes too, so that no checkpoint is stored. What is learned is random, and saved as each method's reference
implementation saves it. golden.json has the logits of two images by each method's formula, at the model's scale of 99.48,
computed with open_clip's modules in float32. What methods with prompts inside of the encoders save is pseudo-random numbers
of the names too, for a deeper CLIP of other widths; export/tests/all/deep_prompts.rs writes their files. Deterministic with the versions in requirements.txt.
"""

import json
from collections import OrderedDict
from pathlib import Path

import deep_prompts
import numpy
import open_clip
import torch
from deep_prompts import unit
from open_clip.model import CLIP

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "learned"
CLASSES = ["cat", "polar_bear", "great white shark"]
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
EMBEDDING, WIDTH, N_CTX = 32, 64, 4
# exp(logit_scale) of the model, 99.48.
SCALE = torch.tensor(4.6).exp().item()


def named_numbers(name, shape):
    """`random` of export/tests/common/weights.rs."""
    state = 1
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    count = int(numpy.prod(shape))
    with numpy.errstate(over="ignore"):
        powers = numpy.multiply.accumulate(numpy.full(count, 6364136223846793005, numpy.uint64))
        sums = numpy.add.accumulate(numpy.concatenate([[numpy.uint64(1)], powers[:-1]]))
        states = powers * numpy.uint64(state) + numpy.uint64(1442695040888963407) * sums
    uniform = (states >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(2**24) - numpy.float32(0.5)
    if name == "logit_scale":
        values = numpy.full(count, 4.6, numpy.float32)
    elif "ln_" in name and name.endswith("weight"):
        values = 1 + numpy.float32(0.2) * uniform
    else:
        scale = numpy.float32(2) / numpy.sqrt(numpy.float32(shape[-1])) if len(shape) > 1 else numpy.float32(0.2)
        values = scale * uniform
    return torch.from_numpy(values).reshape(shape)


def small_clip(vision_layers=2, vision_width=64, text_layers=1):
    vision = {"image_size": 32, "layers": vision_layers, "width": vision_width, "head_width": 64, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": WIDTH, "heads": 1, "layers": text_layers}
    model = CLIP(EMBEDDING, vision, text, quick_gelu=True).eval()
    for name, tensor in model.state_dict().items():
        if name != "attn_mask":
            tensor.copy_(named_numbers(name, list(tensor.shape)))
    return model


def images():
    """Two images [32, 32, 3] u8, as export/tests/all/imported.rs makes them."""
    y, x, c = numpy.ogrid[:32, :32, :3]
    return [(37 * y + 101 * x + 53 * c + 11 * x * y) % 256, (7 * y * y + 3 * x + 80 * c) % 256]


def normalised_images():
    pixels = torch.stack([torch.from_numpy(image.astype(numpy.float32)) / 255 for image in images()])
    return ((pixels - MEAN) / STD).permute(0, 3, 1, 2)


def image_features(model):
    """Not normalised, [images, D]."""
    return model.encode_image(normalised_images())


def zero_shot(model, classes=CLASSES):
    """With Pinhole's default template."""
    texts = [f"a photo of a {name.replace('_', ' ')}." for name in classes]
    return unit(model.encode_text(open_clip.SimpleTokenizer()(texts, context_length=16)))


def learned_text(model, context):
    """CoOp's class embeddings for a context [n_ctx, width] before the name, and the prefix and suffix that it saves."""
    texts = ["X " * N_CTX + name.replace("_", " ") + "." for name in CLASSES]
    tokens = open_clip.SimpleTokenizer()(texts, context_length=16)
    rows = model.token_embedding(tokens)
    prefix, suffix = rows[:, :1], rows[:, 1 + N_CTX :]
    x = torch.cat([prefix, context.expand(len(CLASSES), -1, -1), suffix], 1) + model.positional_embedding
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
    text = unit(x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection)
    return text, {"token_prefix": prefix, "token_suffix": suffix}


def deep_methods():
    """The logits of methods with prompts inside of the encoders, of depth 3 in encoders of 4 blocks."""
    model = small_clip(4, 128, 4)
    # The files have the encoders too, which are others here than those of the CLIP.
    for name, tensor in deep_prompts.encoders(model).items():
        tensor.copy_(named_numbers(name, list(tensor.shape)))

    def tensor(name, *shape):
        return named_numbers(name, shape)

    def logits(image, text, words=deep_prompts.INITIAL_WORDS, adapters=None):
        f = deep_prompts.image_features(model, normalised_images(), image)
        tokens, around = deep_prompts.names(model, len(text[0]), CLASSES, words)
        t = deep_prompts.text_features(model, text[0], text[1:], tokens, around)
        if adapters:
            f = deep_prompts.adapted(f, adapters, "image", 0.1)
            t = deep_prompts.adapted(t, adapters, "text", 0.2)
        return SCALE * unit(f) @ unit(t).T

    _, image, text = deep_prompts.maple(model, tensor, 2, 3)
    _, ivlp_image, ivlp_text = deep_prompts.ivlp(model, tensor, 4, 3, 3)
    # VPT's prompts (trainers/vpt.py) are those of IVLP's image encoder, beside the classes of zero-shot.
    vpt = unit(deep_prompts.image_features(model, normalised_images(), ivlp_image))
    return {
        "maple": logits(image, text),
        "maple-other-words": logits(image, text, words="X X"),
        "maple-shallow": logits(image[:1], text[:1]),
        "ivlp": logits(ivlp_image, ivlp_text),
        "vpt": SCALE * vpt @ zero_shot(model).T,
        "coprompt": logits(image, text, adapters=deep_prompts.coprompt_adapters(model, tensor)),
    }


def encoder_files(random):
    """Small files as MaPLe's and PromptSRC's trainers save them, with the encoders; checkpoint/tests/all/learned.rs has the
    sizes of their CLIP."""
    vision = {"image_size": 4, "layers": 2, "width": 8, "head_width": 8, "patch_size": 2}
    model = CLIP(4, vision, {"context_length": 8, "vocab_size": 10, "width": 4, "heads": 1, "layers": 2})
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(random(*value.shape))

    def tensor(_, *shape):
        return random(*shape)

    names = {"prompt_learner.token_prefix": random(1, 1, 4), "prompt_learner.token_suffix": random(1, 5, 4)}
    state, _, _ = deep_prompts.maple(model, tensor, 2, 2)
    trainer_file("maple.pth.tar", state | names | deep_prompts.encoders(model))
    state, _, _ = deep_prompts.ivlp(model, tensor, 2, 3, 2)
    teacher = {"prompt_learner.ZS_image_encoder.proj": random(8, 4)}
    trainer_file("promptsrc.pth.tar", state | names | teacher | deep_prompts.encoders(model))


def trainer_file(name, state):
    """As Dassl's trainers save a model; the trainings are in half precision by default."""
    half = OrderedDict((key, value.half()) for key, value in state.items())
    torch.save({"state_dict": half, "epoch": 50}, GOLDEN / name)
    return {key: value.float() for key, value in half.items()}


@torch.no_grad()
def main():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(19)

    def random(*shape, scale=1.0):
        return scale * torch.randn(shape, generator=generator)

    model = small_clip()
    features = image_features(model)
    logits = {"zero-shot": SCALE * unit(features) @ zero_shot(model).T}

    # KgCoOp (htyao89/KgCoOp: trainers/kgcoop.py); ProGrad's files have the same tensors but for the unused ones.
    context = random(N_CTX, WIDTH, scale=0.2)
    text, names = learned_text(model, context.half().float())
    unused = {
        "bias_vectors": random(1, WIDTH),
        "meta_net.linear1.weight": random(EMBEDDING // 16, EMBEDDING),
        "meta_net.linear1.bias": random(EMBEDDING // 16),
    }
    trainer_file("kgcoop.pth.tar", {"ctx": context, **unused, **names})
    trainer_file("prograd.pth.tar", {"ctx": context, **names})
    logits["kgcoop"] = logits["prograd"] = SCALE * unit(features) @ text.T

    # PLOT (CHENGY12/PLOT: plot-coop/trainers/plot.py) saves the names once for each of its contexts.
    repeated = {name: rows.repeat(2, 1, 1) for name, rows in names.items()}
    trainer_file("plot.pth.tar", {"ctx": random(2, N_CTX, WIDTH, scale=0.2), **repeated})

    # Class-specific contexts, with the names in the order of the training (KaiyangZhou/CoOp: trainers/coop.py).
    trainer_file("coop-specific.pth.tar", {"ctx": random(len(CLASSES), N_CTX, WIDTH, scale=0.2), **names})

    # TaskRes (geekyutao/TaskRes: trainers/taskres.py); alpha is not saved.
    state = {
        "base_text_features": 3 * zero_shot(model),
        "text_feature_residuals": random(len(CLASSES), EMBEDDING, scale=0.3),
    }
    state = trainer_file("taskres.pth.tar", state)
    for alpha in (1.0, 0.5):
        text = unit(state["base_text_features"] + alpha * state["text_feature_residuals"])
        logits[f"taskres-{alpha}"] = SCALE * unit(features) @ text.T

    # A linear head, as scikit-learn's attributes (float64) and as a PyTorch module's.
    weight, bias = random(len(CLASSES), EMBEDDING, scale=4.0), random(len(CLASSES), scale=2.0)
    numpy.savez(
        GOLDEN / "linear.npz",
        coef_=weight.double().numpy(),
        intercept_=bias.double().numpy(),
        classes_=numpy.arange(len(CLASSES)),
    )
    torch.save({"fc.weight": weight, "fc.bias": bias}, GOLDEN / "linear.pt")
    logits["linear"] = unit(features) @ weight.T + bias

    # Tip-Adapter and Tip-Adapter-F (gaopengcuhk/Tip-Adapter: main.py, utils.py); alpha and beta are not saved.
    examples = torch.arange(2 * len(CLASSES)) % len(CLASSES)
    keys = unit(features.mean(0) + random(len(examples), EMBEDDING, scale=1.5))
    values = torch.nn.functional.one_hot(examples).half()
    trained = keys + random(*keys.shape, scale=0.05)
    torch.save(keys.T, GOLDEN / "keys_2shots.pt")
    torch.save(values, GOLDEN / "values_2shots.pt")
    torch.save(torch.nn.Parameter(trained), GOLDEN / "best_F_2shots.pt")
    for name, rows in (("tip-adapter", keys), ("tip-adapter-f", trained)):
        cache = (-5.5 * (1 - unit(features) @ rows.T)).exp() @ values.float()
        logits[name] = logits["zero-shot"] + 20.0 * cache

    # CLIP-Adapter (gaopengcuhk/CLIP-Adapter: clip_adapter.py), for embeddings of this length.
    down, up = random(EMBEDDING // 4, EMBEDDING, scale=0.3), random(EMBEDDING, EMBEDDING // 4, scale=0.5)
    state = trainer_file("clip_adapter.pth.tar", {"fc.0.weight": down, "fc.2.weight": up})
    inner = (features @ state["fc.0.weight"].T).relu()
    outer = (inner @ state["fc.2.weight"].T).relu()
    for ratio in (0.2, 0.6):
        mixed = ratio * outer + (1 - ratio) * features
        logits[f"clip-adapter-{ratio}"] = SCALE * unit(mixed) @ zero_shot(model).T

    # CLIP-LoRA (MaxZanella/CLIP-LoRA: loralib/utils.py, layers.py): W + alpha / sqrt(r) B A, text layers first.
    rank, alpha = 2, 3
    blocks = [*model.transformer.resblocks, *model.visual.transformer.resblocks]
    weights = {}
    for i, block in enumerate(blocks):
        weights[f"layer_{i}"] = {}
        for part, name in enumerate(["q_proj", "k_proj", "v_proj", "proj"]):
            down, up = random(rank, WIDTH, scale=0.3), random(WIDTH, rank, scale=0.3)
            weights[f"layer_{i}"][name] = {"w_lora_A": down, "w_lora_B": up}
            matrix = block.attn.out_proj.weight if name == "proj" else block.attn.in_proj_weight
            rows = slice(0, WIDTH) if name == "proj" else slice(part * WIDTH, (part + 1) * WIDTH)
            matrix[rows] += alpha / rank**0.5 * (up @ down)
    metadata = {"r": rank, "alpha": alpha, "encoder": "both", "params": ["q", "k", "v", "o"], "position": "all"}
    torch.save({"weights": weights, "metadata": metadata}, GOLDEN / "clip_lora.pt")
    logits["clip-lora"] = SCALE * unit(image_features(model)) @ zero_shot(model).T

    logits |= deep_methods()
    encoder_files(random)

    golden = {
        "made_by": f"open_clip {open_clip.__version__}, torch {torch.__version__}",
        "classes": CLASSES,
        "logits": {name: rows.tolist() for name, rows in logits.items()},
    }
    (GOLDEN / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
