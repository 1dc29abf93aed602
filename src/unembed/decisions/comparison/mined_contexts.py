"""Positions where a token's probability rose or fell most, quoted from the text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped

from unembed.decisions.quoting import Quoting
from unembed.runs.arrays import numbers_of
from unembed.short_repr import ShortRepr

ANY = -1
"""In the place of a token: whichever changed most."""


@dataclass(frozen=True)
class MinedContext(ShortRepr):
    """A position where the probability of ``token`` behind ``context`` went from ``before`` to
    ``after``; ``target`` is the text's own token."""

    document: str
    position: int
    context: str
    token: str
    target: str
    before: float
    after: float

    @property
    def size(self) -> float:
        """How far the probability went."""
        return abs(self.after - self.before)


def mined_contexts(
    parts: Iterable[pa.Table],
    side: str,
    tokens: Int[np.ndarray, " tokens"],
    quoting: Quoting,
    *,
    each: int,
    most: int,
) -> dict[int, tuple[MinedContext, ...]]:
    """Where each of these tokens changed most, at ``each`` contexts, and any at ``most`` (``ANY``).

    ``side`` is ``risen`` or ``fallen``. A list has one context a document, the largest change
    first, then in order of the text. It holds a part at a time.
    """
    found: dict[int, list[MinedContext]] = {}
    tail: pa.Table | None = None
    for part in parts:
        part = part.select(["doc", "pos", "target", *(f"{side}_{x}" for x in FIELDS)])
        rows = part if tail is None else pa.concat_tables([tail, part])
        read = 0 if tail is None else tail.num_rows
        tail = rows.slice(max(0, rows.num_rows - quoting.tokens))
        for label, row, column in _candidates(rows, read, side, tokens, each=each, most=most):
            found.setdefault(label, []).append(_quoted(rows, row, column, side, quoting))
        for label, some in found.items():
            some.sort(key=lambda one: -one.size)
            first = {one.document: one for one in reversed(some)}
            kept = [one for one in some if first[one.document] is one]
            found[label] = kept[: most if label == ANY else each]
    return {label: tuple(some) for label, some in found.items()}


FIELDS = ("ids", "before", "after")


def _candidates(
    rows: pa.Table,
    read: int,
    side: str,
    tokens: Int[np.ndarray, " tokens"],
    *,
    each: int,
    most: int,
) -> list[tuple[int, int, int]]:
    """Of each list the largest changes of a part: the list's token, the row and the place in it."""
    ids, before, after = (_matrix(rows[f"{side}_{name}"]) for name in FIELDS)
    change = np.abs(after - before)
    change[:read] = np.nan
    doc = numbers_of(rows["doc"])
    row, column = np.nonzero(np.isin(ids, tokens) & (change > 0))
    top = np.flatnonzero(change[:, 0] > 0)
    label = np.concatenate([ids[row, column].astype(np.int64), np.full(len(top), ANY)])
    row, column = np.concatenate([row, top]), np.concatenate([column, np.zeros_like(top)])
    size = change[row, column]
    # The largest of a document, then of these the largest of a list.
    kept = _leading((label, doc[row]), size, np.ones(len(row)))
    label, row, column, size = (one[kept] for one in (label, row, column, size))
    kept = _leading((label,), size, np.where(label == ANY, most, each))
    return list(zip(*(one[kept].tolist() for one in (label, row, column)), strict=True))


def _leading(
    keys: tuple[Int[np.ndarray, " n"], ...],
    size: Float[np.ndarray, " n"],
    most: Shaped[np.ndarray, " n"],
) -> Int[np.ndarray, " kept"]:
    """The largest of those with equal keys, so many of each, in order of the keys."""
    order = np.lexsort((-size, *keys))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    begins = np.flatnonzero(new)
    rank = np.arange(len(order)) - begins[np.cumsum(new) - 1]
    found: Int[np.ndarray, " kept"] = order[rank < most[order]]
    return found


def _matrix(column: pa.ChunkedArray) -> Shaped[np.ndarray, "rows k"]:
    """A column of lists of one length; rows that are null are 0."""
    flat = column.combine_chunks()
    size, holes = flat.type.list_size, flat.is_null()
    values = numbers_of(
        flat.fill_null([0] * size).flatten() if holes.true_count else flat.flatten()
    )
    return values.reshape(-1, size)


def _quoted(rows: pa.Table, row: int, column: int, side: str, quoting: Quoting) -> MinedContext:
    one = quoting.named(rows, [row]).to_pylist()[0]
    return MinedContext(
        document=one["document"],
        position=one["pos"],
        context=one["context"],
        token=quoting.word(one[f"{side}_ids"][column]),
        target=quoting.word(one["target"]),
        before=one[f"{side}_before"][column],
        after=one[f"{side}_after"][column],
    )
