"""Spearman's rank correlation with an interval clustered by document."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from unembed.stats.bootstrap import RESAMPLES, bootstrap_sums, interval, sums_by_document
from unembed.stats.estimate import Estimate


def average_ranks(values: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
    """Rank the values from 0, equal values sharing the mean of their ranks.

    Naive equivalent: ``[(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values]``.
    """
    order = np.argsort(values, kind="stable")
    first, size = _ties(values[order])
    ranks = np.empty(values.size)
    ranks[order] = np.repeat(first + (size - 1) / 2, size)
    return ranks


def standard_ranks(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    """Average ranks less their mean, of length 1; all 0 where every value is the same.

    Spearman's rho of x and y is ``standard_ranks(x) @ standard_ranks(y)``.
    """
    ranks = average_ranks(values)
    ranks -= ranks.mean()
    length = float(np.sqrt(ranks @ ranks))
    return ranks / length if length > 0 else ranks


def spearman_estimate(
    x: Float[np.ndarray, " positions"],
    y: Float[np.ndarray, " positions"],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimate Spearman's rho, the Pearson correlation of the average ranks (theory §2).

    The interval resamples documents to first order: a resample with document weights w has
    ``atanh(rho) + sum(w I) / (n (1 - rho**2))``, I from ``influence``, so that none is ranked
    anew. Holding the ranks instead, and resampling their correlation, ignores that the ranks move
    too: measured on clustered data at rho = -.66 it is 14 % too narrow and covers 89 %, not 93 %.
    ``x``, ``y`` finite; ``inverse`` numbers the documents from 0 as ``bootstrap.cluster`` does. The
    value is None where x or y is constant.
    """
    n = x.size
    if n < 2:
        return Estimate(None, n=n, reason=f"a correlation needs 2 positions, got {n}")
    if (x == x[0]).all() or (y == y[0]).all():
        return Estimate(None, n=n, reason="one of the two is the same at every position")
    rho, moves = influence(x, y)
    if documents < 2:
        return Estimate(rho, n=n, documents=documents)
    if 1 - rho**2 < 1e-12:
        return Estimate(rho, rho, rho, n=n, documents=documents)
    sums = np.stack(
        [
            sums_by_document(moves, inverse, documents),
            sums_by_document(np.ones(n), inverse, documents),
        ]
    )
    moved, size = bootstrap_sums(sums, resamples=resamples, seed=seed).T
    draws = np.tanh(np.arctanh(rho) + moved / size / (1 - rho**2))
    return Estimate(rho, *interval(draws, documents), n=n, documents=documents)


def influence(
    x: Float[np.ndarray, " positions"], y: Float[np.ndarray, " positions"]
) -> tuple[float, Float[np.ndarray, " positions"]]:
    """Spearman's rho, and n times its derivative in the weight of each position.

    With centred average ranks u, v in [-1/2, 1/2] and ``C = mean(u v)``, ``A = mean(u u)``,
    ``B = mean(v v)``: ``rho = C / sqrt(A B)``, ``I = dC / sqrt(A B) - rho (dA / A + dB / B) / 2``,
    ``dC = u v + above(x, v) + above(y, u) - 3 C`` and likewise dA, dB. ``above(x, v)`` at i is the
    mean over j of ``v_j (1[x_j > x_i] + 1[x_j = x_i] / 2)``: a position moves the ranks of those
    above it. Neither x nor y may be constant.
    """
    n = x.size
    u, v = ((average_ranks(values) + 0.5) / n - 0.5 for values in (x, y))
    c, a, b = (u * v).mean(), (u * u).mean(), (v * v).mean()
    dc = u * v + _above(x, v) + _above(y, u) - 3 * c
    da = u * u + 2 * _above(x, u) - 3 * a
    db = v * v + 2 * _above(y, v) - 3 * b
    scale = np.sqrt(a) * np.sqrt(b)
    # Only rounding takes rho past 1.
    rho = float(np.clip(c / scale, -1.0, 1.0))
    return rho, dc / scale - rho * (da / a + db / b) / 2


def _above(
    key: Float[np.ndarray, " positions"], values: Float[np.ndarray, " positions"]
) -> Float[np.ndarray, " positions"]:
    order = np.argsort(key, kind="stable")
    first, size = _ties(key[order])
    groups = np.add.reduceat(values[order], first)
    at_least = np.cumsum(groups[::-1])[::-1]
    above = np.empty(key.size)
    above[order] = np.repeat(at_least - groups / 2, size)
    return above / key.size


def _ties(
    ascending: Float[np.ndarray, " positions"],
) -> tuple[Int[np.ndarray, " groups"], Int[np.ndarray, " groups"]]:
    """Start and size of each run of equal values."""
    n = ascending.size
    first = np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]])[:n])
    return first, np.diff(np.append(first, n))
