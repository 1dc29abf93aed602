"""The chance that a decision flips, from what a change did to like positions of other documents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, Shaped

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.stats.bootstrap import add_by_document

ENTROPY_GROUPS = 4
"""Groups of like entropy in each group of like margin, where positions suffice for 4 of these."""

MOST_HELD = 1 << 15
"""Positions held to learn a group from; of more, every second, fourth, ... is."""

CHUNK_ROWS = 1 << 12
"""Positions whose chances are computed at a time; changes memory, never a result."""


@dataclass(frozen=True)
class Leads:
    """By how much top-1 before leads each candidate, and all others, before and after, in logits.

    ``flipped`` is 1 where another token leads after, ``inverse`` the number of the document.
    """

    gaps: Float[np.ndarray, "rows k"]
    moved: Float[np.ndarray, "rows k"]
    entropy: Float[np.ndarray, " rows"]
    flipped: Float[np.ndarray, " rows"]
    inverse: Int[np.ndarray, " rows"]

    def rows(self, chosen: Shaped[np.ndarray, " _"]) -> Leads:
        """The chosen positions."""
        return Leads(*(column[chosen] for column in vars(self).values()))


def lead_parts(rows: FiniteRows, k: int, stored: bool) -> Iterator[Leads]:
    """The positions, a part at a time; ``stored``: the audits kept k candidates or more."""
    names = ["topk_ids", "topk_logits"] if stored else ["top1", "top2", "margin"]
    names = [f"{side}_{name}" for side in ("before", "after") for name in names]
    found = rows.parts("before_entropy", "before_top1", "after_top1", *names)
    for inverse, entropy, top1, after, *columns in found:
        sides = []
        for side in (columns[: len(columns) // 2], columns[len(columns) // 2 :]):
            ids, logits = side[0], side[-1].astype(np.float64)
            if not stored:
                ids, logits = np.stack(side[:2], 1), np.stack([logits, np.zeros(len(logits))], 1)
            sides += [ids[:, :k], logits[:, :k]]
        yield Leads(*changed_gaps(*sides), entropy, (top1 != after).astype(np.float64), inverse)


def changed_gaps(
    ids: Int[np.ndarray, "rows k"],
    logits: Float[np.ndarray, "rows k"],
    after_ids: Int[np.ndarray, "rows k"],
    after_logits: Float[np.ndarray, "rows k"],
) -> tuple[Float[np.ndarray, "rows k"], Float[np.ndarray, "rows k"]]:
    """By how much top-1 before leads the next k - 1 tokens before, and the same tokens after.

    The last column is the lead over all other tokens: after the best of them, before, where they
    are unknown, the last candidate, which is no less. A token that is not among the k after counts
    as if it had the last of their logits. Raises ``ValueError`` where logits ascend.
    """
    if not (np.diff(logits, axis=1) <= 0).all():
        raise ValueError("topk_logits must be numbers in descending order in every row")
    same = after_ids[:, None, :] == ids[:, :, None]
    last = after_logits[:, -1:]
    now = np.where(same, after_logits[:, None, :], last[:, None]).max(axis=2)
    others = np.where(same.any(axis=1), last, after_logits).max(axis=1, keepdims=True)
    then = logits[:, :1] - logits[:, 1:]
    return (
        np.concatenate([then, then[:, -1:]], axis=1),
        now[:, :1] - np.concatenate([now[:, 1:], others], axis=1),
    )


@dataclass
class HeldLeads:
    """Every ``step``-th position that was added, a power of two so that MOST_HELD are held."""

    step: int = 1
    n: int = 0
    pieces: list[Leads] = field(default_factory=list)

    def add(self, part: Leads, chosen: Int[np.ndarray, " _"]) -> None:
        """Add these rows of a part."""
        self.pieces.append(part.rows(chosen[-self.n % self.step :: self.step]))
        self.n += len(chosen)
        while -(-self.n // self.step) > MOST_HELD:
            whole = self.whole()
            self.pieces = [whole.rows(np.arange(0, len(whole.inverse), 2))]
            self.step *= 2

    def whole(self) -> Leads:
        """The positions that are held."""
        columns = zip(*(vars(piece).values() for piece in self.pieces), strict=True)
        return Leads(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class _Cell:
    """Changes, their documents, and how many positions each of them would have flipped."""

    changes: Float[np.ndarray, "rows k"]
    owners: Int[np.ndarray, " rows"]
    hits: Float[np.ndarray, " rows"]


@dataclass(frozen=True)
class LikeChanges:
    """Changes in some documents, in cells of like margin and, within these, of like entropy.

    ``least`` is the smallest change of each cell and candidate.
    """

    scale: float
    margins: Float[np.ndarray, " edges"]
    entropies: Float[np.ndarray, "groups inner"]
    cells: list[_Cell]
    least: Float[np.ndarray, "cells k"]

    @staticmethod
    def of(held: Leads, scale: float) -> LikeChanges:
        """About half as many cells as the square root of the positions, the rest within them."""
        number = math.isqrt(len(held.inverse)) // 2
        many = ENTROPY_GROUPS if number >= 4 * ENTROPY_GROUPS else 1
        margin = held.gaps[:, 0]
        margins = _edges(margin, max(1, number // many))
        group = np.searchsorted(margins, margin, side="right")
        entropies = np.full((len(margins) + 1, many - 1), np.inf)
        for i, row in enumerate(entropies):
            found = _edges(held.entropy[group == i], many)
            row[: len(found)] = found
        place = _places(margin, held.entropy, margins, entropies)
        changes = held.moved - scale * held.gaps
        cells = [
            _Cell(changes[some], held.inverse[some], np.zeros(len(some)))
            for some in (np.flatnonzero(place == i) for i in range(len(entropies) * many))
        ]
        least = np.stack([one.changes.min(axis=0, initial=np.inf) for one in cells])
        return LikeChanges(scale, margins, entropies, cells, least)

    def chances(self, part: Leads) -> Float[np.ndarray, " rows"]:
        """The share of a position's cell whose changes would flip it; counts these as hits."""
        place = _places(part.gaps[:, 0], part.entropy, self.margins, self.entropies)
        limits = -self.scale * part.gaps
        chance = np.zeros(len(place))
        near = np.flatnonzero((self.least[place] < limits).any(axis=1))
        near = near[np.argsort(place[near], kind="stable")]
        ends = np.searchsorted(place[near], np.arange(len(self.cells) + 1)).tolist()
        for cell, start, end in zip(self.cells, ends, ends[1:], strict=False):
            for first in range(start, end, CHUNK_ROWS):
                some = near[first : min(end, first + CHUNK_ROWS)]
                hit = np.zeros((len(some), len(cell.changes)), dtype=np.bool_)
                for change, limit in zip(cell.changes.T, limits[some].T, strict=True):
                    hit |= change < limit[:, None]
                chance[some] = hit.mean(axis=1)
                cell.hits[:] += hit.sum(axis=0)
        return chance

    def influence(self, documents: int) -> Float[np.ndarray, " documents"]:
        """What drawing a document once more adds to the flips predicted, by its changes alone."""
        total = np.zeros(documents)
        for cell in (one for one in self.cells if len(one.hits)):
            add_by_document(total, (cell.hits - cell.hits.mean()) / len(cell.hits), cell.owners)
        return total


def _edges(values: Float[np.ndarray, " rows"], groups: int) -> Float[np.ndarray, " edges"]:
    """Values that part the groups, of about one size: each of them is the least of a group."""
    ranked = np.sort(values)
    at = np.arange(1, groups) * len(ranked) // groups
    found: Float[np.ndarray, " edges"] = np.unique(ranked[at])
    return found[found > ranked[:1]]


def _places(
    margin: Float[np.ndarray, " rows"],
    entropy: Float[np.ndarray, " rows"],
    margins: Float[np.ndarray, " edges"],
    entropies: Float[np.ndarray, "groups inner"],
) -> Int[np.ndarray, " rows"]:
    group = np.searchsorted(margins, margin, side="right")
    inside = (entropies[group] <= entropy[:, None]).sum(axis=1)
    found: Int[np.ndarray, " rows"] = group * (entropies.shape[1] + 1) + inside
    return found
