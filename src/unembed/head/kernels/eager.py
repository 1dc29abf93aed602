"""The block's statistics in plain torch operations, for machines without a C++ compiler."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unembed.head.kernels.running import LOG2_E, SEGMENT, Running

GROUP = 64
"""Columns whose maximum stands for them while the top-k is searched; divides SEGMENT."""


def update(running: Running, logits: Float[Tensor, "rows block"], start: int) -> None:
    """Take in a block of logits. See ``running.Update``."""
    scratch = torch.empty_like(logits)
    count, width = logits.shape
    local = running.targets - start
    inside = (local >= 0) & (local < width)
    here = logits.gather(1, local.clamp(0, width - 1)[:, None])[:, 0]
    running.seen.copy_(torch.where(inside, here, running.seen))
    running.larger.add_(_count_larger(logits, running.threshold, scratch))
    if running.tolerance is not None:
        torch.sub(logits, running.threshold[:, None], out=scratch).abs_()
        running.near.add_((scratch <= running.tolerance[:, None]).sum(1))
    peaks = logits.view(count, -1, GROUP).amax(-1)
    keep_topk(logits, peaks, start, running.values, running.ids)
    first = start // SEGMENT
    _sum_segments(logits, peaks, scratch, running.sums[:, :, first : first + width // SEGMENT])


def _count_larger(
    logits: Float[Tensor, "rows block"], threshold: Float[Tensor, " rows"], scratch: Tensor
) -> Int[Tensor, " rows"]:
    """How many logits of each row exceed its threshold.

    Compared into float32, whose sums of ones are exact and several times faster than booleans'.
    """
    torch.gt(logits, threshold[:, None], out=scratch)
    return scratch.sum(1).long()


def _sum_segments(
    logits: Float[Tensor, "rows block"],
    peaks: Float[Tensor, "rows groups"],
    scratch: Tensor,
    sums: Float[Tensor, "4 rows parts"],
) -> None:
    """Each segment's four numbers.

    Powers of two are several times faster than ``exp`` in torch's CPU library. The scaling by
    log2(e) rounds x once more, by at most half a float32 ulp of x.
    """
    rows = len(logits)
    e = scratch.view(rows, -1, SEGMENT)
    peak, z, s, q = sums.unbind(0)
    torch.amax(peaks.view(rows, -1, SEGMENT // GROUP), -1, out=peak)
    x = logits.view_as(e) - peak[..., None]
    x *= LOG2_E
    torch.exp2(x, out=e)
    torch.sum(e, -1, out=z)
    x *= e
    torch.sum(x, -1, out=s)
    e *= e
    torch.sum(e, -1, out=q)


def keep_topk(
    logits: Float[Tensor, "rows block"],
    peaks: Float[Tensor, "rows groups"],
    start: int,
    values: Float[Tensor, "rows k"],
    ids: Int[Tensor, "rows k"],
) -> None:
    """Update the k best so far, in place, ties to the lowest id.

    Blocks come in order of their ids, so only a row with a larger logit than its k-th best changes,
    and only the groups with the k largest maxima can hold one of the block's k largest logits. Rows
    where a tie leaves the choice open are settled by a stable sort, which keeps the lowest id.
    """
    row = (peaks.amax(1) > values[:, -1]).nonzero()[:, 0]
    if not len(row):
        return
    k, device = values.shape[1], logits.device
    peaks, groups = peaks[row], logits.view(len(logits), -1, GROUP)
    count = min(k, peaks.shape[1])
    order = peaks.topk(count, dim=1).indices
    candidates = groups[row[:, None], order].flatten(1)
    columns = (order[..., None] * GROUP + torch.arange(GROUP, device=device)).flatten(1)
    pool = torch.cat([values[row], candidates], dim=1)
    pool_ids = torch.cat([ids[row], columns + start], dim=1)
    top = pool.topk(k, dim=1)
    kth = top.values[:, -1:]
    open_ = (top.values[:, 1:] == top.values[:, :-1]).any(1)
    open_ |= torch.count_nonzero(pool >= kth, dim=1) > k
    open_ |= torch.count_nonzero(peaks >= kth, dim=1) > count
    values[row], ids[row] = top.values, pool_ids.gather(1, top.indices)
    if bool(open_.any()):
        pick = open_.nonzero()[:, 0]
        row, before, before_ids = row[pick], pool[pick, :k], pool_ids[pick, :k]
        settled = torch.cat([before, logits[row]], 1).sort(dim=1, descending=True, stable=True)
        span = torch.arange(start, start + logits.shape[1], device=device)
        every_id = torch.cat([before_ids, span.expand(len(row), -1)], dim=1)
        values[row] = settled.values[:, :k]
        ids[row] = every_id.gather(1, settled.indices[:, :k])


NEAR = 0.5
"""Log-ratios below this take the series of ``apart``; the largest term left out is 4e-8 of it."""


def sums_beside(
    log_p: Float[Tensor, "rows block"],
    logits: Float[Tensor, "rows block"],
    given: tuple[Float[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"]],
    sums: Float[Tensor, "5 rows parts"],
) -> None:
    """Sums over each segment of p, q, p log(p/q) - p + q and min(p, q), and logits above a bar.

    ``given`` is what to take from a row's logits in turn to reach log q, and its bar. With
    ``d = log(p/q)`` the third is ``p (d - 1 + exp(-d))``, which is never negative, and of a small d
    ``p d^2 (1/2 - d/6 + d^2/24 - ...)``, which loses nothing to the cancellation of its parts.
    """
    top, base, bar = given
    shape = (len(logits), -1, SEGMENT)
    log_q = (logits - top[:, None]).sub_(base[:, None])
    d = log_p - log_q
    p, q = (log_p * LOG2_E).exp2_(), log_q.mul_(LOG2_E).exp2_()
    series = torch.full_like(d, 1 / math.factorial(8))
    for n in range(7, 1, -1):
        series.mul_(-d).add_(1 / math.factorial(n))
    apart = torch.where(d.abs() < NEAR, series.mul_(d).mul_(d).mul_(p), p * (d - 1) + q)
    above = (logits > bar[:, None]).float()
    for total, term in zip(sums.unbind(0), (p, q, apart, torch.minimum(p, q), above), strict=True):
        torch.sum(term.view(shape), -1, out=total)
