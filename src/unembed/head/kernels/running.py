"""The statistics of a sweep while it passes over the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unembed.head.peers import RowShare

SEGMENT = 512
"""Columns over which exponentials are summed in float32 before float64 takes over. It is part of
the result's meaning (it fixes the order of summation); block sizes are multiples of it."""

LOG2_E = 1 / math.log(2)


@dataclass(frozen=True)
class Running:
    """What the blocks so far say about each row; kernels write into these tensors.

    ``values`` and ``ids`` are the k largest logits, ties to the lowest id. ``larger`` counts logits
    above ``threshold``, and ``seen`` is the logit in column ``targets`` (NaN until its block has
    come by). Where the threshold may be ``tolerance`` away from it, ``near`` counts logits l with
    ``|l - threshold| <= tolerance``; a kernel may leave that at 0. ``sums`` holds, per segment of
    SEGMENT columns with maximum m: m, and the sums of e, x e and e^2, where
    x = (logit - m) log2(e) and e = 2^x.
    """

    targets: Int[Tensor, " rows"]
    threshold: Float[Tensor, " rows"]
    values: Float[Tensor, "rows k"]
    ids: Int[Tensor, "rows k"]
    larger: Int[Tensor, " rows"]
    seen: Float[Tensor, " rows"]
    sums: Float[Tensor, "4 rows parts"]
    tolerance: Float[Tensor, " rows"] | None
    near: Int[Tensor, " rows"]

    @staticmethod
    def of(
        targets: Int[Tensor, " rows"],
        threshold: Float[Tensor, " rows"],
        k: int,
        vocab: int,
        tolerance: Float[Tensor, " rows"] | None = None,
    ) -> Running:
        """Before the first block."""
        rows, device, parts = len(targets), threshold.device, -(-vocab // SEGMENT)
        return Running(
            targets,
            threshold,
            torch.full((rows, k), -torch.inf, dtype=torch.float32, device=device),
            torch.zeros(rows, k, dtype=torch.long, device=device),
            torch.zeros(rows, dtype=torch.long, device=device),
            torch.full((rows,), torch.nan, dtype=torch.float32, device=device),
            torch.empty(4, rows, parts, dtype=torch.float32, device=device),
            tolerance,
            torch.zeros(rows, dtype=torch.long, device=device),
        )

    def tile(self, rows: slice) -> Running:
        """The same tensors, these rows of them."""
        return Running(
            self.targets[rows],
            self.threshold[rows],
            self.values[rows],
            self.ids[rows],
            self.larger[rows],
            self.seen[rows],
            self.sums[:, rows],
            None if self.tolerance is None else self.tolerance[rows],
            self.near[rows],
        )

    def merged(self, share: RowShare, targets: Int[Tensor, " rows"]) -> Running:
        """What the passes of all peers over their own rows say together, after the last block.

        ``targets`` are ids of the whole head, whose rows each peer's columns are in turn. Where
        each share begins a segment, every number is bitwise that of one pass over all rows.
        """
        k = self.values.shape[1]
        values, ids = (
            torch.cat(share.peers.gather(own), 1) for own in (self.values, self.ids + share.first)
        )
        order = values.sort(dim=1, descending=True, stable=True)
        larger, near = share.peers.total(torch.stack([self.larger, self.near]))
        return Running(
            targets,
            self.threshold,
            order.values[:, :k],
            ids.gather(1, order.indices[:, :k]),
            larger,
            share.collected(targets, self.seen[share.owns(targets)]),
            share.joined(self.sums),
            self.tolerance,
            near,
        )

    def counted(self) -> tuple[Int[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """Logits larger than the target's, and the rows where that takes another count.

        With the target alone in the tolerance, every other logit is on the same side of it as of
        the threshold. Then ``larger`` is right, less the target itself if that is above.
        """
        sure = (self.seen == self.threshold) | ~torch.isfinite(self.seen)
        if self.tolerance is None:
            return self.larger, ~sure
        close = (self.seen - self.threshold).abs() <= self.tolerance
        alone = close & (self.near == 1)
        itself = alone & (self.seen > self.threshold)
        return self.larger - itself.long(), ~(sure | alone)

    def combined(self, rows: int = 512) -> tuple[Tensor, Tensor, Tensor]:
        """Logsumexp, entropy and sum of p^2 of every row in float64, after the last block."""
        done = [_combine(some) for some in self.sums.split(rows, dim=1)]
        logsumexp, entropy, sum_p2 = (torch.cat(column) for column in zip(*done, strict=True))
        return logsumexp, entropy, sum_p2


Update = Callable[[Running, Float[Tensor, "rows block"], int], None]
"""``update(running, logits, start)`` takes in a block of logits whose first column is ``start``.

The block's width is a multiple of SEGMENT and blocks come in order of their columns. The logits are
left as they were.
"""


def _combine(sums: Float[Tensor, "4 rows parts"]) -> tuple[Tensor, Tensor, Tensor]:
    peak, z, s, q = sums.double().unbind(0)
    top = peak.amax(-1, keepdim=True)
    shift = peak - top
    weight = shift.exp()
    total = (weight * z).sum(-1)
    slope = (weight * (s / LOG2_E + shift * z)).sum(-1)
    square = (weight * weight * q).sum(-1)
    return top[:, 0] + total.log(), total.log() - slope / total, square / total**2
