"""Intervals of several means that hold their truths all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from unembed.stats.bootstrap import RESAMPLES, bootstrap_sums
from unembed.stats.estimate import Estimate
from unembed.stats.student import NORMAL_975, student_t
from unembed.stats.studentised import ROUNDING

TOGETHER = 0.95
"""How often all intervals of a family hold their truths."""


@dataclass(frozen=True)
class Sums:
    """Sums by document of k measures of one text, and the positions of each document."""

    values: Float[np.ndarray, "k documents"]
    counts: Float[np.ndarray, " documents"]


@dataclass(frozen=True)
class _Means:
    """k means and their standard errors; of each resample how far they moved, and their errors."""

    value: Float[np.ndarray, " k"]
    error: Float[np.ndarray, " k"]
    moved: Float[np.ndarray, "resamples k"]
    spread: Float[np.ndarray, "resamples k"]


def simultaneous_means(
    texts: Sequence[Sums], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Estimate, ...]:
    """Estimate k means over positions, with 95 % intervals that hold together.

    With one text ``values.sum(1) / counts.sum()``; of several the plain mean of that over the
    texts. The intervals are ``mean -+ c * error``, of the linearised standard error by document,
    where ``c`` is the 95 % quantile over resamples of the documents of each text of
    ``max(|mean* - mean| / error*)``, the largest over the k measures, and no less than Student's t
    of one. A measure whose resamples often have no spread takes Student's t by Bonferroni. A mean
    that no document moves, as that of a difference of two equal models, has an interval of no
    width. Without intervals where a text has fewer than two documents.
    Source: theory §4; Romano and Wolf 2005 on studentised maxima.
    """
    k = len(texts[0].values)
    n = sum(int(text.counts.sum()) for text in texts)
    if any(text.counts.sum() == 0 for text in texts):
        return tuple(Estimate(None, reason="no position to average over") for _ in range(k))
    parts = [
        _means(text, resamples=resamples, seed=seed + number) for number, text in enumerate(texts)
    ]
    value = np.mean([part.value for part in parts], axis=0)
    documents = sum(int(np.count_nonzero(text.counts)) for text in texts)
    fewest = min(len(text.counts) for text in texts)
    if fewest < 2:
        return tuple(Estimate(one, n=n, documents=documents) for one in value.tolist())
    error, spread = (
        np.sqrt(np.sum([getattr(part, name) ** 2 for part in parts], axis=0)) / len(parts)
        for name in ("error", "spread")
    )
    moved = np.mean([part.moved for part in parts], axis=0)
    width = _largest(error, moved, spread, fewest) * error
    return tuple(
        Estimate(at, at - reach, at + reach, n=n, documents=documents)
        for at, reach in zip(value.tolist(), width.tolist(), strict=True)
    )


def _largest(
    error: Float[np.ndarray, " k"],
    moved: Float[np.ndarray, "resamples k"],
    spread: Float[np.ndarray, "resamples k"],
    fewest: int,
) -> Float[np.ndarray, " k"]:
    """The number of standard errors within which all k means lie together in 95 % of resamples.

    Resamples that have no spread but moved lie infinitely far out.
    """
    k, t = len(error), student_t(fewest - 1)
    still = np.abs(moved) <= ROUNDING * error
    distance = np.where(still, 0.0, np.inf)
    np.divide(np.abs(moved), spread, out=distance, where=~still & (spread > ROUNDING * error))
    far = t / NORMAL_975 * NormalDist().inv_cdf(1 - (1 - TOGETHER) / (2 * k))
    bounded = np.isinf(distance).mean(axis=0) <= (1 - TOGETHER) / (2 * k)
    found = np.full(k, far)
    if len(moved) and bounded.any():
        largest = distance[:, bounded].max(axis=1)
        found[bounded] = max(t, float(np.quantile(largest, TOGETHER, method="inverted_cdf")))
    return found


def _means(text: Sums, *, resamples: int, seed: int) -> _Means:
    """The means of one text with their errors, and those of each resample of its documents."""
    k, units = text.values.shape
    total = text.counts.sum()
    value = text.values.sum(axis=1) / total
    if units < 2:
        unknown = np.full(k, np.nan)
        return _Means(value, unknown, np.zeros((0, k)), np.zeros((0, k)))
    rest = text.values - value[:, None] * text.counts
    factor = units / (units - 1)
    error = np.sqrt(factor * np.square(rest).sum(axis=1)) / total
    counts = text.counts[None]
    rows = np.concatenate([rest, rest**2, rest * counts, counts, counts**2])
    drawn = bootstrap_sums(rows, resamples=resamples, seed=seed)
    off, square, cross = (drawn[:, i * k : (i + 1) * k] for i in range(3))
    # Every document that is counted here has a position.
    size, size2 = drawn[:, 3 * k, None], drawn[:, 3 * k + 1, None]
    moved = off / size
    inner = square - 2 * moved * cross + moved**2 * size2
    spread = np.sqrt(np.maximum(inner, 0) * factor) / size
    return _Means(value, error, moved, spread)
