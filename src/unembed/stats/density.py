"""The density of the margin at 0+: how many decisions are all but tied."""

from __future__ import annotations

import numpy as np

from unembed.stats.bootstrap import RESAMPLES, add_by_document, ratio_estimates
from unembed.stats.estimate import Estimate
from unembed.stats.resampled import RowsReader, plain_quantiles

ATOM = 1e-3
"""Share of margins of exactly 0 above which the margin has no density there."""

PILOT_BINS = 32
"""Bins of the histogram from which the bandwidth is chosen."""


def density_at_zero(
    read: RowsReader,
    documents: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimate ``f(0+) = lim eta(epsilon) / epsilon``, per logit (theory §2, beyond the paper).

    ``f = mean(K(margins / h)) / h`` with ``K(u) = 6 (1 - 2u)(1 - u)`` on [0, 1): the local-linear
    estimate at the edge with a triangular kernel. It has no bias from the edge, nor from the
    density's slope there; bias ``-h**2 f'' / 20``, variance ``4.8 f / (n h)``. ``h`` from
    ``bandwidth``, held over the resamples, so the interval covers the sampling error and not the
    bias. ``read`` gives margins, finite and not negative, with their documents, numbered from 0 as
    ``bootstrap.cluster`` does. The value is None where more than 0.1 % of the margins are exactly
    0, as under a rounded head, where the lower quarter is 0, and where the estimate is negative.
    """
    n = zeros = 0
    for margins, _ in read():
        n, zeros = n + margins.size, zeros + int((margins == 0).sum())
    if n == 0:
        return Estimate(None, reason="no position to estimate a density from")
    if zeros > ATOM * n:
        return Estimate(None, n=n, reason=f"{zeros} of {n} margins are exactly 0: no density there")
    width = bandwidth(read)
    sums, sizes = np.zeros(documents), np.zeros(documents)
    for margins, inverse in read():
        u = margins.astype(np.float64) / width
        kernel = np.where(u < 1, 6 * (1 - 2 * u) * (1 - u), 0.0) / width
        add_by_document(sums, kernel, inverse)
        add_by_document(sizes, np.ones(u.size), inverse)
    estimate = ratio_estimates(sums[None, :], sizes[None, :], resamples=resamples, seed=seed)[0]
    if estimate.value is None or estimate.value < 0:
        return Estimate(
            None, n=n, reason=f"the density within {width:.3g} of 0 extrapolates below 0"
        )
    return estimate


def bandwidth(read: RowsReader) -> float:
    """Choose the bandwidth of ``density_at_zero``, in logits.

    ``h = (480 f / (n f''**2)) ** (1/5)`` minimises the mean squared error; ``f''`` is that of a
    least-squares parabola through the 32-bin histogram of the lower quarter of the margins, ``f``
    the density of that quarter, and ``h`` is at most the median. A reference curve in place of the
    parabola (an exponential of the same quartile) takes h several times too wide on margins that
    crowd at 0, as those of language models do. The 25 % quantile must be positive.
    """
    quarter, median = plain_quantiles(read, 0.25, 0.5)
    counts, n = np.zeros(PILOT_BINS), 0
    for margins, _ in read():
        n += margins.size
        counts += np.histogram(margins, bins=PILOT_BINS, range=(0.0, quarter))[0]
    density = counts * PILOT_BINS / (n * quarter)
    x = (np.arange(PILOT_BINS) + 0.5) / PILOT_BINS - 0.5
    parabola = x**2 - (x**2).mean()
    curvature = 2 * (parabola * density).sum() / (parabola**2).sum() / quarter**2
    if curvature == 0:
        return float(median)
    return float(min((480 * 0.25 / quarter / (n * curvature**2)) ** 0.2, median))
