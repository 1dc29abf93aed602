"""Weights of a checkpoint that its model leaves unused: harmless ones are named, others refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from unembed.errors import UnembedError
from unembed.head.head import input_device
from unembed.models.weight_files import StoredTensor
from unembed.runs.provenance import LEFT_OUT

HARMLESS = {
    "rotary frequencies, which the configuration gives": r"(inv_freq|(^|\.)rope\.freqs)$",
    "position numbers": r"(^|\.)position_ids$",
    "causal masks": r"\.(attn|attention|self_attention)\.(masked_)?bias$",
    "scales of the key-value cache": r"\.[kv](_proj)?\.?(_scale|(output|cache)_scale)$",
    "layers that predict further tokens": r"(^|\.)(mtp|nextn_predict)",
    "value head of reinforcement learning": r"(^|\.)(v_head|value_head)\.",
    "vision tower": r"^(model\.)?(visual|vision_tower|vision_model|vision_encoder"
    r"|vision_embed_tokens"
    r"|image_newline|multi_modal_projector|mm_projector|vision_projection)(\.|$)",
    "audio tower": r"^(model\.)?(audio_tower|audio_encoder|speech_encoder|audio_projector|talker"
    r"|token2wav|code2wav|embed_audio)\.",
    "extra state of another library": r"(_extra_state|num_batches_tracked|_float_tensor)$",
}
"""Parts that a model may leave unused without measuring another function, by the names that
their tensors have."""


def refuse_unused(
    name: str, model: Any, unexpected: Iterable[str], stored: Iterable[StoredTensor]
) -> tuple[str, ...]:
    """What the model leaves out of its checkpoint, each part in words.

    ``unexpected`` are the names in the files that the model has no place for, ``stored`` what the
    files hold. Raises UnembedError where one belongs to no part that can be left out harmlessly.
    """
    shapes = {one.name: one.shape for one in stored}
    ignored = {one for one in shapes if _own_rule(model).search(one)} - set(model.state_dict())
    parts: Counter[str] = Counter()
    unknown = []
    for key in sorted({*unexpected, *ignored}):
        part = _harmless(key, shapes.get(key), model)
        if part is None and key in ignored:
            part = f"weights that {type(model).__name__} leaves out"
        if part is None:
            unknown.append(key)
        else:
            parts[part] += 1
    if unknown:
        raise UnembedError(
            f"{name} has {len(unknown)} weights that {type(model).__name__} would ignore (first: "
            f"{unknown[0]}), so another model than the checkpoint's would be measured: save it "
            "again in a class that uses them"
        )
    return tuple(f"{part} ({n} tensors)" for part, n in parts.items())


def towers_unused_on_text(name: str, model: Any) -> tuple[str, ...]:
    """Modules of a wrapper that a pass over text alone never calls: its towers, in words.

    Raises UnembedError where the model does not run on text alone.
    """
    try:
        found = unused_on_text(model)
    except Exception as error:
        said = (str(error).strip().splitlines() or [repr(error)])[0].rstrip(".")
        raise UnembedError(
            f"{name}: {type(model).__name__} cannot be read on text alone ({said}): give the "
            "language model that it wraps"
        ) from error
    return tuple(
        f"{path}, unused on text ({len(list(module.parameters()))} tensors)"
        for path, module in found.items()
    )


def unused_on_text(model: Any) -> dict[str, nn.Module]:
    """The towers of a model that reads more than text, by their paths: what text never reaches.

    Found by a pass over two tokens, whose own errors are raised; none for a model of text alone.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config") or config.get_text_config() is config:
        return {}
    called: set[nn.Module] = set()
    hooks = [
        module.register_forward_pre_hook(lambda one, _args: called.add(one))
        for module in model.modules()
    ]
    ids = torch.ones(1, 2, dtype=torch.long, device=input_device(model))
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        path: module
        for path, module in _beside_the_decoder(model)
        if not any(one in called for one in module.modules())
    }


def set_left_out(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Note on the model what of its checkpoint takes no part in what is measured."""
    setattr(model, LEFT_OUT, parts)


def left_out_of(model: nn.Module) -> tuple[str, ...]:
    """What of its checkpoint takes no part in what is measured of this model, in words."""
    return tuple(getattr(model, LEFT_OUT, ()))


def _beside_the_decoder(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The children of a model and of its base model that hold weights."""
    for outer, module in model.named_children():
        inner = list(module.named_children())
        base = outer == getattr(model, "base_model_prefix", None) and inner
        for path, child in [(f"{outer}.{n}", c) for n, c in inner] if base else [(outer, module)]:
            if next(child.parameters(), None) is not None:
                yield path, child


def _own_rule(model: Any) -> re.Pattern[str]:
    """Names that transformers leaves out without a word, for this class or for all."""
    own = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    every = r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"
    return re.compile("|".join(f"({one})" for one in (*own, *every)))


def _harmless(key: str, shape: tuple[int, ...] | None, model: Any) -> str | None:
    """The harmless part that a tensor belongs to, or None."""
    part = next((part for part, rule in HARMLESS.items() if re.search(rule, key)), None)
    if part == "causal masks" and shape is not None and len(shape) not in (0, 4):
        return None  # a bias that the model should add
    if part is None and (layer := re.match(r"(?:model\.)?layers\.(\d+)\.", key)):
        config = model.config.get_text_config()
        deeper = getattr(config, "num_nextn_predict_layers", 0) or 0
        depth = int(getattr(config, "num_hidden_layers", 1 << 30))
        if depth <= int(layer[1]) < depth + deeper:
            return "layers that predict further tokens"
    return part
