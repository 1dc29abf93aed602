"""Quantiles of Student's t and of the normal distribution, which it tends to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import variance

NORMAL_975 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


@cache
def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t for a whole number of degrees of freedom.

    By bisection on ``Pr(|T| < t)``, which is a finite sum in ``theta = atan(t / sqrt(freedom))``
    (Abramowitz and Stegun 26.7.3 and 26.7.4); exact to rounding. Raises ``ValueError`` for none.
    """
    if freedom < 1:
        raise ValueError(f"Student's t needs a degree of freedom, got {freedom}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def student_t_beyond(p: float, freedom: int) -> float:
    """The t with ``Pr(|T| >= t) = p``, for a p of 1e-12 or more; ``two_sided_p`` turned round.

    Raises ``ValueError`` as above, and for a p that is no chance or smaller.
    """
    if not 1e-12 <= p <= 1:
        raise ValueError(f"a chance between 1e-12 and 1 is needed, got {p}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1.0 - _within(middle, freedom) > p else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def two_sided_p(t: float, freedom: int) -> float:
    """``Pr(|T| >= |t|)`` of Student's t; exact to about 1e-15. Raises ``ValueError`` as above."""
    if freedom < 1:
        raise ValueError(f"Student's t needs a degree of freedom, got {freedom}")
    return max(0.0, 1.0 - _within(math.atan(abs(t) / math.sqrt(freedom)), freedom))


def sampled_part(values: Sequence[float]) -> float:
    """``t^2 var / n``: the squared half-width of a 95 % interval of the mean of n values.

    0 for one value: nothing is known of its spread.
    """
    n = len(values)
    return student_t(n - 1) ** 2 * variance(values) / n if n > 1 else 0.0


def widened(value: float, low: float, high: float, part: float) -> tuple[float, float]:
    """The ends of an interval at ``value -+ sqrt((value - end)^2 + part)``.

    ``part`` is the squared half-width of an independent source of error, as of ``sampled_part``.
    """
    below, above = (math.sqrt((value - end) ** 2 + part) for end in (low, high))
    return value - below, value + above


def _within(theta: float, freedom: int) -> float:
    """``Pr(|T| < sqrt(freedom) tan(theta))``."""
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(theta) ** 2 * (power + 1) / (power + 2)
    total *= math.sin(theta)
    return 2 / math.pi * (theta + total) if odd else total
