"""A model with its weights rounded to few bits by torchao, as a plain model to be measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.checkpoint import Checkpoint, hushed
from unembed.models.devices.placement import refuse_placed
from unembed.models.names import BITS, SCHEMES
from unembed.models.unused_weights import unused_on_text
from unembed.short_repr import ShortRepr


def quantized(
    checkpoint: Checkpoint, scheme: str, *, head: bool = False, in_place: bool = False
) -> Checkpoint:
    """A copy whose linear layers and experts hold what torchao's weight-only quantisation makes of
    their weights, ``scale * clamp(round(w / scale))`` with a symmetric scale, dequantised.

    ``int8`` has a scale for each row of a weight, ``int4`` for each 32 weights of a row (for the
    row where its length is no multiple). The head keeps its weight unless ``head`` asks for it too;
    a tied head is then no longer tied: the embedding stays as it is. So do towers for images or
    sound, which no text reaches. Products are those of the
    dequantised weights in the model's dtype: in float32 what a weight-only kernel computes up to
    the order of its sums, in a narrower one the dequantised weights are rounded once more.
    ``in_place`` rounds the model that is given, of which there is then no second one in memory.
    Raises UnembedError for an unknown scheme, without torchao, and where no layer can be quantised.
    Source: theory §6.
    """
    check_scheme(scheme)
    refuse_placed(checkpoint.model, f"--quantize {scheme} rounds")
    with hushed():
        import torchao.quantization as torchao

        model = checkpoint.model if in_place else copy.deepcopy(checkpoint.model)
        last = output_embedding(model)
        towers = _modules_of_towers(model)
        found = [
            one
            for one in _roundable(model)
            if one.module not in towers and (head or one.module is not last)
        ]
        if all(one.module is last for one in found):
            raise UnembedError(
                f"{checkpoint.name} has no linear layer besides its head: nothing to quantise"
            )
        for one in found:
            weight = one.module.get_parameter(one.key).detach()
            matrices = weight if weight.ndim == 3 else weight[None]
            rounded = torch.stack(
                [
                    _rounded(torchao, matrix.T, scheme).T
                    if one.flipped
                    else _rounded(torchao, matrix, scheme)
                    for matrix in matrices
                ]
            )
            setattr(one.module, one.key, nn.Parameter(rounded.view_as(weight), False))
    what = f"{scheme}{' with its head' if head else ''}"
    return replace(
        checkpoint,
        name=f"{checkpoint.name} in {what} (torchao {metadata.version('torchao')})",
        model=model,
    )


@dataclass(frozen=True)
class RoundedShare(ShortRepr):
    """How many weights of a kind of module ``quantized`` rounds, of how many there are."""

    kind: str
    rounded: int
    weights: int

    def __str__(self) -> str:
        return f"{self.kind} {self.rounded / self.weights:.1%} of {self.weights:,}"


def rounded_shares(model: nn.Module, *, head: bool = False) -> tuple[RoundedShare, ...]:
    """The share of weights that ``quantized`` rounds: of all of them, then by kind of module."""
    last, towers = output_embedding(model), _modules_of_towers(model)
    rounds = {(id(one.module), one.key) for one in _roundable(model)}
    counts: dict[str, tuple[int, int]] = {}
    seen: set[int] = set()
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen and not (head and module is last):
                continue  # a tied head that is rounded is tied no longer
            seen.add(id(parameter))
            kind = towers.get(module) or kind_of(module, parameter, last)
            done = (id(module), key) in rounds and (head or module is not last)
            done = done and module not in towers
            before, weights = counts.get(kind, (0, 0))
            n = parameter.numel()
            counts[kind] = (before + n * done, weights + n)
    total = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    shares = (RoundedShare(kind, *count) for kind, count in counts.items())
    return (RoundedShare("all weights", *total), *sorted(shares, key=lambda one: -one.weights))


def nominal_bytes(
    model: nn.Module, scheme: str, *, head: bool = False, width: float | None = None
) -> tuple[int, int]:
    """Bytes of the body and of the head of a model whose weights ``quantized`` rounds.

    A rounded weight takes the scheme's bits; its scales, and what is not rounded, ``width`` bytes a
    number, or those of the model's precision. A tied head that is not rounded counts as the head's.
    """
    last, towers = output_embedding(model), _modules_of_towers(model)
    rounds = {(id(one.module), one.key): one.flipped for one in _roundable(model)}
    bits, group = BITS[scheme], SCHEMES[scheme]

    def taken(module: nn.Module, seen: set[int]) -> float:
        whole = 0.0
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            size, each = parameter.numel(), width or parameter.element_size()
            flipped = rounds.get((id(module), key))
            if flipped is None or module in towers or (module is last and not head):
                whole += size * each
                continue
            columns = parameter.shape[-2 if flipped else -1]
            row = group if group is not None and columns % group == 0 else columns
            whole += size * bits / 8 + size // row * each
        return whole

    seen: set[int] = set()
    of_head = taken(last, seen)
    if head:
        seen.clear()  # a tied head that is rounded is tied no longer
    body = sum(taken(module, seen) for module in model.modules() if module is not last)
    return round(body), round(of_head)


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


@dataclass(frozen=True)
class _Roundable:
    """A parameter that is a matrix, or one for each expert; ``flipped`` where inputs come first."""

    module: nn.Module
    key: str
    flipped: bool


def _roundable(model: nn.Module) -> Iterator[_Roundable]:
    """What ``quantized`` rounds: weights of linear layers and of experts held in one tensor."""
    for module in model.modules():
        if is_linear(module):
            yield _Roundable(module, "weight", type(module).__name__ == "Conv1D")
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if _is_experts(module, key, parameter):
                yield _Roundable(module, key, _inputs_first(module, key, parameter))


def _is_experts(module: nn.Module, key: str, parameter: Tensor) -> bool:
    """Whether a parameter holds a matrix for each of several experts."""
    if parameter.ndim != 3:
        return False
    return key.endswith("_proj") or parameter.shape[0] == getattr(module, "num_experts", None)


def _inputs_first(module: nn.Module, key: str, parameter: Tensor) -> bool:
    """Whether each expert's matrix is (in, out), by the module's word or by its width."""
    said = getattr(module, "is_transposed", None)
    if said is not None:
        return bool(said)
    widths = (getattr(module, name, None) for name in ("hidden_size", "hidden_dim"))
    width = next((one for one in widths if isinstance(one, int)), None)
    _, first, second = parameter.shape
    if first == second:
        return False
    return width == (second if key.startswith("down") else first)


def _modules_of_towers(model: nn.Module) -> dict[nn.Module, str]:
    """Every module that no text reaches, with what an account calls it."""
    return {
        module: f"{path}, unused on text,"
        for path, tower in unused_on_text(model).items()
        for module in tower.modules()
    }


def kind_of(module: nn.Module, parameter: Tensor, last: nn.Module) -> str:
    """The kind of module that a parameter belongs to, for a reader."""
    if module is last:
        return "head"
    if parameter.ndim < 2:
        return "norms and biases"
    if is_linear(module):
        return "linear layers"
    if isinstance(module, nn.Embedding):
        return "embeddings"
    return "experts" if parameter.ndim == 3 else type(module).__name__


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
