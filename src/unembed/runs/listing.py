"""Records of one kind, as a list that shows as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa

from unembed.runs.columns import columns
from unembed.runs.frames import frame_of
from unembed.short_repr import LONGEST_CELL, ShortRepr, html_table, in_short
from unembed.stats.forms import decimal

Record = TypeVar("Record")


@dataclass(frozen=True)
class Listing(ShortRepr, Generic[Record]):
    """Records of one kind in order: a row a record, a column a field.

    It counts, iterates and indexes as the tuple ``records`` does, prints as a table, and works
    wherever an Arrow table does.
    """

    kind: type[Record]
    records: tuple[Record, ...]

    @property
    def table(self) -> pa.Table:
        """The Arrow table."""
        return pa.table({name: [getattr(one, name) for one in self] for name in self._names})

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame. Raises UnembedError where pandas is not installed."""
        return frame_of(self.table)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, at: int) -> Record:
        return self.records[at]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __str__(self) -> str:
        cells = [self._names, *self._rows()]
        widths = [2 + max(map(len, column)) for column in zip(*cells, strict=True)]
        return columns(cells, *widths)

    @property
    def _names(self) -> list[str]:
        return [field.name for field in dataclasses.fields(self.kind)]  # type: ignore[arg-type]

    def _phrases(self) -> Iterator[str]:
        yield f"{len(self)} × {self.kind.__name__}"
        for row in self._rows()[:1]:
            yield from map("=".join, zip(self._names, row, strict=True))

    def _rows(self) -> list[list[str]]:
        return [[_cell(getattr(one, name)) for name in self._names] for one in self.records]

    def _repr_html_(self) -> str:
        return html_table(self._rows(), self._names)


def _cell(value: Any) -> str:
    return decimal(value) if isinstance(value, float) else in_short(value, LONGEST_CELL)
