"""The control without training: all logits times one factor, by the final norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import Head, final_hidden

PROBE_TOKENS = 8


@dataclass(frozen=True)
class Scaled:
    """The norm whose gain was scaled, by what, and how exactly the hidden states followed.

    ``error`` is ``max |h' - factor h| / max |factor h|`` over the final hidden states of a probe.
    """

    norm: str
    factor: float
    error: float


@torch.no_grad()
def temperature(model: nn.Module, factor: float) -> Scaled:
    """Multiply the final norm's gain, and its bias, in place, so that logits grow by ``factor``.

    The norm is the last module with a vector for its weight that runs before the head. A gain
    stored as ``1 + weight`` is recognised by trying. The final hidden states of a probe batch must
    come out ``factor`` times as long, up to the rounding of their dtype, or the model is put back
    as it was.

    This is the route for whatever reads a checkpoint. A power of two is exact where the gain is
    the weight itself. Another factor rounds each gain separately, which turns the hidden state a
    little: in float32 that decides near-ties alone, in bfloat16 it is 1 part in 256 and flips
    tokens. ``Head.sharpened`` leaves the hidden state as it is.

    Raises UnembedError for a factor that is not positive, where the head has a bias or a soft-cap,
    which a longer hidden state does not scale, or where no norm passes the proof.
    Source: theory §5.
    """
    _check(factor)
    name = type(model).__name__
    head = Head.of(model)
    head.must_be_whole("a temperature")
    if head.bias is not None or head.softcap is not None:
        part = "bias" if head.softcap is None else "soft-cap"
        raise UnembedError(
            f"the head of {name} has a {part}, {head.recipe}: a longer hidden state is no pure "
            f"temperature there: scale its logits by Head.sharpened({factor})"
        )
    ids = torch.arange(PROBE_TOKENS, device=head.weight.device)[None] % head.vocab
    norm = last_norm(model, ids)
    if norm is None:
        raise UnembedError(
            f"{name} runs no norm with a gain before its head: scale its logits by "
            f"Head.sharpened({factor})"
        )
    where = next(path for path, module in model.named_modules() if module is norm)
    before = final_hidden(model, ids)
    tolerance = max(8 * torch.finfo(before.dtype).eps, 1e-5)

    def error(gain: Gain, by: float) -> float:
        _set(norm, [gain(kept[0], by), *(bias.double() * by for bias in kept[1:])])
        wanted = before.double() * by
        off = (final_hidden(model, ids).double() - wanted).abs().max()
        return float(off / wanted.abs().max())

    kept = [part.clone() for part in _parts(norm)]
    for gain in (_times, _times_one_plus):
        # Twice the length cannot be mistaken for rounding, as a factor close to 1 could.
        if error(gain, 2.0) <= tolerance and (off := error(gain, factor)) <= tolerance:
            return Scaled(where, factor, off)
        _set(norm, kept)
    raise UnembedError(
        f"the final hidden states of {name} do not follow the gain of {where}: put the model in "
        f"evaluation mode, or scale its logits by Head.sharpened({factor})"
    )


Gain = Callable[[Tensor, float], Tensor]
"""The weight that makes a norm's gain ``factor`` times what it is with this one, in float64."""


def _times(weight: Tensor, factor: float) -> Tensor:
    return weight.double() * factor


def _times_one_plus(weight: Tensor, factor: float) -> Tensor:
    """Where the gain is ``1 + weight``."""
    return (1 + weight.double()) * factor - 1


def last_norm(model: nn.Module, ids: Int[Tensor, "batch seq"]) -> nn.Module | None:
    """The last module with a vector for its weight that the model runs before its head."""
    called: list[nn.Module] = []

    def note(module: nn.Module, _args: object, _output: object) -> None:
        called.append(module)

    found = [m for m in model.modules() if getattr(getattr(m, "weight", None), "ndim", 0) == 1]
    handles = [module.register_forward_hook(note) for module in found]
    try:
        final_hidden(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    return called[-1] if called else None


def _parts(norm: nn.Module) -> list[Tensor]:
    """The norm's weight, and its bias if it has one."""
    parts: list[Any] = [norm.weight, getattr(norm, "bias", None)]
    return [part for part in parts if isinstance(part, Tensor)]


def _set(norm: nn.Module, values: list[Tensor]) -> None:
    for part, value in zip(_parts(norm), values, strict=True):
        part.copy_(value)


def _check(factor: float) -> None:
    if not 0 < factor < math.inf:
        raise UnembedError(f"factor {factor} scales no logits: give a positive number")
