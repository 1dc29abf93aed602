"""Sums of two models' probabilities by token and by document, from the parts of a mined table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped

from unembed.runs.arrays import number_array, numbers_of

FOLDS = 64
"""Groups of documents that intervals take as units, where there are more documents."""

MASS = ("mass_before", "mass_after")


@dataclass(frozen=True)
class TokenSums:
    """Sums over the positions of each unit, a document or one of ``FOLDS`` groups of them.

    ``documents`` are their ids, ascending; they are dealt to the units in turn. ``mass`` is the
    probability of each token before and after, ``moved`` what of it went to other tokens.
    ``missed`` bounds what was not kept of a token, over the whole text, and ``followed`` counts the
    positions behind each token.
    """

    documents: Int[np.ndarray, " documents"]
    sizes: Float[np.ndarray, " units"]
    moved: Float[np.ndarray, " units"]
    mass: tuple[Float[np.ndarray, "units tokens"], Float[np.ndarray, "units tokens"]]
    followed: Int[np.ndarray, " tokens"]
    missed: float

    @staticmethod
    def of(parts: Iterable[pa.Table]) -> TokenSums:
        """Read once, a part at a time; it holds two numbers a unit and token."""
        documents = np.zeros(0, dtype=np.int64)
        sizes, moved, missed = np.zeros(FOLDS), np.zeros(FOLDS), 0.0
        mass, followed = np.zeros((2, FOLDS, 0)), np.zeros(0, dtype=np.int64)
        for rows in read_mined(parts):
            documents = np.union1d(documents, rows.doc)
            unit = np.searchsorted(documents, rows.doc) % FOLDS
            finite = np.isfinite(rows.moved)
            np.add.at(sizes, unit[finite], 1.0)
            np.add.at(moved, unit[finite], rows.moved[finite])
            missed += float(numbers_of(rows.table["missed"]).sum(dtype=np.float64))
            lists = rows.table["mass_ids"].combine_chunks()
            ids = numbers_of(lists.flatten())
            at = np.repeat(unit, np.diff(numbers_of(lists.offsets)))
            seen = np.bincount(rows.previous[finite & (rows.previous >= 0)])
            tokens = max(int(ids.max(initial=-1)) + 1, len(seen))
            mass, followed = _widened(mass, tokens), _widened(followed, tokens)
            followed[: len(seen)] += seen
            for total, name in zip(mass, MASS, strict=True):
                values = numbers_of(rows.table[name].combine_chunks().flatten())
                np.add.at(total, (at, ids), values.astype(np.float64))
        units = min(len(documents), FOLDS)
        before, after = mass[:, :units]
        return TokenSums(documents, sizes[:units], moved[:units], (before, after), followed, missed)

    @property
    def positions(self) -> int:
        """How many there are, those left out that are not finite."""
        return int(self.sizes.sum())

    @property
    def kept(self) -> float:
        """The share of all probability that the sums hold, that of the model which has less."""
        return min(1.0, *(float(one.sum()) / max(1, self.positions) for one in self.mass))

    def unit(self, doc: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The units of these documents."""
        found: Int[np.ndarray, " n"] = np.searchsorted(self.documents, doc) % FOLDS
        return found


@dataclass(frozen=True)
class MinedRows:
    """A part of a mined table; ``previous`` is the token before the predicted one, -1 if unknown.

    ``moved`` is NaN where a logit is not finite.
    """

    table: pa.Table
    doc: Int[np.ndarray, " rows"]
    previous: Int[np.ndarray, " rows"]
    moved: Float[np.ndarray, " rows"]


def read_mined(parts: Iterable[pa.Table]) -> Iterator[MinedRows]:
    """The parts of a mined table with each position's left neighbour."""
    last = np.full(3, -2)
    for part in parts:
        keys = np.stack([numbers_of(part[name]).astype(np.int64) for name in KEYS])
        (doc, pos, _), before = keys, np.concatenate([last[:, None], keys[:, :-1]], axis=1)
        follows = (before[0] == doc) & (before[1] + 1 == pos)
        previous = np.where(follows, before[2], -1)
        yield MinedRows(part, doc, previous, numbers_of(part["moved"]).astype(np.float64))
        last = keys[:, -1] if keys.shape[1] else last


KEYS = ("doc", "pos", "target")


def mass_arrays(
    doc: Int[np.ndarray, " rows"], pieces: Shaped[np.ndarray, " rows"]
) -> dict[str, pa.Array]:
    """The columns of sums by token: lists in the first row of each document, empty in the others.

    ``pieces`` has the ids, the sums before and after, and the bound of what is missed, of each
    batch that holds positions of the document, in one of its rows.
    """
    lengths, missed = np.zeros(len(doc), dtype=np.int32), np.zeros(len(doc), dtype=np.float32)
    found: list[tuple[np.ndarray, ...]] = []
    for first, stop in _spans(doc):
        some = [piece for piece in pieces[first:stop] if piece is not None]
        every = [np.concatenate([piece[i] for piece in some]) for i in range(3)]
        ids, at = np.unique(every[0], return_inverse=True)
        sums = [np.bincount(at, weights=one, minlength=len(ids)) for one in every[1:]]
        found.append((ids, *sums))
        lengths[first], missed[first] = len(ids), sum(piece[3] for piece in some)
    offsets = number_array(np.append(0, np.cumsum(lengths)).astype(np.int32))
    arrays = {
        name: pa.ListArray.from_arrays(
            offsets, number_array(np.concatenate([one[i] for one in found]).astype(kind))
        )
        for i, (name, kind) in enumerate(
            (("mass_ids", np.int32), *((name, np.float32) for name in MASS))
        )
    }
    return arrays | {"missed": number_array(missed)}


def _spans(doc: Int[np.ndarray, " rows"]) -> Iterator[tuple[int, int]]:
    """Where the rows of each document begin and end."""
    firsts = np.flatnonzero(np.diff(doc, prepend=-1))
    return zip(firsts.tolist(), [*firsts[1:].tolist(), len(doc)], strict=True)


def _widened(counts: np.ndarray, size: int) -> np.ndarray:
    """The same numbers with zeros behind up to so many in the last axis."""
    more = max(0, size - counts.shape[-1])
    return np.pad(counts, [(0, 0)] * (counts.ndim - 1) + [(0, more)]) if more else counts
