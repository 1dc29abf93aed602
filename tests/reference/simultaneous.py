"""Slow, obvious simultaneous intervals: every resample of every text's documents written out."""

from __future__ import annotations

import math

import numpy as np

Text = tuple[list[list[float]], list[float]]
"""Sums by document of each measure, and the positions of each document."""


def mean_and_error(text: Text, drawn: list[int], measure: int) -> tuple[float, float]:
    """A measure's mean over the drawn documents, and its linearised standard error."""
    sums, counts = text
    values, sizes = [sums[measure][d] for d in drawn], [counts[d] for d in drawn]
    n, total = len(drawn), sum(sizes)
    mean = sum(values) / total
    rest = [v - mean * size for v, size in zip(values, sizes, strict=True)]
    return mean, math.sqrt(n / (n - 1) * sum(r * r for r in rest)) / total


def average(texts: list[Text], drawn: list[list[int]], measure: int) -> tuple[float, float]:
    """The plain mean over the texts, and its error."""
    each = [mean_and_error(one, some, measure) for one, some in zip(texts, drawn, strict=True)]
    error = math.sqrt(sum(e * e for _mean, e in each)) / len(each)
    return sum(mean for mean, _error in each) / len(each), error


def intervals(
    texts: list[Text], student: float, *, resamples: int, seed: int
) -> list[tuple[float, float, float]]:
    """The mean of each measure with the ends of its interval."""
    measures = range(len(texts[0][0]))
    sizes = [len(counts) for _sums, counts in texts]
    whole = [average(texts, [list(range(n)) for n in sizes], m) for m in measures]
    generators = [np.random.default_rng(seed + i) for i in range(len(texts))]
    largest = []
    for _ in range(resamples):
        drawn = [rng.integers(n, size=n).tolist() for rng, n in zip(generators, sizes, strict=True)]
        far = []
        for m in measures:
            (mean, error), (value, own) = average(texts, drawn, m), whole[m]
            far.append(abs(mean - value) / error if own else 0.0)
        largest.append(max(far))
    at = max(sorted(largest)[math.ceil(0.95 * resamples) - 1], student)
    return [(value, value - at * error, value + at * error) for value, error in whole]
