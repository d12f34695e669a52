"""Measures the fidelity of int8 to f32 on held-out images:
fidelity.py BINARIES NAME=CHECKPOINT,CLASSES,CALIBRATION,IMAGES...

BINARIES is the folder with pinhole and pinhole-export. CHECKPOINT is a CLIP checkpoint, or a float bundle of a vision
transformer such as assets/demo, whose class embeddings are then used. CLASSES is a file with one name per line.
CALIBRATION and IMAGES are folders; an empty CALIBRATION selects the exporter's generated images. A missing CHECKPOINT is
reported and skipped. random_checkpoint.py ViT-B-32-outliers makes the model with outlier channels; photos.py describes
the photo model, assets/README.md the generated images.

Fails below a mean cosine of 0.999, a worst cosine of 0.99 or a top-1 agreement of 99 %. If NAME ends with "outliers"
(random weights), only below a mean cosine of 0.99.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import onnx
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif"}


def checkpoint_of_bundle(bundle, out):
    """Writes the image encoder of a float bundle as an open_clip checkpoint, with a small random text encoder."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    model = onnx.load(bundle / "image_encoder.onnx")
    t = {i.name: numpy_helper.to_array(i).astype(numpy.float32) for i in model.graph.initializer}
    attributes = {n.op_type: {a.name: a for a in n.attribute} for n in model.graph.node}
    heads = next(a["heads"] for n, a in attributes.items() if n.endswith("Attention"))
    heads = heads.ints[0] if heads.ints else heads.i
    preprocessing = manifest["preprocessing"]
    width, embed = t["proj.weight"].shape
    layers = 1 + max(int(n.split(".")[0][6:]) for n in t if n.startswith("block_"))
    size = preprocessing["size"]
    patch = int((t["patch_embedding.weight"].shape[0] // 3) ** 0.5)
    std = numpy.array(preprocessing["std"], dtype=numpy.float32).reshape(1, 3, 1, 1)
    convolution = t["patch_embedding.weight"].T.reshape(width, patch, patch, 3).transpose(0, 3, 1, 2) * std
    tokens = numpy.concatenate([t["tokens.class_embedding"], t["tokens.positions"]])
    out_tensors = {
        "visual.conv1.weight": convolution,
        # The bundle's class embedding includes position 0.
        "visual.class_embedding": numpy.zeros(width, numpy.float32),
        "visual.positional_embedding": tokens,
        "visual.proj": t["proj.weight"],
    }
    for name in ("ln_pre", "ln_post"):
        out_tensors[f"visual.{name}.weight"], out_tensors[f"visual.{name}.bias"] = t[f"{name}.gain"], t[f"{name}.bias"]
    for i in range(layers):
        target, source_block = f"visual.transformer.resblocks.{i}", f"block_{i}"
        first, second = ("ln_1", "ln_2")
        if f"{source_block}.ln_1.gain" not in t:
            first = "key_value.norm" if f"{source_block}.key_value.norm.gain" in t else "query_key_value.norm"
            second = "c_fc.norm"
        for norm, source in (("ln_1", first), ("ln_2", second)):
            out_tensors[f"{target}.{norm}.weight"] = t[f"{source_block}.{source}.gain"]
            out_tensors[f"{target}.{norm}.bias"] = t[f"{source_block}.{source}.bias"]
        if f"{source_block}.query_key_value.weight" in t:
            weight, bias = t[f"{source_block}.query_key_value.weight"], t[f"{source_block}.query_key_value.bias"]
        else:
            weight = numpy.concatenate([t[f"{source_block}.query.weight"], t[f"{source_block}.key_value.weight"]], axis=1)
            bias = numpy.concatenate([t[f"{source_block}.query.bias"], t[f"{source_block}.key_value.bias"]])
        # The bundle's query weights include the attention scale.
        factor = numpy.ones(3 * width, numpy.float32)
        factor[:width] = (width / heads) ** 0.5
        out_tensors[f"{target}.attn.in_proj_weight"] = (weight * factor).T
        out_tensors[f"{target}.attn.in_proj_bias"] = bias * factor
        for part, source in (("attn.out_proj", "out_proj"), ("mlp.c_fc", "c_fc"), ("mlp.c_proj", "c_proj")):
            out_tensors[f"{target}.{part}.weight"] = t[f"{source_block}.{source}.weight"].T
            out_tensors[f"{target}.{part}.bias"] = t[f"{source_block}.{source}.bias"]
    shapes = {
        "token_embedding.weight": (49408, 64), "positional_embedding": (16, 64), "ln_final.weight": (64,),
        "ln_final.bias": (64,), "text_projection": (64, embed), "transformer.resblocks.0.ln_1.weight": (64,),
        "transformer.resblocks.0.ln_1.bias": (64,), "transformer.resblocks.0.ln_2.weight": (64,),
        "transformer.resblocks.0.ln_2.bias": (64,), "transformer.resblocks.0.attn.in_proj_weight": (192, 64),
        "transformer.resblocks.0.attn.in_proj_bias": (192,), "transformer.resblocks.0.attn.out_proj.weight": (64, 64),
        "transformer.resblocks.0.attn.out_proj.bias": (64,), "transformer.resblocks.0.mlp.c_fc.weight": (256, 64),
        "transformer.resblocks.0.mlp.c_fc.bias": (256,), "transformer.resblocks.0.mlp.c_proj.weight": (64, 256),
        "transformer.resblocks.0.mlp.c_proj.bias": (64,),
    }
    random = numpy.random.default_rng(1)
    # Not zeros: embeddings are divided by their norms.
    out_tensors |= {n: random.standard_normal(s, dtype=numpy.float32) * 0.1 for n, s in shapes.items()}
    out_tensors["logit_scale"] = numpy.array(numpy.log(manifest["logit_scale"]), dtype=numpy.float32)
    functions = {n.op_type for n in model.graph.node}
    config = {
        "model_cfg": {
            "embed_dim": embed,
            "quick_gelu": "LinearQuickGelu" in functions,
            "vision_cfg": {"image_size": size, "layers": layers, "width": width, "patch_size": patch,
                           "head_width": width // heads},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
        },
        "preprocess_cfg": {"size": [size, size], "mean": preprocessing["mean"], "std": preprocessing["std"],
                           "interpolation": preprocessing["filter"], "resize_mode": preprocessing["resize"]},
    }
    out.mkdir()
    contiguous = {n: numpy.ascontiguousarray(v) for n, v in out_tensors.items()}
    save_file(contiguous, out / "open_clip_model.safetensors")
    (out / "open_clip_config.json").write_text(json.dumps(config))
    return load_file(bundle / "head.safetensors")["class_embeddings"]


def embed(binaries, bundle, images):
    rows = []
    for start in range(0, len(images), 500):
        command = [binaries / "pinhole", "embed", bundle, "--json", *images[start : start + 500]]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        rows += [json.loads(line)["embedding"] for line in lines]
    return numpy.array(rows, dtype=numpy.float64)


def measure(binaries, checkpoint, classes, calibration, images, work):
    embeddings = None
    if (checkpoint / "manifest.json").exists():
        embeddings = checkpoint_of_bundle(checkpoint, work / "checkpoint")
        checkpoint = work / "checkpoint"
    for precision in ("f32", "int8"):
        command = [binaries / "pinhole-export", "bundle", "--clip", checkpoint, "--classes", classes]
        command += ["--precision", precision, "--min-cosine", "0", "--min-agreement", "0", "--out", work / precision]
        if precision == "int8":
            command += ["--report"] + (["--calibration", calibration] if calibration else [])
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    if embeddings is None:
        embeddings = load_file(work / "f32" / "head.safetensors")["class_embeddings"]
    files = sorted(p for p in Path(images).rglob("*") if p.suffix.lower() in SUFFIXES)
    reference, quantised = (embed(binaries, work / precision, files) for precision in ("f32", "int8"))
    cosines = (reference * quantised).sum(axis=1)
    top1 = [(rows @ embeddings.T).argmax(axis=1) for rows in (reference, quantised)]
    return len(files), cosines.mean(), cosines.min(), (top1[0] == top1[1]).mean()


def main(binaries, models):
    failed = False
    rows = []
    for model in models:
        name, paths = model.split("=", 1)
        checkpoint, classes, calibration, images = paths.split(",")
        if not Path(checkpoint).exists():
            print(f"SKIPPED {name}: {checkpoint} does not exist", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as work:
            count, mean, worst, agreement = measure(
                Path(binaries), Path(checkpoint), classes, calibration, images, Path(work)
            )
        passed = mean >= 0.99 if name.endswith("outliers") else mean >= 0.999 and worst >= 0.99 and agreement >= 0.99
        failed |= not passed
        rows.append(f"| {name} | {count} | {mean:.5f} | {worst:.5f} | {100 * agreement:.2f} % | {'' if passed else 'BELOW'} |")
    print("| model | images | mean cosine | worst | top-1 agreement | |\n|---|---|---|---|---|---|")
    print("\n".join(rows))
    sys.exit(failed)


if __name__ == "__main__":
    if len(sys.argv) < 3 or not all(m.count("=") >= 1 and m.count(",") == 3 for m in sys.argv[2:]):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
