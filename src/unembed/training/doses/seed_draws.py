"""Estimates over seeds and documents, from what each seed gives in every resample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from unembed.stats.bootstrap import interval
from unembed.stats.estimate import Estimate
from unembed.stats.student import sampled_part, widened

SeedDraws = Mapping[int | None, Float[np.ndarray, " rows"]]
"""By seed: the statistic as observed, and below it in each resample, the same ones for all.

The key None is of a model that was not trained, which no seed can change.
"""


def over_seeds(draws: SeedDraws, documents: int, n: int, reason: str) -> Estimate:
    """The mean over the seeds, with an interval over documents and seeds (theory §6).

    The interval is the document bootstrap's of that mean; each end then moves to
    ``value -+ sqrt((value - end)^2 + half^2)`` with ``half^2 = t^2 var(seeds) / S`` as in
    ``stats.student.widened``. One seed adds nothing: nothing is known of its spread.
    ``reason`` is given where the statistic does not exist with every seed.
    """
    each = list(draws.values())
    return _over_documents(np.mean(each, axis=0), _seed_part(each), documents, n, reason)


def difference_over_seeds(
    first: SeedDraws, second: SeedDraws, documents: int, n: int, reason: str
) -> Estimate:
    """``first`` minus ``second``, resample by resample, and seed by seed where seeds agree.

    Seeds that only one side has are left out; where no seed agrees the means are compared, and the
    interval holds the spread of both. What was not trained is compared with every seed.
    """
    pairs = paired(first, second)
    if pairs:
        return over_seeds(pairs, documents, n, reason)
    a, b = list(first.values()), list(second.values())
    mean = np.mean(a, axis=0) - np.mean(b, axis=0)
    return _over_documents(mean, _seed_part(a) + _seed_part(b), documents, n, reason)


def paired(first: SeedDraws, second: SeedDraws) -> dict[int | None, Float[np.ndarray, " rows"]]:
    """The differences by seed, of the seeds that both have."""
    if None in second:
        return {seed: draws - second[None] for seed, draws in first.items()}
    if None in first:
        return {seed: first[None] - draws for seed, draws in second.items()}
    return {seed: first[seed] - second[seed] for seed in first if seed in second}


def _seed_part(each: Sequence[Float[np.ndarray, " rows"]]) -> float:
    """The square of the half-width that the seeds add."""
    return sampled_part([float(draws[0]) for draws in each])


def _over_documents(
    draws: Float[np.ndarray, " rows"], part: float, documents: int, n: int, reason: str
) -> Estimate:
    value = float(draws[0])
    if not math.isfinite(value):
        return Estimate(None, n=n, reason=reason)
    low, high = interval(draws[1:], documents)
    if low is None or high is None:
        return Estimate(value, n=n, documents=documents)
    low, high = widened(value, low, high, part)
    return Estimate(value, low, high, n=n, documents=documents)
