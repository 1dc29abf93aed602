"""How far a hidden state is from the nearest wall of its own cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from unembed.head.head import Head
from unembed.head.precision import Precision
from unembed.head.product import float32_products, pad_rows

FACET_BLOCK = 2048
ROWS = 512
CANDIDATES = 8
"""Nearest facets found in float32 that are then measured again in float64."""


def relative_distance(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    top1: Int[Tensor, " positions"],
    top2: Int[Tensor, " positions"],
) -> Float[Tensor, " positions"]:
    """Distance to the runner-up's facet in units of the hidden norm, the scale-free margin.

    ``(l_t - l_r) / (|w_t - w_r| |h|)`` with ``l = W h + b`` before scale and soft-cap, so it is a
    distance in hidden space; taken from the difference of the rows in float64, and without sign,
    which float32 logits closer than their rounding may have the other way round. Two equal rows
    have no facet between them: 0 where their logits tie. Source: theory §1.
    """
    found = []
    for h, t, r in zip(hidden.split(ROWS), top1.split(ROWS), top2.split(ROWS), strict=True):
        h = h.double()
        gap, size = _facet(h, _Rows.of(head, t), _Rows.of(head, r))
        found.append(torch.where(gap == 0, 0.0, gap.abs() / (size * h.norm(dim=1))).float())
    return torch.cat(found)


def facet_distance(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    top1: Int[Tensor, " positions"],
    precision: Precision,
) -> tuple[Int[Tensor, " positions"], Float[Tensor, " positions"]]:
    """The token across the nearest facet of the cell, and the Euclidean distance to it.

    Equivalent to::

        l = W @ h + b                                            # no scale, no soft-cap
        distance = min((l[t] - l[v]) / norm(w[t] - w[v]) for v != t)

    over every token, in two passes: float32 products of all rows with ``h`` and ``w_t`` find the
    CANDIDATES nearest, which are measured again in float64 from the difference of the rows. Rows
    equal to ``w_t`` bound no facet. Of several at one distance it is the lowest id. Where several
    processes hold the head's rows, all of them call this, and all get the same.
    Source: theory §1, §15.
    """
    tokens, distances = [], []
    for h, t in zip(hidden.split(ROWS), top1.split(ROWS), strict=True):
        inside = _Rows.of(head, t)
        near = _nearest_candidates(h, head, t, precision)
        columns = []
        for candidate in near.unbind(1):
            gap, size = _facet(h.double(), inside, _Rows.of(head, candidate))
            columns.append(torch.where(size == 0, torch.inf, gap.abs() / size))
        distance = torch.stack(columns, dim=1)
        best = distance.min(dim=1)
        tokens.append(near.gather(1, best.indices[:, None])[:, 0])
        distances.append(best.values.float())
    return torch.cat(tokens), torch.cat(distances)


@dataclass(frozen=True)
class _Rows:
    """A row of the head for each position, in float64."""

    weight: Float64[Tensor, "positions dim"]
    bias: Float64[Tensor, " positions"] | None

    @staticmethod
    def of(head: Head, ids: Int[Tensor, " positions"]) -> _Rows:
        """From wherever they are held."""
        bias = head.bias_at(ids)
        return _Rows(head.rows_at(ids).double(), None if bias is None else bias.double())


def _facet(
    hidden: Float[Tensor, "positions dim"], inside: _Rows, outside: _Rows
) -> tuple[Float[Tensor, " positions"], Float[Tensor, " positions"]]:
    """Logit gap before scale and soft-cap, and |w_t - w_v|, in float64."""
    wall = inside.weight - outside.weight
    gap = (wall * hidden).sum(1)
    if inside.bias is not None and outside.bias is not None:
        gap = gap + inside.bias - outside.bias
    return gap, wall.norm(dim=1)


def _nearest_candidates(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    top1: Int[Tensor, " positions"],
    precision: Precision,
) -> Int[Tensor, "positions k"]:
    n, device = hidden.shape[0], hidden.device
    h, own = pad_rows(hidden), pad_rows(head.rows_at(top1))
    own_logit, own_bias = (own[:n] * h[:n]).sum(1), head.bias_at(top1)
    if own_bias is not None:
        own_logit = own_logit + own_bias.float()
    share, first, head = head.share, head.first, head.own
    bias = head.bias
    own_square = own[:n].square().sum(1)
    best = torch.full((n, 0), torch.inf, dtype=torch.float32, device=device)
    ids = torch.zeros(n, 0, dtype=torch.long, device=device)
    for start in range(0, head.vocab, FACET_BLOCK):
        stop = min(start + FACET_BLOCK, head.vocab)
        rows = pad_rows(head.weight[start:stop])
        with float32_products(precision.float32_route):
            logits = (h @ rows.T)[:n, : stop - start]
            cross = (own @ rows.T)[:n, : stop - start]
        squares = own_square[:, None] + rows[: stop - start].square().sum(1) - 2 * cross
        if bias is not None:
            logits = logits + bias[start:stop].float()
        # Rounding can only bring a near twin of w_t closer this way, never hide it.
        squares += 1e-6 * (own_square[:, None] + rows[: stop - start].square().sum(1))
        distance = (own_logit[:, None] - logits) / squares.sqrt()
        span = torch.arange(first + start, first + stop, device=device)
        barred = span == top1[:, None]
        if head.valid is not None:
            barred |= ~head.valid[start:stop]
        distance = distance.masked_fill_(barred, torch.inf)
        best, ids = _least(
            torch.cat([best, distance], dim=1), torch.cat([ids, span.expand(n, -1)], dim=1)
        )
    if share is not None:
        best, ids = _least(share.joined(best), share.joined(ids))
    return ids


def _least(
    distance: Float[Tensor, "positions some"], ids: Int[Tensor, "positions some"]
) -> tuple[Float[Tensor, "positions k"], Int[Tensor, "positions k"]]:
    """The CANDIDATES least distances and their ids, which ascend; ties at the end to the lowest."""
    top = distance.topk(min(CANDIDATES, distance.shape[1]), dim=1, largest=False)
    last, at = top.values[:, -1:], top.indices
    tied = torch.count_nonzero(distance <= last, dim=1) > at.shape[1]
    row = (tied & torch.isfinite(last[:, 0])).nonzero()[:, 0]
    if len(row):
        at[row] = distance[row].sort(dim=1, stable=True).indices[:, : at.shape[1]]
    at = at.sort(dim=1).values
    return distance.gather(1, at), ids.gather(1, at)
