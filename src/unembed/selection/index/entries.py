"""What an index keeps of each signature besides its vector, and the same as a Parquet table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any

import pyarrow as pa

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class Label(ShortRepr):
    """What its user says of a signature.

    Raises UnembedError for a tag that nobody would see.
    """

    tags: tuple[str, ...] = ()
    licence: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        for tag in self.tags:
            if not tag.strip():
                raise UnembedError(f"a tag is {tag!r}, which nobody would see: leave it out")


@dataclass(frozen=True)
class Entry(ShortRepr):
    """One signature of an index.

    ``text`` and ``text_digest`` say which text it is of, ``squared_norm`` is the debiased one of
    its mean feature, ``reliability`` that over the plain one (both None where samples are too few
    to tell), and ``independent`` the share of all
    pairs of samples that are of different documents. ``added`` is the time in UTC, ``sha256`` that
    of the signature's file. The stored vector times ``scale`` has a mean square of 1; ``crc32`` is
    that of its bytes.
    """

    name: str
    samples: float
    documents: int
    model: str
    text: str
    text_digest: str
    tags: tuple[str, ...]
    licence: str
    note: str
    squared_norm: float | None
    reliability: float | None
    independent: float
    added: str
    sha256: str
    scale: float
    crc32: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "tags": list(self.tags)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Entry:
        """Read back what ``to_json`` wrote. Raises ValueError for anything else."""
        known = values.get("reliability") is not None
        for field in fields(Entry):
            value = values.get(field.name)
            number = type(value) is not float or (0 if known else -inf) < value < inf
            # Cosines are divided by what is positive where there is a reliability.
            if type(value) not in KINDS[str(field.type)] or not number:
                raise ValueError(f"{field.name} is {value!r}")
        if not all(isinstance(tag, str) for tag in values["tags"]):
            raise ValueError(f"tags are {values['tags']!r}")
        return Entry(**{**values, "tags": tuple(values["tags"])})


KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "float": (float, int),
    "float | None": (float, int, type(None)),
    "int": (int,),
    "tuple[str, ...]": (list,),
}
"""What a field of each annotation is as a plain value,"""
TYPES = {
    "str": pa.string(),
    "float": pa.float64(),
    "float | None": pa.float64(),
    "int": pa.int64(),
}
"""and as a column."""
TABLE = pa.schema(
    [(field.name, TYPES.get(str(field.type), pa.list_(pa.string()))) for field in fields(Entry)]
)
"""A column for each field."""


def table_of(entries: Sequence[Entry]) -> pa.Table:
    """Entries as rows."""
    return pa.Table.from_pylist([entry.to_json() for entry in entries], schema=TABLE)


def entries_of(table: pa.Table) -> list[Entry]:
    """Rows as entries."""
    return [Entry.from_json(row) for row in table.to_pylist()]
