"""Slow, obvious studentised bounds: every resample written out, unit by unit."""

from __future__ import annotations

import math

import numpy as np


def ratio(numerators: list[float], denominators: list[float]) -> tuple[float, float]:
    """The ratio of the sums and its linearised standard error."""
    n, total = len(numerators), sum(denominators)
    value = sum(numerators) / total
    rest = [u - value * v for u, v in zip(numerators, denominators, strict=True)]
    return value, math.sqrt(n / (n - 1) * sum(r * r for r in rest)) / total


def distances(
    numerators: list[float], denominators: list[float], *, resamples: int, seed: int
) -> list[float]:
    """By how many of its own errors each resample is off; infinitely many where it has none."""
    n = len(numerators)
    value, error = ratio(numerators, denominators)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = rng.integers(n, size=n).tolist()
        again, own = ratio([numerators[i] for i in drawn], [denominators[i] for i in drawn])
        moved = again - value
        if own > 1e-9 * error:
            found.append(moved / own)
        else:
            found.append(0.0 if abs(moved) <= 1e-9 * error else math.copysign(math.inf, moved))
    return found


def bounds(found: list[float], student: float) -> tuple[float, float]:
    """The 2.5 and 97.5 % distances, none nearer to 0 than Student's t, which is finite."""
    ordered = sorted(found)
    low, high = (ordered[math.ceil(p * len(ordered)) - 1] for p in (0.025, 0.975))
    low, high = (one if math.isfinite(one) else 0.0 for one in (low, high))
    return min(low, -student), max(high, student)


def interval(
    numerators: list[float], denominators: list[float], student: float, **how: int
) -> tuple[float, float]:
    """The interval of the ratio."""
    value, error = ratio(numerators, denominators)
    low, high = bounds(distances(numerators, denominators, **how), student)
    return value - high * error, value - low * error
