"""Two models' scores on the same samples, the plain way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def score_interval(gained: float, lost: float, n: float, z: float) -> tuple[float, float]:
    """The differences that a score test does not reject, on a fine grid, each with the most likely
    nuisance share found on a grid too."""
    kept = []
    for d in np.linspace(-1, 1, 4001):
        low = max(0.0, -d)
        high = (1 - d) / 2
        if low > high:
            continue
        q = np.linspace(low, high, 20001)
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = (n - gained - lost) * np.log(1 - 2 * q - d) if n > gained + lost else 0 * q
            likelihood = likelihood + (gained * np.log(q + d) if gained else 0)
            likelihood = likelihood + (lost * np.log(q) if lost else 0)
        best = q[np.nanargmax(np.where(np.isnan(likelihood), -np.inf, likelihood))]
        variance = n * (2 * best + d - d * d)
        if (gained - lost - n * d) ** 2 <= z * z * variance + 1e-12:
            kept.append(d)
    return min(kept), max(kept)


def holm_rejects(ps: Sequence[float], level: float) -> list[bool]:
    """Step down from the smallest p until one is not small enough."""
    rejected = [False] * len(ps)
    for step, at in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        if ps[at] > level / (len(ps) - step):
            break
        rejected[at] = True
    return rejected


def student_tail(t: float, freedom: int) -> float:
    """Twice the area of Student's density beyond t."""
    grid = np.linspace(t, t + 400, 4_000_001)
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    density = (
        constant / math.sqrt(freedom * math.pi) * (1 + grid**2 / freedom) ** (-(freedom + 1) / 2)
    )
    return float(2 * np.trapezoid(density, grid))


def paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, int, int]:
    """The mean change, and how many went up and down."""
    up = down = 0
    total = 0.0
    for old, new in zip(before, after, strict=True):
        total += new - old
        up += new > old
        down += new < old
    return total / len(before), up, down
