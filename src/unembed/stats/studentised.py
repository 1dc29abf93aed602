"""Intervals that hold for few units and skewed values: the bootstrap of (estimate - truth) / error.

A percentile interval takes its ends from the resampled statistic. Where a few units carry much of
the total its errors go with its value, and its ends lie too near on one side. Dividing each
resample's distance by its own standard error undoes that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.stats.bootstrap import (
    MINIMUM_DEFINED,
    RESAMPLES,
    add_by_document,
    bootstrap_sums,
)
from unembed.stats.estimate import Estimate
from unembed.stats.resampled import Quantiles, Reader, Rows, read_quantiles
from unembed.stats.student import student_t

ROUNDING = 1e-9
"""Part of the standard error below which a resample's own error or distance is rounding."""

Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class Studentised:
    """Ratios of sums over independent units, their standard errors, and how many bound 95 %.

    A truth lies between ``value - high_t * error`` and ``value - low_t * error``. ``low_t`` is
    negative and neither is nearer to 0 than Student's t. ``bounded`` is False where the units, or
    those of so many resamples that one of the bounds is Student's t itself, have no spread.
    """

    value: Float[np.ndarray, " k"]
    error: Float[np.ndarray, " k"]
    low_t: Float[np.ndarray, " k"]
    high_t: Float[np.ndarray, " k"]
    bounded: Bool[np.ndarray, " k"]

    def ends(
        self, i: int, limits: tuple[float, float] = (-np.inf, np.inf), more_error: float = 0.0
    ) -> Ends:
        """The interval of the i-th ratio, cut at what it can be; (None, None) of a single unit.

        ``more_error`` is an independent standard error, which is added in quadrature.
        """
        error = float(np.hypot(self.error[i], more_error))
        if np.isnan(error):
            return None, None
        ends = self.value[i] - np.array([self.high_t[i], self.low_t[i]]) * error
        low, high = np.clip(ends, *limits)
        return float(min(low, self.value[i])), float(max(high, self.value[i]))


def studentised(
    numerators: Float[np.ndarray, "k units"],
    denominators: Float[np.ndarray, "k units"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Studentised:
    """Bound k ratios of sums by the studentised bootstrap of their units (theory §4).

    With ``ratio = U.sum() / V.sum()`` and n units, the linearised standard error is
    ``sqrt(n / (n - 1) * ((U - ratio * V) ** 2).sum()) / V.sum()``; ``low_t`` and ``high_t`` are the
    2.5 and 97.5 % quantiles of ``(ratio* - ratio) / error*`` over resamples of the units, or
    Student's t of n - 1 degrees of freedom where that is further out (Efron and Tibshirani 1993,
    section 12.5). Resamples whose units have no spread lie infinitely far out. Each denominator
    must have a positive sum. Without resamples the bounds are Student's t. Of fewer than two units,
    or where under 95 % of the resamples have a positive denominator, the error is NaN.
    """
    k, units = numerators.shape
    total = denominators.sum(axis=1)
    value = numerators.sum(axis=1) / total
    if units < 2:
        unknown = np.full(k, np.nan)
        return Studentised(value, unknown, unknown, unknown, np.zeros(k, dtype=bool))
    rest = numerators - value[:, None] * denominators
    factor = units / (units - 1)
    error = np.sqrt(factor * np.square(rest).sum(axis=1)) / total
    rows = [rest, denominators, rest**2, rest * denominators, denominators**2]
    drawn = bootstrap_sums(np.concatenate(rows), resamples=resamples, seed=seed)
    off, size, rest2, cross, size2 = np.moveaxis(drawn.reshape(resamples, len(rows), k), 1, 0)
    exists = size > 0
    size = np.where(exists, size, 1.0)
    moved = off / size
    spread = np.sqrt(np.maximum(rest2 - 2 * moved * cross + moved**2 * size2, 0) * factor) / size
    still = np.abs(moved) <= ROUNDING * error
    wide = spread > ROUNDING * error
    distance = np.where(still, 0.0, np.copysign(np.inf, moved))
    np.divide(moved, spread, out=distance, where=wide)
    t = student_t(units - 1)
    bounds = np.full((2, k), np.nan if resamples else np.inf)
    for i in range(k):
        known = distance[exists[:, i], i]
        if known.size and known.size >= MINIMUM_DEFINED * resamples:
            bounds[:, i] = np.quantile(known, (0.025, 0.975), method="inverted_cdf")
    error = np.where(np.isnan(bounds[0]), np.nan, error)
    finite = np.isfinite(bounds)
    low_t = np.minimum(np.where(finite[0], bounds[0], -t), -t)
    high_t = np.maximum(np.where(finite[1], bounds[1], t), t)
    bounded = finite.all(axis=0) & (error > ROUNDING * np.abs(value))
    return Studentised(value, error, low_t, high_t, bounded)


def mean_estimates(
    sums: Float[np.ndarray, "k documents"],
    counts: Float[np.ndarray, "... documents"],
    limits: Sequence[tuple[float, float]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Estimate k means over positions, ``sums.sum() / counts.sum()``, from sums by document.

    ``counts`` are those of all k, or of each of them where they are means of different positions.
    ``limits`` are the least and the largest that each mean can be.
    """
    over = np.broadcast_to(counts, sums.shape)
    n = over.sum(axis=1)
    some = np.flatnonzero(n)
    found = studentised(sums[some], over[some], resamples=resamples, seed=seed)
    means = [Estimate(None, reason="no position to average over") for _ in sums]
    for at, i in enumerate(some.tolist()):
        ends = found.ends(at, limits[i])
        on = int(np.count_nonzero(over[i]))
        means[i] = Estimate(float(found.value[at]), *ends, n=int(n[i]), documents=on)
    return tuple(means)


def tail_quantile_estimates(
    values: Float[np.ndarray, " positions"],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    levels: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Estimate quantiles of skewed values, ``np.quantile(values, levels)``.

    The share of values up to a quantile q is a ratio of sums, F(q); the interval of q is the values
    at the levels ``p + low_t * error`` and ``p + high_t * error`` of that share's error (Woodruff
    1952). ``inverse`` numbers the documents from 0 as ``bootstrap.cluster`` does. There is no
    interval where the upper level passes 1 and n positions are likelier than 2.5 % to hold none
    above the true quantile, ``p ** n > 0.025``; the reason says so.
    """
    rows = [(values, inverse)]
    how = {"resamples": resamples, "seed": seed}
    [found] = read_tail_quantiles(lambda: [rows], [tuple(levels)], documents, **how)
    return found


def read_tail_quantiles(
    read: Reader,
    levels: Sequence[tuple[float, ...]],
    documents: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[tuple[Estimate, ...]]:
    """``tail_quantile_estimates`` of several samples, which are read a part at a time."""
    plain = _plain_quantiles(read, levels)
    below = [np.zeros((len(at), documents)) for at in levels]
    sizes = np.zeros((len(levels), documents))
    for part in read():
        for (values, inverse), one, counts, size in zip(part, plain, below, sizes, strict=True):
            add_by_document(size, np.ones(len(values)), inverse)
            for q, count in zip(one.rows[0], counts, strict=True):
                add_by_document(count, values <= q, inverse)
    bounds = []
    for at, one, counts, size in zip(levels, plain, below, sizes, strict=True):
        middle = np.asarray(at, dtype=np.float64)
        ends = np.full((2, len(at)), np.nan)
        if one.n:
            over = np.broadcast_to(size, counts.shape)
            share = studentised(counts, over, resamples=resamples, seed=seed)
            ends = middle + share.error * np.stack([share.low_t, share.high_t])
        bounds.append(ends)
    inside = [np.clip(np.nan_to_num(ends), 0, 1).ravel() for ends in bounds]
    at_bounds = _plain_quantiles(read, [tuple(ends.tolist()) for ends in inside])
    return [
        _tail_estimates(at, one, ends, found.rows[0].reshape(2, -1), documents)
        for at, one, ends, found in zip(levels, plain, bounds, at_bounds, strict=True)
    ]


def _plain_quantiles(read: Reader, levels: Sequence[tuple[float, ...]]) -> list[Quantiles]:
    """Quantiles of all positions, whatever their documents."""

    def as_one_document() -> Iterator[list[Rows]]:
        for part in read():
            yield [(values, np.zeros(len(values), dtype=np.intp)) for values, _ in part]

    return read_quantiles(as_one_document, levels, 1)


def _tail_estimates(
    levels: tuple[float, ...],
    plain: Quantiles,
    bounds: Float[np.ndarray, "two k"],
    ends: Float[np.ndarray, "two k"],
    documents: int,
) -> tuple[Estimate, ...]:
    """The quantiles with their intervals; ``bounds`` are the levels of ``ends``."""
    n, found = plain.n, []
    if n == 0:
        return tuple(Estimate(None, reason="no position to take a quantile of") for _ in levels)
    for i, level in enumerate(levels):
        value = float(plain.rows[0, i])
        if np.isnan(bounds[:, i]).any():
            found.append(Estimate(value, n=n, documents=documents))
        elif bounds[1, i] > 1 and level**n > 0.025:
            reason = (
                f"no interval: {n} positions do not bound a {100 * level:g}% quantile from above"
            )
            found.append(Estimate(value, n=n, reason=reason, documents=documents))
        else:
            low, high = ends[:, i].tolist()
            found.append(Estimate(value, low, high, n=n, documents=documents))
    return tuple(found)
