"""Counted shapes of a distribution: histograms and grids with round edges."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Bool, Float, Int

from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class Histogram(ShortRepr):
    """Counts of positions per bin, split by whether top-1 was the target.

    ``edges`` has one more entry than the counts. Positions outside the edges are counted in
    ``below`` and ``above``, so that all counts sum to n.
    """

    edges: tuple[float, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    below: int
    above: int


@dataclass(frozen=True)
class Density(ShortRepr):
    """Counts of positions in a grid: ``counts[i][j]`` for x bin i, y bin j."""

    x_edges: tuple[float, ...]
    y_edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]


def added(parts: Iterable[Histogram]) -> Histogram:
    """The counts of several parts with the same edges, one at least."""

    def plus(one: Histogram, other: Histogram) -> Histogram:
        right, wrong = (
            tuple(np.add(mine, theirs).tolist())
            for mine, theirs in ((one.right, other.right), (one.wrong, other.wrong))
        )
        return Histogram(one.edges, right, wrong, one.below + other.below, one.above + other.above)

    return reduce(plus, parts)


def histogram(
    values: Float[np.ndarray, " positions"],
    right: Bool[np.ndarray, " positions"],
    edges: tuple[float, ...],
) -> Histogram:
    """Count the values in bins ``edges[i] <= value < edges[i + 1]``, right and wrong apart.

    ``edges`` ascending, in the unit of the values, which must be finite.
    """
    bins = len(edges) - 1
    where = _bin(values, edges)
    inside = (where >= 0) & (where < bins)
    return Histogram(
        edges=edges,
        right=tuple(np.bincount(where[inside & right], minlength=bins).tolist()),
        wrong=tuple(np.bincount(where[inside & ~right], minlength=bins).tolist()),
        below=int((where < 0).sum()),
        above=int((where >= bins).sum()),
    )


def density(
    pairs: Iterable[tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]],
    x_edges: tuple[float, ...],
    y_edges: tuple[float, ...],
) -> Density:
    """Count pairs in the cells of a grid, lower edges included; pairs outside are left out.

    ``pairs`` are x and y of some positions at a time.
    """
    rows, columns = len(x_edges) - 1, len(y_edges) - 1
    cells = np.zeros(rows * columns, dtype=np.int64)
    for x, y in pairs:
        i, j = _bin(x, x_edges), _bin(y, y_edges)
        inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
        cells += np.bincount(i[inside] * columns + j[inside], minlength=rows * columns)
    counts = cells.reshape(rows, columns).tolist()
    return Density(x_edges, y_edges, tuple(tuple(row) for row in counts))


def round_edges(limit: float, *, bins: int = 50) -> tuple[float, ...]:
    """Edges from 0 to just past ``limit`` in steps of 1, 2, 2.5 or 5 times a power of ten.

    The step is the smallest such that no more than ``bins`` are needed. A limit of 0 gives one bin
    up to 1. Raises ``ValueError`` for a negative or non-finite limit.
    """
    if not (math.isfinite(limit) and limit >= 0):
        raise ValueError(f"a histogram's limit must be finite and not negative, got {limit}")
    if limit == 0:
        return (0.0, 1.0)
    power = math.floor(math.log10(limit / bins))
    # Quarters of a power of ten as whole numbers, so that the edges are the decimals they show as.
    quarters = next(q for q in (4, 8, 10, 20, 40, 80) if q * 10.0**power / 4 * bins >= limit)
    step = quarters * 10.0**power / 4
    count = max(1, math.ceil(limit / step))
    return tuple(round(i * step, 3 - power) for i in range(count + 1))


def _bin(
    values: Float[np.ndarray, " positions"], edges: tuple[float, ...]
) -> Int[np.ndarray, " positions"]:
    return np.searchsorted(np.asarray(edges), values, side="right") - 1
