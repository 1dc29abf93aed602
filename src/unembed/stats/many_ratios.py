"""Many ratios at once: intervals that hold together, whichever of them is then looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unembed.stats.student import student_t_beyond


@dataclass(frozen=True)
class ManyRatios:
    """Ratios of sums over independent units, with intervals that hold for all of them at 95 %.

    An interval holds although its ratio was chosen for being the largest. ``low`` and ``high`` are
    NaN where a ratio rests on too few units to be told from so many others, where the square of a
    sum over the sum of its squares is ``reach**2`` or less.
    """

    value: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    reach: float


def many_ratios(
    numerators: Float[np.ndarray, "units k"], denominators: Float[np.ndarray, "units k"]
) -> ManyRatios:
    """Bound k ratios ``u.sum(0) / v.sum(0)`` of what is not negative together (theory §4).

    An interval holds the ratios r with ``abs((u - r v).sum(0))`` at most ``reach`` times
    ``sqrt(((u - r v)**2).sum(0))``, Fieller's (1954) with a self-normalised sum. ``reach`` is
    ``t * sqrt(n / (n - 1 + t**2))`` of n units, with Student's t at ``1 - 0.025 / k``: what a
    normal sum passes so rarely, and far out about any (Jing, Shao and Wang 2003). The intervals of
    ``v / u`` are the reciprocals. Each denominator must have a positive sum.
    """
    u, v = numerators.sum(axis=0), denominators.sum(axis=0)
    units, k = numerators.shape
    t = student_t_beyond(0.05 / max(1, k), units - 1) if units > 1 else np.inf
    reach = float(np.sqrt(units / ((units - 1) / t**2 + 1)))
    uu, vv, uv = (
        one.sum(axis=0) for one in (numerators**2, denominators**2, numerators * denominators)
    )
    # first r**2 - 2 middle r + last <= 0, of which both ends are positive where the two outer are.
    first, middle, last = v**2 - reach**2 * vv, u * v - reach**2 * uv, u**2 - reach**2 * uu
    bounded = (first > 0) & (last > 0)
    root = np.sqrt(np.maximum(middle**2 - first * last, 0.0))
    safe, value = np.where(bounded, first, 1.0), u / v
    low, high = (np.where(bounded, (middle + side * root) / safe, np.nan) for side in (-1, 1))
    return ManyRatios(value, np.minimum(low, value), np.maximum(high, value), reach)
