"""The nearest neighbours of every point of a cloud, exact, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK_ELEMENTS = 1 << 22
"""Distances held at a time, 32 MiB of float64; changes memory, never a result."""

CANCELLED = 1e-6
"""Squared distances below this part of the squared norms are taken from differences: those from
products of float64 are off by some 1e-15 of the norms, then 1e-9 of what is left."""

FARTHEST = 1e150
"""Coordinates beyond it count as not finite: their squares overflow a float64."""


@dataclass(frozen=True)
class Neighbours:
    """The points of a cloud that differ, and the nearest of each in ascending distance.

    ``kept`` are their rows among the states that were given. Left out are rows that are not finite,
    exact copies of an earlier row, and rows so near to an earlier one that the square of their
    distance underflows to 0. ``point`` numbers the points that rows are equal to, -1 of those that
    equal none. ``states`` are the rows kept less their mean. ``distance`` is positive and in the
    unit of the states, ``index`` counts in ``kept``.
    """

    kept: Int[np.ndarray, " points"]
    point: Int[np.ndarray, " rows"]
    states: Float[np.ndarray, "points width"]
    distance: Float[np.ndarray, "points k"]
    index: Int[np.ndarray, "points k"]
    copies: int
    underflows: int

    @property
    def points(self) -> int:
        """How many points are left."""
        return len(self.kept)


def finite_rows(states: Float[np.ndarray, "rows width"]) -> Bool[np.ndarray, " rows"]:
    """Which rows have finite coordinates whose squares are finite too."""
    with np.errstate(invalid="ignore", over="ignore"):
        found: Bool[np.ndarray, " rows"] = (np.abs(states) <= np.float64(FARTHEST)).all(axis=1)
    return found


def neighbours_of(states: Float[np.ndarray, "rows width"], k: int) -> Neighbours:
    """The k nearest others of each row that differs from those before it; fewer of fewer rows.

    Equivalent to, in float64 and where no two rows are equal::

        apart = np.linalg.norm(states[:, None] - states, axis=2)
        index = np.argsort(apart, axis=1)[:, 1 : k + 1]

    Squared distances are ``|x|**2 + |y|**2 - 2 x.y`` about the mean, in float64, and those in which
    this cancels are summed from the differences: each is exact to 1e-9 of itself, however far from
    the origin the cloud lies and however unlike its distances are.
    """
    rows = states.astype(np.float64) + 0.0  # -0 becomes 0, whose bytes are others
    finite = np.flatnonzero(finite_rows(rows))
    first: dict[bytes, int] = {}
    equal = np.arange(len(rows))
    for number in finite.tolist():
        equal[number] = first.setdefault(rows[number].tobytes(), number)
    kept = np.fromiter(first.values(), dtype=np.intp, count=len(first))
    copies = len(finite) - len(kept)
    while True:
        here = rows[kept]
        centred = here - here.mean(axis=0) if len(kept) else here
        points, plain = torch.from_numpy(centred), torch.from_numpy(here)
        squared, index = _nearest(points, plain, min(k, len(kept) - 1))
        row, column = torch.nonzero(squared == 0, as_tuple=True)
        if not len(row):
            break
        goes = torch.maximum(row, index[row, column]).unique().numpy()
        kept = np.delete(kept, goes)
    point = np.full(len(rows), -1)
    point[kept] = np.arange(len(kept))
    return Neighbours(
        kept=kept,
        point=point[equal],
        states=centred,
        distance=squared.sqrt().numpy(),
        index=index.numpy(),
        copies=copies,
        underflows=len(finite) - copies - len(kept),
    )


def _nearest(
    points: Float[Tensor, "points width"], plain: Float[Tensor, "points width"], k: int
) -> tuple[Float[Tensor, "points k"], Int[Tensor, "points k"]]:
    """Squared distances to the k nearest others, in ascending order, and which these are.

    ``plain`` are the same points about another origin, of which a difference is exact.
    """
    n = len(points)
    squared = torch.empty(n, max(k, 0), dtype=torch.float64)
    index = torch.empty(n, max(k, 0), dtype=torch.int64)
    if k < 1:
        return squared, index
    norms = (points * points).sum(dim=1)
    for own in torch.arange(n).split(max(1, BLOCK_ELEMENTS // n)):
        here = slice(int(own[0]), int(own[-1]) + 1)
        apart = torch.addmm(norms[None], points[here], points.T, alpha=-2.0)
        apart += norms[here, None]
        apart[own - here.start, own] = torch.inf
        # One look at the least of them spares most clouds the comparison of each.
        if apart.min() <= CANCELLED * (norms[here].max() + norms.max()):
            _refine(apart, CANCELLED * (norms[here, None] + norms), plain[here], plain)
            apart[own - here.start, own] = torch.inf
        squared[here], index[here] = torch.topk(apart, k, dim=1, largest=False)
    return squared, index


def _refine(
    apart: Float[Tensor, "rows points"],
    least: Float[Tensor, "rows points"],
    here: Float[Tensor, "rows width"],
    plain: Float[Tensor, "points width"],
) -> None:
    """Sum from differences, in place, the squared distances that are no more than ``least``."""
    row, column = torch.nonzero(apart <= least, as_tuple=True)
    pairs = max(1, BLOCK_ELEMENTS // plain.shape[1])
    if len(row) > apart.numel() // 8:
        apart.copy_(torch.cdist(here, plain, compute_mode="donot_use_mm_for_euclid_dist") ** 2)
        return
    for some in torch.arange(len(row)).split(pairs):
        difference = here[row[some]] - plain[column[some]]
        apart[row[some], column[some]] = (difference * difference).sum(dim=1)
