"""The head in the checkpoint's own precision, on the same hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.head import Head
from unembed.head.peers import RowShare

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
    takes them; ties go to the lowest id. Where several processes hold the head's rows, all of them
    call this, each takes the logits of its own, and all get the same. Source: theory §1, §15.
    """
    own = targets if head.share is None else head.share.local(targets).clamp_min(0)
    pieces = []
    for logits, wanted in zip(native_logits(hidden, head), own.split(NATIVE_ROWS), strict=True):
        exact = logits.float()
        seen = exact.gather(1, wanted[:, None])[:, 0]
        pieces.append((*_two_largest(logits), exact.logsumexp(dim=1), seen))
    values, ids, logsumexp, seen = (torch.cat(column) for column in zip(*pieces, strict=True))
    if (share := head.share) is not None:
        values, ids = _merged(values, ids, share, 2)
        logsumexp = torch.stack(share.peers.gather(logsumexp)).logsumexp(dim=0)
        seen = share.collected(targets, seen[share.owns(targets)])
    first, second = values.float().unbind(1)
    size = first.abs().clamp_min(torch.finfo(values.dtype).tiny)
    step = torch.exp2(torch.floor(torch.log2(size))) * torch.finfo(values.dtype).eps
    return NativeDecisions(ids[:, 0], ids[:, 1], first - second, step, logsumexp - seen)


@torch.no_grad()
def native_top1(
    hidden: Float[Tensor, "positions dim"], head: Head, rows: int = NATIVE_ROWS
) -> Int[Tensor, " positions"]:
    """The greedy token alone, the head given so many positions at once."""
    found = [logits.max(dim=1, keepdim=True) for logits in native_logits(hidden, head, rows)]
    values, ids = (torch.cat(column) for column in zip(*found, strict=True))
    if head.share is not None:
        values, ids = _merged(values, ids, head.share, 1)
    return ids[:, 0]


def native_logits(
    hidden: Float[Tensor, "positions dim"], head: Head, rows: int = NATIVE_ROWS
) -> Iterator[Float[Tensor, "rows vocab"]]:
    """The logits in the weight's dtype of the rows held here, so many positions at a time."""
    head = head.own
    for some in hidden.to(head.weight.dtype).split(rows):
        logits = torch.nn.functional.linear(some, head.weight, head.bias)
        if head.scale != 1.0:
            logits = logits * head.scale
        if head.softcap is not None:
            logits = torch.tanh(logits / head.softcap) * head.softcap
        if head.valid is not None:
            logits = logits.masked_fill(~head.valid, -torch.inf)
        yield logits


def _two_largest(
    logits: Float[Tensor, "rows vocab"],
) -> tuple[Float[Tensor, "rows 2"], Int[Tensor, "rows 2"]]:
    """The two largest logits and their columns, ties to the first."""
    first = logits.max(dim=1, keepdim=True)
    second = logits.scatter(1, first.indices, -torch.inf).max(dim=1, keepdim=True)
    return torch.cat([first.values, second.values], 1), torch.cat(
        [first.indices, second.indices], 1
    )


def _merged(
    values: Float[Tensor, "positions found"],
    ids: Int[Tensor, "positions found"],
    share: RowShare,
    k: int,
) -> tuple[Float[Tensor, "positions k"], Int[Tensor, "positions k"]]:
    """The k largest of what all peers found among their own rows, ties to the lowest id."""
    every, every_id = (torch.cat(share.peers.gather(own), 1) for own in (values, ids + share.first))
    order = every.sort(dim=1, descending=True, stable=True)
    return order.values[:, :k], every_id.gather(1, order.indices[:, :k])
