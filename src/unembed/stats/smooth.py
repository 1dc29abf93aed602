"""Intervals of smooth functions of means, such as a difference of two or a product of several."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from unembed.stats.bootstrap import RESAMPLES
from unembed.stats.estimate import Estimate
from unembed.stats.studentised import studentised

OfTotals = Callable[[Float[np.ndarray, "rows k"]], Float[np.ndarray, "rows f"]]
"""From rows of k totals to rows of f figures, NaN where one does not exist."""


def smooth_estimates(
    sums: Float[np.ndarray, "k documents"],
    sizes: Float[np.ndarray, " documents"],
    of_totals: OfTotals,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate | None]:
    """Estimate ``of_totals(sums.sum(1))``, None where it does not exist (theory §4).

    Each document is left out once: with m of n positions in it, the figure f moves to ``f_d``. The
    interval lies about ``f - bias``, ``bias = sum (1 - m / n) f_d - (documents - 1) f`` (the
    jackknife of documents of unequal sizes, Busing et al. 1999), and holds f; its error and its t
    are the studentised bootstrap's of ``n (f - f_d)``. There is none of fewer than two documents,
    or where leaving one out leaves no figure.
    """
    totals, documents = sums.sum(axis=1), sums.shape[1]
    value = of_totals(totals[None])[0]
    n = int(sizes.sum())
    if documents < 2:
        return [_estimate(one, None, None, n, documents) for one in value.tolist()]
    without = of_totals(totals - sums.T)
    part = sizes / sizes.sum()
    known = np.asarray(np.isfinite(without).all(axis=0))
    without = np.where(known, without, 0.0)
    bias = (1 - part) @ without - (documents - 1) * value
    moves = n * (value - without).T
    moves -= moves.sum(axis=1, keepdims=True) * part
    over = np.broadcast_to(sizes, moves[known].shape)
    found = studentised(moves[known], over, resamples=resamples, seed=seed)
    estimates, at = [], 0
    for i, one in enumerate(value.tolist()):
        low = high = None
        if known[i]:
            low, high = found.ends(at)
            at += 1
        if low is not None and high is not None:
            centre = one - float(bias[i])
            low, high = min(one, centre + low), max(one, centre + high)
        estimates.append(_estimate(one, low, high, n, documents))
    return estimates


def _estimate(
    value: float, low: float | None, high: float | None, n: int, documents: int
) -> Estimate | None:
    return None if np.isnan(value) else Estimate(value, low, high, n=n, documents=documents)
