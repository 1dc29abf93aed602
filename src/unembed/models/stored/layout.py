"""What a folder of stored hidden states holds, whoever wrote it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from jaxtyping import Int

from unembed.models.stored.files import StatesFile
from unembed.runs.provenance import Provenance
from unembed.short_repr import ShortRepr
from unembed.text.corpus import Corpus


@dataclass(frozen=True)
class Spans(ShortRepr):
    """Positions of documents whose states lie in consecutive rows of a file.

    Span i is positions ``pos[i]`` to ``pos[i] + length[i] - 1`` of document ``doc[i]``, whose
    states are the rows from ``row[i]`` on of file ``file[i]``. In order of the text.
    """

    doc: Int[np.ndarray, " spans"]
    pos: Int[np.ndarray, " spans"]
    length: Int[np.ndarray, " spans"]
    file: Int[np.ndarray, " spans"]
    row: Int[np.ndarray, " spans"]

    @cached_property
    def keys(self) -> Int[np.ndarray, " spans"]:
        """Where each begins, in the order of ``keys_of``; the spans must be sorted."""
        return keys_of(self.doc, self.pos)

    @property
    def positions(self) -> int:
        """How many there are in all."""
        return int(self.length.sum())

    def sorted(self) -> Spans:
        """The same in order of document and position."""
        order = np.lexsort((self.pos, self.doc))
        return Spans(*(getattr(self, one.name)[order] for one in fields(self)))


@dataclass(frozen=True)
class Layout(ShortRepr):
    """A folder of stored states: its text, where the state of each position lies, and its maker.

    ``name`` is that of the layout in words, ``layers`` how many each token has, ``digest`` stands
    for the folder. ``written`` is the provenance of a run of ``unembed states``.
    """

    name: str
    corpus: Corpus
    spans: Spans
    files: tuple[StatesFile, ...]
    layers: int
    digest: str
    notes: tuple[str, ...] = ()
    written: Provenance | None = None


def keys_of(
    doc: Int[np.ndarray, " positions"], pos: Int[np.ndarray, " positions"]
) -> Int[np.ndarray, " positions"]:
    """A number for each position, in order of document and position."""
    keys: Int[np.ndarray, " positions"] = (doc.astype(np.int64) << 32) + pos
    return keys
