"""The head in the checkpoint's own precision, on the same hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.head import Head

NATIVE_ROWS = 64


@dataclass(frozen=True)
class NativeDecisions:
    """Top-1, runner-up and margin of the native-precision head, and the spacing of its logits.

    ``rounding_step`` is the distance between neighbouring values of the native dtype at the top
    logit's magnitude: two logits closer than that cannot be told apart there. ``nll`` is minus the
    target's log-probability in nats, ``logsumexp(logits) - logits[target]`` of these logits in
    float32, as engines and trainers take it.
    """

    top1: Int[Tensor, " positions"]
    top2: Int[Tensor, " positions"]
    margin: Float[Tensor, " positions"]
    rounding_step: Float[Tensor, " positions"]
    nll: Float[Tensor, " positions"]


@torch.no_grad()
def native_decisions(
    hidden: Float[Tensor, "positions dim"], head: Head, targets: Int[Tensor, " positions"]
) -> NativeDecisions:
    """What the head decides when its logits are rounded to the checkpoint's dtype.

    The product, the scale and the soft-cap are taken in the weight's dtype, as the model itself
    takes them; ties go to the lowest id. Source: theory §1.
    """
    found = [
        _decide(logits, wanted)
        for logits, wanted in zip(
            native_logits(hidden, head), targets.split(NATIVE_ROWS), strict=True
        )
    ]
    return NativeDecisions(*(torch.cat(column) for column in zip(*found, strict=True)))


@torch.no_grad()
def native_top1(
    hidden: Float[Tensor, "positions dim"], head: Head, rows: int = NATIVE_ROWS
) -> Int[Tensor, " positions"]:
    """The greedy token alone, the head given so many positions at once."""
    return torch.cat([logits.max(dim=1).indices for logits in native_logits(hidden, head, rows)])


def native_logits(
    hidden: Float[Tensor, "positions dim"], head: Head, rows: int = NATIVE_ROWS
) -> Iterator[Float[Tensor, "rows vocab"]]:
    """The logits in the weight's dtype, so many positions at a time."""
    for some in hidden.to(head.weight.dtype).split(rows):
        logits = torch.nn.functional.linear(some, head.weight, head.bias)
        if head.scale != 1.0:
            logits = logits * head.scale
        if head.softcap is not None:
            logits = torch.tanh(logits / head.softcap) * head.softcap
        if head.valid is not None:
            logits = logits.masked_fill(~head.valid, -torch.inf)
        yield logits


def _decide(
    logits: Float[Tensor, "rows vocab"], targets: Int[Tensor, " rows"]
) -> tuple[Tensor, ...]:
    first = logits.max(dim=1)
    exact = logits.float()
    nll = exact.logsumexp(dim=1) - exact.gather(1, targets[:, None])[:, 0]
    second = logits.scatter(1, first.indices[:, None], -torch.inf).max(dim=1)
    margin = first.values.float() - second.values.float()
    size = first.values.float().abs().clamp_min(torch.finfo(logits.dtype).tiny)
    step = torch.exp2(torch.floor(torch.log2(size))) * torch.finfo(logits.dtype).eps
    return first.indices, second.indices, margin, step, nll
