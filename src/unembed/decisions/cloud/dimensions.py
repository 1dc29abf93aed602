"""Intrinsic dimension of a cloud from distances to neighbours, by several estimators."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unembed.decisions.cloud.gride import SCALES, fisher_error, gride
from unembed.decisions.cloud.neighbours import Neighbours
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import cluster
from unembed.stats.estimate import Estimate
from unembed.stats.half_samples import balanced_halves, half_sample_estimate

DISCARDED = 0.1
"""Share of the largest ratios that the straight line through the origin is not fitted to."""

LEVINA_BICKEL = range(5, 13)
"""Numbers of neighbours over which Levina and Bickel's estimate is averaged."""

RANKS = (*range(1, 13), 16, 32, 64, 128)
"""Of the neighbours whose distances are used."""

LISTED = 384
"""Neighbours that are listed where halves are wanted, so that each has its own 128 among them."""


@dataclass(frozen=True)
class ScalePoint(ShortRepr):
    """Gride's dimension from the k-th and 2k-th neighbour.

    ``distance`` is the mean of both distances, in the unit of the states. ``fisher_error`` is the
    standard error of as many independent points.
    """

    neighbours: int
    dimension: Estimate
    fisher_error: float | None
    distance: float | None


@dataclass(frozen=True)
class Dimensions(ShortRepr):
    """Estimates of one cloud's intrinsic dimension, and its scale curve (theory §3).

    All are of the ``points`` that differ. ``two_nn`` is fitted by least squares, ``two_nn_ml`` by
    maximum likelihood.
    """

    points: int
    two_nn: Estimate
    two_nn_ml: Estimate
    levina_bickel: Estimate
    gride: tuple[ScalePoint, ...]


def two_nn(log_ratios: Float[np.ndarray, " points"]) -> float:
    """TwoNN by least squares through the origin (Facco et al. 2017); NaN where nothing is left.

    Equivalent to::

        x = np.sort(np.log(r2 / r1))[: int(0.9 * n)]
        y = -np.log(1 - np.arange(1, len(x) + 1) / n)
        d = (x @ y) / (x @ x)

    The ratio of rank i has ``i / n``, from 1 on, as in the paper and in DADApy; scikit-dimension
    began at 0 up to its release 0.3.4 (its pull request 28).
    """
    n = len(log_ratios)
    x = np.sort(log_ratios)[: int(n * (1 - DISCARDED))]
    if len(x) < 2 or x[-1] <= 0:
        return math.nan
    y = -np.log1p(-np.arange(1, len(x) + 1) / n)
    return float((x @ y) / (x @ x))


def two_nn_ml(log_ratios: Float[np.ndarray, " points"]) -> float:
    """TwoNN by maximum likelihood, less its bias: ``(N - 1) / sum ln(r2 / r1)``; else NaN."""
    return gride(log_ratios, 1)


def levina_bickel(logs: Float[np.ndarray, "points ranks"]) -> float:
    """Levina and Bickel's estimate from the logarithms of the distances to neighbours 1 to 12.

    Equivalent to::

        inverse = [np.mean([np.mean(np.log(r[k - 1] / r[: k - 1])) for r in distances])
                   for k in range(5, 13)]
        d = np.mean(1 / np.array(inverse))

    Inverses are averaged over points, and only then dimensions over k (MacKay and Ghahramani 2005).
    NaN where, for one k, all distances of every point are equal.
    """
    found = []
    for k in LEVINA_BICKEL:
        inverse = float((logs[:, k - 1, None] - logs[:, : k - 1]).mean()) if len(logs) else 0.0
        found.append(1 / inverse if inverse > 0 else math.nan)
    return float(np.mean(found))


def dimensions(
    found: Neighbours, documents: Int[np.ndarray, " rows"] | None, *, seed: int = 0
) -> Dimensions:
    """Every estimate of a cloud, with an interval by document where ``documents`` are given.

    ``documents`` are those of the rows that ``found`` was made from. The interval is that of
    ``half_sample_estimate``, from halves of them in which neighbours are looked up anew among the
    listed; a point that rows of both halves are equal to is in both. It is about the estimator's
    mean over texts of as many positions, not about a manifold's dimension: from some 10 dimensions
    on that of balls and spheres comes out too low and that of flat tori too high, by up to a
    quarter at 1,000 points.
    """
    logs = _at_ranks(np.log(found.distance))
    whole = _estimates(logs)
    if documents is not None:
        halves, shares, count = _in_halves(found, documents, seed)

    def estimate(at: int, needed: int) -> Estimate:
        value, n = float(whole[at]), found.points
        if math.isnan(value):
            reason = f"it needs {needed} points that differ, got {n}"
            if n >= needed:
                reason = "the distances that it compares are equal at every point"
            return Estimate(None, n=n, reason=reason)
        if documents is None:
            return Estimate(value, n=n)
        return half_sample_estimate(value, halves[:, :, at], shares, n=n, documents=count)

    scales = []
    for at, k in enumerate(SCALES, start=3):
        dimension, error, distance = estimate(at, 2 * k + 1), None, None
        if dimension.value is not None:
            near, far = (logs[:, RANKS.index(rank)] for rank in (k, 2 * k))
            error = fisher_error(far - near, k, dimension.value)
            distance = float((np.exp(near) + np.exp(far)).mean() / 2)
        scales.append(ScalePoint(k, dimension, error, distance))
    return Dimensions(
        points=found.points,
        two_nn=estimate(0, 3),
        two_nn_ml=estimate(1, 3),
        levina_bickel=estimate(2, max(LEVINA_BICKEL) + 1),
        gride=tuple(scales),
    )


def _in_halves(
    found: Neighbours, documents: Int[np.ndarray, " rows"], seed: int
) -> tuple[Float[np.ndarray, "splits 2 estimates"], Float[np.ndarray, " splits"], int]:
    """Every estimate in both halves of each split, the first half's share of the rows, and how many
    documents there are."""
    there = found.point >= 0
    points, logs = found.point[there], np.log(found.distance)
    inverse, count = cluster(documents[there])
    split = balanced_halves(np.bincount(inverse, minlength=count), seed=seed)[:, inverse]
    values = [
        [_estimates(_within(logs, found.index, points[side])) for side in (one, ~one)]
        for one in split
    ]
    shares = split.sum(axis=1) / max(1, len(points))
    return np.array(values).reshape(-1, 2, 3 + len(SCALES)), shares, count


def _estimates(logs: Float[np.ndarray, "points ranks"]) -> Float[np.ndarray, " estimates"]:
    """TwoNN by both ways, Levina and Bickel, and Gride at each scale; NaN where there is none.

    A point whose distance at a rank is not known (NaN) is left out of what needs it.
    """

    def ratios(k: int) -> Float[np.ndarray, " points"]:
        found = logs[:, RANKS.index(2 * k)] - logs[:, RANKS.index(k)]
        kept: Float[np.ndarray, " points"] = found[~np.isnan(found)]
        return kept

    nearest = logs[~np.isnan(logs[:, max(LEVINA_BICKEL) - 1])]
    two = ratios(1)
    return np.array(
        [two_nn(two), two_nn_ml(two), levina_bickel(nearest)]
        + [gride(ratios(k), k) for k in SCALES]
    )


def _at_ranks(logs: Float[np.ndarray, "points k"]) -> Float[np.ndarray, "points ranks"]:
    """Those of the ranks that are used; NaN beyond the neighbours that there are."""
    found = np.full((len(logs), len(RANKS)), np.nan)
    there = [at for at, rank in enumerate(RANKS) if rank <= logs.shape[1]]
    found[:, there] = logs[:, [RANKS[at] - 1 for at in there]]
    return found


def _within(
    logs: Float[np.ndarray, "points k"],
    index: Int[np.ndarray, "points k"],
    members: Int[np.ndarray, " members"],
) -> Float[np.ndarray, "inside ranks"]:
    """Logarithms of the distances from points to their neighbours, among some of them alone.

    ``members`` may name one several times. NaN at a rank that the listed neighbours do not reach.
    """
    inside = np.zeros(len(index), dtype=bool)
    inside[members] = True
    rows = np.flatnonzero(inside)
    same = inside[index[rows]]
    counts = np.count_nonzero(same, axis=1)
    known = np.array(RANKS) <= counts[:, None]
    place = (np.cumsum(counts) - counts)[:, None] + np.array(RANKS) - 1
    found = np.full(known.shape, np.nan)
    row, column = np.divmod(np.flatnonzero(same)[place[known]], index.shape[1])
    found[known] = logs[rows[row], column]
    return found
