"""Intervals from resampled documents, for the positions of one document are not independent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt16

from unembed.stats.estimate import Estimate
from unembed.stats.student import student_t

RESAMPLES = 5_000
"""Default number of resamples: the ends of an interval are then known to 0.04 standard errors."""

CHUNK_ELEMENTS = 1 << 20
"""Weights held at a time, 8 MiB of float64; changes memory, never a result."""

KEPT_ELEMENTS = 1 << 22
"""Weights kept for the next statistic of the same documents, 8 MiB; changes time, never a result.
"""

WHOLE = 2.0**53
"""Whole numbers up to here are exact in float64, and so are their sums in any order."""

MINIMUM_DEFINED = 0.95
"""Share of the resamples in which a statistic must exist before it is given an interval."""


def cluster(documents: Int[np.ndarray, " positions"]) -> tuple[Int[np.ndarray, " positions"], int]:
    """Number the documents 0, 1, ... in ascending order of their ids.

    Same as ``np.unique(documents, return_inverse=True)``, without a sort where the ids are dense.
    Returns the number of each position's document, and how many documents there are.
    """
    if documents.size == 0:
        return np.zeros(0, dtype=np.intp), 0
    low, high = int(documents.min()), int(documents.max())
    if high - low > 4 * documents.size:
        ids, inverse = np.unique(documents, return_inverse=True)
        return inverse.astype(np.intp, copy=False), len(ids)
    offset = documents.astype(np.intp) - low
    present = np.bincount(offset, minlength=high - low + 1) > 0
    return (np.cumsum(present) - 1)[offset], int(present.sum())


def resample_weights(
    documents: int, *, resamples: int = RESAMPLES, seed: int = 0, chunk: int | None = None
) -> Iterator[Float[np.ndarray, "resamples documents"]]:
    """Yield, in chunks, how often each resample draws each document.

    A row is ``np.bincount(generator.integers(documents, size=documents))``: ``documents`` draws
    with replacement, so that a row sums to ``documents``. The same seed gives the same resamples
    whatever the chunk, and to every statistic of one audit.
    """
    rows = chunk if chunk is not None else max(1, CHUNK_ELEMENTS // documents)
    if resamples * documents <= KEPT_ELEMENTS and documents < 1 << 16:
        kept = _kept_weights(documents, resamples, seed)
        for start in range(0, resamples, rows):
            yield kept[start : start + rows].astype(np.float64)
        return
    yield from _drawn_weights(documents, resamples, seed, rows)


@lru_cache(maxsize=2)
def _kept_weights(
    documents: int, resamples: int, seed: int
) -> UInt16[np.ndarray, "resamples documents"]:
    """All resamples at once, in a quarter of their bytes."""
    rows = max(1, CHUNK_ELEMENTS // documents)
    kept = np.empty((resamples, documents), dtype=np.uint16)
    start = 0
    for weights in _drawn_weights(documents, resamples, seed, rows):
        kept[start : start + len(weights)] = weights
        start += len(weights)
    return kept


def _drawn_weights(
    documents: int, resamples: int, seed: int, rows: int
) -> Iterator[Float[np.ndarray, "resamples documents"]]:
    """``resample_weights``, drawn so many resamples at a time."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        # 64-bit draws: narrower dtypes drop leftover bits at each call, and chunks would matter.
        drawn = generator.integers(documents, size=(count, documents))
        drawn += np.arange(count)[:, None] * documents
        weights = np.bincount(drawn.ravel(), minlength=count * documents)
        yield weights.reshape(count, documents).astype(np.float64)


def interval_levels(documents: int) -> tuple[float, float]:
    """The two percentiles of the resampled statistic that bound a 95 % interval.

    Efron's percentile interval takes 2.5 % and 97.5 %, which is too narrow for few documents: the
    bootstrap's spread is short by ``sqrt((D - 1) / D)`` and its shape is normal, not Student's t.
    The expanded percentile interval (Hesterberg 2015, arXiv 1411.5279, section 5) undoes both,
    ``Phi(-t_{.975, D-1} sqrt(D / (D - 1)))``, and tends to 2.5 % as D grows.
    Raises ``ValueError`` for fewer than two documents.
    """
    if documents < 2:
        raise ValueError(f"an interval needs at least 2 documents, got {documents}")
    freedom = documents - 1
    at = student_t(freedom) * math.sqrt(documents / freedom)
    lower = 0.5 * math.erfc(at / math.sqrt(2))
    return lower, 1 - lower


def interval(
    draws: Float[np.ndarray, " resamples"], documents: int
) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of a resampled statistic, see ``interval_levels``.

    Resamples in which the statistic does not exist are NaN and left out; with fewer than two
    documents, or where it exists in under 95 % of them, there is no interval: ``(None, None)``.
    """
    defined = draws[np.isfinite(draws)]
    if documents < 2 or draws.size == 0 or defined.size < MINIMUM_DEFINED * draws.size:
        return None, None
    low, high = np.quantile(defined, interval_levels(documents))
    return float(low), float(high)


def sums_by_document(
    values: Float[np.ndarray, " positions"], inverse: Int[np.ndarray, " positions"], documents: int
) -> Float[np.ndarray, " documents"]:
    """Sum of ``values`` in each document, accumulated in float64 in the order of the positions."""
    # Of nothing, bincount gives integers.
    return np.bincount(inverse, weights=values, minlength=documents).astype(np.float64, copy=False)


def add_by_document(
    sums: Float[np.ndarray, " documents"],
    values: Shaped[np.ndarray, " positions"],
    inverse: Int[np.ndarray, " positions"],
) -> None:
    """Add further positions to ``sums_by_document``, to the bits of all of them at once."""
    np.add.at(sums, inverse, values.astype(np.float64, copy=False))


def bootstrap_sums(
    sums: Float[np.ndarray, "k documents"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "resamples k"]:
    """Totals of k per-document sums in each resample of the documents.

    Naive equivalent: ``sums[:, drawn].sum(axis=1)`` for each list of drawn documents.
    """
    totals = np.empty((resamples, len(sums)))
    largest = np.abs(sums).max(axis=1, initial=0.0)
    whole = (sums == np.rint(sums)).all(axis=1) & (largest * sums.shape[1] < WHOLE)
    counts, others = sums[whole].T, sums[~whole]
    start = 0
    for weights in resample_weights(sums.shape[1], resamples=resamples, seed=seed):
        rows = slice(start, start + len(weights))
        totals[rows, whole] = weights @ counts
        # einsum, not matmul: a BLAS product may round differently with another thread count.
        totals[rows, ~whole] = np.einsum("rd,kd->rk", weights, others)
        start += len(weights)
    return totals


def ratio_estimates(
    numerators: Float[np.ndarray, "k documents"],
    denominators: Float[np.ndarray, "k documents"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Estimate k ratios of sums, each with its document-bootstrap interval (theory §4).

    ``value = numerator.sum() / denominator.sum()``: a mean where the denominator counts positions,
    a share where the numerator counts them too. ``n`` is the denominator's total. A ratio over
    nothing has value None.
    """
    k, documents = numerators.shape
    stacked = np.concatenate([numerators, denominators])
    totals = totals_and_resamples(stacked, resamples=resamples, seed=seed)
    found = (ratio_of_totals(totals[:, i], totals[:, k + i], documents) for i in range(k))
    rests_on = np.count_nonzero(denominators, axis=1)
    return tuple(replace(one, documents=int(on)) for one, on in zip(found, rests_on, strict=True))


def totals_and_resamples(
    sums: Float[np.ndarray, "k documents"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "rows k"]:
    """Totals of k per-document sums over the documents, and in the rows below in each resample.

    The first row alone where there are fewer than two documents to resample.
    """
    totals: Float[np.ndarray, "rows k"] = sums.sum(axis=1)[None]
    if sums.shape[1] < 2:
        return totals
    return np.concatenate([totals, bootstrap_sums(sums, resamples=resamples, seed=seed)])


def ratio_of_totals(
    sums: Float[np.ndarray, " rows"], counts: Float[np.ndarray, " rows"], documents: int
) -> Estimate:
    """The first row's ratio, with the interval of the other rows'; see ``totals_and_resamples``."""
    if counts[0] == 0:
        return Estimate(None, reason="no position to average over")
    draws = np.where(counts > 0, sums / np.where(counts > 0, counts, 1), np.nan)
    bounds = interval(draws[1:], documents)
    return Estimate(float(draws[0]), *bounds, n=int(counts[0]), documents=documents)
