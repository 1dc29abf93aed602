"""Further readers of the pass of two models over a text, each with a table of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from unembed.decisions.audit.run import Columns
from unembed.head.divergence import SweptModel
from unembed.short_repr import ShortRepr
from unembed.text.batches import Batch


@runtime_checkable
class PairReader(Protocol):
    """Reads both models at each position, in the pass that audits them.

    Its table is kept part by part in the folder ``name`` of the run, and what it says of it all is
    the field ``name`` of ``ComparisonSummary``. A new name goes into ``runs.store.SUB_RUNS``.
    """

    @property
    def name(self) -> str:
        """The folder of its table, and its field of the summary."""
        ...

    @property
    def key(self) -> dict[str, Any]:
        """The plain values that its numbers depend on, besides the two models and the text."""
        ...

    @property
    def bytes_a_position(self) -> int:
        """Width of a position in its table, about."""
        ...

    def columns(self, first: SweptModel, second: SweptModel, batch: Batch) -> Columns:
        """Its columns of a batch; ``doc`` and ``pos`` are added to them."""
        ...

    def table(self, columns: Columns) -> pa.Table:
        """A part's table, from columns in order of the text."""
        ...

    def summary(self, parts: Iterable[pa.Table], *, resamples: int, seed: int) -> ShortRepr:
        """What its table says, a part at a time, with intervals over documents.

        Parts come in order of the text, and no window of it is in two.
        """
        ...


@dataclass(frozen=True)
class PairReading:
    """A reader of a pair's pass, and the parts of its table, as often as they are asked for."""

    reader: PairReader
    parts: Iterable[pa.Table]
