"""Errors from balanced halves of the documents, for a statistic that is no function of sums.

What looks for nearest neighbours has to look anew in each resample, and one that draws a document
twice gives every point of it a copy at no distance. Halves draw none twice.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.stats.bootstrap import MINIMUM_DEFINED
from unembed.stats.estimate import MOST_NATS, Estimate
from unembed.stats.student import student_t

MOST_GROUPS = 32
"""Groups that documents are dealt to: 31 degrees of freedom, and Student's t is then 2.04."""


def balanced_halves(
    sizes: Int[np.ndarray, " documents"], *, seed: int = 0
) -> Bool[np.ndarray, "splits documents"]:
    """Which documents are in the first half of each split; no split of fewer than two documents.

    Documents are dealt to G groups of like size, G the largest power of two up to 32 that they
    fill. The G - 1 splits are the rows of Sylvester's Hadamard matrix but the first: every two
    groups are in one half as often as in two, less once, so that the mean over the splits of
    ``(sum of one half - sum of the other)**2`` is that of ``G / (G - 1) * sum (s_g - mean s)**2``
    (McCarthy's balanced half-samples, 1969).
    """
    documents = len(sizes)
    if documents < 2:
        return np.zeros((0, documents), dtype=bool)
    groups = min(MOST_GROUPS, 1 << int(math.log2(documents)))
    order = np.random.default_rng(seed).permutation(documents)
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = np.zeros(groups)
    group = np.empty(documents, dtype=np.intp)
    for document in order.tolist():
        group[document] = lightest = int(filled.argmin())
        filled[lightest] += max(1, int(sizes[document]))
    numbers = np.arange(groups)
    shared = numbers[1:, None] & numbers[group]
    odd = np.zeros(shared.shape, dtype=bool)
    while shared.any():
        odd ^= (shared & 1).astype(bool)
        shared >>= 1
    return ~odd


def half_sample_estimate(
    value: float,
    halves: Float[np.ndarray, "splits 2"],
    shares: Float[np.ndarray, " splits"],
    *,
    n: int,
    documents: int,
) -> Estimate:
    """A positive statistic with the interval that its values in balanced halves give it.

    ``value * exp(-+ t * error)``, ``error**2`` the mean over the splits of
    ``s (1 - s) (log a - log b)**2``, with s the share of the positions in the first half, a and b
    the values in the two, and t Student's of one less than the groups. Both halves are independent,
    and the error of half the positions is taken to be the larger by the square root of 2: a bias
    that goes with the number of positions, alike in both halves, does not count.
    No interval where a half has no value (NaN) in more than 5 % of the splits.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.log(halves[:, 0]) - np.log(halves[:, 1])
    squares = shares * (1 - shares) * apart**2
    defined = squares[np.isfinite(squares)]
    if not len(squares) or len(defined) < MINIMUM_DEFINED * len(squares):
        return Estimate(value, n=n, documents=documents)
    reach = student_t(len(squares)) * math.sqrt(float(defined.mean()))
    if reach > MOST_NATS or math.log(value) + reach > MOST_NATS:
        return Estimate(value, n=n, documents=documents)
    return Estimate(
        value, value * math.exp(-reach), value * math.exp(reach), n=n, documents=documents
    )
