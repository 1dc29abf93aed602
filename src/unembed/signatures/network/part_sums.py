"""Sums of the parts of a network over samples that stream by, and how they become states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from unembed.short_repr import ShortRepr
from unembed.signatures.documents import Documents, folds_of
from unembed.signatures.state import SUMMED, State
from unembed.signatures.sums import Sums

Entry = tuple[str, str]
"""A part and a kind of its features."""


@dataclass(frozen=True)
class OpenDocument(ShortRepr):
    """A document of which more is to come: ``Σ ψ`` of each entry, and its predictions so far."""

    positions: int
    sums: dict[Entry, Float[np.ndarray, " sketch"]]

    def __add__(self, other: OpenDocument) -> OpenDocument:
        """Both pieces of one document."""
        sums = {**other.sums, **self.sums}
        for entry in self.sums.keys() & other.sums.keys():
            sums[entry] = self.sums[entry] + other.sums[entry]
        return OpenDocument(self.positions + other.positions, sums)


class PartSums:
    """Sums of every entry and traces of every part; in place.

    A document in pieces is held, 8 m bytes an entry, until all of it was added or until ``end``.
    """

    def __init__(self) -> None:
        self.sums: dict[Entry, Sums] = {}
        self.traces: dict[str, float] = {}
        self.open: dict[int, OpenDocument] = {}

    def take(
        self,
        entry: Entry,
        rows: Float[Tensor, "documents sketch"],
        documents: Documents,
        blocks: int,
    ) -> Float[np.ndarray, "open sketch"]:
        """Add one entry's sums over documents; what comes back is of those that are open."""
        made, held = Sums.of(rows, documents, blocks)
        self._add(entry, made)
        return held

    def hold(
        self,
        documents: Documents,
        positions: np.ndarray,
        held: Mapping[Entry, Float[np.ndarray, "open sketch"]],
    ) -> None:
        """Keep the sums of documents that are open, in the order of their hashes."""
        which = np.flatnonzero(documents.open)
        for at, document in enumerate(which.tolist()):
            piece = OpenDocument(
                int(positions[document]), {entry: rows[at] for entry, rows in held.items()}
            )
            self._piece(int(documents.hashes[document]), piece)

    def add_trace(self, part: str, trace: float) -> None:
        """Add to ``Σ ‖g‖²`` of a part."""
        self.traces[part] = self.traces.get(part, 0.0) + trace

    def add(self, other: PartSums, sizes: Mapping[int, int]) -> None:
        """Add what another holds; a document ends here once it has its size in predictions."""
        for entry, sums in other.sums.items():
            self._add(entry, sums)
        for part, trace in other.traces.items():
            self.add_trace(part, trace)
        for number, piece in other.open.items():
            self._piece(number, piece)
            if self.open[number].positions == sizes[number]:
                self._close(number)

    def end(self) -> None:
        """Take the documents that are open as whole."""
        for number in sorted(self.open):
            self._close(number)

    def states(self, like: State, entries: Iterable[Entry]) -> dict[str, State]:
        """Each part's state, with the weights and the documents of another state of its samples.

        Entries that no sample reached are 0.
        """
        kinds: dict[str, dict[str, Any]] = {}
        zero = Sums.zero(like.joint.total.shape[1], len(like.block_weight))
        for part, kind in entries:
            found = kinds.setdefault(part, dict.fromkeys(SUMMED))
            found[kind] = self.sums.get((part, kind), zero)
        return {
            part: replace(like, **found, trace=self.traces.get(part, 0.0))
            for part, found in kinds.items()
        }

    def _add(self, entry: Entry, sums: Sums) -> None:
        before = self.sums.get(entry)
        self.sums[entry] = sums if before is None else before + sums

    def _piece(self, number: int, piece: OpenDocument) -> None:
        before = self.open.get(number)
        self.open[number] = piece if before is None else before + piece

    def _close(self, number: int) -> None:
        """Count the pairs within a document."""
        fold = int(folds_of(np.array([number], dtype=np.uint64))[0])
        for entry, whole in self.open.pop(number).sums.items():
            sums = self.sums[entry]
            own = sums.own.copy()
            own[fold] += float(whole @ whole) / len(whole)
            self.sums[entry] = replace(sums, own=own)
