"""Makes the small random models under tests/golden/models, and full-size ones on request.

    python make_models.py               writes tests/golden/models (kept in git)
    python make_models.py --full DIR    writes random ViT-B-32, ViT-B-16 and RN50 into DIR

Every file is written by the library that defines its format: open_clip's modules with torch.save, safetensors or
torch.jit, and transformers' save_pretrained. Every weight is exact in float32, float16 and bfloat16, so that all files of
a family have the same values and one golden.json describes them: the SHA-256 of each tensor as little-endian float32
under its canonical name, and open_clip's L2-normalised float32 embeddings of the pixels and token IDs in inputs.json.
"""

import argparse
import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy
import open_clip
import torch
import transformers
from open_clip.model import CLIP, CustomTextCLIP, convert_weights_to_fp16
from safetensors.torch import save_file

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
PREPROCESS = {
    "size": 32, "mode": "RGB", "mean": MEAN, "std": STD, "interpolation": "bicubic",
    "resize_mode": "shortest", "fill_color": 0,
}
TEXT = {"context_length": 16, "vocab_size": 64, "width": 24, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
FAMILIES = {
    "vit-quickgelu": {
        "embed_dim": 16, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT,
    },
    "vit-gelu": {
        "embed_dim": 16, "quick_gelu": False, "vision_cfg": VIT, "text_cfg": TEXT,
    },
    # OpenAI's archives have no configuration, so the width per head must be 64.
    "vit-openai": {
        "embed_dim": 16, "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {**TEXT, "width": 64, "heads": 1},
    },
    "resnet": {
        "embed_dim": 16, "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [2, 1, 1, 1], "width": 4, "head_width": 64},
        "text_cfg": TEXT,
    },
    "resnet-openai": {
        "embed_dim": 16, "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4, "head_width": 64},
        "text_cfg": {**TEXT, "width": 64, "heads": 1},
    },
    # Vision transformers of other forms. 4.9231 is ViT-bigG's ratio; it gives an odd width here.
    "vit-average": {
        "embed_dim": 16, "quick_gelu": False,
        "vision_cfg": {**VIT, "pool_type": "avg", "mlp_ratio": 2.5}, "text_cfg": TEXT,
    },
    "vit-average-first": {
        "embed_dim": 16, "quick_gelu": True,
        "vision_cfg": {
            **VIT, "pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True, "mlp_ratio": 4.9231,
        },
        "text_cfg": TEXT,
    },
    "vit-no-pre-norm": {
        "embed_dim": 16, "quick_gelu": False,
        "vision_cfg": {**VIT, "no_ln_pre": True, "head_width": 8}, "text_cfg": TEXT,
    },
}


def exact_weights(model, seed):
    """Fills a model with values of at most eight significant bits."""
    generator = torch.Generator().manual_seed(seed)

    def multiples(shape, bound, deviation):
        step = 2.0 ** round(math.log2(deviation * math.sqrt(3) / bound))
        return torch.randint(-bound, bound + 1, shape, generator=generator).float() * step

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            kind = name.split(".")[-1]
            if kind == "num_batches_tracked" or kind == "attn_mask":
                continue
            if kind == "logit_scale":
                value = torch.tensor(2.65625)
            elif kind == "running_var" or (kind == "weight" and tensor.ndim == 1):
                value = 1 + multiples(tensor.shape, 31, 0.25)
            elif kind in ("bias", "in_proj_bias", "running_mean"):
                value = multiples(tensor.shape, 127, 0.1)
            elif kind in ("positional_embedding", "class_embedding") or "token_embedding" in name:
                value = multiples(tensor.shape, 127, 0.5)
            else:
                # [out, in, ...] except the two projections, which are nearly square.
                value = multiples(tensor.shape, 127, 1.5 / math.sqrt(tensor[0].numel()))
            assert torch.equal(value, value.bfloat16().float())
            assert torch.equal(value, value.half().float())
            tensor.copy_(value)
    return model.eval()


def parameters(model):
    """The tensors of a native model by canonical name."""
    skip = ("num_batches_tracked", "attn_mask")
    return {k: v for k, v in model.state_dict().items() if k.split(".")[-1] not in skip}


def inputs(image_size):
    """u8 images [H, W, 3] (for size 64 only the first is stored) and texts whose last token ID is the highest."""
    y, x, c = numpy.ogrid[:image_size, :image_size, :3]
    images = [
        (37 * y + 101 * x + 53 * c + 11 * x * y) % 256,
        (255 * (x + y * (c + 1)) // (image_size * (c + 2))) % 256,
    ]
    start, end = TEXT["vocab_size"] - 2, TEXT["vocab_size"] - 1
    texts = []
    for words in ([5], [17, 3, 44, 9], list(range(20, 34))):
        ids = [start, *words, end]
        texts.append(ids + [0] * (TEXT["context_length"] - len(ids)))
    return numpy.stack(images).astype(numpy.uint8), texts


def normalised(images):
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def unit(embeddings):
    return (embeddings / embeddings.norm(dim=-1, keepdim=True)).tolist()


def golden(config, model):
    images, texts = inputs(config["vision_cfg"]["image_size"])
    images = images[: 64 // config["vision_cfg"]["image_size"]]
    with torch.no_grad():
        image = model.encode_image(normalised(images))
        text = model.encode_text(torch.tensor(texts))
    return {
        "made_by": f"open_clip {open_clip.__version__}, torch {torch.__version__}",
        "model_cfg": config,
        "logit_scale": model.logit_scale.exp().item(),
        "tensors": {
            name: {
                "shape": list(value.shape),
                "sha256": hashlib.sha256(value.float().contiguous().numpy().tobytes()).hexdigest(),
            }
            for name, value in sorted(parameters(model).items())
        },
        "image_embeddings": unit(image),
        "text_embeddings": unit(text),
    }


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_config(folder, config):
    preprocess = {**PREPROCESS, "size": config["vision_cfg"]["image_size"]}
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess})


def write_safetensors(folder, config, model, dtype):
    """As open_clip's push_to_hf_hub saves a model."""
    write_config(folder, config)
    tensors = {k: (v.to(dtype) if v.is_floating_point() else v).contiguous()
               for k, v in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")


def write_bin(folder, config, state, name="open_clip_pytorch_model.bin", **options):
    write_config(folder, config)
    torch.save(state, folder / name, **options)


def cast(state, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}


def write_training(folder, config, model):
    """As open_clip_train/main.py saves a checkpoint under DistributedDataParallel."""
    copy = CLIP(**config).half()
    copy.load_state_dict(cast(model.state_dict(), torch.float16))
    # As with --lock-image.
    trained = list(copy.transformer.parameters())
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, numpy.cos)
    state = {
        "epoch": 1,
        "name": "tiny",
        "state_dict": {f"module.{k}": v for k, v in copy.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        # Objects that only their own code can unpickle, as in users' checkpoints.
        "scheduler": scheduler,
        "args": argparse.Namespace(lr=numpy.float64(0.1), path=Path("logs")),
    }
    write_bin(folder, config, state, "epoch_1.pt")


def write_tinyclip(folder, config, model):
    """As TinyCLIP saves its three modules (CLIPBase in its open_clip/model.py), under DistributedDataParallel."""
    def renamed(name):
        if name == "logit_scale":
            return "_logit_scale.module.logit_scale"
        return f"_{'image' if name.startswith('visual.') else 'text'}_encoder.module.{name}"

    state = {renamed(name): value for name, value in cast(model.state_dict(), torch.float16).items()}
    write_bin(folder, config, {"epoch": 25, "name": "tiny", "state_dict": state}, "TinyCLIP.pt")


def transformers_state(model):
    """Renames tensors as transformers' convert_clip_original_pytorch_to_hf.py."""
    renamed = {}
    for name, value in parameters(model).items():
        encoder = "vision_model" if name.startswith("visual.") else "text_model"
        if "resblocks" in name:
            layer, part = name.split("resblocks.")[1].split(".", 1)
            block = f"{encoder}.encoder.layers.{layer}"
            if part.startswith("attn.in_proj"):
                for projection, rows in zip("qkv", value.chunk(3)):
                    kind = part.split("_")[-1]
                    renamed[f"{block}.self_attn.{projection}_proj.{kind}"] = rows.clone()
                continue
            for native, theirs in (
                ("ln_", "layer_norm"), ("attn.out", "self_attn.out"),
                ("c_fc", "fc1"), ("mlp.c_proj", "mlp.fc2"),
            ):
                part = part.replace(native, theirs)
            renamed[f"{block}.{part}"] = value
        elif name == "visual.proj":
            renamed["visual_projection.weight"] = value.T.contiguous()
        elif name == "text_projection":
            renamed["text_projection.weight"] = value.T.contiguous()
        else:
            renamed[{
                "logit_scale": "logit_scale",
                "visual.class_embedding": "vision_model.embeddings.class_embedding",
                "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
                "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
                "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
                "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
                "visual.ln_post.weight": "vision_model.post_layernorm.weight",
                "visual.ln_post.bias": "vision_model.post_layernorm.bias",
                "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
                "positional_embedding": "text_model.embeddings.position_embedding.weight",
                "ln_final.weight": "text_model.final_layer_norm.weight",
                "ln_final.bias": "text_model.final_layer_norm.bias",
            }[name]] = value
    return renamed


def transformers_model(config, model):
    vision, text = config["vision_cfg"], config["text_cfg"]
    act = "quick_gelu" if config["quick_gelu"] else "gelu"
    width = vision["width"]
    theirs = transformers.CLIPModel(transformers.CLIPConfig(
        projection_dim=config["embed_dim"],
        vision_config={
            "hidden_size": width, "intermediate_size": 4 * width,
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": width // vision.get("head_width", 64),
            "image_size": vision["image_size"], "patch_size": vision["patch_size"],
            "hidden_act": act, "projection_dim": config["embed_dim"],
        },
        text_config={
            "hidden_size": text["width"], "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"], "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"], "vocab_size": text["vocab_size"],
            "hidden_act": act, "projection_dim": config["embed_dim"],
            "bos_token_id": text["vocab_size"] - 2, "eos_token_id": text["vocab_size"] - 1,
        },
    ))
    missing, surplus = theirs.load_state_dict(transformers_state(model), strict=False)
    assert not surplus and all(name.endswith("position_ids") for name in missing), (missing, surplus)
    return theirs.eval()


def check_transformers(config, theirs, reference):
    """Checks that both implementations agree, which verifies transformers_state."""
    images, texts = inputs(config["vision_cfg"]["image_size"])
    with torch.no_grad():
        outputs = theirs(input_ids=torch.tensor(texts), pixel_values=normalised(images))
    for found, name in ((outputs.image_embeds, "image_embeddings"), (outputs.text_embeds, "text_embeddings")):
        difference = (found - torch.tensor(reference[name])).abs().max().item()
        assert difference < 1e-5, (name, difference)


def write_transformers(folder, config, theirs, dtype, pickled=False, shard="5GB"):
    theirs = theirs.to(dtype)
    theirs.save_pretrained(folder, max_shard_size=shard)
    if pickled:
        # save_pretrained wrote this file until transformers 5.
        (folder / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    size = config["vision_cfg"]["image_size"]
    transformers.CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)
    return theirs.float()


def write_openai(path, config, model):
    """As OpenAI published its models: traced, with half-precision weights and three settings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    convert_weights_to_fp16(model)
    for name, value in (
        ("input_resolution", config["vision_cfg"]["image_size"]),
        ("context_length", config["text_cfg"]["context_length"]),
        ("vocab_size", config["text_cfg"]["vocab_size"]),
    ):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    size, length = config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"]
    # As in OpenAI's forward; open_clip's mask is float32.
    model.attn_mask = model.attn_mask.half()
    example = (torch.zeros(1, 3, size, size).half(), torch.zeros(1, length, dtype=torch.long))
    model.forward = lambda image, text: (model.encode_image(image), model.encode_text(text))
    torch.jit.trace(model, example, check_trace=False).save(path)


def make_small(root):
    shutil.rmtree(root, ignore_errors=True)
    models = {}
    for seed, (family, config) in enumerate(FAMILIES.items()):
        models[family] = exact_weights(CLIP(**config), seed)
        reference = golden(config, models[family])
        write_json(root / family / "golden.json", reference)
        if family in ("vit-quickgelu", "vit-gelu"):
            check_transformers(config, transformers_model(config, models[family]), reference)
    for size in (32, 64):
        images, texts = inputs(size)
        flat = [image.reshape(-1).tolist() for image in images[: 64 // size]]
        (root / f"inputs-{size}.json").write_text(json.dumps({"images": flat, "texts": texts}) + "\n")

    family, folder = "vit-quickgelu", root / "vit-quickgelu"
    config, model = FAMILIES[family], models[family]
    write_safetensors(folder / "open-clip", config, model, torch.float32)
    write_bin(folder / "open-clip-bin", config, cast(model.state_dict(), torch.float16))
    write_bin(
        folder / "legacy", config, cast(model.state_dict(), torch.bfloat16),
        _use_new_zipfile_serialization=False,
    )
    write_training(folder / "training", config, model)
    theirs = transformers_model(config, model)
    write_transformers(folder / "transformers", config, theirs, torch.float16)
    write_transformers(folder / "transformers-bin", config, theirs, torch.float16, pickled=True)

    family, folder = "vit-gelu", root / "vit-gelu"
    config, model = FAMILIES[family], models[family]
    theirs = transformers_model(config, model)
    write_transformers(folder / "transformers-sharded", config, theirs, torch.bfloat16, shard="50KB")
    custom = CustomTextCLIP(**config)
    custom.load_state_dict({
        k if k.startswith("visual.") or k == "logit_scale" else f"text.{k}": v
        for k, v in model.state_dict().items()
    })
    # Non-contiguous, as a state dict may be after conversions.
    state = cast(custom.state_dict(), torch.float16)
    state["visual.proj"] = state["visual.proj"].T.contiguous().T
    state["visual.conv1.weight"] = state["visual.conv1.weight"].to(memory_format=torch.channels_last)
    write_bin(folder / "custom-text", {**config, "custom_text": True}, state)
    write_safetensors(folder / "open-clip", config, model, torch.float16)

    family, folder = "resnet", root / "resnet"
    config, model = FAMILIES[family], models[family]
    write_bin(folder / "open-clip-bin", config, cast(model.state_dict(), torch.float16))
    write_safetensors(folder / "open-clip", config, model, torch.float16)

    write_tinyclip(root / "vit-gelu" / "tinyclip", FAMILIES["vit-gelu"], models["vit-gelu"])
    for family in ("vit-average", "vit-average-first", "vit-no-pre-norm"):
        write_safetensors(root / family / "open-clip", FAMILIES[family], models[family], torch.float16)

    for family in ("vit-openai", "resnet-openai"):
        write_openai(root / family / "openai.pt", FAMILIES[family], models[family])


def make_full(root):
    root.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    def create(name):
        config = open_clip.get_model_config(name)
        config.setdefault("quick_gelu", False)
        return config, CLIP(**config).eval()

    config, model = create("ViT-B-32")
    write_safetensors(root / "ViT-B-32-open-clip", config, model, torch.float32)
    config, model = create("ViT-B-32-quickgelu")
    write_openai(root / "ViT-B-32-openai.pt", config, model)
    config, model = create("ViT-B-16")
    write_transformers(root / "ViT-B-16-transformers", config, transformers_model(config, model), torch.float32)
    config, model = create("RN50")
    write_bin(root / "RN50-open-clip-bin", config, model.state_dict())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--full", type=Path, metavar="DIR")
    folder = parser.parse_args().full
    if folder:
        make_full(folder)
    else:
        make_small(Path(__file__).parent.parent / "golden" / "models")
