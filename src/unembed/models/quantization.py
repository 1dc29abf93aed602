"""A model with its weights rounded to few bits by torchao, as a plain model to be measured."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.checkpoint import Checkpoint, hushed

SCHEMES = {"int8": None, "int4": 32}
"""How many weights of a row share a scale; None: the whole row."""


def quantized(checkpoint: Checkpoint, scheme: str, *, head: bool = False) -> Checkpoint:
    """A copy whose linear layers hold what torchao's weight-only quantisation makes of their
    weights, ``scale * clamp(round(w / scale))`` with a symmetric scale, dequantised.

    ``int8`` has a scale for each row of a weight, ``int4`` for each 32 weights of a row (for the
    row where its length is no multiple). The head keeps its weight unless ``head`` asks for it too;
    a tied head is then no longer tied: the embedding stays as it is. Products are those of the
    dequantised weights in the model's dtype: in float32 what a weight-only kernel computes up to
    the order of its sums, in a narrower one the dequantised weights are rounded once more.
    Raises UnembedError for an unknown scheme, without torchao, and where no layer can be quantised.
    Source: theory §6.
    """
    check_scheme(scheme)
    with hushed():
        import torchao.quantization as torchao

        model = copy.deepcopy(checkpoint.model)
        last = output_embedding(model)
        layers = [one for one in model.modules() if is_linear(one) and (head or one is not last)]
        if all(one is last for one in layers):
            raise UnembedError(
                f"{checkpoint.name} has no linear layer besides its head: nothing to quantise"
            )
        for layer in layers:
            flipped = type(layer).__name__ == "Conv1D"
            weight: Tensor = layer.get_parameter("weight").detach()
            rounded = _rounded(torchao, weight.T if flipped else weight, scheme)
            layer.weight = nn.Parameter(rounded.T.contiguous() if flipped else rounded, False)
    what = f"{scheme}{' with its head' if head else ''}"
    return replace(
        checkpoint,
        name=f"{checkpoint.name} in {what} (torchao {metadata.version('torchao')})",
        model=model,
    )


def check_scheme(scheme: str) -> None:
    """Raise UnembedError for an unknown scheme or without torchao, before a model is loaded."""
    if scheme not in SCHEMES:
        raise UnembedError(f"--quantize {scheme!r} is not one of {', '.join(SCHEMES)}")
    if not torchao_is_there():
        raise UnembedError(
            f"{scheme} needs torchao, which is not installed: pip install 'unembed[quant]'"
        )


def torchao_is_there() -> bool:
    """Whether the extra ``quant`` is installed."""
    return find_spec("torchao") is not None


def is_linear(module: nn.Module) -> bool:
    """A linear layer, or GPT-2's, which holds the transposed weight."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _rounded(torchao: Any, weight: Float[Tensor, "out in"], scheme: str) -> Float[Tensor, "out in"]:
    """The weight after quantisation and back, in its own dtype."""
    group = SCHEMES[scheme]
    grouped = group is not None and weight.shape[1] % group == 0
    granularity = torchao.PerGroup(group) if grouped else torchao.PerAxis(0)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.contiguous(), False)
    config = torchao.IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, scheme), granularity=granularity
    )
    torchao.quantize_(layer, config)
    whole: Any = layer.weight
    made: Float[Tensor, "out in"] = whole.dequantize().to(weight.dtype)
    return made
