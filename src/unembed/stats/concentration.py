"""How much of a total its largest values carry."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

from unembed.stats.bootstrap import RESAMPLES, add_by_document
from unembed.stats.estimate import Estimate
from unembed.stats.resampled import RowsReader
from unembed.stats.studentised import studentised

FEWEST_LARGEST = 30
"""Largest values below which the interval is too narrow: it covers 90 % with 15 of them."""


def largest_share(
    values: Float[np.ndarray, " positions"],
    inverse: Int[np.ndarray, " positions"],
    documents: int,
    part: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimate the share of the total that the largest ``part`` of the values carry (theory §4).

    Where ``part`` of them is no whole number, the next value counts by the fraction left over::

        room = part * len(values)
        top = sum(v * min(max(room - i, 0), 1) for i, v in enumerate(sorted(values)[::-1]))
        share = top / sum(values)

    With that next value q the share is a ratio of sums over documents, those of
    ``max(value - q, 0) + part * q`` to those of the values. A small change of q does not change it
    to first order, so that the studentised interval of the ratio holds q. The values must be finite
    and not negative, and ``part`` below 1; ``inverse`` numbers the documents from 0 as
    ``bootstrap.cluster`` does. A total of 0 has no share. Where fewer than ``FEWEST_LARGEST``
    values are the largest part the reason says that the interval may be too narrow.
    """
    return read_largest_share(
        lambda: [(values, inverse)], documents, part, resamples=resamples, seed=seed
    )


def read_largest_share(
    read: RowsReader, documents: int, part: float, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """``largest_share`` of values that are read a part at a time; the largest of them are held."""
    n, some = 0, False
    for values, _ in read():
        n, some = n + values.size, some or bool(values.any())
    if n == 0:
        return Estimate(None, reason="no position to add up")
    if not some:
        return Estimate(None, n=n, reason="the total is 0")
    next_value = _nth_largest((values for values, _ in read()), min(int(part * n), n - 1))
    sums = np.zeros((2, documents))
    for values, inverse in read():
        exact = values.astype(np.float64)
        add_by_document(sums[0], np.maximum(exact - next_value, 0) + part * next_value, inverse)
        add_by_document(sums[1], exact, inverse)
    found = studentised(sums[:1], sums[1:], resamples=resamples, seed=seed)
    few = part * n < FEWEST_LARGEST and documents >= 2
    reason = f"only {part * n:.0f} values: the interval may be too narrow" if few else None
    ends = found.ends(0, (part, 1.0))
    return Estimate(float(found.value[0]), *ends, n=n, reason=reason, documents=documents)


def _nth_largest(parts: Iterable[Float[np.ndarray, " _"]], n: int) -> float:
    """The value that n others come before in descending order."""
    held = np.zeros(0)
    for values in parts:
        held = np.concatenate([held, values.astype(np.float64)])
        if held.size > n + 1:
            held = np.partition(held, held.size - n - 1)[held.size - n - 1 :]
    return float(held.min())
