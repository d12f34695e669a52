"""Makes the small random SigLIP models under tests/golden/siglip, and full-size ones on request.

    python make_siglip.py               writes tests/golden/siglip (kept in git)
    python make_siglip.py --full DIR    writes random ViT-B-16-SigLIP and ViT-B-32-SigLIP2-256 into DIR

open_clip (whose image encoder is timm's) and transformers make the models, the tokenizers library trains their tokenizers.
Every weight is exact in float16. Each folder has the files as on the hub, and golden.json: the token IDs of a few texts, and
L2-normalised float32 embeddings of the texts and of the pixels in ../models/inputs-32.json, by the library that made it.
"""

import argparse
import io
import json
import math
from pathlib import Path

import numpy
import sentencepiece
import timm
import torch
import transformers
from open_clip import get_model_config
from open_clip.model import CustomTextCLIP
from open_clip.tokenizer import get_clean_fn
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import _create_vision_transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = ["a photo of a cat.", "A photo of a Polar_Bear!", "Übergrößen &amp; café", "red", "42 - %"]
SPIECE_TEXTS = [*TEXTS, "", "a\u2009\u2009\ufb01sh in a garden", "!?", "über café zzz 日本"]
PREPROCESS = {
    "size": 32, "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
    "resize_mode": "squash", "fill_color": 0,
}
CONTEXT = 24


@register_model
def vit_tiny_patch8_siglip_32(pretrained=False, **kwargs):
    """One block of width 64, whose one attention head has the usual width."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 1, "class_token": False, "global_pool": "map"}
    return _create_vision_transformer("vit_tiny_patch8_siglip_32", pretrained=False, **{**sizes, **kwargs})


def exact_weights(model, seed):
    """Fills a model with values of at most eight significant bits, which float16 holds."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            kind = name.split(".")[-1]
            if not tensor.is_floating_point() or kind == "attn_mask":
                continue
            if kind == "logit_scale":
                value = torch.full_like(tensor, 4.75)
            elif kind == "logit_bias":
                value = torch.full_like(tensor, -12.9375)
            else:
                norm = kind == "weight" and tensor.ndim == 1
                embedding = "embed" in name or kind in ("latent", "probe") and "proj" not in name
                deviation = 0.25 if norm else 0.1 if tensor.ndim == 1 else 0.5 if embedding else None
                deviation = deviation or 1.5 / math.sqrt(tensor[0].numel())
                step = 2.0 ** round(math.log2(deviation * math.sqrt(3) / 127))
                value = torch.randint(-127, 128, tensor.shape, generator=generator).float() * step
                value = value + 1 if norm else value
                value = value.half().float()
            tensor.copy_(value)
    return model.eval()


def corpus():
    nouns = ["cat", "dog", "polar bear", "red circle", "blue star", "photo", "café", "house", "garden", "person"]
    return [f"a photo of a {a} and the {b} in an empty room 0123456789" for a in nouns for b in nouns]


def unigram():
    """As SigLIP's: padding and end of text are </s>, 1. The padding is named in tokenizer_config.json."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        corpus(), trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer, {"pad_token": "</s>", "eos_token": "</s>", "padding_side": "right"}


def bpe():
    """As Gemma's, which is SigLIP2's: padding is <pad>, 0, stated in tokenizer.json."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.enable_padding(length=CONTEXT, pad_id=0, pad_token="<pad>")
    tokenizer.enable_truncation(CONTEXT)
    return tokenizer, {"pad_token": "<pad>", "eos_token": "<eos>"}


def spiece(folder):
    """A spiece.model as SigLIP's, with a small map of characters, and the token IDs of texts by SentencePiece itself."""
    folder.mkdir(parents=True, exist_ok=True)
    rules = folder / "rules.tsv"
    # Of "Ü" to "u", the ligature to two letters, and the thin space to a space.
    rules.write_text("DC\t75\nFC\t75\nFB01\t66 69\n2009\t20\n")
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=file, vocab_size=90, model_type="unigram", hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_tsv=str(rules), minloglevel=2,
    )
    rules.unlink()
    (folder / "spiece.model").write_bytes(file.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    clean = get_clean_fn("canonicalize")
    tokens = [processor.encode(clean(text)) + [processor.eos_id()] for text in SPIECE_TEXTS]
    tokens = [ids + [processor.eos_id()] * (CONTEXT - len(ids)) for ids in tokens]
    (folder / "golden.json").write_text(json.dumps({"texts": SPIECE_TEXTS, "tokens": tokens}) + "\n")


def write_tokenizer(folder, make, context):
    """Writes a tokenizer, and returns what open_clip's HFTokenizer does with it."""
    tokenizer, settings = make()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **settings)
    clean = get_clean_fn("canonicalize")

    def tokens(texts):
        texts = [clean(text) for text in texts]
        return fast(
            texts, return_tensors="pt", max_length=context, padding="max_length", truncation=True
        ).input_ids

    return tokens


def pixels(folder):
    images = json.loads((folder / "../models/inputs-32.json").read_text())["images"]
    images = torch.tensor(images).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2).float() / 255
    return (images - 0.5) / 0.5


def unit(embeddings):
    return (embeddings / embeddings.norm(dim=-1, keepdim=True)).tolist()


def write_golden(folder, root, tokens, image, text):
    ids = tokens(TEXTS)
    with torch.no_grad():
        golden = {
            "texts": TEXTS, "tokens": ids.tolist(), "text_embeddings": unit(text(ids)),
            "image_embeddings": unit(image(pixels(root))),
        }
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")


def half(model):
    return {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()
            if tensor.is_floating_point()}


def open_clip_model(root, name, make, act_kwargs, seed):
    """As ViT-B-16-SigLIP and ViT-B-16-SigLIP2, whose text encoders differ in their activation."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32, "timm_model_name": "vit_tiny_patch8_siglip_32", "timm_model_pretrained": False,
            "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": CONTEXT, "vocab_size": 96, "hf_tokenizer_name": f"timm/{name}",
            "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 24, "heads": 2, "layers": 1,
            "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, **act_kwargs,
        },
    }
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    model = exact_weights(CustomTextCLIP(**arguments), seed)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS}, indent=2) + "\n"
    )
    save_file(half(model), folder / "open_clip_model.safetensors")
    tokens = write_tokenizer(folder, make, CONTEXT)
    write_golden(folder, root, tokens, model.encode_image, model.encode_text)


SMALL = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2}
# What So400m has beside its size: heads that are no multiple of 16, MLPs of no multiple of 8, and patches that do not cover the
# image.
SO400M = {"hidden_size": 24, "intermediate_size": 89, "num_attention_heads": 1}


def transformers_model(root, name, make, seed, sizes=SMALL, vision={"num_hidden_layers": 2, "patch_size": 8}):
    folder = root / name
    config = transformers.SiglipConfig(
        vision_config={**sizes, "image_size": 32, **vision},
        text_config={
            **sizes, "num_hidden_layers": 1, "vocab_size": 96, "max_position_embeddings": CONTEXT,
            "projection_size": sizes["hidden_size"], "pad_token_id": 1, "bos_token_id": None, "eos_token_id": 1,
        },
    )
    model = exact_weights(transformers.SiglipModel(config), seed)
    model.config.dtype = None
    model.config.save_pretrained(folder)
    save_file(half(model), folder / "model.safetensors", metadata={"format": "pt"})
    processor = {
        "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3,
        "image_processor_type": "SiglipImageProcessor", "image_std": [0.5] * 3, "resample": 3,
        "rescale_factor": 1 / 255, "size": {"height": 32, "width": 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    tokens = write_tokenizer(folder, make, CONTEXT)

    def image(values):
        return model.vision_model(pixel_values=values).pooler_output

    def text(ids):
        return model.text_model(input_ids=ids).pooler_output

    write_golden(folder, root, tokens, image, text)


def full(root):
    """Random weights in the shapes of the published models, for ../conformance/siglip."""
    for name, seed in (("ViT-B-16-SigLIP", 1), ("ViT-B-32-SigLIP2-256", 2)):
        config = get_model_config(name)
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        side = config["vision_cfg"]["image_size"]
        arguments = {key: value for key, value in config.items() if key != "custom_text"}
        model = exact_weights(CustomTextCLIP(**arguments), seed)
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": {**PREPROCESS, "size": side}}) + "\n"
        )
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
        tokens = write_tokenizer(folder, unigram, config["text_cfg"]["context_length"])
        generator = numpy.random.default_rng(seed)
        images = generator.integers(0, 256, (2, side, side, 3), dtype=numpy.uint8)
        from PIL import Image

        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{i}.png")
        values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            ids = tokens(TEXTS)
            golden = {
                "texts": TEXTS, "text_embeddings": unit(model.encode_text(ids)),
                "image_embeddings": unit(model.encode_image((values - 0.5) / 0.5)),
            }
        (folder / "golden.json").write_text(json.dumps(golden) + "\n")
        print(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, metavar="DIR")
    options = parser.parse_args()
    if options.full:
        return full(options.full)
    root = Path(__file__).resolve().parents[1] / "golden/siglip"
    print(f"timm {timm.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
    spiece(root / "spiece")
    open_clip_model(root, "open-clip", unigram, {}, 1)
    open_clip_model(root, "open-clip-2", bpe, {"act_kwargs": {"approximate": "tanh"}}, 2)
    transformers_model(root, "transformers", unigram, 3)
    transformers_model(root, "so400m", unigram, 4, SO400M, {"num_hidden_layers": 1, "patch_size": 7})


if __name__ == "__main__":
    main()
