"""Batch noise and log-probabilities of engines, counted in loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def rounded_winner(logits: Sequence[float], ids: Sequence[int], dtype: torch.dtype) -> int:
    """The id of the largest logit once rounded, the lowest of equal ones."""
    values = [float(torch.tensor(one, dtype=torch.float32).to(dtype)) for one in logits]
    return min(token for token, value in zip(ids, values, strict=True) if value == max(values))


def foretold(
    doc: Sequence[int],
    margin: Sequence[float],
    logits: Sequence[Sequence[float]],
    ids: Sequence[Sequence[int]],
    changes: Sequence[Sequence[Sequence[float]]],
    edges: Sequence[float],
    weights: Sequence[float],
    dtype: torch.dtype,
) -> float:
    """How many flips are foretold in one plan, each document counted ``weights`` times.

    A position is moved by what moved decisions of the other fold's documents in its band.
    """

    def band(i: int) -> int:
        return sum(margin[i] >= edge for edge in edges)

    total = 0.0
    for i in range(len(doc)):
        flips = among = 0.0
        for j in range(len(doc)):
            if doc[j] % 2 == doc[i] % 2 or band(j) != band(i):
                continue
            for change in changes[j]:
                among += weights[doc[j]]
                moved = [a + b for a, b in zip(logits[i], change, strict=True)]
                flips += weights[doc[j]] * (
                    rounded_winner(moved, ids[i], dtype) != rounded_winner(logits[i], ids[i], dtype)
                )
        total += weights[doc[i]] * flips / among if among else 0.0
    return total


def least_margin(margins: Sequence[float], times: Sequence[int], caught: float) -> float:
    """The least margin up to which that share of the flips lies."""
    for limit in sorted(margins):
        below = sum(n for m, n in zip(margins, times, strict=True) if m <= limit)
        if below >= caught * sum(times):
            return limit
    raise AssertionError


def logprob_gap(
    doc: Sequence[int], exact: Sequence[float], other: Sequence[float]
) -> dict[str, float]:
    """Mean, deviation and mean size of ``log q - log p``, and ratios outside 0.9 to 1.1."""
    d = [a - b for a, b in zip(exact, other, strict=True) if math.isfinite(b)]
    kept = [one for one, b in zip(doc, other, strict=True) if math.isfinite(b)]
    mean = sum(d) / len(d)
    products = {
        one: math.prod(math.exp(v) for v, owner in zip(d, kept, strict=True) if owner == one)
        for one in set(kept)
    }

    def outside(ratios: Sequence[float]) -> float:
        return sum(not 0.9 <= ratio <= 1.1 for ratio in ratios) / len(ratios)

    return {
        "mean": mean,
        "deviation": math.sqrt(sum((v - mean) ** 2 for v in d) / len(d)),
        "mean_size": sum(abs(v) for v in d) / len(d),
        "outside": outside([math.exp(v) for v in d]),
        "products_outside": outside(list(products.values())),
        "median_product": sorted(products.values())[len(products) // 2],
    }
