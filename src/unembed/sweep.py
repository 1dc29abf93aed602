"""One pass over the vocabulary: what the head says at each position, never rows x vocab at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unembed.head import Head
from unembed.product import TILE, Precision, float32_products, pad_rows

SEGMENT = 512
"""Columns over which exponentials are summed in float32 before float64 takes over. It is part of
the result's meaning (it fixes the order of summation); block sizes are multiples of it."""

GROUP = 64
"""Columns whose maximum stands for them while the top-k is searched; divides SEGMENT."""

LOG2_E = 1 / math.log(2)

ROWS = 512
"""Rows of a logit block; with BLOCK columns it stays inside the cache."""

BLOCK = 4096

NEVER = -1e38
"""The logit of a row that is not a token: below every real one, and still finite when it is scaled,
so that 0 times it is 0."""


@dataclass(frozen=True)
class Sweep:
    """What one pass over the vocabulary says about each position, all float32 from float32 logits.

    ``topk_values`` and ``topk_ids`` are the largest logits in descending order, ties to the lowest
    id; k is cut to the number of tokens. ``rank`` is 1 + the number of larger logits than the
    target's. ``sum_p2`` is the sum of squared probabilities. ``finite`` is False where any logit of
    a token is not finite; the other entries of such a row mean nothing.
    """

    topk_values: Float[Tensor, "positions k"]
    topk_ids: Int[Tensor, "positions k"]
    logsumexp: Float[Tensor, "positions"]
    entropy: Float[Tensor, "positions"]
    sum_p2: Float[Tensor, "positions"]
    target_logit: Float[Tensor, "positions"]
    rank: Int[Tensor, "positions"]
    finite: Bool[Tensor, "positions"]

    @property
    def margin(self) -> Float[Tensor, "positions"]:
        """Largest logit minus the second largest."""
        return self.topk_values[:, 0] - self.topk_values[:, 1]

    @property
    def nll(self) -> Float[Tensor, "positions"]:
        """Negative log-likelihood of the target in nats."""
        return (self.logsumexp - self.target_logit).clamp_min(0.0)

    @property
    def confidence(self) -> Float[Tensor, "positions"]:
        """Probability of the top token."""
        return torch.exp(self.topk_values[:, 0] - self.logsumexp).clamp_max(1.0)


@torch.no_grad()
def sweep(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Int[Tensor, "positions"],
    *,
    k: int = 2,
    precision: Precision | None = None,
    block: int = BLOCK,
) -> Sweep:
    """Top-k, logsumexp, entropy, target logit and rank of every position, float32-exact.

    Equivalent to::

        logits = softcap(scale * (hidden.float() @ W.float().T + b))[:, valid]
        values, ids = logits.sort(descending=True, stable=True)     # the first k of each
        logsumexp = logits.logsumexp(-1); p = logits.softmax(-1)
        entropy = -(p * p.log()).sum(-1); sum_p2 = p.square().sum(-1)
        rank = 1 + (logits > logits.gather(1, targets)).sum(-1)

    in O(positions * (k + vocab / 512) + block) memory. On CPU the result of a row is bitwise the
    same for any ``block``, any other rows in the call, and any number of threads. ``precision``
    comes from ``Precision.probe`` and is probed here where it is None.
    Raises ValueError for shapes or targets that do not fit the head. Source: SPEC §1.
    """
    _check(hidden, head, targets, k, block)
    precision = precision or Precision.probe(head.weight)
    n, k = hidden.shape[0], min(k, head.tokens)
    inputs = pad_rows(hidden)
    rows, device = inputs.shape[0], inputs.device
    index = torch.zeros(rows, dtype=torch.long, device=device)
    index[:n] = targets
    threshold = target_logits(inputs, head, index, precision)
    parts = -(-head.vocab // SEGMENT)
    sums = torch.empty(4, rows, parts, device=device)
    values = torch.full((rows, k), -torch.inf, device=device)
    ids = torch.zeros(rows, k, dtype=torch.long, device=device)
    larger = torch.zeros(rows, dtype=torch.long, device=device)
    seen = torch.full((rows,), torch.nan, device=device)
    scratch = torch.empty(min(rows, ROWS) * min(block, parts * SEGMENT), device=device)
    for start, logits, span in logit_blocks(inputs, head, precision, block):
        width = logits.shape[1]
        local = index[span] - start
        inside = (local >= 0) & (local < width)
        at = local.clamp(0, width - 1)[:, None]
        seen[span] = torch.where(inside, logits.gather(1, at)[:, 0], seen[span])
        larger[span] += _count_larger(logits, threshold[span], scratch)
        peaks = logits.view(len(logits), -1, GROUP).amax(-1)
        _keep_topk(logits, peaks, start, values[span], ids[span])
        first = start // SEGMENT
        _sum_segments(logits, peaks, scratch, sums[:, span, first : first + width // SEGMENT])
    differs = (seen != threshold) & torch.isfinite(seen)
    if bool(differs.any()):
        larger[differs] = _recount(inputs[differs], head, seen[differs], precision, block)
    combined = [_combine(some) for some in sums.split(ROWS, dim=1)]
    logsumexp, entropy, sum_p2 = (torch.cat(column) for column in zip(*combined, strict=True))
    finite = torch.isfinite(logsumexp) & torch.isfinite(entropy) & torch.isfinite(sum_p2)
    return Sweep(
        values[:n],
        ids[:n],
        logsumexp[:n].float(),
        entropy[:n].float(),
        sum_p2[:n].float(),
        seen[:n],
        larger[:n] + 1,
        finite[:n],
    )


def logit_blocks(
    inputs: Float[Tensor, "rows dim"], head: Head, precision: Precision, block: int = BLOCK
) -> Iterator[tuple[int, Float[Tensor, "tile block"], slice]]:
    """Blocks of float32 logits: (first column, logits, rows), blocks outer and row tiles inner.

    The rows must be padded (``product.pad_rows``). Columns are padded to a multiple of SEGMENT; a
    padded column, or one that is not a token, holds NEVER. The block is overwritten by the next.
    """
    rows = inputs.shape[0]
    buffer = torch.empty(min(rows, ROWS) * block, device=inputs.device)
    for start in range(0, head.vocab, block):
        stop = min(start + block, head.vocab)
        weight = pad_rows(head.weight[start:stop])
        bias = None if head.bias is None else head.bias[start:stop].to(torch.float32)
        barred = None if head.valid is None else ~head.valid[start:stop]
        width = -(-(stop - start) // SEGMENT) * SEGMENT
        for top in range(0, rows, ROWS):
            span = slice(top, min(top + ROWS, rows))
            height = span.stop - span.start
            logits = buffer[: height * width].view(height, width)
            with float32_products(precision.route):
                torch.mm(inputs[span], weight.T, out=logits[:, : weight.shape[0]])
            real = logits[:, : stop - start]
            apply_recipe(real, head, bias)
            if barred is not None:
                real.masked_fill_(barred, NEVER)
            logits[:, stop - start :] = NEVER
            yield start, logits, span


def apply_recipe(
    products: Float[Tensor, "rows columns"], head: Head, bias: Float[Tensor, "columns"] | None
) -> None:
    """Turn ``W h`` into logits in place: bias, scale, soft-cap."""
    if bias is not None:
        products += bias
    if head.scale != 1.0:
        products *= head.scale
    if head.softcap is not None:
        products.div_(head.softcap).tanh_().mul_(head.softcap)


def target_logits(
    inputs: Float[Tensor, "rows dim"],
    head: Head,
    targets: Int[Tensor, "rows"],
    precision: Precision,
) -> Float[Tensor, "rows"]:
    """The target's logit of every row, from products of TILE rows with their TILE targets.

    Where the route is invariant these are bitwise the logits that the blocks will hold, so larger
    ones can be counted before the target's own block has come by.
    """
    found = torch.empty(inputs.shape[0], device=inputs.device)
    for top in range(0, inputs.shape[0], TILE):
        span = slice(top, top + TILE)
        chosen = targets[span]
        with float32_products(precision.route):
            square = inputs[span] @ head.weight[chosen].to(torch.float32).T
        apply_recipe(square, head, None if head.bias is None else head.bias[chosen].float())
        found[span] = square.diagonal()
    barred = torch.zeros_like(targets, dtype=torch.bool)
    if head.valid is not None:
        barred = ~head.valid[targets]
    return found.masked_fill_(barred, NEVER)


def _count_larger(
    logits: Float[Tensor, "rows block"], threshold: Float[Tensor, "rows"], scratch: Tensor
) -> Int[Tensor, "rows"]:
    """How many logits of each row exceed its threshold.

    Compared into float32, whose sums of ones are exact and several times faster than booleans'.
    """
    above = scratch[: logits.numel()].view_as(logits)
    torch.gt(logits, threshold[:, None], out=above)
    return above.sum(1).long()


def _sum_segments(
    logits: Float[Tensor, "rows block"],
    peaks: Float[Tensor, "rows groups"],
    scratch: Tensor,
    sums: Float[Tensor, "4 rows parts"],
) -> None:
    """Per segment: the maximum m, and the sums of e, x e and e^2, with x = (logit - m) log2(e) and
    e = 2^x. The logits are overwritten.

    Powers of two are several times faster than ``exp`` in torch's CPU library. The scaling by
    log2(e) rounds x once more, by at most half a float32 ulp of x.
    """
    rows, width = logits.shape
    x = logits.view(rows, -1, SEGMENT)
    e = scratch[: rows * width].view_as(x)
    peak, z, s, q = sums.unbind(0)
    torch.amax(peaks.view(rows, -1, SEGMENT // GROUP), -1, out=peak)
    x -= peak[..., None]
    x *= LOG2_E
    torch.exp2(x, out=e)
    torch.sum(e, -1, out=z)
    x *= e
    torch.sum(x, -1, out=s)
    e *= e
    torch.sum(e, -1, out=q)


def _combine(sums: Float[Tensor, "4 rows parts"]) -> tuple[Tensor, Tensor, Tensor]:
    """Logsumexp, entropy and sum of p^2 from the segments' sums, in float64."""
    peak, z, s, q = sums.double().unbind(0)
    top = peak.amax(-1, keepdim=True)
    shift = peak - top
    weight = shift.exp()
    total = (weight * z).sum(-1)
    slope = (weight * (s / LOG2_E + shift * z)).sum(-1)
    square = (weight * weight * q).sum(-1)
    return top[:, 0] + total.log(), total.log() - slope / total, square / total**2


def _keep_topk(
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


def _recount(
    inputs: Float[Tensor, "rows dim"],
    head: Head,
    threshold: Float[Tensor, "rows"],
    precision: Precision,
    block: int,
) -> Int[Tensor, "rows"]:
    """Count again for rows whose target logit came out differently in its block."""
    n = inputs.shape[0]
    padded = pad_rows(inputs)
    limit = torch.full((padded.shape[0],), torch.inf, device=inputs.device)
    limit[:n] = threshold
    larger = torch.zeros(padded.shape[0], dtype=torch.long, device=inputs.device)
    scratch = torch.empty(min(padded.shape[0], ROWS) * block, device=inputs.device)
    for _start, logits, span in logit_blocks(padded, head, precision, block):
        larger[span] += _count_larger(logits, limit[span], scratch)
    return larger[:n]


def _check(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    targets: Int[Tensor, "positions"],
    k: int,
    block: int,
) -> None:
    if hidden.shape[1] != head.dim or targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and targets {tuple(targets.shape)} do not fit a head of "
            f"width {head.dim}"
        )
    if k < 2 or block < SEGMENT or block % SEGMENT:
        raise ValueError(f"k must be at least 2 and block a multiple of {SEGMENT}: {k}, {block}")
    if len(targets) and not (int(targets.min()) >= 0 and int(targets.max()) < head.vocab):
        raise ValueError(f"targets must be ids below {head.vocab}, got up to {int(targets.max())}")
