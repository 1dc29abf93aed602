"""Intrinsic dimension at a scale: the ratio of the distances to the 2k-th and k-th neighbour."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

SCALES = (1, 2, 4, 8, 16, 32, 64)
"""The k of the nearer neighbour."""

STEPS = 100
"""Steps at most. Newton's take some six; bisections, of a bracket no wider than a factor of k, 60.
"""

PRECISION = 1e-14
"""Relative step at which the solution stands."""


def gride(log_ratios: Float[np.ndarray, " points"], k: int) -> float:
    """The dimension d under which ``mu = r_2k / r_k`` has the density of Denti et al. (2022).

    The density is that of ``d (mu**d - 1)**(k-1) / (B(k, k) mu**((2k-1) d + 1))``, and d solves
    ``(N - 1) / d + (k - 1) sum phi - (2 k - 1) sum x = 0`` with x = ln mu and
    ``phi = x / (1 - exp(-d x))``: the likelihood's own equation but for N - 1, which takes the bias
    from k = 1, where it is ``(N - 1) / sum x``, and is what DADApy solves. NaN of fewer than two
    points, or where every ratio is 1.
    """
    n, total = len(log_ratios), float(log_ratios.sum())
    if n < 2 or total <= 0:
        return math.nan
    # x <= phi <= x + 1 / d
    low, high = (n - 1) / (k * total), (k * n - 1) / (k * total)
    found = low
    for _ in range(STEPS if k > 1 else 0):
        phi = _phi(log_ratios, found)
        slope = (n - 1) / found + (k - 1) * float(phi.sum()) - (2 * k - 1) * total
        low, high = (found, high) if slope > 0 else (low, found)
        curvature = (n - 1) / found**2 + (k - 1) * _spread(phi, log_ratios, found)
        step = found + slope / curvature
        before, found = found, step if low < step < high else math.sqrt(low * high)
        if abs(found - before) <= PRECISION * found:
            break
    return found


def fisher_error(log_ratios: Float[np.ndarray, " points"], k: int, dimension: float) -> float:
    """Standard error of ``gride`` by the likelihood's observed information, as DADApy has it.

    ``1 / sqrt(N / d**2 + (k - 1) sum phi**2 exp(-d x))``. It takes the points for independent;
    those that share neighbours are not, and it is too small, the more so the larger k is.
    """
    phi = _phi(log_ratios, dimension)
    information = len(log_ratios) / dimension**2 + (k - 1) * _spread(phi, log_ratios, dimension)
    return 1 / math.sqrt(information)


def _spread(
    phi: Float[np.ndarray, " points"], log_ratios: Float[np.ndarray, " points"], dimension: float
) -> float:
    """Minus the derivative of ``sum phi`` in d: ``sum phi**2 exp(-d x)``."""
    return float((phi**2 * np.exp(-dimension * log_ratios)).sum())


def _phi(
    log_ratios: Float[np.ndarray, " points"], dimension: float
) -> Float[np.ndarray, " points"]:
    """``x / (1 - exp(-d x))``, which tends to ``1 / d`` as x does to 0."""
    lost = -np.expm1(-dimension * log_ratios)
    with np.errstate(invalid="ignore"):
        found: Float[np.ndarray, " points"] = np.where(lost > 0, log_ratios / lost, 1 / dimension)
    return found
