"""Prompts inside of both encoders, by the formulas of MaPLe, IVLP, PromptSRC and CoPrompt, on open_clip's modules.

For make_learned.py and compare_learned.py. `tensor(name, *shape)` makes what is learned; the files have the names of
muzairkhattak/multimodal-prompt-learning (trainers/maple.py, clip/model.py), muzairkhattak/PromptSRC and
ShuvenduRoy/CoPrompt (trainers/coprompt.py), whose configurations begin with INITIAL_WORDS.
"""

import open_clip
import torch

INITIAL_WORDS = "a photo of a"


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def names(model, n_ctx, classes, words=INITIAL_WORDS):
    """Tokens of the prompts, and the embedded rows around the context that the trainers save."""
    words = words if n_ctx <= 4 else " ".join(["X"] * n_ctx)
    length = model.positional_embedding.shape[0]
    tokens = open_clip.SimpleTokenizer()([f"{words} {name.replace('_', ' ')}." for name in classes], context_length=length)
    rows = model.token_embedding(tokens)
    return tokens, {"token_prefix": rows[:, :1], "token_suffix": rows[:, 1 + n_ctx :]}


def image_features(model, images, prompts):
    """prompts[0] follows the positions; prompts[i] replaces it on entry to block i. Not normalised, [images, D]."""
    visual = model.visual
    x = visual.conv1(images).flatten(2).permute(0, 2, 1)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    kept = x.shape[1]
    x = visual.ln_pre(torch.cat([x, prompts[0].expand(len(x), -1, -1)], 1))
    for i, block in enumerate(visual.transformer.resblocks):
        if 0 < i < len(prompts):
            x = torch.cat([x[:, :kept], prompts[i].expand(len(x), -1, -1)], 1)
        x = block(x)
    return visual.ln_post(x[:, 0]) @ visual.proj


def text_features(model, context, deep, tokens, around):
    """deep[i] replaces the context's rows on entry to block i + 1. Not normalised, [classes, D]."""
    n_ctx = len(context)
    x = torch.cat([around["token_prefix"], context.expand(len(tokens), -1, -1), around["token_suffix"]], 1)
    x = x + model.positional_embedding
    for i, block in enumerate(model.transformer.resblocks):
        if 0 < i <= len(deep):
            x = torch.cat([x[:, :1], deep[i - 1].expand(len(x), -1, -1), x[:, 1 + n_ctx :]], 1)
        x = block(x, attn_mask=model.attn_mask)
    x = model.ln_final(x)
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


def encoders(model):
    """Both encoders as the trainers save them: (name in the file, tensor of the model)."""
    found = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("visual."):
            found["image_encoder." + name.removeprefix("visual.")] = tensor
        elif name == "logit_scale":
            found[name] = tensor
        elif name not in ("token_embedding.weight", "attn_mask"):
            found["text_encoder." + name] = tensor
    return found


def maple(model, tensor, n_ctx, depth):
    """What MaPLe learns: the state, and the prompts of both encoders."""
    width, image_width = model.ln_final.weight.shape[0], model.visual.class_embedding.shape[0]
    prefix = "prompt_learner."
    state = {"ctx": tensor(prefix + "ctx", n_ctx, width)}
    projections = ["proj"] + [f"compound_prompt_projections.{i}" for i in range(depth - 1)]
    for i in range(depth - 1):
        state[f"compound_prompts_text.{i}"] = tensor(f"{prefix}compound_prompts_text.{i}", n_ctx, width)
    for name in projections:
        state[f"{name}.weight"] = tensor(f"{prefix}{name}.weight", image_width, width)
        state[f"{name}.bias"] = tensor(f"{prefix}{name}.bias", image_width)
    text = [state["ctx"]] + [state[f"compound_prompts_text.{i}"] for i in range(depth - 1)]
    image = [x @ state[f"{name}.weight"].T + state[f"{name}.bias"] for x, name in zip(text, projections, strict=True)]
    return {prefix + name: value for name, value in state.items()}, image, text


def ivlp(model, tensor, n_ctx, n_image, depth):
    """What IVLP and PromptSRC learn, as `maple`."""
    width, image_width = model.ln_final.weight.shape[0], model.visual.class_embedding.shape[0]
    state = {"prompt_learner.ctx": tensor("prompt_learner.ctx", n_ctx, width)}
    text, image = [state["prompt_learner.ctx"]], [tensor("image_encoder.VPT", n_image, image_width)]
    state["image_encoder.VPT"] = image[0]
    for i in range(1, depth):
        for side, prompts, shape in (("image", image, (n_image, image_width)), ("text", text, (n_ctx, width))):
            name = f"{side}_encoder.transformer.resblocks.{i}.VPT_shallow"
            state[name] = tensor(name, *shape)
            prompts.append(state[name])
    return state, image, text


def coprompt_adapters(model, tensor):
    """The two small layers behind each encoder."""
    size = model.text_projection.shape[1]
    return {
        f"adapter_{side}.fc.{layer}.weight": tensor(f"adapter_{side}.fc.{layer}.weight", *shape)
        for side in ("image", "text")
        for layer, shape in ((0, (size // 4, size)), (2, (size, size // 4)))
    }


def adapted(features, state, side, ratio):
    inner = (features @ state[f"adapter_{side}.fc.0.weight"].T).relu()
    return ratio * (inner @ state[f"adapter_{side}.fc.2.weight"].T).relu() + (1 - ratio) * features
