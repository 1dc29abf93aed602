"""The positions of an audit that enter its figures, read a part at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from jaxtyping import Bool, Int, Shaped

from unembed.stats.resampled import Rows, RowsReader

ColumnReader = Callable[[Sequence[str]], Iterable[Mapping[str, np.ndarray]]]
"""Reads some columns of all positions from the first on: the same parts each time."""


@dataclass(frozen=True)
class FiniteRows:
    """The ``n`` of ``n_positions`` rows in which the columns ``finite`` are that.

    ``ids`` are their documents, ascending, which ``parts`` numbers from 0; ``n_documents`` counts
    those of all rows. ``kept`` marks the rows of each part, None where all of them are kept.
    """

    read: ColumnReader
    finite: tuple[str, ...]
    kept: tuple[Bool[np.ndarray, " _"] | None, ...]
    ids: Int[np.ndarray, " documents"]
    n: int
    n_positions: int
    n_documents: int

    @staticmethod
    def of(read: ColumnReader, finite: Sequence[str]) -> FiniteRows:
        """Read once to find the rows in which all of these columns are finite."""
        kept: list[Bool[np.ndarray, " _"] | None] = []
        every = ids = np.zeros(0, dtype=np.int64)
        n = positions = 0
        for part in read(("doc", *finite)):
            doc = part["doc"]
            mask = np.ones(len(doc), dtype=np.bool_)
            for name in finite:
                mask &= np.isfinite(part[name])
            whole = bool(mask.all())
            kept.append(None if whole else mask)
            n, positions = n + int(mask.sum()), positions + len(doc)
            every = np.union1d(every, doc)
            ids = np.union1d(ids, doc if whole else doc[mask])
        return FiniteRows(read, tuple(finite), tuple(kept), ids, n, positions, len(every))

    @staticmethod
    def held(
        doc: Int[np.ndarray, " positions"], **columns: Shaped[np.ndarray, "..."]
    ) -> FiniteRows:
        """All rows of columns in memory, as one part."""
        table = {"doc": doc, **columns}
        return FiniteRows.of(lambda names: [{name: table[name] for name in names}], ())

    @staticmethod
    def stacked(some: Sequence[FiniteRows]) -> FiniteRows:
        """The rows of several below each other; equal documents are one."""
        if len(some) == 1:
            return some[0]
        return FiniteRows(
            read=lambda names: chain.from_iterable(one.read(names) for one in some),
            finite=some[0].finite,
            kept=tuple(kept for one in some for kept in one.kept),
            ids=np.unique(np.concatenate([one.ids for one in some])),
            n=sum(one.n for one in some),
            n_positions=sum(one.n_positions for one in some),
            n_documents=len(np.unique(np.concatenate([one.ids for one in some]))),
        )

    def where(self, chosen: Iterable[Bool[np.ndarray, " _"]]) -> FiniteRows:
        """The rows among these that are marked, part by part; ``n_positions`` stays."""
        kept, n, ids = [], 0, np.zeros(0, dtype=np.int64)
        for (inverse,), old, mask in zip(self.parts(), self.kept, chosen, strict=True):
            whole = mask if old is None else old.copy()
            if old is not None:
                whole[old] = mask
            kept.append(whole)
            n += int(mask.sum())
            ids = np.union1d(ids, self.ids[inverse[mask]])
        return replace(self, kept=tuple(kept), n=n, ids=ids)

    def also(self, finite: Sequence[str]) -> FiniteRows:
        """The rows among these in which further columns are finite."""
        return FiniteRows.of(self.read, (*self.finite, *finite))

    @property
    def documents(self) -> int:
        """How many documents have such a row."""
        return len(self.ids)

    def parts(self, *names: str) -> Iterator[list[Shaped[np.ndarray, " _"]]]:
        """Of each part the number of every row's document, and these columns."""
        for part, kept in zip(self.read(("doc", *names)), self.kept, strict=True):
            columns = [part[name] if kept is None else part[name][kept] for name in ("doc", *names)]
            columns[0] = np.searchsorted(self.ids, columns[0])
            yield columns

    def whole(self, name: str) -> Shaped[np.ndarray, " n"]:
        """One column of all rows."""
        return self._filled(values for _, values in self.parts(name))

    def whole_documents(self) -> Int[np.ndarray, " n"]:
        """The number of every row's document, in 4 bytes."""
        return self._filled(inverse.astype(np.int32) for (inverse,) in self.parts())

    def _filled(self, parts: Iterable[Shaped[np.ndarray, " _"]]) -> Shaped[np.ndarray, " n"]:
        """The parts one after another, which are not held beside their whole."""
        whole: Shaped[np.ndarray, " n"] = np.zeros(0)
        start = 0
        for part in parts:
            if start == 0:
                whole = np.empty(self.n, dtype=part.dtype)
            whole[start : start + len(part)] = part
            start += len(part)
        return whole

    def row_numbers(self) -> Int[np.ndarray, " n"]:
        """Where each row lies among all."""
        sizes = [len(part["doc"]) for part in self.read(("doc",))]
        masks = (
            np.ones(size, dtype=np.bool_) if kept is None else kept
            for size, kept in zip(sizes, self.kept, strict=True)
        )
        return np.flatnonzero(np.concatenate([np.zeros(0, dtype=np.bool_), *masks]))

    def column(self, name: str) -> RowsReader:
        """A reader of one column with its documents."""

        def read() -> Iterator[Rows]:
            for inverse, values in self.parts(name):
                yield values, inverse

        return read
