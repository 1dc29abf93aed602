"""Heads that are one matrix with the input embedding, and how they get one of their own."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.checkpoint import hushed


def is_tied(model: nn.Module) -> bool:
    """Whether head and input embedding are one matrix."""
    find: Any = getattr(model, "get_input_embeddings", lambda: None)
    inputs = find()
    return inputs is not None and inputs.weight is output_embedding(model).weight


def untie(model: Any, remedy: str) -> None:
    """Give the head its own copy; refuse where a model made from the configuration ties again.

    ``remedy`` ends the refusal's line.
    """
    head, kind = output_embedding(model), type(model).__name__
    matrix = head.weight
    all_configs = (model.config, model.config.get_text_config())
    configs = [c for c in all_configs if getattr(c, "tie_word_embeddings", False)]
    head.weight = nn.Parameter(matrix.detach().clone(), matrix.requires_grad)
    for config in configs:
        config.tie_word_embeddings = False
    if _shared(_remade(model)) != _shared(model):
        head.weight = matrix
        for config in configs:
            config.tie_word_embeddings = True
        raise UnembedError(
            f"{kind} ties its head whatever its configuration says, so an untied one would be lost "
            f"on loading: {remedy}"
        )
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _remade(model: Any) -> nn.Module:
    """An empty model of the configuration that would be saved."""
    config = type(model.config).from_dict(json.loads(model.config.to_json_string()))
    with hushed(), torch.device("meta"):
        made: nn.Module = type(model)(config)
    return made


def _shared(model: nn.Module) -> set[frozenset[str]]:
    """The names of parameters that are one."""
    names: dict[int, set[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(path)
    return {frozenset(group) for group in names.values() if len(group) > 1}
